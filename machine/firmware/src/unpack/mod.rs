//! The payload of a bzImage, unpacked on the host (Documentation/arch/x86/boot.rst, payload_offset).
//!
//! The guest's own decompressor would do the same work on the slowest CPU there is. The unpacked
//! size stands in the payload's last four bytes (`size_append` of the kernel's build; gzip's ISIZE).
//! It comes in pieces, so that what is held is the format's own window and little more. Invariants:
//! output never exceeds the limit given, dictionaries never exceed [`MAX_DICTIONARY`]; a payload
//! that unpacks to more or less than it says is an error.

mod bcj;
mod lz4;
mod lzo;
mod xz;

use std::fmt;
use std::io::{self, Read};

use thiserror::Error;

use crate::kernel::{FileKind, KernelError, identify};
use crate::source::{Cursor, FileRange, Source};

/// Most bytes a kernel may unpack to.
pub const MAX_UNPACKED: u64 = 1 << 30;
/// Largest dictionary or window a decoder may ask for: what the kernel's build uses at most.
pub const MAX_DICTIONARY: u64 = 128 << 20;
/// Bytes given at a time.
const PIECE: usize = 256 << 10;
/// Bytes that tell the compression.
const MAGIC: u64 = 16;
/// Bytes of an archive that [`peek`] looks at.
const PEEK: usize = 1024;

/// The kernel's compressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Compression {
    Gzip,
    Bzip2,
    Lzma,
    Xz,
    Lzo,
    Lz4,
    Zstd,
}

impl Compression {
    /// By the first bytes, as lib/decompress.c tells them apart.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let magics: [(&[u8], Self); 7] = [
            (b"\x1f\x8b", Self::Gzip),
            (b"BZh", Self::Bzip2),
            (b"\x5d\x00\x00", Self::Lzma),
            (b"\xfd7zXZ\x00", Self::Xz),
            (b"\x89LZO\x00\r\n\x1a\n", Self::Lzo),
            (b"\x02\x21\x4c\x18", Self::Lz4),
            (b"\x28\xb5\x2f\xfd", Self::Zstd),
        ];
        magics.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, format)| *format)
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Lzma => "LZMA",
            Self::Xz => "XZ",
            Self::Lzo => "LZO",
            Self::Lz4 => "LZ4",
            Self::Zstd => "zstd",
        })
    }
}

/// Why a payload can't be unpacked.
#[derive(Debug, Error)]
pub enum UnpackError {
    /// A compression the kernel's build doesn't have.
    #[error("the kernel's payload is compressed in an unknown way (it starts with {magic:02x?})")]
    UnknownCompression {
        /// Its first bytes.
        magic: Vec<u8>,
    },
    /// Too large.
    #[error("the kernel unpacks to {size} bytes, more than the {limit} allowed")]
    TooLarge {
        /// What it says it unpacks to.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// Damaged data.
    #[error("the kernel's {format} payload is damaged: {what}")]
    Damaged {
        /// Its compression.
        format: Compression,
        /// What the decoder found.
        what: String,
    },
    /// More or less data than announced.
    #[error("the kernel's {format} payload does not unpack to the {size} bytes it announces")]
    WrongSize {
        /// Its compression.
        format: Compression,
        /// The announced size.
        size: u64,
    },
    /// The file itself.
    #[error("the kernel's payload cannot be read")]
    File(#[source] io::Error),
    /// What came out isn't a vmlinux.
    #[error("the kernel's payload is not an x86-64 vmlinux")]
    NotVmlinux,
    /// What came out is a vmlinux that is wrong.
    #[error("the kernel's payload is not an x86-64 vmlinux")]
    WrongVmlinux(#[source] KernelError),
}

/// A payload while it is unpacked.
pub struct Payload<'a> {
    pieces: Box<dyn Pieces + 'a>,
    format: Option<Compression>,
    size: u64,
    seen: u64,
}

impl<'a> Payload<'a> {
    /// Opens a payload with its size in the last four bytes; an uncompressed ELF is passed through.
    ///
    /// # Errors
    /// Unknown compressions and sizes above the limit, above all.
    pub fn open(source: &'a dyn Source, range: FileRange, limit: u64) -> Result<Self, UnpackError> {
        let mut magic = vec![0; range.size.min(MAGIC) as usize];
        source.read_at(range.offset, &mut magic).map_err(UnpackError::File)?;
        if magic.starts_with(b"\x7fELF") {
            let pieces = Box::new(Filled::new(Cursor::new(source, range)));
            return Ok(Self { pieces, format: None, size: range.size, seen: 0 });
        }
        let Some(format) = Compression::of(&magic) else {
            magic.truncate(6);
            return Err(UnpackError::UnknownCompression { magic });
        };
        let damaged = |fault| match fault {
            Fault::Size => UnpackError::Damaged { format, what: "it is cut short".into() },
            Fault::Data(what) => UnpackError::Damaged { format, what },
        };
        if range.size < 4 {
            return Err(damaged(Fault::Size));
        }
        let mut trailer = [0; 4];
        source.read_at(range.end() - 4, &mut trailer).map_err(UnpackError::File)?;
        let size = u64::from(u32::from_le_bytes(trailer));
        if size > limit {
            return Err(UnpackError::TooLarge { size, limit });
        }
        // gzip's own trailer ends in the size; the others have it appended.
        let appended = if format == Compression::Gzip { 0 } else { 4 };
        let stream = FileRange { size: range.size - appended, ..range };
        let pieces = decoder(format, source, stream).map_err(damaged)?;
        Ok(Self { pieces, format: Some(format), size, seen: 0 })
    }

    /// Bytes it unpacks to.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next piece; empty at the end.
    ///
    /// # Errors
    /// Damaged data, and more or less of it than announced.
    pub fn next_piece(&mut self) -> Result<&[u8], UnpackError> {
        let (size, format) = (self.size, self.format);
        let wrong = |fault| match (fault, format) {
            (Fault::Size, Some(format)) => UnpackError::WrongSize { format, size },
            (Fault::Data(what), Some(format)) => UnpackError::Damaged { format, what },
            (Fault::Size, None) => UnpackError::File(io::ErrorKind::UnexpectedEof.into()),
            (Fault::Data(what), None) => UnpackError::File(io::Error::other(what)),
        };
        let piece = self.pieces.next().map_err(wrong)?;
        self.seen += piece.len() as u64;
        if self.seen > size || piece.is_empty() && self.seen < size {
            return Err(wrong(Fault::Size));
        }
        Ok(piece)
    }
}

impl fmt::Debug for Payload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload").field("format", &self.format).field("size", &self.size).finish()
    }
}

