//! Unpacks an RPM package: a lead, two headers and a compressed cpio archive.
//!
//! ```text
//!   lead 96 bytes | signature header, padded to 8 | header | payload
//!   a header: 8E AD E8 01, 4 reserved, index entries u32 BE, store bytes u32 BE, 16 x entries, store
//! ```
//! Invariant: only regular files with a place in [`super::place_of`] are written; nothing is
//! believed about a length until as many bytes were read.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{Counted, FetchProgress, place_of};

const LEAD: u64 = 96;
const HEADER_MAGIC: [u8; 4] = [0x8e, 0xad, 0xe8, 0x01];
const REGULAR: u32 = 0o100_000;
const TYPE_MASK: u32 = 0o170_000;
const LONGEST_NAME: u64 = 4096;

/// Unpacks the kernel's files below `tree`.
pub(super) fn unpack(
    package: &Path,
    tree: &Path,
    progress: &mut dyn FnMut(FetchProgress),
) -> io::Result<()> {
    let file = File::open(package)?;
    let total = file.metadata()?.len();
    let mut source = io::BufReader::new(Counted { inner: file, read: 0, total, told: 0, progress });
    skip(&mut source, LEAD)?;
    let signature = skip_header(&mut source)?;
    skip(&mut source, signature.next_multiple_of(8) - signature)?;
    skip_header(&mut source)?;
    unpack_cpio(crate::compressed::reader(source)?, tree)
}

/// Reads over one header; gives its length.
fn skip_header(source: &mut impl Read) -> io::Result<u64> {
    let mut head = [0; 16];
    source.read_exact(&mut head)?;
    if head[..4] != HEADER_MAGIC {
        return Err(damaged("it is no RPM package"));
    }
    let word = |at: usize| {
        u64::from(u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]))
    };
    let rest = word(8) * 16 + word(12);
    skip(source, rest)?;
    Ok(16 + rest)
}

fn unpack_cpio(mut source: impl Read, tree: &Path) -> io::Result<()> {
    loop {
        let mut head = [0; 110];
        source.read_exact(&mut head)?;
        if &head[..5] != b"07070" {
            return Err(damaged("its payload is no cpio archive"));
        }
        let field = |index: usize| {
            let text = std::str::from_utf8(&head[6 + index * 8..14 + index * 8]).ok();
            let value = text.and_then(|text| u32::from_str_radix(text, 16).ok());
            value.ok_or_else(|| damaged("its payload is damaged"))
        };
        let (mode, size, name_size) = (field(1)?, u64::from(field(6)?), u64::from(field(11)?));
        if name_size == 0 || name_size > LONGEST_NAME {
            return Err(damaged("its payload is damaged"));
        }
        let mut name = vec![0; name_size as usize];
        source.read_exact(&mut name)?;
        name.pop();
        skip(&mut source, (110 + name_size).next_multiple_of(4) - 110 - name_size)?;
        if name == b"TRAILER!!!" {
            return Ok(());
        }
        let path = Path::new(std::ffi::OsStr::from_bytes(&name));
        match place_of(path).filter(|_| mode & TYPE_MASK == REGULAR) {
            Some(place) => {
                let target = tree.join(place);
                if let Some(parent) = target.parent() {
                    std::fs::create_dir_all(parent)?;
                }
                let mut data = source.by_ref().take(size);
                if io::copy(&mut data, &mut File::create(&target)?)? != size {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            None => skip(&mut source, size)?,
        }
        skip(&mut source, size.next_multiple_of(4) - size)?;
    }
}

fn skip(source: &mut impl Read, count: u64) -> io::Result<()> {
    if io::copy(&mut source.take(count), &mut io::sink())? == count {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(store: usize) -> Vec<u8> {
        let mut bytes = HEADER_MAGIC.to_vec();
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&1u32.to_be_bytes());
        bytes.extend_from_slice(&(store as u32).to_be_bytes());
        bytes.resize(16 + 16 + store, 0);
        bytes
    }

    fn entry(name: &str, mode: u32, data: &[u8]) -> Vec<u8> {
        let fields = [1, mode, 0, 0, 1, 0, data.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        let mut bytes = b"070701".to_vec();
        for field in fields {
            bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn package() -> Vec<u8> {
        let mut bytes = vec![0; LEAD as usize];
        bytes.extend(header(13));
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend(header(5));
        let mut payload = entry("./lib/modules/6.9/vmlinuz", REGULAR | 0o644, b"kernel!");
        payload.extend(entry("./lib/modules/6.9/build", 0o120_777, b"/usr/src"));
        payload.extend(entry("./etc/evil", REGULAR | 0o644, b"no"));
        payload.extend(entry("TRAILER!!!", 0, b""));
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        bytes.extend(ruzstd::encoding::compress_to_vec(payload.as_slice(), level));
        bytes
    }

    #[test]
    fn a_package_gives_its_kernel_and_nothing_else() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let file = root.path().join("k.rpm");
        std::fs::write(&file, package()).expect("a temporary directory");
        let tree = root.path().join("tree");
        unpack(&file, &tree, &mut |_| {}).expect("well formed");
        assert_eq!(
            std::fs::read(tree.join("lib/modules/6.9/vmlinuz")).expect("unpacked"),
            b"kernel!"
        );
        assert!(!tree.join("etc").exists() && !tree.join("lib/modules/6.9/build").exists());
    }

    #[test]
    fn a_cut_package_is_refused() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let file = root.path().join("k.rpm");
        let bytes = package();
        for length in (0..bytes.len() - 4).step_by(11) {
            std::fs::write(&file, &bytes[..length]).expect("a temporary directory");
            assert!(unpack(&file, root.path(), &mut |_| {}).is_err(), "cut at {length}");
        }
    }
}
