//! XZ streams as the kernel's build writes them (xz-file-format.txt 1.2): LZMA2, with the x86 branch
//! filter in front, CRC32 or no check.
//!
//! The container is read here so that the filter runs in place and the check uses a fast CRC. The
//! index and footer after the last block say nothing new and are not read. Invariant: a block's last
//! piece is given only after its check.

use std::io::Read;

use lzma_rust2::Lzma2Reader;

use super::bcj::X86Filter;
use super::{Fault, MAX_DICTIONARY, PIECE, Pieces};
use crate::bytes::u32_at;
use crate::source::Cursor;

const FILTER_X86: u64 = 4;
const FILTER_LZMA2: u64 = 0x21;

struct BlockHeader {
    /// The x86 filter's start offset, if that filter is there.
    x86: Option<u32>,
    dictionary: u32,
}

pub(super) struct Xz<'a> {
    /// `None` while a block is being read, which has it.
    cursor: Option<Cursor<'a>>,
    block: Option<Block<'a>>,
    /// Where the stream begins in the file: blocks are padded from there.
    start: u64,
    /// Bytes of the check after each block.
    check: usize,
    buffer: Vec<u8>,
    /// What of the buffer was given out; what follows, up to `held`, awaits the filter.
    given: usize,
    held: usize,
}

struct Block<'a> {
    reader: Lzma2Reader<Cursor<'a>>,
    filter: Option<X86Filter>,
    crc: flate2::Crc,
}

impl<'a> Xz<'a> {
    pub(super) fn new(mut cursor: Cursor<'a>) -> Result<Self, Fault> {
        let start = cursor.position();
        let header = cursor.array::<12>()?;
        let header = header.ok_or_else(|| Fault::data("the stream header is cut short"))?;
        if u32_at(&header, 8) != Some(crc32(&header[6..8])) || header[6] != 0 {
            return Err(Fault::data("the stream header is wrong"));
        }
        let check = match header[7] {
            0 => 0,
            1 => 4,
            other => {
                return Err(Fault::data(format!("check type {other}, which kernels don't use")));
            }
        };
        let buffer = vec![0; PIECE];
        Ok(Self { cursor: Some(cursor), block: None, start, check, buffer, given: 0, held: 0 })
    }

    /// Reads the next block's header; `None` when the index follows.
    fn next_block(&mut self) -> Result<Option<Block<'a>>, Fault> {
        let cursor = self.cursor.as_mut().expect("no block is being read");
        let size = match cursor.array()? {
            Some([0]) => return Ok(None),
            Some([size]) => (usize::from(size) + 1) * 4,
            None => return Err(Fault::data("the stream is cut short")),
        };
        let mut header = vec![0; size];
        header[0] = (size / 4 - 1) as u8;
        cursor.read_exact(&mut header[1..]).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Fault::data("a block header is cut short"),
            _ => Fault::data(error),
        })?;
        let header = BlockHeader::parse(&header).ok_or_else(|| {
            Fault::data("a block header is wrong, or asks for filters that kernels don't use")
        })?;
        let cursor = self.cursor.take().expect("it was there a moment ago");
        Ok(Some(Block {
            reader: Lzma2Reader::new(cursor, header.dictionary, None),
            filter: header.x86.map(X86Filter::new),
            crc: flate2::Crc::new(),
        }))
    }

    /// Reads padding and check after a block.
    fn end_block(&mut self, block: Block<'a>) -> Result<(), Fault> {
        let mut cursor = block.reader.into_inner();
        let size = cursor.position() - self.start;
        let mut rest = vec![0; (size.next_multiple_of(4) - size) as usize + self.check];
        cursor.read_exact(&mut rest).map_err(|_| Fault::data("a block's CRC is cut short"))?;
        if self.check != 0 && u32_at(&rest, rest.len() - 4) != Some(block.crc.sum()) {
            return Err(Fault::data("a block's CRC is wrong"));
        }
        self.cursor = Some(cursor);
        Ok(())
    }
}

impl Pieces for Xz<'_> {
    fn next(&mut self) -> Result<&[u8], Fault> {
        self.buffer.copy_within(self.given..self.held, 0);
        self.held -= self.given;
        self.given = 0;
        while self.given == 0 {
            let Some(mut block) = self.block.take() else {
                // Without a block and a cursor the index was seen.
                match if self.cursor.is_some() { self.next_block()? } else { None } {
                    Some(block) => self.block = Some(block),
                    None => {
                        self.cursor = None;
                        return Ok(&[]);
                    }
                }
                continue;
            };
            let mut ended = false;
            while self.held < PIECE && !ended {
                let count =
                    block.reader.read(&mut self.buffer[self.held..]).map_err(Fault::data)?;
                self.held += count;
                ended = count == 0;
            }
            let piece = &mut self.buffer[..self.held];
            self.given = block.filter.as_mut().map_or(piece.len(), |filter| filter.decode(piece));
            if ended {
                self.given = self.held;
            }
            block.crc.update(&self.buffer[..self.given]);
            if ended {
                self.end_block(block)?;
            } else {
                self.block = Some(block);
            }
        }
        Ok(&self.buffer[..self.given])
    }
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
