//! LZO1X in lzop files, the kernel's LZO (Documentation/staging/lzo.rst; lib/decompress_unlzo.c
//! names the header's fields).
//!
//! Written here because the crate of the workspace panics on wrong data and does not bound its
//! output. Invariant: reads and copies are checked; one block and its packed form are held.

use std::io::{self, Read};

use super::{Fault, Pieces};
use crate::source::Cursor;

/// First lzop version whose header has the newer fields.
const NEWER_HEADER: u16 = 0x0940;
const FLAG_ADLER32_DATA: u32 = 1 << 0;
const FLAG_ADLER32_BLOCK: u32 = 1 << 1;
const FLAG_EXTRA_FIELD: u32 = 1 << 6;
const FLAG_CRC32_DATA: u32 = 1 << 8;
const FLAG_CRC32_BLOCK: u32 = 1 << 9;
const FLAG_FILTER: u32 = 1 << 11;
/// lzop's own limit on a block.
const MAX_BLOCK: usize = 64 << 20;

/// Blocks of an lzop file, one at a time.
pub(super) struct Lzo<'a> {
    cursor: Cursor<'a>,
    flags: u32,
    packed: Vec<u8>,
    block: Vec<u8>,
}

impl<'a> Lzo<'a> {
    pub(super) fn new(mut cursor: Cursor<'a>) -> Result<Self, Fault> {
        let flags = header(&mut cursor)?.ok_or_else(|| Fault::data("the lzop header is wrong"))?;
        Ok(Self { cursor, flags, packed: Vec::new(), block: Vec::new() })
    }
}

impl Pieces for Lzo<'_> {
    fn next(&mut self) -> Result<&[u8], Fault> {
        self.block.clear();
        let short = || Fault::data("a block is cut short");
        let size = word(&mut self.cursor)?.ok_or_else(short)? as usize;
        if size == 0 {
            return Ok(&[]);
        }
        let packed = word(&mut self.cursor)?.ok_or_else(short)? as usize;
        if size > MAX_BLOCK || packed > size {
            return Err(Fault::data("a block's size is wrong"));
        }
        let flag = |bit| u64::from(self.flags & bit != 0);
        let mut checksums = flag(FLAG_ADLER32_DATA) + flag(FLAG_CRC32_DATA);
        if packed < size {
            checksums += flag(FLAG_ADLER32_BLOCK) + flag(FLAG_CRC32_BLOCK);
        }
        skip(&mut self.cursor, 4 * checksums)?.ok_or_else(short)?;
        let target = if packed == size { &mut self.block } else { &mut self.packed };
        target.clear();
        (&mut self.cursor).take(packed as u64).read_to_end(target)?;
        if target.len() < packed {
            return Err(short());
        }
        if packed < size {
            self.block.resize(size, 0);
            let mut output = Output { bytes: &mut self.block, filled: 0 };
            let done = lzo1x(&mut Input { bytes: &self.packed }, &mut output);
            if done.is_none() || output.filled != size {
                return Err(Fault::data("a block is wrong"));
            }
        }
        Ok(&self.block)
    }
}

fn word(cursor: &mut Cursor<'_>) -> io::Result<Option<u32>> {
    Ok(cursor.array()?.map(u32::from_be_bytes))
}

fn skip(cursor: &mut Cursor<'_>, count: u64) -> io::Result<Option<()>> {
    Ok((io::copy(&mut cursor.take(count), &mut io::sink())? == count).then_some(()))
}

/// Reads the file header up to the first block; gives its flags, or `None` if it ends before.
fn header(cursor: &mut Cursor<'_>) -> io::Result<Option<u32>> {
    let Some(start) = cursor.array::<13>()? else { return Ok(None) };
    // magic 9, version 2, library version 2; newer ones: version needed 2; method; newer: level
    let newer = u16::from_be_bytes([start[9], start[10]]) >= NEWER_HEADER;
    if skip(cursor, if newer { 4 } else { 1 })?.is_none() {
        return Ok(None);
    }
    let Some(flags) = word(cursor)? else { return Ok(None) };
    // filter; mode and time; the name with its length; checksum
    let fixed = if flags & FLAG_FILTER != 0 { 4 } else { 0 } + if newer { 12 } else { 8 };
    if skip(cursor, fixed)?.is_none() {
        return Ok(None);
    }
    let Some([name]) = cursor.array()? else { return Ok(None) };
    if skip(cursor, u64::from(name) + 4)?.is_none() {
        return Ok(None);
    }
    if flags & FLAG_EXTRA_FIELD != 0 {
        let Some(size) = word(cursor)? else { return Ok(None) };
        if skip(cursor, u64::from(size) + 4)?.is_none() {
            return Ok(None);
        }
    }
    Ok(Some(flags))
}

