//! Translated blocks of one vCPU: found by place in RAM, linked with one another, dropped when
//! their code changes or code memory is full.
//!
//! Invariant: nothing leads to a dropped block: jumps and slots of every context are forgotten,
//! patched branches go back to their stubs.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;

use engine::EngineError;
use iced_x86::Instruction;
use interp::Op;

use super::gate::Gate;
use crate::block::Mix;
use crate::bus::SoftBus;
use crate::bus::tlb::Tlb;
use crate::cache::code::CodeMemory;
use crate::cache::layout::LINK_SLOTS;
use crate::cache::signal::Guards;
use crate::translate::facts::Gates;
use crate::translate::flags::Recipe;
use crate::translate::stubs::{Stubs, shared};
use crate::translate::{Link, NO_OP, Numbers, Site, Source, Tools, translate};

/// Bound on translated code.
pub(crate) const CODE_BYTES: usize = 64 << 20;
/// Of it, for code that runs often; the rest is for ways out.
const HOT_BYTES: usize = 40 << 20;
/// More than any block needs.
const BLOCK_RESERVE: usize = 512 << 10;
/// Slots one block can have (where ways of its last branch leave the page), and its gate.
const SLOTS_PER_BLOCK: usize = 4;

type Map<K, V> = HashMap<K, V, BuildHasherDefault<Mix>>;

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

impl Hash for Key {
    /// The place says nearly everything; few blocks share one.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.ram << 1 | u64::from(self.entry.is_some()));
    }
}

/// A translated block.
#[derive(Debug)]
pub(super) struct NativeBlock {
    pub(super) key: Key,
    /// Place in code memory.
    pub(super) place: u32,
    /// Page of RAM its only instruction ends in, if that is another.
    pub(super) second: Option<u64>,
    /// Guest instructions, without one at the end that the interpreter executes.
    instructions: u16,
    /// Worth another block for those who know how the flags were made.
    pub(super) saves_entry: bool,
    /// A path's linear pages with their pages of RAM; empty for other blocks.
    pub(super) pages: Box<[(u64, u64)]>,
    /// A path's instructions, by linear address, where lockstep asks for them.
    pub(super) steps: Option<Arc<[u64]>>,
    traps: Box<[(u32, u32)]>,
    /// Links patched to lead here.
    pub(super) incoming: Vec<u32>,
    /// Code that others enter through, if a superblock may stand for the block.
    pub(super) gate: Option<Gate>,
}

impl NativeBlock {
    /// Where others enter.
    pub(super) fn entrance(&self) -> u32 {
        self.gate.map_or(self.place, |gate| gate.place)
    }

    /// The pages of RAM it was made from.
    fn ram_pages(&self) -> impl Iterator<Item = u64> + '_ {
        let first = self.key.ram >> 12;
        let others = self.pages.iter().map(|page| page.1).filter(move |&page| page != first);
        std::iter::once(first).chain(self.second).chain(others)
    }
}

/// All of a vCPU's translated code.
pub(super) struct Library {
    pub(super) code: CodeMemory,
    pub(super) stubs: Stubs,
    stubs_end: u32,
    pub(super) blocks: Vec<Option<NativeBlock>>,
    by_key: Map<Key, u32>,
    pub(super) by_page: Map<u64, Vec<u32>>,
    by_place: BTreeMap<u32, u32>,
    pub(super) sites: Vec<Site>,
    ops: Vec<Op<SoftBus>>,
    pub(super) links: Vec<Link>,
    pub(super) slots: u32,
    clears: u32,
    tools: Tools,
}

impl Library {
    pub(super) fn new() -> Result<Self, EngineError> {
        let mut code = CodeMemory::new(CODE_BYTES, HOT_BYTES)?;
        let (bytes, stubs) = shared(std::arch::is_x86_feature_detected!("avx"));
        code.add(&bytes, &[]);
        let stubs_end = code.next();
        Ok(Self {
            code,
            stubs,
            stubs_end,
            blocks: Vec::new(),
            by_key: Map::default(),
            by_page: Map::default(),
            by_place: BTreeMap::new(),
            sites: Vec::new(),
            ops: Vec::new(),
            links: Vec::new(),
            slots: 0,
            clears: 0,
            tools: Tools::new(),
        })
    }

