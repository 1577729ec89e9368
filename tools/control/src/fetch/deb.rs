//! Unpacks a Debian package (deb(5)): an ar archive with a compressed tar archive in it.
//!
//! Invariant: only regular files with a place in [`super::place_of`] are written.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::{Counted, FetchProgress, place_of};

/// Unpacks the kernel's files below `tree`.
pub(super) fn unpack(
    package: &Path,
    tree: &Path,
    progress: &mut dyn FnMut(FetchProgress),
) -> io::Result<()> {
    let mut archive = ar::Archive::new(File::open(package)?);
    while let Some(member) = archive.next_entry() {
        let member = member?;
        let name = String::from_utf8_lossy(member.header().identifier()).into_owned();
        if name.starts_with("data.tar") {
            let total = member.header().size();
            let counted = Counted { inner: member, read: 0, total, told: 0, progress };
            return unpack_tar(crate::compressed::reader(counted)?, tree);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "it has no data.tar member"))
}

fn unpack_tar(data: impl Read, tree: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(data);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let Some(place) = place_of(&entry.path()?) else {
            continue;
        };
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let target = tree.join(place);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        io::copy(&mut entry, &mut File::create(&target)?)?;
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A package with these files.
    pub(in crate::fetch) fn write_deb(path: &Path, files: &[(&str, &[u8])]) {
        let mut data = tar::Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            data.append_data(&mut header, name, *bytes).expect("writes memory");
        }
        let data = data.into_inner().expect("writes memory");
        let data = ruzstd::encoding::compress_to_vec(
            data.as_slice(),
            ruzstd::encoding::CompressionLevel::Fastest,
        );
        let mut package = ar::Builder::new(File::create(path).expect("a temporary directory"));
        for (name, bytes) in [("debian-binary", b"2.0\n".as_slice()), ("data.tar.zst", &data)] {
            let header = ar::Header::new(name.as_bytes().to_vec(), bytes.len() as u64);
            package.append(&header, bytes).expect("a temporary directory");
        }
    }

    #[test]
    fn what_is_no_package_is_refused() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let file = root.path().join("x.deb");
        std::fs::write(&file, b"<html>no such file</html>").expect("a temporary directory");
        assert!(unpack(&file, root.path(), &mut |_| {}).is_err());
        let good = root.path().join("y.deb");
        write_deb(&good, &[("./boot/vmlinuz-1", &[7; 5000])]);
        let bytes = std::fs::read(&good).expect("just written");
        std::fs::write(&file, &bytes[..bytes.len() - 20]).expect("a temporary directory");
        assert!(unpack(&file, root.path(), &mut |_| {}).is_err());
    }
}
