//! A cpio "newc" archive, written when it is poured out (kernel early-userspace/buffer-format).
//!
//! Every entry: a 110-byte header of 8-digit hexadecimal fields, the name with its NUL, padding to
//! 4, the data, padding to 4. Files of the host are remembered by path and read only when the
//! archive goes to its place, so it is never in memory. Invariants: the archive is valid after
//! every call, but for its trailer; its size is known and does not change.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use machine::{BoxError, Initrd};

use super::InitramfsError;
use crate::source::PIECE;

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// A finished archive.
#[derive(Debug)]
pub struct Archive {
    parts: Vec<Part>,
    /// What follows the last part.
    tail: Vec<u8>,
    /// Bytes in all.
    size: u64,
    inode: u32,
}

#[derive(Debug)]
enum Part {
    Bytes(Vec<u8>),
    Static(&'static [u8]),
    /// So many bytes of a file of the host; a file that has shrunk is filled up with zeros.
    File(PathBuf, u64),
}

impl Archive {
    pub(super) fn new() -> Self {
        Self { parts: Vec::new(), tail: Vec::new(), size: 0, inode: 0 }
    }

    pub(super) fn directory(&mut self, name: &[u8], mode: u32) {
        self.header(name, DIRECTORY | mode, 0, (0, 0));
    }

    pub(super) fn symlink(&mut self, name: &[u8], target: &[u8]) {
        self.header(name, SYMLINK | 0o777, target.len() as u32, (0, 0));
        self.put(target);
        self.pad();
    }

    pub(super) fn character_device(&mut self, name: &[u8], mode: u32, number: (u32, u32)) {
        self.header(name, CHARACTER | mode, 0, number);
    }

    pub(super) fn file(&mut self, name: &[u8], mode: u32, data: &[u8]) {
        self.header(name, FILE | mode, data.len() as u32, (0, 0));
        self.put(data);
        self.pad();
    }

    /// A file of our own that lives as long as we do.
    pub(super) fn static_file(&mut self, name: &[u8], mode: u32, data: &'static [u8]) {
        self.header(name, FILE | mode, data.len() as u32, (0, 0));
        self.part(Part::Static(data), data.len() as u64);
    }

    /// A file of the host, of this size a moment ago.
    pub(super) fn host_file(&mut self, name: &[u8], mode: u32, size: u32, path: &Path) {
        self.header(name, FILE | mode, size, (0, 0));
        self.part(Part::File(path.to_path_buf(), size.into()), size.into());
    }

    pub(super) fn finish(mut self) -> Self {
        self.inode = 0;
        self.header(b"TRAILER!!!", 0, 0, (0, 0));
        self
    }

    fn part(&mut self, part: Part, size: u64) {
        self.parts.push(Part::Bytes(std::mem::take(&mut self.tail)));
        self.parts.push(part);
        self.size += size;
        self.pad();
    }

    fn put(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        self.size += bytes.len() as u64;
    }

    fn header(&mut self, name: &[u8], mode: u32, size: u32, device: (u32, u32)) {
        self.inode += 1;
        let name = name.strip_prefix(b"/").unwrap_or(name);
        self.put(b"070701");
        let fields = [
            self.inode,
            mode,
            0, // uid
            0, // gid
            1, // nlink
            0, // mtime
            size,
            0, // device of the file, major
            0, // and minor
            device.0,
            device.1,
            name.len() as u32 + 1,
            0, // check, unused in this format
        ];
        for field in fields {
            self.hexadecimal(field);
        }
        self.put(name);
        self.put(&[0]);
        self.pad();
    }

    fn hexadecimal(&mut self, value: u32) {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        let digits: [u8; 8] =
            std::array::from_fn(|place| DIGITS[(value >> (28 - place * 4)) as usize & 15]);
        self.put(&digits);
    }

    fn pad(&mut self) {
        while !self.size.is_multiple_of(4) {
            self.put(&[0]);
        }
    }
}

impl Initrd for Archive {
    fn size(&self) -> u64 {
        self.size
    }

