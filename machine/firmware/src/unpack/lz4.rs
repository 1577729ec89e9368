//! LZ4 legacy frames, the kernel's LZ4 (lz4_Frame_format.md, "Legacy frame"; lz4_Block_format.md).
//!
//! ```text
//!  02 21 4c 18 | u32 compressed size | block | u32 | block | ..     a block unpacks to 8 MiB
//!  a block:  token | more literal length | literals | u16 distance | more match length | token ..
//! ```
//!
//! Written here because a match reaches back 64 KiB at most, so a small window is enough where a
//! decoder of whole blocks needs 8 MiB and the packed block beside it. Invariants: matches stay
//! inside their block; the window keeps the last 64 KiB of it.

use std::io::BufRead;

use super::{Fault, PIECE, Pieces};
use crate::source::Cursor;

const MAGIC: u32 = 0x184c_2102;
/// The farthest a match reaches back.
const HISTORY: usize = 64 << 10;
/// Room past a full piece, which short copies may touch.
const SLACK: usize = 64;
/// Packed bytes held at a time.
const INPUT: usize = 64 << 10;
/// With this many packed bytes at hand, a sequence of short lengths lies in them.
const SHORT: usize = 32;
/// Matches are this long at least.
const LEAST_MATCH: usize = 4;

/// What comes next of a block.
#[derive(Clone, Copy)]
enum Stage {
    /// A token, or the block's end.
    Token,
    /// So many literals, then (unless the block ends) a match with this length nibble.
    Literals(usize, usize),
    /// So many bytes from so far back.
    Match(usize, usize),
}

pub(super) struct Lz4<'a> {
    cursor: Cursor<'a>,
    /// Packed bytes of the present block, and those of it still in the file.
    input: Vec<u8>,
    at: usize,
    block_left: u64,
    window: Vec<u8>,
    filled: usize,
    /// Where in the window the present block began, 0 if before.
    block_start: usize,
    stage: Stage,
}

impl<'a> Lz4<'a> {
    pub(super) fn new(mut cursor: Cursor<'a>) -> Result<Self, Fault> {
        cursor.array::<4>()?; // the magic
        Ok(Self {
            cursor,
            input: Vec::with_capacity(INPUT),
            at: 0,
            block_left: 0,
            window: vec![0; HISTORY + PIECE + SLACK],
            filled: 0,
            block_start: 0,
            stage: Stage::Token,
        })
    }

    /// Reads the next block's size; false at the stream's end.
    fn next_block(&mut self) -> Result<bool, Fault> {
        if self.cursor.fill_buf()?.is_empty() {
            return Ok(false);
        }
        let mut size = self.word()?;
        if size == MAGIC {
            // Another frame begins: compressors that append write the magic again.
            size = self.word()?;
        }
        self.block_left = size.into();
        self.block_start = self.filled;
        Ok(true)
    }

    fn word(&mut self) -> Result<u32, Fault> {
        let word = self.cursor.array()?.map(u32::from_le_bytes);
        word.ok_or_else(|| Fault::data("a block's size is cut short"))
    }

    /// Sees that `SHORT` packed bytes are at hand, or all there are of the block.
    fn refill(&mut self) -> Result<(), Fault> {
        if self.input.len() - self.at >= SHORT || self.block_left == 0 {
            return Ok(());
        }
        self.input.drain(..self.at);
        self.at = 0;
        while self.input.len() < INPUT && self.block_left > 0 {
            let bytes = self.cursor.fill_buf()?;
            if bytes.is_empty() {
                return Err(Fault::data("a block is cut short"));
            }
            let room = (INPUT - self.input.len()) as u64;
            let count = room.min(self.block_left).min(bytes.len() as u64) as usize;
            self.input.extend_from_slice(&bytes[..count]);
            self.cursor.consume(count);
            self.block_left -= count as u64;
        }
        Ok(())
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        self.refill()?;
        let byte = self.input.get(self.at).ok_or_else(|| Fault::data("a block ends too early"))?;
        self.at += 1;
        Ok(*byte)
    }

    /// A length whose nibble was `nibble`.
    fn length(&mut self, nibble: usize) -> Result<usize, Fault> {
        let mut length = nibble;
        if nibble == 15 {
            loop {
                let more = self.byte()?;
                length += usize::from(more);
                if more != 255 {
                    break;
                }
                // What no block holds is no length.
                if length > super::MAX_UNPACKED as usize {
                    return Err(Fault::data("a length is too large"));
                }
            }
        }
        Ok(length)
    }