    /// Address of the way in.
    pub(super) fn enter(&self) -> u64 {
        self.code.address(self.stubs.enter)
    }

    /// What signal handlers must know of the code.
    pub(super) fn guards(&self) -> Guards {
        Guards {
            shared: self.code.address(0),
            blocks: self.code.address(self.stubs_end),
            end: self.code.address(CODE_BYTES as u32),
            trap: self.code.address(self.stubs.trap),
            fault: self.code.address(self.stubs.fault),
        }
    }

    /// The block of a key.
    pub(super) fn find(&self, key: &Key) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    pub(super) fn block(&self, block: u32) -> &NativeBlock {
        self.blocks[block as usize].as_ref().expect("numbers in use name live blocks")
    }

    /// Host address of a block's code.
    pub(super) fn address(&self, block: u32) -> u64 {
        self.code.address(self.block(block).entrance())
    }

    /// Guest instructions that a block executes itself.
    pub(super) fn instructions(&self, block: u32) -> u16 {
        self.block(block).instructions
    }

    pub(super) fn site(&self, site: u32) -> &Site {
        &self.sites[site as usize]
    }

    /// The instruction at a site, decoded for the interpreter, if it was needed before.
    pub(super) fn op(&self, site: &Site) -> Option<Op<SoftBus>> {
        self.ops.get(site.op as usize).copied()
    }

    /// Keeps the instruction at a site.
    pub(super) fn keep_op(&mut self, site: u32, op: Op<SoftBus>) {
        self.sites[site as usize].op = self.ops.len() as u32;
        self.ops.push(op);
    }

    /// Forgets every decoded instruction: what they refer to goes.
    pub(super) fn forget_ops(&mut self) {
        self.ops.clear();
        for site in &mut self.sites {
            site.op = NO_OP;
        }
    }

    /// The site of an instruction that raised a signal.
    pub(super) fn trap_site(&self, pc: u64) -> Option<u32> {
        let place = self.code.place(pc)?;
        let (_, &block) = self.by_place.range(..=place).next_back()?;
        let block = self.block(block);
        let offset = place - block.place;
        let found = block.traps.binary_search_by_key(&offset, |trap| trap.0).ok()?;
        Some(block.traps[found].1)
    }

    /// Whether everything must be dropped before another block is translated.
    pub(super) fn is_full(&self) -> bool {
        !self.has_slots(SLOTS_PER_BLOCK)
    }

    /// Whether a block of any size finds room, with so many slots.
    pub(super) fn has_slots(&self, count: usize) -> bool {
        self.code.has(BLOCK_RESERVE) && self.slots as usize + count <= LINK_SLOTS
    }

    /// How often everything was dropped: numbers from before mean nothing after.
    pub(super) fn clears(&self) -> u32 {
        self.clears
    }

    /// Translates a block.
    pub(super) fn add(
        &mut self,
        key: Key,
        second: Option<u64>,
        pages: &[(u64, u64)],
        source: &Source<'_>,
        tlb: &mut Tlb,
        announced: &mut dyn FnMut(&Instruction) -> bool,
    ) -> u32 {
        if let Some(old) = self.find(&key) {
            // A page-crossing instruction whose second page is another one now.
            self.drop_block(old, tlb);
        }
        let number = self.blocks.len() as u32;
        let place = self.code.next();
        let numbers = Numbers {
            block: number,
            first_site: self.sites.len() as u32,
            first_link: self.links.len() as u32,
            first_slot: self.slots,
            place,
            cold_place: self.code.next_cold(),
        };
        let draft = translate(source, numbers, &self.stubs, &mut self.tools, announced);
        self.code.add(&draft.code, &draft.cold);
        self.sites.extend_from_slice(&draft.sites);
        for link in &draft.links {
            if let Some(slot) = link.slot {
                tlb.add_slot(slot, self.code.address(link.stub));
                self.slots = slot + 1;
            }
        }
        self.links.extend_from_slice(&draft.links);
        self.by_key.insert(key, number);
        self.by_place.insert(place, number);
        let block = NativeBlock {
            key,
            place,
            second,
            instructions: draft.instructions,
            saves_entry: draft.saves_entry && pages.is_empty(),
            pages: pages.into(),
            traps: draft.traps.as_slice().into(),
            incoming: Vec::new(),
            steps: None,
            gate: None,
        };
        for page in block.ram_pages() {
            self.by_page.entry(page).or_default().push(number);
        }
        self.blocks.push(Some(block));
        self.tools.take_back(draft);
        number
    }

