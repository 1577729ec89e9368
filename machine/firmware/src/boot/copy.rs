//! Bytes on their way into guest memory, piece by piece.
//!
//! Invariant: only what lies in a segment is written; runs of zeros are left to the fresh RAM, for a
//! kernel's .bss and .brk lie in its file.

use std::io::BufRead;

use x86::GuestPhys;

use super::{Content, LoadError, Segment};
use crate::kernel::Elf;
use crate::source::{Cursor, FileRange, Sink, Source};
use crate::unpack::{Payload, UnpackError};

/// Bytes that are looked at for being all zero.
const RUN: usize = 64 << 10;
static ZEROS: [u8; RUN] = [0; RUN];

/// Writes the segments whose bytes are ours.
pub(super) fn own(segments: &[Segment], sink: &mut dyn Sink) -> Result<(), LoadError> {
    for segment in segments {
        if let Content::Bytes(bytes) = &segment.content {
            sink.write(segment.address, bytes).map_err(LoadError::Memory)?;
        }
    }
    Ok(())
}

/// Writes the segments that are parts of a file.
pub(super) fn from_file(
    segments: &[Segment],
    source: &dyn Source,
    sink: &mut dyn Sink,
) -> Result<(), LoadError> {
    for segment in segments {
        let Content::Kernel(range) = segment.content else { continue };
        let mut cursor = Cursor::new(source, range);
        let mut address = segment.address;
        loop {
            let piece = cursor.fill_buf().map_err(LoadError::File)?;
            let count = piece.len();
            if count == 0 {
                break;
            }
            write(address, piece, sink)?;
            address = GuestPhys(address.0 + count as u64);
            cursor.consume(count);
        }
    }
    Ok(())
}

/// A vmlinux on its way from its payload into memory.
pub(super) struct Unpacking<'a> {
    payload: Payload<'a>,
    /// What was unpacked for the headers.
    head: Vec<u8>,
}

impl<'a> Unpacking<'a> {
    pub(super) fn new(payload: Payload<'a>) -> Self {
        Self { payload, head: Vec::new() }
    }

    /// Unpacks and reads the ELF's headers, all but the notes.
    pub(super) fn headers(&mut self) -> Result<Elf, LoadError> {
        let size = self.payload.size();
        let mut needed = size.min(64);
        loop {
            while (self.head.len() as u64) < needed {
                let piece = self.payload.next_piece()?;
                if piece.is_empty() {
                    break;
                }
                self.head.extend_from_slice(piece);
            }
            if self.head.get(..4) != Some(b"\x7fELF") {
                return Err(UnpackError::NotVmlinux.into());
            }
            let end = Elf::head_size(&self.head, size).map_err(UnpackError::WrongVmlinux)?;
            if end <= self.head.len() as u64 {
                return Ok(Elf::parse_head(&self.head, size).map_err(UnpackError::WrongVmlinux)?);
            }
            needed = end;
        }
    }

    /// Unpacks all of it to its segments, and reads the notes that come by.
    pub(super) fn finish(
        mut self,
        elf: &mut Elf,
        segments: &[Segment],
        sink: &mut dyn Sink,
    ) -> Result<(), LoadError> {
        let mut notes: Vec<(FileRange, Vec<u8>)> =
            elf.note_ranges.iter().map(|range| (*range, Vec::new())).collect();
        let mut scatter = |offset: u64, piece: &[u8]| {
            for (range, bytes) in &mut notes {
                if let Some((part, _)) = common(*range, offset, piece) {
                    bytes.extend_from_slice(part);
                }
            }
            for segment in segments {
                let Content::Kernel(range) = segment.content else { continue };
                if let Some((part, at)) = common(range, offset, piece) {
                    write(GuestPhys(segment.address.0 + at), part, sink)?;
                }
            }
            Ok::<(), LoadError>(())
        };
        scatter(0, &self.head)?;
        let mut offset = self.head.len() as u64;
        loop {
            let piece = self.payload.next_piece()?;
            if piece.is_empty() {
                break;
            }
            scatter(offset, piece)?;
            offset += piece.len() as u64;
        }
        for (_, bytes) in &notes {
            elf.notes.read(bytes);
        }
        Ok(())
    }
}

/// What a range and a piece at `offset` have in common, and where in the range that lies.
fn common(range: FileRange, offset: u64, piece: &[u8]) -> Option<(&[u8], u64)> {
    let start = range.offset.max(offset);
    let end = range.end().min(offset + piece.len() as u64);
    (start < end)
        .then(|| (&piece[(start - offset) as usize..(end - offset) as usize], start - range.offset))
}

/// Writes bytes, but for long runs of zeros.
fn write(address: GuestPhys, bytes: &[u8], sink: &mut dyn Sink) -> Result<(), LoadError> {
    let mut put = |from: usize, to: usize| {
        if from == to {
            return Ok(());
        }
        let address = GuestPhys(address.0 + from as u64);
        sink.write(address, &bytes[from..to]).map_err(LoadError::Memory)
    };
    let (mut from, mut at) = (0, 0);
    for run in bytes.chunks(RUN) {
        let next = at + run.len();
        if run == &ZEROS[..run.len()] {
            put(from, at)?;
            from = next;
        }
        at = next;
    }
    put(from, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_meets_a_range_where_they_overlap() {
        let range = FileRange { offset: 10, size: 5 };
        assert_eq!(common(range, 8, b"abcd"), Some((&b"cd"[..], 0)));
        assert_eq!(common(range, 12, b"abcdef"), Some((&b"abc"[..], 2)));
        assert_eq!(common(range, 15, b"abc"), None);
        assert_eq!(common(range, 0, b"abc"), None);
    }

    #[test]
    fn runs_of_zeros_are_not_written() {
        struct Written(Vec<(u64, usize)>);
        impl Sink for Written {
            fn write(
                &mut self,
                address: GuestPhys,
                bytes: &[u8],
            ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
                self.0.push((address.0, bytes.len()));
                Ok(())
            }
        }
        let mut bytes = vec![1; 3 * RUN + 5];
        bytes[RUN..2 * RUN].fill(0);
        let mut written = Written(Vec::new());
        write(GuestPhys(0x1000), &bytes, &mut written).expect("takes all");
        write(GuestPhys(0), &[0; 7], &mut written).expect("takes all");
        assert_eq!(written.0, [(0x1000, RUN), (0x1000 + 2 * RUN as u64, RUN + 5)]);
    }
}