    fn pour(&self, to: &mut dyn FnMut(&[u8]) -> Result<(), BoxError>) -> Result<(), BoxError> {
        let mut pieces = Pieces { buffer: Vec::with_capacity(PIECE), to };
        for part in &self.parts {
            match part {
                Part::Bytes(bytes) => pieces.put(bytes)?,
                Part::Static(bytes) => pieces.put(bytes)?,
                Part::File(path, size) => pieces.put_file(path, *size)?,
            }
        }
        pieces.put(&self.tail)?;
        pieces.flush()
    }
}

/// Small parts gathered to pieces.
struct Pieces<'a> {
    buffer: Vec<u8>,
    to: &'a mut dyn FnMut(&[u8]) -> Result<(), BoxError>,
}

impl Pieces<'_> {
    fn put(&mut self, mut bytes: &[u8]) -> Result<(), BoxError> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            self.flush_full()?;
            bytes = later;
        }
        Ok(())
    }

    fn put_file(&mut self, path: &Path, size: u64) -> Result<(), BoxError> {
        let gone = |source| InitramfsError::Gone { path: path.to_path_buf(), source };
        let mut file = File::open(path).map_err(gone)?;
        let mut left = size;
        while left > 0 {
            let start = self.buffer.len();
            let room = (PIECE - start).min(left as usize);
            self.buffer.resize(start + room, 0);
            let count = file.read(&mut self.buffer[start..]).map_err(gone)?;
            // What a file that shrank has no more is zero.
            let count = if count == 0 { room } else { count };
            self.buffer.truncate(start + count);
            left -= count as u64;
            self.flush_full()?;
        }
        Ok(())
    }

    fn flush_full(&mut self) -> Result<(), BoxError> {
        if self.buffer.len() == PIECE { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), BoxError> {
        (self.to)(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

#[cfg(test)]
pub(super) fn bytes(archive: &Archive) -> Vec<u8> {
    let mut all = Vec::new();
    let poured = archive.pour(&mut |piece| {
        all.extend_from_slice(piece);
        Ok(())
    });
    poured.expect("the host's files are there");
    assert_eq!(all.len() as u64, archive.size());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_aligned_entries_and_a_trailer() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("b");
        std::fs::write(&path, b"xyzw").expect("a temporary directory");
        let mut archive = Archive::new();
        archive.directory(b"/etc", 0o755);
        archive.file(b"/etc/a", 0o644, b"12345");
        archive.host_file(b"/etc/b", 0o644, 3, &path);
        archive.static_file(b"/etc/c", 0o644, b"static");
        let bytes = bytes(&archive.finish());
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.starts_with(b"070701"));
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 5);
        assert!(text.contains("etc/a\0") && !text.contains("/etc/a"));
        assert!(text.contains("\0xyz\x00070701") && text.contains("static"));
        assert!(text.trim_end_matches('\0').ends_with("TRAILER!!!"));
    }

    #[test]
    fn a_file_that_shrank_is_filled_up_and_one_that_is_gone_told() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("a");
        std::fs::write(&path, b"abc").expect("a temporary directory");
        let mut archive = Archive::new();
        archive.host_file(b"/a", 0o644, 6, &path);
        assert!(bytes(&archive).ends_with(b"a\0abc\0\0\0\0\0"));
        std::fs::remove_file(&path).expect("just written");
        let error = archive.pour(&mut |_| Ok(())).expect_err("it is gone");
        assert!(error.to_string().contains("disappeared"), "{error}");
    }

    #[test]
    fn large_files_come_in_pieces() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("a");
        let data: Vec<u8> = (0..3 * PIECE as u32 + 5).map(|n| (n / 3) as u8).collect();
        std::fs::write(&path, &data).expect("a temporary directory");
        let mut archive = Archive::new();
        archive.host_file(b"/a", 0o644, data.len() as u32, &path);
        let bytes = bytes(&archive);
        assert!(bytes.windows(data.len()).next_back().is_some());
        let start = bytes.len() - data.len().next_multiple_of(4);
        assert!(bytes[start..start + data.len()] == data);
    }
}
