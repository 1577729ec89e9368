//! Files and guest memory as the loader sees them: it asks for bytes, and hands bytes on.
//!
//! Invariant: no more than a few hundred KiB of a file are held at a time, however large it is.

use std::io::{self, BufRead, Read};

use x86::GuestPhys;

/// A file, read in pieces. Anything that is bytes already is one.
pub trait Source {
    /// Bytes in it.
    fn size(&self) -> u64;

    /// Fills `into` from `offset` on.
    ///
    /// # Errors
    /// The reader's own; `UnexpectedEof` when the file ends before.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
}

impl<T: AsRef<[u8]>> Source for T {
    fn size(&self) -> u64 {
        self.as_ref().len() as u64
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let bytes = crate::bytes::slice(self.as_ref(), offset, into.len() as u64)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        into.copy_from_slice(bytes);
        Ok(())
    }
}

/// Guest RAM before the start: all zero, so pages of zeros are not written.
pub trait Sink {
    /// Writes bytes at an address.
    ///
    /// # Errors
    /// The address is not RAM, or the host has no memory.
    fn write(
        &mut self,
        address: GuestPhys,
        bytes: &[u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// A part of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileRange {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

impl FileRange {
    /// This range of a file of `size` bytes, if it lies inside.
    pub(crate) fn within(offset: u64, size: u64, file: u64) -> Option<Self> {
        (offset.checked_add(size)? <= file).then_some(Self { offset, size })
    }

    /// All of a file.
    pub(crate) fn whole(source: &dyn Source) -> Self {
        Self { offset: 0, size: source.size() }
    }

    pub(crate) fn end(self) -> u64 {
        self.offset + self.size
    }
}

/// The file's first bytes, at most `most`.
pub(crate) fn head(source: &dyn Source, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; source.size().min(most) as usize];
    source.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// What a cursor reads at a time.
const BUFFER: u64 = 64 << 10;

/// Reads a part of a file from its beginning to its end.
pub(crate) struct Cursor<'a> {
    source: &'a dyn Source,
    /// Where the buffer's end lies in the file.
    next: u64,
    end: u64,
    buffer: Vec<u8>,
    /// What of the buffer was consumed.
    used: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(source: &'a dyn Source, range: FileRange) -> Self {
        Self { source, next: range.offset, end: range.end(), buffer: Vec::new(), used: 0 }
    }

    pub(crate) fn whole(source: &'a dyn Source) -> Self {
        Self::new(source, FileRange::whole(source))
    }

    /// Where in the file the next byte to be read lies.
    pub(crate) fn position(&self) -> u64 {
        self.next - (self.buffer.len() - self.used) as u64
    }

    /// Exactly `N` bytes; `None` when the part ends before.
    pub(crate) fn array<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        let mut bytes = [0; N];
        match self.read_exact(&mut bytes) {
            Ok(()) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Read for Cursor<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let count = bytes.len().min(into.len());
        into[..count].copy_from_slice(&bytes[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Cursor<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used == self.buffer.len() {
            let count = (self.end - self.next).min(BUFFER);
            self.buffer.resize(count as usize, 0);
            self.used = 0;
            if let Err(error) = self.source.read_at(self.next, &mut self.buffer) {
                self.buffer.clear();
                return Err(error);
            }
            self.next += count;
        }
        Ok(&self.buffer[self.used..])
    }

    fn consume(&mut self, count: usize) {
        self.used = self.buffer.len().min(self.used + count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_its_part_and_knows_where_it_is() {
        let file: Vec<u8> = (0..200_000u32).map(|n| (n / 7) as u8).collect();
        let mut cursor = Cursor::new(&file, FileRange { offset: 10, size: 150_000 });
        assert_eq!(cursor.array::<2>().expect("memory"), Some([file[10], file[11]]));
        assert_eq!(cursor.position(), 12);
        let mut rest = Vec::new();
        cursor.read_to_end(&mut rest).expect("memory");
        assert!(rest == file[12..150_010]);
        assert_eq!((cursor.position(), cursor.array::<1>().expect("memory")), (150_010, None));
    }

    #[test]
    fn ranges_lie_inside() {
        assert_eq!(FileRange::within(1, 2, 3), Some(FileRange { offset: 1, size: 2 }));
        assert_eq!(FileRange::within(2, 2, 3), None);
        assert_eq!(FileRange::within(u64::MAX, 2, 3), None);
        assert!([0u8; 4].read_at(2, &mut [0; 3]).is_err());
    }
}