/// What the beginning of a compressed file unpacks to; `None` if it doesn't.
pub fn peek(file: &dyn Source, format: Compression) -> Option<FileKind> {
    let mut head = vec![0; PEEK];
    let limit_kib = (MAX_DICTIONARY >> 10) as u32 * 2;
    let cursor = Cursor::whole(file);
    let filled = match format {
        // The general reader: archives have checks that kernels don't use.
        Compression::Xz => {
            fill(lzma_rust2::XzReader::new_mem_limit(cursor, false, limit_kib), &mut head)
        }
        Compression::Gzip => fill(flate2::bufread::GzDecoder::new(cursor), &mut head),
        Compression::Bzip2 => fill(bzip2::bufread::BzDecoder::new(cursor), &mut head),
        Compression::Lzma => {
            fill(lzma_rust2::LzmaReader::new_mem_limit(cursor, limit_kib, None).ok()?, &mut head)
        }
        Compression::Zstd => fill(zstd_reader(file, FileRange::whole(file)).ok()?, &mut head),
        Compression::Lz4 => first_piece(lz4::Lz4::new(cursor).ok()?, &mut head),
        Compression::Lzo => first_piece(lzo::Lzo::new(cursor).ok()?, &mut head),
    };
    head.truncate(filled);
    (filled > 0).then(|| identify(&head))
}

fn first_piece(mut pieces: impl Pieces, head: &mut [u8]) -> usize {
    let Ok(piece) = pieces.next() else { return 0 };
    let count = piece.len().min(head.len());
    head[..count].copy_from_slice(&piece[..count]);
    count
}

/// Reads until the buffer is full, the end or an error; returns how much was read.
fn fill(mut reader: impl Read, buffer: &mut [u8]) -> usize {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(count @ 1..) => filled += count,
            _ => break,
        }
    }
    filled
}

/// Why a decoder gave up.
enum Fault {
    /// The data ends before its end.
    Size,
    /// The data is wrong.
    Data(String),
}

impl Fault {
    fn data(what: impl fmt::Display) -> Self {
        Self::Data(what.to_string())
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Size,
            _ => Self::data(error),
        }
    }
}

/// Unpacked data, piece by piece.
trait Pieces {
    /// The next piece, about [`PIECE`] bytes; empty at the end, when checksums have been checked.
    fn next(&mut self) -> Result<&[u8], Fault>;
}

/// The pieces of a reader.
struct Filled<R> {
    reader: R,
    buffer: Vec<u8>,
}

impl<R: Read> Filled<R> {
    fn new(reader: R) -> Self {
        Self { reader, buffer: vec![0; PIECE] }
    }
}

impl<R: Read> Pieces for Filled<R> {
    fn next(&mut self) -> Result<&[u8], Fault> {
        let mut filled = 0;
        while filled < PIECE {
            match self.reader.read(&mut self.buffer[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(&self.buffer[..filled])
    }
}

fn decoder<'a>(
    format: Compression,
    source: &'a dyn Source,
    range: FileRange,
) -> Result<Box<dyn Pieces + 'a>, Fault> {
    let cursor = Cursor::new(source, range);
    Ok(match format {
        Compression::Gzip => Box::new(Filled::new(flate2::bufread::GzDecoder::new(cursor))),
        Compression::Bzip2 => Box::new(Filled::new(bzip2::bufread::BzDecoder::new(cursor))),
        Compression::Lzma => {
            let limit_kib = (MAX_DICTIONARY >> 10) as u32 * 2;
            let reader = lzma_rust2::LzmaReader::new_mem_limit(cursor, limit_kib, None);
            Box::new(Filled::new(reader.map_err(Fault::data)?))
        }
        Compression::Zstd => Box::new(Filled::new(zstd_reader(source, range)?)),
        Compression::Xz => Box::new(xz::Xz::new(cursor)?),
        Compression::Lz4 => Box::new(lz4::Lz4::new(cursor)?),
        Compression::Lzo => Box::new(lzo::Lzo::new(cursor)?),
    })
}

fn zstd_reader<'a>(source: &'a dyn Source, range: FileRange) -> Result<impl Read + 'a, Fault> {
    let mut decoder = ruzstd::decoding::FrameDecoder::new();
    decoder.set_max_window_size(MAX_DICTIONARY);
    // A decoder used before reserves its whole window at once, a fresh one grows and copies it:
    // kernels have windows of 128 MiB, so the header is read once more for that.
    decoder.init(Cursor::new(source, range)).map_err(Fault::data)?;
    let cursor = Cursor::new(source, range);
    ruzstd::decoding::StreamingDecoder::new_with_decoder(cursor, decoder).map_err(Fault::data)
}

#[cfg(test)]
mod tests;
