//! The payload of a bzImage, unpacked on the host (Documentation/arch/x86/boot.rst, payload_offset).
//!
//! The guest's own decompressor would do the same work on the slowest CPU there is. The unpacked
//! size stands in the payload's last four bytes (`size_append` of the kernel's build; gzip's ISIZE),
//! so each decoder fills one exactly sized buffer in place. Invariants: output never exceeds the
//! limit given, dictionaries never exceed [`MAX_DICTIONARY`]; a payload that unpacks to more or
//! less than it says is an error.

mod bcj;
mod lz4;
mod lzo;
mod xz;

use std::borrow::Cow;
use std::fmt;
use std::io::Read;

use thiserror::Error;

use crate::kernel::{
    BzImage, Elf, FileKind, Kernel, KernelError, Multiboot, SetupHeader, identify,
};

/// Most bytes a kernel may unpack to.
pub const MAX_UNPACKED: u64 = 1 << 30;
/// Largest dictionary or window a decoder may ask for: what the kernel's build uses at most.
pub const MAX_DICTIONARY: u64 = 128 << 20;
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
    /// What came out isn't a vmlinux.
    #[error("the kernel's payload is not an x86-64 vmlinux")]
    NotVmlinux(#[source] KernelError),
}

/// A kernel with its payload unpacked: what [`crate::boot`] places.
#[derive(Clone, Debug)]
pub enum Unpacked<'a> {
    /// Linux out of a bzImage: the setup header and the bytes of the ELF (relocations after it).
    Linux {
        /// The boot image's header.
        header: SetupHeader,
        /// The unpacked vmlinux.
        vmlinux: Vec<u8>,
    },
    /// An ELF kernel as it was.
    Elf(Elf<'a>),
    /// A multiboot kernel as it was.
    Multiboot(Multiboot<'a>),
}

/// Unpacks a kernel; ELF and multiboot kernels pass through.
///
/// # Errors
/// Damaged or oversized payloads. There is no fallback to the guest's own decompressor.
pub fn unpack<'a>(kernel: Kernel<'a>, limit: u64) -> Result<Unpacked<'a>, UnpackError> {
    match kernel {
        Kernel::BzImage(image) => unpack_linux(image, limit),
        Kernel::Elf(elf) => Ok(Unpacked::Elf(elf)),
        Kernel::Multiboot(multiboot) => Ok(Unpacked::Multiboot(multiboot)),
    }
}

fn unpack_linux<'a>(image: BzImage<'a>, limit: u64) -> Result<Unpacked<'a>, UnpackError> {
    let vmlinux = payload(image.payload, limit)?;
    Elf::parse(&vmlinux).map_err(UnpackError::NotVmlinux)?;
    Ok(Unpacked::Linux { header: image.header, vmlinux: vmlinux.into_owned() })
}

/// Unpacks a payload with its size in the last four bytes; an uncompressed ELF is borrowed.
///
/// # Errors
/// See [`UnpackError`].
pub fn payload(payload: &[u8], limit: u64) -> Result<Cow<'_, [u8]>, UnpackError> {
    if payload.starts_with(b"\x7fELF") {
        return Ok(Cow::Borrowed(payload));
    }
    let Some(format) = Compression::of(payload) else {
        return Err(UnpackError::UnknownCompression {
            magic: payload[..payload.len().min(6)].into(),
        });
    };
    let (stream, trailer) = payload
        .split_last_chunk::<4>()
        .ok_or_else(|| UnpackError::Damaged { format, what: "it is empty".into() })?;
    let size = u64::from(u32::from_le_bytes(*trailer));
    if size > limit {
        return Err(UnpackError::TooLarge { size, limit });
    }
    // Zeroed pages straight from the allocator: touched first by the decoder.
    let mut output = vec![0; size as usize];
    // gzip's own trailer ends in the size; the others have it appended.
    let stream = if format == Compression::Gzip { payload } else { stream };
    match decode(format, stream, &mut output) {
        Ok(()) => Ok(Cow::Owned(output)),
        Err(Fault::Size) => Err(UnpackError::WrongSize { format, size }),
        Err(Fault::Data(what)) => Err(UnpackError::Damaged { format, what }),
    }
}

/// What the beginning of a compressed file unpacks to; `None` if it doesn't.
pub fn peek(file: &[u8], format: Compression) -> Option<FileKind> {
    let mut head = vec![0; PEEK];
    let limit_kib = (MAX_DICTIONARY >> 10) as u32 * 2;
    let filled = match format {
        Compression::Gzip => fill(flate2::read::GzDecoder::new(file), &mut head),
        Compression::Bzip2 => fill(bzip2::read::BzDecoder::new(file), &mut head),
        Compression::Xz => {
            fill(lzma_rust2::XzReader::new_mem_limit(file, false, limit_kib), &mut head)
        }
        Compression::Lzma => {
            fill(lzma_rust2::LzmaReader::new_mem_limit(file, limit_kib, None).ok()?, &mut head)
        }
        Compression::Zstd => fill(zstd_reader(file).ok()?, &mut head),
        Compression::Lz4 => lz4::peek(file, &mut head),
        Compression::Lzo => lzo::peek(file, &mut head),
    };
    head.truncate(filled);
    (filled > 0).then(|| identify(&head))
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
    /// The data ends before the buffer is full, or goes on after.
    Size,
    /// The data is wrong.
    Data(String),
}

impl Fault {
    fn data(what: impl fmt::Display) -> Self {
        Self::Data(what.to_string())
    }
}

fn decode(format: Compression, stream: &[u8], output: &mut [u8]) -> Result<(), Fault> {
    match format {
        Compression::Gzip => fill_exactly(flate2::bufread::GzDecoder::new(stream), output),
        Compression::Bzip2 => fill_exactly(bzip2::bufread::BzDecoder::new(stream), output),
        Compression::Lzma => {
            let limit_kib = (MAX_DICTIONARY >> 10) as u32 * 2;
            let reader = lzma_rust2::LzmaReader::new_mem_limit(stream, limit_kib, None);
            fill_exactly(reader.map_err(Fault::data)?, output)
        }
        Compression::Zstd => fill_exactly(zstd_reader(stream)?, output),
        Compression::Xz => xz::decode(stream, output),
        Compression::Lz4 => lz4::decode(stream, output),
        Compression::Lzo => lzo::decode(stream, output),
    }
}

fn zstd_reader(stream: &[u8]) -> Result<impl Read, Fault> {
    let mut decoder = ruzstd::decoding::FrameDecoder::new();
    decoder.set_max_window_size(MAX_DICTIONARY);
    // A decoder used before reserves its whole window at once, a fresh one grows and copies it:
    // kernels have windows of 128 MiB, so the header is read once more for that.
    decoder.init(stream).map_err(Fault::data)?;
    ruzstd::decoding::StreamingDecoder::new_with_decoder(stream, decoder).map_err(Fault::data)
}

/// Fills the buffer and asks for the end of the stream, which also checks its checksums.
fn fill_exactly(mut reader: impl Read, output: &mut [u8]) -> Result<(), Fault> {
    reader.read_exact(output).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Fault::Size,
        _ => Fault::data(error),
    })?;
    match reader.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(Fault::Size),
        Err(error) => Err(Fault::data(error)),
    }
}

#[cfg(test)]
mod tests;
