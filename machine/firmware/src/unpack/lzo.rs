//! LZO1X in lzop files, the kernel's LZO (Documentation/staging/lzo.rst; lib/decompress_unlzo.c
//! names the header's fields).
//!
//! Written here because the crate of the workspace panics on wrong data and does not bound its
//! output. Invariant: reads and copies are checked; the output slice is the only memory used.

use super::Fault;

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

pub(super) fn decode(stream: &[u8], output: &mut [u8]) -> Result<(), Fault> {
    let mut input = Input { bytes: stream };
    let flags = header(&mut input).ok_or_else(|| Fault::data("the lzop header is wrong"))?;
    let mut filled = 0;
    while let Some(block) = Block::next(&mut input, flags)? {
        let target = output[filled..].get_mut(..block.size).ok_or(Fault::Size)?;
        block.unpack(target)?;
        filled += block.size;
    }
    if filled == output.len() { Ok(()) } else { Err(Fault::Size) }
}

/// As much of the first block as fits.
pub(super) fn peek(file: &[u8], head: &mut [u8]) -> usize {
    let mut input = Input { bytes: file };
    let Some(flags) = header(&mut input) else { return 0 };
    let Ok(Some(block)) = Block::next(&mut input, flags) else { return 0 };
    let mut target = vec![0; block.size];
    if block.unpack(&mut target).is_err() {
        return 0;
    }
    let count = block.size.min(head.len());
    head[..count].copy_from_slice(&target[..count]);
    count
}

/// Reads the file header up to the first block; returns its flags.
fn header(input: &mut Input<'_>) -> Option<u32> {
    input.take(9)?;
    let version = input.u16()?;
    input.u16()?;
    let newer = version >= NEWER_HEADER;
    if newer {
        input.u16()?;
    }
    input.byte()?;
    if newer {
        input.byte()?;
    }
    let flags = input.u32()?;
    if flags & FLAG_FILTER != 0 {
        input.u32()?;
    }
    input.take(if newer { 12 } else { 8 })?;
    let name = input.byte()?;
    input.take(name.into())?;
    input.u32()?;
    if flags & FLAG_EXTRA_FIELD != 0 {
        let size = input.u32()?;
        input.take(size as usize)?;
        input.u32()?;
    }
    Some(flags)
}

struct Block<'a> {
    data: &'a [u8],
    size: usize,
}

impl<'a> Block<'a> {
    fn next(input: &mut Input<'a>, flags: u32) -> Result<Option<Self>, Fault> {
        let short = || Fault::data("a block is cut short");
        let size = input.u32().ok_or_else(short)? as usize;
        if size == 0 {
            return Ok(None);
        }
        let packed = input.u32().ok_or_else(short)? as usize;
        if size > MAX_BLOCK || packed > size {
            return Err(Fault::data("a block's size is wrong"));
        }
        let mut checksums =
            (flags & FLAG_ADLER32_DATA != 0) as usize + (flags & FLAG_CRC32_DATA != 0) as usize;
        if packed < size {
            checksums += (flags & FLAG_ADLER32_BLOCK != 0) as usize
                + (flags & FLAG_CRC32_BLOCK != 0) as usize;
        }
        input.take(4 * checksums).ok_or_else(short)?;
        let data = input.take(packed).ok_or_else(short)?;
        Ok(Some(Self { data, size }))
    }

    fn unpack(&self, target: &mut [u8]) -> Result<(), Fault> {
        if self.data.len() == self.size {
            target.copy_from_slice(self.data);
            return Ok(());
        }
        let mut output = Output { bytes: target, filled: 0 };
        let done = lzo1x(&mut Input { bytes: self.data }, &mut output);
        match done {
            Some(()) if output.filled == self.size => Ok(()),
            _ => Err(Fault::data("a block is wrong")),
        }
    }
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

/// Bytes left to read; numbers of lzop headers are big-endian.
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

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().expect("two bytes were taken")))
    }

    fn u16_le(&mut self) -> Option<u16> {
        self.u16().map(u16::swap_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().expect("four bytes were taken")))
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
