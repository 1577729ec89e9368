//! The readers of strangers' files, as functions of bytes: what `tests/hostile` and the fuzz
//! targets call. Nothing else does.
//!
//! Invariant: each does what the caller of the reader does with a file, and answers with a size.

use std::io;
use std::path::Path;

use crate::initramfs;

/// The bytes of all names that a program asks the loader for; `None`: no x86-64 ELF file.
pub fn elf(file: &[u8]) -> Option<usize> {
    initramfs::needed_names(file)
}

/// Unpacks an RPM package below a temporary directory.
pub fn rpm(package: &[u8]) -> io::Result<()> {
    unpack(package, crate::fetch::unpack_rpm)
}

/// Unpacks a Debian package below a temporary directory.
pub fn deb(package: &[u8]) -> io::Result<()> {
    unpack(package, crate::fetch::unpack_deb)
}

type Unpack = fn(&Path, &Path) -> io::Result<()>;

fn unpack(package: &[u8], reader: Unpack) -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("package");
    std::fs::write(&file, package)?;
    reader(&file, &folder.path().join("tree"))
}
