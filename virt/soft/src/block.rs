//! The cache of decoded blocks: straight runs of ops within one page of RAM.
//!
//! Blocks are found by place in RAM and code size, so they survive changes of address space; a
//! small table in front of that maps linear addresses directly, valid while the TLB context's
//! generation lasts. Bounded: when full, everything is dropped and decoded again on demand.
//!
//! Invariant: a page that any live block was decoded from has its bit set in `memory.code()`
//! before its bytes are read, so that no write to it goes unseen.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use interp::{CodeSize, Op};

use crate::bus::SoftBus;

/// Longest block, in ops.
pub(crate) const BLOCK_OPS: usize = 48;
/// Bound on all ops of a vCPU's cache, where nothing else runs them: 40 bytes each, and half as much again
/// for their blocks.
pub(crate) const CACHE_OPS: usize = 200_000;
/// Likewise, where what runs more than a few times is translated.
pub(crate) const FEW_CACHE_OPS: usize = 50_000;
const JUMPS: usize = 4096;

/// Finished hashes of small integer keys; the standard hasher costs more than the look-up saves.
#[derive(Default)]
pub(crate) struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }
    fn write_u8(&mut self, value: u8) {
        self.0 = self.0.wrapping_add(u64::from(value)).rotate_left(7);
    }
    fn write_i32(&mut self, value: i32) {
        self.write_u64(u64::from(value as u32));
    }
    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }
    fn write_isize(&mut self, value: isize) {
        self.write_u8(value as u8);
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

type Map<V> = HashMap<u64, V, BuildHasherDefault<Mix>>;

/// A straight run of decoded instructions.
pub(crate) struct Block {
    pub(crate) ops: Box<[Op<SoftBus>]>,
    /// Code bytes.
    pub(crate) bytes: u32,
    key: u64,
    /// Page of RAM the block starts in, and the one its only op ends in if that is another.
    pub(crate) page: u64,
    pub(crate) second_page: Option<u64>,
}

/// Where a linear address leads.
#[derive(Clone, Copy)]
struct Jump {
    linear: u64,
    tag: u64,
    block: u32,
}

const NOWHERE: Jump = Jump { linear: 0, tag: u64::MAX, block: 0 };

/// All decoded blocks of one vCPU.
pub(crate) struct BlockCache {
    blocks: Vec<Option<Block>>,
    free: Vec<u32>,
    by_start: Map<u32>,
    by_page: Map<Vec<u32>>,
    jumps: Box<[Jump; JUMPS]>,
    ops: usize,
    most_ops: usize,
}

/// Key of a block: place in RAM and code size.
fn key(ram: u64, size: CodeSize) -> u64 {
    ram << 8 | size as u64
}

#[inline(always)]
fn jump_slot(linear: u64) -> usize {
    (linear ^ linear >> 12) as usize % JUMPS
}

#[inline(always)]
fn jump_tag(generation: u32, size: CodeSize) -> u64 {
    u64::from(generation) << 8 | size as u64
}

impl BlockCache {
    /// A cache of so many ops.
    pub(crate) fn new(most_ops: usize) -> Self {
        Self {
            blocks: Vec::new(),
            free: Vec::new(),
            by_start: Map::default(),
            by_page: Map::default(),
            jumps: Box::new([NOWHERE; JUMPS]),
            ops: 0,
            most_ops,
        }
    }

    /// The block that a linear address led to under this generation.
    #[inline(always)]
    pub(crate) fn jump(&self, linear: u64, generation: u32, size: CodeSize) -> Option<u32> {
        let jump = &self.jumps[jump_slot(linear)];
        (jump.linear == linear && jump.tag == jump_tag(generation, size)).then_some(jump.block)
    }

    /// Remembers where a linear address leads.
    pub(crate) fn remember(&mut self, linear: u64, generation: u32, size: CodeSize, block: u32) {
        self.jumps[jump_slot(linear)] = Jump { linear, tag: jump_tag(generation, size), block };
    }

    /// The block at a place in RAM.
    pub(crate) fn find(&self, ram: u64, size: CodeSize) -> Option<u32> {
        self.by_start.get(&key(ram, size)).copied()
    }

    #[inline(always)]
    pub(crate) fn get(&self, block: u32) -> &Block {
        self.blocks[block as usize].as_ref().expect("jumps and maps name live blocks only")
    }

    /// Takes a new block in; returns its index and whether everything else had to go for it.
    pub(crate) fn insert(
        &mut self,
        ram: u64,
        size: CodeSize,
        ops: &[Op<SoftBus>],
        second_page: Option<u64>,
    ) -> u32 {
        if self.ops + ops.len() > self.most_ops {
            self.clear();
        }
        let bytes = ops.iter().map(|op| u32::from(op.len)).sum();
        self.ops += ops.len();
        let page = ram >> 12;
        let key = key(ram, size);
        let block = Block { ops: ops.into(), bytes, key, page, second_page };
        let index = self.free.pop().unwrap_or_else(|| {
            self.blocks.push(None);
            (self.blocks.len() - 1) as u32
        });
        if let Some(old) = self.by_start.insert(key, index) {
            // A page-crossing instruction whose second page is another one now.
            self.by_start.remove(&key);
            self.drop_block(old);
            self.forget_jumps();
            self.by_start.insert(key, index);
        }
        self.blocks[index as usize] = Some(block);
        for page in std::iter::once(page).chain(second_page) {
            self.by_page.entry(page).or_default().push(index);
        }
        index
    }

    /// Drops every block decoded from a page of RAM; true if there were any.
    pub(crate) fn drop_page(&mut self, page: u64) -> bool {
        let Some(list) = self.by_page.remove(&page) else { return false };
        for index in list {
            self.drop_block(index);
        }
        self.forget_jumps();
        true
    }

    fn drop_block(&mut self, index: u32) {
        let Some(block) = self.blocks[index as usize].take() else { return };
        self.ops -= block.ops.len();
        if self.by_start.get(&block.key) == Some(&index) {
            self.by_start.remove(&block.key);
        }
        for page in std::iter::once(block.page).chain(block.second_page) {
            if let Some(list) = self.by_page.get_mut(&page) {
                list.retain(|&other| other != index);
            }
        }
        self.free.push(index);
    }

    fn forget_jumps(&mut self) {
        self.jumps.fill(NOWHERE);
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.most_ops);
    }
}
