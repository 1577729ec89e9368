//! XZ streams as the kernel's build writes them (xz-file-format.txt 1.2): LZMA2, with the x86 branch
//! filter in front, CRC32 or no check.
//!
//! The container is read here so that blocks unpack straight into the output, the filter runs in
//! place and the check uses a fast CRC. The index and footer after the last block say nothing new
//! and are not read. Invariant: a decoded block was checked before anyone sees it.

use std::io::Read;

use lzma_rust2::Lzma2Reader;

use super::{Fault, MAX_DICTIONARY, bcj};
use crate::bytes::u32_at;

const FILTER_X86: u64 = 4;
const FILTER_LZMA2: u64 = 0x21;

struct BlockHeader {
    /// The x86 filter's start offset, if that filter is there.
    x86: Option<u32>,
    dictionary: u32,
}

pub(super) fn decode(stream: &[u8], output: &mut [u8]) -> Result<(), Fault> {
    let header = stream.get(..12).ok_or_else(|| Fault::data("the stream header is cut short"))?;
    if u32_at(header, 8) != Some(crc32(&header[6..8])) || header[6] != 0 {
        return Err(Fault::data("the stream header is wrong"));
    }
    let check = match header[7] {
        0 => 0,
        1 => 4,
        other => return Err(Fault::data(format!("check type {other}, which kernels don't use"))),
    };
    let mut at = 12;
    let mut filled = 0;
    loop {
        let size = match stream.get(at) {
            Some(0) => break,
            Some(size) => (usize::from(*size) + 1) * 4,
            None => return Err(Fault::data("the stream is cut short")),
        };
        let header =
            stream.get(at..at + size).ok_or_else(|| Fault::data("a block header is cut short"))?;
        let header = BlockHeader::parse(header).ok_or_else(|| {
            Fault::data("a block header is wrong, or asks for filters that kernels don't use")
        })?;
        at += size;
        let (consumed, count) = block(&header, &stream[at..], &mut output[filled..])?;
        let padded = at + consumed.next_multiple_of(4);
        if check != 0 && u32_at(stream, padded) != Some(crc32(&output[filled..filled + count])) {
            return Err(Fault::data("a block's CRC is wrong"));
        }
        filled += count;
        at = padded + check;
    }
    if filled == output.len() { Ok(()) } else { Err(Fault::Size) }
}

/// Unpacks one block to the start of `output`; returns bytes consumed and produced.
fn block(header: &BlockHeader, data: &[u8], output: &mut [u8]) -> Result<(usize, usize), Fault> {
    let mut reader = Lzma2Reader::new(data, header.dictionary, None);
    let mut count = 0;
    while count < output.len() {
        match reader.read(&mut output[count..]).map_err(Fault::data)? {
            0 => break,
            more => count += more,
        }
    }
    // The end marker must follow; reading it also moves the input past it.
    if count == output.len() && reader.read(&mut [0]).map_err(Fault::data)? != 0 {
        return Err(Fault::Size);
    }
    if let Some(start) = header.x86 {
        bcj::decode_x86(&mut output[..count], start);
    }
    Ok((data.len() - reader.into_inner().len(), count))
}

impl BlockHeader {
    /// Section 3.1: size, flags, optional sizes, filter flags, padding, CRC32.
    fn parse(header: &[u8]) -> Option<Self> {
        let (body, crc) = header.split_last_chunk::<4>()?;
        if crc32(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let flags = *body.get(1)?;
        let mut rest = body.get(2..)?;
        for present in [0x40, 0x80] {
            if flags & present != 0 {
                variable_integer(&mut rest)?;
            }
        }
        let mut filters = Vec::with_capacity(2);
        for _ in 0..=flags & 3 {
            let id = variable_integer(&mut rest)?;
            let size = usize::try_from(variable_integer(&mut rest)?).ok()?;
            filters.push((id, rest.split_off(..size)?));
        }
        let (x86, lzma2) = match filters[..] {
            [(FILTER_LZMA2, lzma2)] => (None, lzma2),
            [(FILTER_X86, []), (FILTER_LZMA2, lzma2)] => (Some(0), lzma2),
            [(FILTER_X86, start @ [_, _, _, _]), (FILTER_LZMA2, lzma2)] => {
                (u32_at(start, 0), lzma2)
            }
            _ => return None,
        };
        let [size @ 0..=39] = *lzma2 else { return None };
        let dictionary = (2 | u64::from(size) & 1) << (size / 2 + 11);
        (dictionary <= MAX_DICTIONARY).then_some(Self { x86, dictionary: dictionary as u32 })
    }
}

/// Section 1.2: seven bits a byte, low first, at most nine bytes.
fn variable_integer(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let byte = *bytes.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}
