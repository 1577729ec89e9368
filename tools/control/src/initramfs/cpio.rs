//! A cpio "newc" archive, written into memory (kernel early-userspace/buffer-format).
//!
//! Every entry: a 110-byte header of 8-digit hexadecimal fields, the name with its NUL, padding to
//! 4, the data, padding to 4. Invariant: the archive is valid after every call, but for its
//! trailer.

use std::io::Read;

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

pub(super) struct Archive {
    out: Vec<u8>,
    inode: u32,
}

impl Archive {
    pub(super) fn new() -> Self {
        Self { out: Vec::with_capacity(16 << 20), inode: 0 }
    }

    pub(super) fn directory(&mut self, name: &[u8], mode: u32) {
        self.header(name, DIRECTORY | mode, 0, (0, 0));
    }

    pub(super) fn symlink(&mut self, name: &[u8], target: &[u8]) {
        self.header(name, SYMLINK | 0o777, target.len() as u32, (0, 0));
        self.out.extend_from_slice(target);
        self.pad();
    }

    pub(super) fn character_device(&mut self, name: &[u8], mode: u32, number: (u32, u32)) {
        self.header(name, CHARACTER | mode, 0, number);
    }

    pub(super) fn file(&mut self, name: &[u8], mode: u32, data: &[u8]) {
        self.header(name, FILE | mode, data.len() as u32, (0, 0));
        self.out.extend_from_slice(data);
        self.pad();
    }

    /// A file whose bytes go from `source` straight into the archive; gives where they are.
    /// `size` was the file's size a moment ago: a file that has shrunk is filled up with zeroes.
    pub(super) fn file_from(
        &mut self,
        name: &[u8],
        mode: u32,
        size: u32,
        source: &mut impl Read,
    ) -> std::io::Result<std::ops::Range<usize>> {
        let before = self.out.len();
        self.header(name, FILE | mode, size, (0, 0));
        let start = self.out.len();
        self.out.reserve(size as usize + 4);
        if let Err(error) = source.take(u64::from(size)).read_to_end(&mut self.out) {
            self.out.truncate(before);
            return Err(error);
        }
        let end = start + size as usize;
        self.out.resize(end, 0);
        self.pad();
        Ok(start..end)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.out
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.header(b"TRAILER!!!", 0, 0, (0, 0));
        self.out
    }

    fn header(&mut self, name: &[u8], mode: u32, size: u32, device: (u32, u32)) {
        self.inode += 1;
        let name = name.strip_prefix(b"/").unwrap_or(name);
        self.out.extend_from_slice(b"070701");
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
        self.out.extend_from_slice(name);
        self.out.push(0);
        self.pad();
    }

    fn hexadecimal(&mut self, value: u32) {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        for shift in (0..8).rev() {
            self.out.push(DIGITS[(value >> (shift * 4)) as usize & 15]);
        }
    }

    fn pad(&mut self) {
        while !self.out.len().is_multiple_of(4) {
            self.out.push(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_aligned_entries_and_a_trailer() {
        let mut archive = Archive::new();
        archive.directory(b"/etc", 0o755);
        archive.file(b"/etc/a", 0o644, b"12345");
        let range =
            archive.file_from(b"/etc/b", 0o644, 3, &mut &b"xyzw"[..]).expect("reads memory");
        assert_eq!(&archive.bytes()[range], b"xyz");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.starts_with(b"070701"));
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 4);
        assert!(text.contains("etc/a\0") && !text.contains("/etc/a"));
        assert!(text.ends_with("TRAILER!!!\0\0\0\0") || text.contains("TRAILER!!!\0"));
    }

    #[test]
    fn a_file_that_shrank_is_filled_up() {
        let mut archive = Archive::new();
        let range = archive.file_from(b"/a", 0o644, 6, &mut &b"abc"[..]).expect("reads memory");
        assert_eq!(&archive.bytes()[range], b"abc\0\0\0");
    }
}
