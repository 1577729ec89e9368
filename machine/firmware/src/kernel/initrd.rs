//! Whether a file given as an initrd can be one.
//!
//! Linux takes cpio archives, plain or compressed, and old-style file system images
//! (Documentation/admin-guide/initrd.rst), so an unknown format passes and a kernel does not.

use thiserror::Error;

use super::HEAD;
use super::identify::{FileKind, identify};
use crate::source::{Source, head};
use crate::unpack::Compression;

/// What an initrd is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitrdKind {
    /// A cpio archive, possibly microcode with a compressed archive after it.
    Cpio,
    /// A compressed archive; the guest's kernel needs this decompressor.
    Compressed(Compression),
    /// Something else: a file system image, perhaps.
    Other,
}

/// Why a file can't be an initrd.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InitrdError {
    /// No bytes.
    #[error("the initrd is empty")]
    Empty,
    /// A kernel.
    #[error("the file is a kernel ({format}), not an initramfs: give it as the kernel, without -i")]
    Kernel {
        /// Its format.
        format: &'static str,
    },
    /// A program or library.
    #[error("the file is an ELF program, not an initramfs: pack it into a cpio archive as /init")]
    Elf,
    /// It cannot be read.
    #[error("the file cannot be read: {why}")]
    Unreadable {
        /// What the reader said.
        why: String,
    },
    /// A script or text.
    #[error("the file is {what}, not an initramfs")]
    Text {
        /// "a script" or "text".
        what: &'static str,
    },
}

/// Checks a file given as initrd.
///
/// # Errors
/// Empty files, kernels, programs and text are refused.
pub fn check_initrd(file: &dyn Source) -> Result<InitrdKind, InitrdError> {
    let head =
        head(file, HEAD).map_err(|error| InitrdError::Unreadable { why: error.to_string() })?;
    match identify(&head) {
        FileKind::Empty => Err(InitrdError::Empty),
        FileKind::BzImage => Err(InitrdError::Kernel { format: "bzImage" }),
        FileKind::ForeignImage(_) => Err(InitrdError::Kernel { format: "of another machine" }),
        FileKind::UnifiedKernelImage => Err(InitrdError::Kernel { format: "unified kernel image" }),
        FileKind::Pe(_) => Err(InitrdError::Kernel { format: "EFI program" }),
        FileKind::Elf => match super::Kernel::parse(file) {
            Ok(super::Kernel::Elf(elf)) if elf.is_linux() || elf.notes.pvh_entry.is_some() => {
                Err(InitrdError::Kernel { format: "vmlinux" })
            }
            Ok(super::Kernel::Multiboot(_)) => Err(InitrdError::Kernel { format: "multiboot" }),
            _ => Err(InitrdError::Elf),
        },
        FileKind::Script => Err(InitrdError::Text { what: "a script" }),
        FileKind::Text => Err(InitrdError::Text { what: "text" }),
        FileKind::Cpio => Ok(InitrdKind::Cpio),
        FileKind::Compressed(format) => Ok(InitrdKind::Compressed(format)),
        FileKind::Other => Ok(InitrdKind::Other),
    }
}