    /// How a branch's flags were made.
    pub(super) fn recipe(&self, link: u32) -> Option<Recipe> {
        self.links[link as usize].recipe
    }

    /// Links a branch to a block at a linear address.
    pub(super) fn link(&mut self, link: u32, to: u32, linear: u64, tlb: &mut Tlb) {
        let Link { patch, slot, .. } = self.links[link as usize];
        let Key { ram, .. } = self.block(to).key;
        let target = self.block(to).entrance();
        if let Some(patch) = patch {
            self.patch(patch, target);
            let block = self.blocks[to as usize].as_mut().expect("just used");
            block.incoming.push(link);
        }
        if let Some(slot) = slot {
            tlb.set_link(slot, linear, ram >> 12, self.code.address(target));
        }
    }

    pub(super) fn patch(&mut self, at: u32, target: u32) {
        let distance = target.wrapping_sub(at + 4);
        self.code.write(at, &distance.to_le_bytes());
    }

    /// Drops every block made from a page of RAM.
    pub(super) fn drop_page(&mut self, page: u64, tlb: &mut Tlb) {
        let Some(list) = self.by_page.remove(&page) else { return };
        let mut gone = Vec::new();
        list.into_iter().for_each(|block| self.take_out(block, &mut gone));
        tlb.forget_code(|code| gone.contains(&code));
    }

    pub(super) fn drop_block(&mut self, number: u32, tlb: &mut Tlb) {
        let mut gone = Vec::new();
        self.take_out(number, &mut gone);
        tlb.forget_code(|code| gone.contains(&code));
    }

    /// Takes a block out and its branches back; notes the addresses that jumps must forget.
    fn take_out(&mut self, number: u32, gone: &mut Vec<u64>) {
        let Some(block) = self.blocks[number as usize].take() else { return };
        if self.by_key.get(&block.key) == Some(&number) {
            self.by_key.remove(&block.key);
        }
        self.by_place.remove(&block.place);
        for page in block.ram_pages() {
            if let Some(list) = self.by_page.get_mut(&page) {
                list.retain(|&other| other != number);
            }
        }
        for link in block.incoming {
            let Link { patch, stub, .. } = self.links[link as usize];
            self.patch(patch.expect("only patched links are noted"), stub);
        }
        gone.push(self.code.address(block.place));
        gone.extend(
            block
                .gate
                .iter()
                .flat_map(|gate| [gate.place, gate.leave].map(|place| self.code.address(place))),
        );
    }

    /// The patched jumps that lead to a block now lead to its entrance.
    pub(super) fn repatch(&mut self, number: u32) {
        let block = self.block(number);
        let (to, incoming) = (block.entrance(), block.incoming.clone());
        for link in incoming {
            let patch = self.links[link as usize].patch.expect("only patched links are noted");
            self.patch(patch, to);
        }
    }

    /// Drops everything.
    pub(super) fn clear(&mut self, tlb: &mut Tlb) {
        self.code.truncate(self.stubs_end);
        self.blocks.clear();
        self.by_key.clear();
        self.by_page.clear();
        self.by_place.clear();
        self.sites.clear();
        self.ops.clear();
        self.links.clear();
        self.slots = 0;
        self.clears += 1;
        tlb.forget_all_code();
    }
}
