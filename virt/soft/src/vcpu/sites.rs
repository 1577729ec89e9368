//! What is known of each place where translated code can be left: very many, so they are packed.
//!
//! ```text
//! word 0   kind 4 | write 1 | grouped 1 | size 9 | executed 11 | low bits of the flags' number 6
//! word 1   offset
//! word 2   block 23 | high bits of the flags' number 9
//! word 3   by kind: a link, what RSP is moved by, both (with the size's bits for RSP's low ones), or
//!          the number of the decoded instruction
//! ```
//!
//! Where the flags are, and how far RSP lags behind, is one of few answers: sites hold its number. Invariant: every number fits,
//! because regions of code memory are full before ([`Sites::is_full`]).

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use engine::EngineError;
use interp::Op;

use crate::block::Mix;
use crate::bus::SoftBus;
use crate::sys::table::Table;
use crate::translate::flags::Place;
use crate::translate::{Site, SiteKind};

/// More sites than a block has.
const RESERVE: usize = 4096;
const PLACE_BITS: u32 = 15;
/// Of them in the first word.
const PLACE_LOW: u32 = 6;
/// A block's region and its place there.
const BLOCK_BITS: u32 = 23;
/// Of them for the place.
const INDEX_BITS: u32 = 20;
/// In place of the number of an instruction that was not decoded.
const NO_OP: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Packed([u32; 4]);

/// The sites of one region of code memory.
pub(super) struct Sites {
    packed: Table<Packed>,
    places: Vec<(Place, i8)>,
    numbers: HashMap<(Place, i8), u32, BuildHasherDefault<Mix>>,
    /// Decoded instructions, with their sites.
    ops: Vec<(u32, Op<SoftBus>)>,
}

fn take(word: &mut u32, bits: u32) -> u32 {
    let value = *word & ((1 << bits) - 1);
    *word >>= bits;
    value
}

fn put(word: &mut u32, bits: u32, value: u32) {
    assert!(value < 1 << bits, "sites' fields hold what a block can need");
    *word = *word << bits | value;
}

impl Sites {
    /// Sites of a region that is full with so many bytes.
    pub(super) fn new(bytes: usize) -> Result<Self, EngineError> {
        Ok(Self {
            packed: Table::new(bytes / size_of::<Packed>() + RESERVE)?,
            places: Vec::new(),
            numbers: HashMap::default(),
            ops: Vec::new(),
        })
    }

    pub(super) fn len(&self) -> u32 {
        self.packed.len() as u32
    }

    /// Bytes that they take.
    pub(super) fn bytes(&self) -> usize {
        self.packed.bytes()
            // In the list and in the map.
            + self.places.len() * 2 * size_of::<(Place, i8)>()
            + self.ops.len() * size_of::<(u32, Op<SoftBus>)>()
    }

    /// Whether another block's might not fit.
    pub(super) fn is_full(&self) -> bool {
        self.places.len() + RESERVE > 1 << PLACE_BITS
    }

    /// The number of an answer to where the flags are and what RSP lags by.
    pub(super) fn number_of(&mut self, answer: (Place, i8)) -> u32 {
        let next = self.places.len() as u32;
        let number = *self.numbers.entry(answer).or_insert(next);
        if number == next {
            self.places.push(answer);
        }
        number
    }

    /// Where the flags are in the answer with a number.
    pub(super) fn place(&self, number: u32) -> Place {
        self.places[number as usize].0
    }

    /// Adds a site.
    pub(super) fn push(&mut self, site: &Site) {
        let place = self.number_of((site.flags, site.lag));
        let (kind, write, grouped, size, last) = match site.kind {
            SiteKind::Poll => (0, false, false, 0, NO_OP),
            SiteKind::Link(link) => (1, false, false, 0, link),
            SiteKind::Target { rsp_move } => (2, false, false, 0, rsp_move as u32),
            SiteKind::SecondPage => (3, false, false, 0, NO_OP),
            SiteKind::Access { write, size, grouped } => (4, write, grouped, size, NO_OP),
            SiteKind::Interpret => (5, false, false, 0, NO_OP),
            SiteKind::Trap => (6, false, false, 0, NO_OP),
            SiteKind::Hot => (7, false, false, 0, NO_OP),
            SiteKind::Window { write } => (8, write, false, 0, NO_OP),
            SiteKind::Elsewhere { link, rsp_move } => {
                let moved = (rsp_move + 8) as u32;
                let (region, index) = super::library::parts(link);
                assert!(moved >> 17 == 0 && region == super::library::parts(site.block).0);
                (9, false, false, moved & 0x1ff, index as u32 | (moved >> 9) << 24)
            }
        };
        let mut first = 0;
        put(&mut first, PLACE_LOW, place & ((1 << PLACE_LOW) - 1));
        put(&mut first, 11, u32::from(site.executed));
        put(&mut first, 9, size);
        put(&mut first, 1, grouped.into());
        put(&mut first, 1, write.into());
        put(&mut first, 4, kind);
        let mut third = 0;
        put(&mut third, PLACE_BITS - PLACE_LOW, place >> PLACE_LOW);
        let (region, index) = super::library::parts(site.block);
        put(&mut third, BLOCK_BITS - INDEX_BITS, region as u32);
        put(&mut third, INDEX_BITS, index as u32);
        self.packed.push(Packed([first, site.offset as u32, third, last]));
    }