    /// Sequences with short lengths, which most are, while packed bytes and room last.
    fn short_sequences(&mut self, until: usize) -> Result<(), Fault> {
        let (mut at, mut filled) = (self.at, self.filled);
        while filled < until {
            let Some(input) = self.input.get(at..at + SHORT) else { break };
            let literals = usize::from(input[0] >> 4);
            let nibble = usize::from(input[0] & 15);
            if literals == 15 || nibble == 15 {
                break;
            }
            // 16 bytes whatever the number: the window has slack, and what follows overwrites.
            self.window[filled..filled + 16].copy_from_slice(&input[1..17]);
            let distance =
                usize::from(u16::from_le_bytes([input[1 + literals], input[2 + literals]]));
            at += 3 + literals;
            filled += literals;
            if distance == 0 || distance > filled - self.block_start {
                return Err(Fault::data("a match begins before its block"));
            }
            let length = nibble + LEAST_MATCH;
            let from = filled - distance;
            if distance >= 16 {
                self.window.copy_within(from..from + 16, filled);
                if length > 16 {
                    self.window.copy_within(from + 16..from + 32, filled + 16);
                }
            } else {
                repeat(&mut self.window, from, filled, length);
            }
            filled += length;
        }
        (self.at, self.filled) = (at, filled);
        Ok(())
    }

    /// One step of a sequence of any length.
    fn step(&mut self, until: usize) -> Result<(), Fault> {
        match self.stage {
            Stage::Token => {
                let token = self.byte()?;
                let literals = self.length(usize::from(token >> 4))?;
                self.stage = Stage::Literals(literals, usize::from(token & 15));
            }
            Stage::Literals(0, nibble) => {
                self.refill()?;
                if self.at == self.input.len() {
                    // The last sequence of a block has no match.
                    self.stage = Stage::Token;
                    return Ok(());
                }
                let distance = usize::from(u16::from_le_bytes([self.byte()?, self.byte()?]));
                if distance == 0 || distance > self.filled - self.block_start {
                    return Err(Fault::data("a match begins before its block"));
                }
                self.stage = Stage::Match(self.length(nibble)? + LEAST_MATCH, distance);
            }
            Stage::Literals(left, nibble) => {
                self.refill()?;
                let count = left.min(self.input.len() - self.at).min(until - self.filled);
                if count == 0 {
                    return Err(Fault::data("a block ends too early"));
                }
                self.window[self.filled..self.filled + count]
                    .copy_from_slice(&self.input[self.at..self.at + count]);
                self.at += count;
                self.filled += count;
                self.stage = Stage::Literals(left - count, nibble);
            }
            Stage::Match(left, distance) => {
                let count = left.min(until - self.filled);
                repeat(&mut self.window, self.filled - distance, self.filled, count);
                self.filled += count;
                self.stage =
                    if left == count { Stage::Token } else { Stage::Match(left - count, distance) };
            }
        }
        Ok(())
    }
}

impl Pieces for Lz4<'_> {
    fn next(&mut self) -> Result<&[u8], Fault> {
        let kept = self.filled.min(HISTORY);
        let gone = self.filled - kept;
        self.window.copy_within(gone..self.filled, 0);
        self.block_start = self.block_start.saturating_sub(gone);
        self.filled = kept;
        let until = kept + PIECE;
        while self.filled < until {
            if matches!(self.stage, Stage::Token) {
                self.refill()?;
                if self.at == self.input.len() {
                    if !self.next_block()? {
                        break;
                    }
                    continue;
                }
                self.short_sequences(until)?;
                if self.filled >= until {
                    break;
                }
            }
            self.step(until)?;
        }
        Ok(&self.window[kept..self.filled])
    }
}

/// Copies bytes from `from` to `to`, which lies after it; what overlaps repeats.
fn repeat(window: &mut [u8], from: usize, to: usize, length: usize) {
    let distance = to - from;
    if distance >= length {
        window.copy_within(from..from + length, to);
    } else if distance == 1 {
        let byte = window[from];
        window[to..to + length].fill(byte);
    } else {
        // Every round doubles what can be copied at once.
        let mut done = 0;
        while done < length {
            let count = (distance + done).min(length - done);
            window.copy_within(from..from + count, to + done);
            done += count;
        }
    }
}
