//! LZ4 legacy frames, the kernel's LZ4 (lz4_Frame_format.md, "Legacy frame").
//!
//! ```text
//!  02 21 4c 18 | u32 compressed size | block | u32 | block | ..     a block unpacks to 8 MiB
//! ```
//!
//! Blocks don't refer to one another. Invariant: every block but the last fills 8 MiB exactly.

use super::Fault;
use crate::bytes::{slice, u32_at};

const MAGIC: u32 = 0x184c_2102;
const BLOCK: usize = 8 << 20;

pub(super) fn decode(stream: &[u8], output: &mut [u8]) -> Result<(), Fault> {
    let mut blocks = Blocks { stream, at: 4 };
    for target in output.chunks_mut(BLOCK) {
        let block = blocks.next()?.ok_or(Fault::Size)?;
        let length = lz4_flex::block::decompress_into(block, target).map_err(Fault::data)?;
        if length != target.len() {
            return Err(Fault::Size);
        }
    }
    match blocks.next()? {
        None => Ok(()),
        Some(_) => Err(Fault::Size),
    }
}

/// As much of the first block as fits, by unpacking a copy of it.
pub(super) fn peek(file: &[u8], head: &mut [u8]) -> usize {
    let Ok(Some(block)) = (Blocks { stream: file, at: 4 }).next() else { return 0 };
    let mut target = vec![0; BLOCK];
    let length = lz4_flex::block::decompress_into(block, &mut target).unwrap_or(0);
    let count = length.min(head.len());
    head[..count].copy_from_slice(&target[..count]);
    count
}

struct Blocks<'a> {
    stream: &'a [u8],
    at: usize,
}

impl<'a> Blocks<'a> {
    fn next(&mut self) -> Result<Option<&'a [u8]>, Fault> {
        let mut size = u32_at(self.stream, self.at);
        if size == Some(MAGIC) {
            // Another frame begins: compressors that append write the magic again.
            self.at += 4;
            size = u32_at(self.stream, self.at);
        }
        let size = match size {
            Some(size) => size,
            None if self.at == self.stream.len() => return Ok(None),
            None => return Err(Fault::data("a block's size is cut short")),
        };
        let block = slice(self.stream, self.at as u64 + 4, size.into())
            .ok_or_else(|| Fault::data("a block is cut short"))?;
        self.at += 4 + block.len();
        Ok(Some(block))
    }
}