/// One LZO1X stream. `state` is the number of literals the last instruction copied, 4 standing for
/// four or more; it changes what instructions 0-15 mean.
fn lzo1x(input: &mut Input<'_>, output: &mut Output<'_>) -> Option<()> {
    let mut state = 0usize;
    match *input.bytes.first()? {
        first @ 18.. => {
            input.byte()?;
            let count = usize::from(first) - 17;
            output.literals(input, count)?;
            state = count.min(4);
        }
        17 => return None, // bitstream version 1, LZO-RLE: the kernel's build doesn't use it
        _ => {}
    }
    loop {
        let instruction = usize::from(input.byte()?);
        let (length, distance, literals) = match instruction {
            0..=15 if state == 0 => {
                let count = 3 + input.length(instruction, 15)?;
                output.literals(input, count)?;
                state = 4;
                continue;
            }
            0..=15 => {
                let base = usize::from(input.byte()?) * 4 + (instruction >> 2) + 1;
                let (length, distance) = if state == 4 { (3, base + 2048) } else { (2, base) };
                (length, distance, instruction & 3)
            }
            16..=31 => {
                let length = 2 + input.length(instruction & 7, 7)?;
                let word = usize::from(input.u16_le()?);
                let distance = 16384 + ((instruction & 8) << 11) + (word >> 2);
                if distance == 16384 {
                    return (length == 3 && input.bytes.is_empty()).then_some(());
                }
                (length, distance, word & 3)
            }
            32..=63 => {
                let length = 2 + input.length(instruction & 31, 31)?;
                let word = usize::from(input.u16_le()?);
                (length, (word >> 2) + 1, word & 3)
            }
            64..=127 => {
                let distance = usize::from(input.byte()?) * 8 + ((instruction >> 2) & 7) + 1;
                (3 + ((instruction >> 5) & 1), distance, instruction & 3)
            }
            _ => {
                let distance = usize::from(input.byte()?) * 8 + ((instruction >> 2) & 7) + 1;
                (5 + ((instruction >> 5) & 3), distance, instruction & 3)
            }
        };
        output.copy(distance, length)?;
        output.literals(input, literals)?;
        state = literals;
    }
}

/// Bytes left to read of a block.
struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        self.bytes.split_off(..count)
    }

    fn byte(&mut self) -> Option<u8> {
        self.bytes.split_off_first().copied()
    }

    fn u16_le(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().expect("two bytes were taken")))
    }

    /// A length: `short` unless 0, else `base` plus 255 for each zero byte plus the byte after.
    fn length(&mut self, short: usize, base: usize) -> Option<usize> {
        if short != 0 {
            return Some(short);
        }
        let mut length = base;
        loop {
            match self.byte()? {
                0 => length += 255,
                last => return Some(length + usize::from(last)),
            }
        }
    }
}

struct Output<'a> {
    bytes: &'a mut [u8],
    filled: usize,
}

impl Output<'_> {
    fn literals(&mut self, input: &mut Input<'_>, count: usize) -> Option<()> {
        let source = input.take(count)?;
        self.bytes.get_mut(self.filled..self.filled + count)?.copy_from_slice(source);
        self.filled += count;
        Some(())
    }

    /// Copies from `distance` back; source and target may overlap, repeating a pattern.
    fn copy(&mut self, distance: usize, length: usize) -> Option<()> {
        let start = self.filled.checked_sub(distance)?;
        let end = self.filled + length;
        if end > self.bytes.len() {
            return None;
        }
        if distance >= length {
            self.bytes.copy_within(start..start + length, self.filled);
        } else {
            for at in self.filled..end {
                self.bytes[at] = self.bytes[at - distance];
            }
        }
        self.filled = end;
        Some(())
    }
}