    /// A site.
    pub(super) fn get(&self, index: u32) -> Site {
        let Packed([mut first, offset, mut third, last]) = self.packed[index as usize];
        let kind = take(&mut first, 4);
        let write = take(&mut first, 1) != 0;
        let grouped = take(&mut first, 1) != 0;
        let size = take(&mut first, 9);
        let executed = take(&mut first, 11) as u16;
        let index = take(&mut third, INDEX_BITS) as usize;
        let region = take(&mut third, BLOCK_BITS - INDEX_BITS) as usize;
        let block = super::library::number(region, index);
        let (flags, lag) = self.places[(third << PLACE_LOW | first) as usize];
        let kind = match kind {
            0 => SiteKind::Poll,
            1 => SiteKind::Link(last),
            2 => SiteKind::Target { rsp_move: last as i32 },
            3 => SiteKind::SecondPage,
            4 => SiteKind::Access { write, size, grouped },
            5 => SiteKind::Interpret,
            6 => SiteKind::Trap,
            7 => SiteKind::Hot,
            8 => SiteKind::Window { write },
            _ => SiteKind::Elsewhere {
                link: super::library::number(region, last as usize & 0xff_ffff),
                rsp_move: (last >> 24 << 9 | size) as i32 - 8,
            },
        };
        Site { kind, block, offset: offset as i32, executed, flags, lag }
    }

    /// The instruction at a site, decoded for the interpreter, if it was needed before.
    pub(super) fn op(&self, index: u32) -> Option<Op<SoftBus>> {
        let Packed([first, _, _, last]) = self.packed[index as usize];
        let kept = Self::keeps(first) && last != NO_OP;
        kept.then(|| self.ops[last as usize].1)
    }

    /// Keeps the instruction at a site, if it is of a kind that has room.
    pub(super) fn keep_op(&mut self, index: u32, op: Op<SoftBus>) {
        let Packed([first, _, _, last]) = &mut self.packed[index as usize];
        if Self::keeps(*first) {
            *last = self.ops.len() as u32;
            self.ops.push((index, op));
        }
    }

    /// Whether a kind has a place for its instruction's number.
    fn keeps(first: u32) -> bool {
        !matches!(first & 15, 1 | 2 | 9)
    }

    /// Forgets the decoded instructions.
    pub(super) fn forget_ops(&mut self) {
        for (site, _) in self.ops.drain(..) {
            self.packed[site as usize].0[3] = NO_OP;
        }
    }

    pub(super) fn clear(&mut self) {
        self.packed.clear();
        self.places = Vec::new();
        self.numbers = HashMap::default();
        self.ops = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::flags::{Maker, Recipe, Source};
    use crate::vcpu::library::number as number_of;

    #[test]
    fn what_goes_in_comes_out() {
        let recipe = |number: i32| Recipe {
            maker: Maker::Cmp,
            size: 8,
            dst: 3,
            src: Source::Immediate(number),
            drift: -number,
        };
        let kinds = [
            SiteKind::Poll,
            SiteKind::Link(number_of(7, 0x1234)),
            SiteKind::Target { rsp_move: -8 },
            SiteKind::Target { rsp_move: 0x1_0007 },
            SiteKind::SecondPage,
            SiteKind::Access { write: true, size: 384, grouped: true },
            SiteKind::Access { write: false, size: 1, grouped: false },
            SiteKind::Interpret,
            SiteKind::Trap,
            SiteKind::Hot,
            SiteKind::Window { write: true },
            SiteKind::Elsewhere { link: number_of(2, 0x1234), rsp_move: 0xffff + 8 },
            SiteKind::Elsewhere { link: number_of(2, 0), rsp_move: -8 },
        ];
        let flags = |number: i32| match number % 4 {
            0 => Place::Saved,
            1 => Place::Recipe(recipe(number)),
            2 => Place::Native { recipe: None, saved: number & 4 != 0 },
            _ => Place::Native { recipe: Some(recipe(number)), saved: false },
        };
        let site = |number: i32| Site {
            kind: kinds[number as usize % kinds.len()],
            block: number_of(2, number as usize * 97),
            offset: number * 7001 - 5000,
            executed: (number % 2048) as u16,
            flags: flags(number),
            lag: (number % 5 - 2) as i8,
        };
        let mut sites = Sites::new(1 << 20).unwrap();
        (0..9000).for_each(|number| sites.push(&site(number)));
        for number in 0..9000 {
            assert_eq!(sites.get(number as u32), site(number));
        }
        assert!(sites.places.len() < 5000, "what is the same is there once");
    }
}
