//! What is known of each translated block: very many, so they are packed; what few of them have
//! lies apart. Where a block's flags come from is kept with the places of its region's sites.

use std::ops::Deref;
use std::sync::Arc;

use super::gate::Gate;
use crate::translate::facts::Gates;
use crate::translate::flags::Recipe;
use crate::translate::rename::Renaming;

/// The end of a list, and no number.
pub(super) const NONE: u32 = u32::MAX;
/// Of a block that is not bound to a page: pages end in zeros.
const NO_PAGE: u64 = 1;
/// Of a block for whoever jumps there.
const NO_ENTRY: u16 = u16::MAX;

/// What a block is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// Place in RAM.
    pub(super) ram: u64,
    /// Linear page, where code is bound to it.
    pub(super) page: Option<u64>,
    pub(super) gates: Gates,
    /// How whoever jumps here made the flags, where the block is for them alone.
    pub(super) entry: Option<Recipe>,
}

/// A translated block.
#[derive(Clone, Copy, Debug)]
pub(super) struct NativeBlock {
    ram: u64,
    page: u64,
    /// Place in code memory.
    pub(super) place: u32,
    /// Another block that is found with it.
    pub(super) next: u32,
    /// The first of the links patched to lead here.
    pub(super) incoming: u32,
    /// The place of what few blocks have, in its region.
    pub(super) extra: u32,
    gates: u16,
    entry: u16,
    /// Guest instructions, without one at the end that the interpreter executes.
    pub(super) instructions: u16,
    /// Worth another block for those who know how the flags were made.
    pub(super) saves_entry: bool,
    pub(super) live: bool,
}

const _: () = assert!(size_of::<NativeBlock>() == 40, "very many of them");

impl NativeBlock {
    /// A block on no list, that nothing leads to. `entry` is the number of the key's recipe.
    pub(super) fn new(key: &Key, entry: Option<u32>, place: u32) -> Self {
        Self {
            ram: key.ram,
            page: key.page.unwrap_or(NO_PAGE),
            place,
            next: NONE,
            incoming: NONE,
            extra: NONE,
            gates: key.gates.bits(),
            entry: entry.map_or(NO_ENTRY, |number| number as u16),
            instructions: 0,
            saves_entry: false,
            live: true,
        }
    }

    /// Place in RAM.
    pub(super) fn ram(&self) -> u64 {
        self.ram
    }

    /// Linear page, where code is bound to it.
    pub(super) fn page(&self) -> Option<u64> {
        (self.page != NO_PAGE).then_some(self.page)
    }

    pub(super) fn gates(&self) -> Gates {
        Gates::from_bits(self.gates)
    }

    /// The number of its key's recipe.
    pub(super) fn entry(&self) -> Option<u32> {
        (self.entry != NO_ENTRY).then_some(self.entry.into())
    }

    /// Whether it begins where a key's block does, bound to the same page if it is bound.
    pub(super) fn is_at(&self, key: &Key) -> bool {
        (self.ram, self.page) == (key.ram, key.page.unwrap_or(NO_PAGE))
    }
}

/// What few blocks have.
#[derive(Debug, Default)]
pub(super) struct Extra {
    /// Page of RAM its only instruction ends in, if that is another.
    pub(super) second: Option<u64>,
    /// A path's linear pages with their pages of RAM; empty for other blocks.
    pub(super) pages: Box<[(u64, u64)]>,
    /// A path's instructions, by linear address, where lockstep asks for them.
    pub(super) steps: Option<Arc<[u64]>>,
    /// Registers that have other names in a path.
    pub(super) renaming: Renaming,
    /// Code that others enter through, if a superblock may stand for the block.
    pub(super) gate: Option<Gate>,
}

/// A block with what few have.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    pub(super) own: &'a NativeBlock,
    pub(super) extra: Option<&'a Extra>,
}

impl Deref for Block<'_> {
    type Target = NativeBlock;

    fn deref(&self) -> &NativeBlock {
        self.own
    }
}

impl<'a> Block<'a> {
    /// Page of RAM its only instruction ends in, if that is another.
    pub(super) fn second(&self) -> Option<u64> {
        self.extra?.second
    }

    /// A path's linear pages with their pages of RAM; none for other blocks.
    pub(super) fn pages(&self) -> &'a [(u64, u64)] {
        self.extra.map_or(&[], |extra| &extra.pages)
    }

    /// A path's instructions, by linear address, where lockstep asks for them.
    pub(super) fn steps(&self) -> Option<Arc<[u64]>> {
        self.extra?.steps.clone()
    }

    /// Registers that have other names in a path.
    pub(super) fn renaming(&self) -> Option<Renaming> {
        self.extra.map(|extra| extra.renaming)
    }

    /// Code that others enter through.
    pub(super) fn gate(&self) -> Option<Gate> {
        self.extra?.gate
    }

    /// Where others enter.
    pub(super) fn entrance(&self) -> u32 {
        self.gate().map_or(self.place, |gate| gate.place)
    }

    /// The pages of RAM it was made from.
    pub(super) fn ram_pages(&self) -> Vec<u64> {
        let mut pages = vec![self.ram() >> 12];
        pages.extend(self.second());
        for &(_, ram) in self.pages() {
            if !pages.contains(&ram) {
                pages.push(ram);
            }
        }
        pages
    }
}
