//! Translated blocks of one vCPU: found by place in RAM, linked with one another, dropped when
//! their code changes or their region of code memory is needed again.
//!
//! Code memory is filled region by region, the oldest making way for the next. All that belongs to
//! a region's blocks (sites, links, slots, what their instructions were decoded to) is numbered
//! within it and goes with it, so nothing grows for longer than a region is filled. Only then, too,
//! the numbers of blocks go that were dropped before.
//!
//! Invariant: nothing leads to a dropped block: jumps and slots of every context are forgotten,
//! patched branches go back to their stubs.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::ops::Range;

use engine::EngineError;
use iced_x86::Instruction;
use interp::Op;

pub(super) use super::blocks::Key;
use super::blocks::{Block, Extra, NONE, NativeBlock};
use super::gate::Gate;
use super::links::Links;
use super::sites::Sites;
use crate::block::Mix;
use crate::bus::SoftBus;
use crate::bus::tlb::Tlb;
use crate::cache::code::CodeMemory;
use crate::cache::layout::LINK_SLOTS;
use crate::cache::signal::Guards;
use crate::sys::table::Table;
use crate::translate::flags::{Place, Recipe};
use crate::translate::stubs::{Stubs, shared};
use crate::translate::{Link, Numbers, Site, Source, Tools, translate};

/// Of code memory, the eighths for code that runs often; the rest is for ways out.
const HOT_EIGHTHS: usize = 5;
/// Regions that code memory is dropped by.
const REGIONS: usize = 8;
/// More than any block needs.
const BLOCK_RESERVE: usize = 192 << 10;
/// Slots one block can have (where ways of its last branch leave the page), and its gate.
const SLOTS_PER_BLOCK: usize = 4;
/// Slots of a region.
const SLOTS: u32 = (LINK_SLOTS / REGIONS) as u32;
/// A number's place within its region.
const INDEX_BITS: u32 = 24;
/// Bytes of code memory for each list of blocks; one takes about so much, with what is known of it.
const BYTES_PER_LIST: usize = 512;
/// More elements than a block adds to any table of its region.
const TABLE_RESERVE: usize = 1 << 16;

type Map<V> = HashMap<u64, V, BuildHasherDefault<Mix>>;

/// What belongs to one region of code memory, by number within it.
struct Region {
    /// In the order of their places.
    blocks: Table<NativeBlock>,
    extras: Vec<Extra>,
    sites: Sites,
    links: Links,
    /// Instructions that the host may raise a signal on: place, site. Ascending.
    traps: Table<(u32, u32)>,
    slots: u32,
}

impl Region {
    /// A region that is full with so many bytes.
    fn new(bytes: usize) -> Result<Self, EngineError> {
        let most = |size: usize| bytes / size + TABLE_RESERVE;
        Ok(Self {
            blocks: Table::new(most(size_of::<NativeBlock>()))?,
            extras: Vec::new(),
            sites: Sites::new(bytes)?,
            links: Links::new(bytes)?,
            traps: Table::new(most(size_of::<(u32, u32)>()))?,
            slots: 0,
        })
    }

    /// Bytes that what is known of its code takes.
    fn known_bytes(&self) -> usize {
        self.blocks.bytes()
            + self.extras.len() * size_of::<Extra>()
            + self.sites.bytes()
            + self.links.bytes()
            + self.traps.bytes()
    }

    fn clear(&mut self) {
        self.blocks.clear();
        self.extras = Vec::new();
        self.sites.clear();
        self.links.clear();
        self.traps.clear();
        self.slots = 0;
    }
}

/// All of a vCPU's translated code.
pub(super) struct Library {
    code: CodeMemory,
    stubs: Stubs,
    regions: Box<[Region]>,
    /// Lists of the blocks at places with something in common: the first ones.
    by_place: Box<[u32]>,
    by_page: Map<Vec<u32>>,
    clears: u32,
    /// Bound on a region's code with what is known of it, which is about as much again.
    region_bytes: usize,
    tools: Tools,
}

/// The number of what has this place in a region.
pub(super) fn number(region: usize, index: usize) -> u32 {
    (region as u32) << INDEX_BITS | index as u32
}

/// Region of a number, and its place there.
pub(super) fn parts(number: u32) -> (usize, usize) {
    ((number >> INDEX_BITS) as usize, (number & ((1 << INDEX_BITS) - 1)) as usize)
}

impl Library {
    /// Room for so many bytes of code.
    pub(super) fn new(bytes: usize) -> Result<Self, EngineError> {
        let length = bytes.next_multiple_of(4096);
        let (common, stubs) = shared(std::arch::is_x86_feature_detected!("avx"));
        let region_bytes = length / REGIONS;
        let regions: Result<Vec<_>, _> = (0..REGIONS).map(|_| Region::new(region_bytes)).collect();
        Ok(Self {
            code: CodeMemory::new(length, length / 8 * HOT_EIGHTHS, REGIONS, &common)?,
            stubs,
            regions: regions?.into(),
            by_place: vec![NONE; (length / BYTES_PER_LIST).next_power_of_two()].into(),
            by_page: Map::default(),
            clears: 0,
            region_bytes,
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
            blocks: self.code.address(self.code.start()),
            end: self.code.end(),
            trap: self.code.address(self.stubs.trap),
            fault: self.code.address(self.stubs.fault),
        }
    }

    /// The block of a key.
    pub(super) fn find(&self, key: &Key) -> Option<u32> {
        self.at_place(key).find(|&at| {
            let block = self.block(at);
            block.gates() == key.gates && self.entry(at) == key.entry
        })
    }

    /// All blocks that begin where one does, bound to the same page if it is bound.
    pub(super) fn at_place(&self, key: &Key) -> impl Iterator<Item = u32> {
        let first = self.by_place[self.list_of(key.ram, key.page)];
        let some = |at: u32| Some(at).filter(|&at| at != NONE);
        let all = std::iter::successors(some(first), move |&at| some(self.own(at).next));
        all.filter(move |&at| self.own(at).is_at(key))
    }

    /// The list that a block at a place is on: shared code has blocks of many address spaces.
    fn list_of(&self, ram: u64, page: Option<u64>) -> usize {
        let place = ram ^ page.map_or(0, |page| page.rotate_left(28));
        let mixed = place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        mixed as usize & (self.by_place.len() - 1)
    }

    /// A block.
    pub(super) fn block(&self, block: u32) -> Block<'_> {
        let (region, index) = parts(block);
        let Region { blocks, extras, .. } = &self.regions[region];
        let own = &blocks[index];
        Block { own, extra: extras.get(own.extra as usize) }
    }

    /// What every block has.
    fn own(&self, block: u32) -> &NativeBlock {
        let (region, index) = parts(block);
        &self.regions[region].blocks[index]
    }

    /// How whoever jumps to a block made the flags, where it is for them alone.
    fn entry(&self, block: u32) -> Option<Recipe> {
        let (region, index) = parts(block);
        let Region { blocks, sites, .. } = &self.regions[region];
        let Place::Recipe(recipe) = sites.place(blocks[index].entry()?) else { return None };
        Some(recipe)
    }

    /// What a block is found by.
    pub(super) fn key(&self, block: u32) -> Key {
        let own = self.own(block);
        Key { ram: own.ram(), page: own.page(), gates: own.gates(), entry: self.entry(block) }
    }

    fn block_mut(&mut self, block: u32) -> &mut NativeBlock {
        let (region, index) = parts(block);
        &mut self.regions[region].blocks[index]
    }

    /// What few blocks have.
    pub(super) fn extra(&mut self, block: u32) -> &mut Extra {
        let (region, index) = parts(block);
        let Region { blocks, extras, .. } = &mut self.regions[region];
        let own = &mut blocks[index];
        if own.extra == NONE {
            own.extra = extras.len() as u32;
            extras.push(Extra::default());
        }
        &mut extras[own.extra as usize]
    }

    /// Whether a number still names a block, no region having been dropped.
    pub(super) fn is_live(&self, block: u32) -> bool {
        let (region, index) = parts(block);
        self.regions[region].blocks.get(index).is_some_and(|block| block.live)
    }

    /// Live blocks made from a page of RAM.
    #[cfg(test)]
    pub(super) fn on_page(&self, page: u64) -> &[u32] {
        self.by_page.get(&page).map_or(&[], |list| list)
    }

    /// Host address where others enter a block.
    pub(super) fn address(&self, block: u32) -> u64 {
        self.code.address(self.block(block).entrance())
    }

    /// Host address of a block's own code.
    pub(super) fn body(&self, block: u32) -> u64 {
        self.code.address(self.own(block).place)
    }

    /// Host address of a place.
    pub(super) fn place_address(&self, place: u32) -> u64 {
        self.code.address(place)
    }

    /// Guest instructions that a block executes itself.
    pub(super) fn instructions(&self, block: u32) -> u16 {
        self.own(block).instructions
    }

    pub(super) fn site(&self, site: u32) -> Site {
        let (region, index) = parts(site);
        self.regions[region].sites.get(index as u32)
    }

    /// The instruction at a site, decoded for the interpreter, if it was needed before.
    pub(super) fn op(&self, site: u32) -> Option<Op<SoftBus>> {
        let (region, index) = parts(site);
        self.regions[region].sites.op(index as u32)
    }

    /// Keeps the instruction at a site.
    pub(super) fn keep_op(&mut self, site: u32, op: Op<SoftBus>) {
        let (region, index) = parts(site);
        self.regions[region].sites.keep_op(index as u32, op);
    }

    /// Forgets every decoded instruction: what they refer to goes.
    pub(super) fn forget_ops(&mut self) {
        self.regions.iter_mut().for_each(|region| region.sites.forget_ops());
    }

    /// The site of an instruction that raised a signal.
    pub(super) fn trap_site(&self, pc: u64) -> Option<u32> {
        let place = self.code.place(pc)?;
        let traps = &self.regions.get(self.code.region(place))?.traps;
        let found = traps.binary_search_by_key(&place, |trap| trap.0).ok()?;
        Some(traps[found].1)
    }

    /// Whether other code must be dropped before another block is translated.
    pub(super) fn is_full(&self) -> bool {
        !self.has_slots(SLOTS_PER_BLOCK)
    }

    /// Whether a block of any size finds room, with so many slots.
    pub(super) fn has_slots(&self, count: usize) -> bool {
        let region = &self.regions[self.code.current()];
        self.code.has(BLOCK_RESERVE)
            && self.code.used() + region.known_bytes() < self.region_bytes
            && region.slots + count as u32 <= SLOTS
            && !region.sites.is_full()
    }

    /// Bytes that code and what is known of it take, at most.
    pub(super) fn bytes(&self) -> usize {
        let others = self.regions.iter().enumerate();
        let full = others
            .filter(|&(index, region)| index != self.code.current() && !region.blocks.is_empty());
        let current = &self.regions[self.code.current()];
        full.count() * self.region_bytes + self.code.used() + current.known_bytes()
    }

    /// How often code was dropped by regions: numbers from before may mean something else after.
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
        let current = self.code.current();
        let region = &mut self.regions[current];
        let block = number(current, region.blocks.len());
        let place = self.code.next();
        let numbers = Numbers {
            block,
            first_site: number(current, region.sites.len() as usize),
            first_link: number(current, region.links.len()),
            first_slot: slots(current).start + region.slots,
            place,
            cold_place: self.code.next_cold(),
        };
        let draft =
            translate(source, numbers, &self.stubs, &mut self.tools, announced, &|linear| {
                tlb.peek(linear)
            });
        self.code.add(&draft.code, &draft.cold);
        for site in &draft.sites {
            region.sites.push(site);
        }
        for &link in &draft.links {
            if let Some(slot) = link.slot {
                tlb.add_slot(slot, self.code.address(link.stub));
                region.slots += 1;
            }
            region.links.push(&link);
        }
        assert!(region.slots <= SLOTS, "a block has at most SLOTS_PER_BLOCK");
        for &(offset, site) in &draft.traps {
            region.traps.push((place + offset, site));
        }
        let has_pages = !pages.is_empty();
        let entry = key.entry.map(|recipe| region.sites.number_of((Place::Recipe(recipe), 0)));
        let mut made = NativeBlock::new(&key, entry, place);
        made.instructions = draft.instructions;
        made.saves_entry = draft.saves_entry && !has_pages;
        region.blocks.push(made);
        if has_pages || second.is_some() {
            let renaming = draft.renaming;
            *self.extra(block) =
                Extra { second, pages: pages.into(), renaming, ..Extra::default() };
        }
        self.put_on_lists(block);
        self.tools.take_back(draft);
        block
    }

    /// Lets a block be found.
    fn put_on_lists(&mut self, number: u32) {
        let block = self.block(number);
        let list = self.list_of(block.ram(), block.page());
        for page in block.ram_pages() {
            self.by_page.entry(page).or_default().push(number);
        }
        self.block_mut(number).next = std::mem::replace(&mut self.by_place[list], number);
    }

    /// Where a link is kept.
    fn links_of(&mut self, link: u32) -> (&mut Links, usize) {
        let (region, index) = parts(link);
        (&mut self.regions[region].links, index)
    }

    /// Whether a branch is patched to lead to a block.
    fn is_patched(&self, link: u32) -> bool {
        let (region, index) = parts(link);
        self.regions[region].links.is_patched(index)
    }

    /// A branch.
    pub(super) fn link_at(&self, link: u32) -> Link {
        let (region, index) = parts(link);
        self.regions[region].links.get(index)
    }

    /// How a branch's flags were made.
    pub(super) fn recipe(&self, link: u32) -> Option<Recipe> {
        self.link_at(link).recipe
    }

    /// Links a branch to a block at a linear address.
    pub(super) fn link(&mut self, link: u32, to: u32, linear: u64, tlb: &mut Tlb) {
        let Link { patch, slot, .. } = self.link_at(link);
        assert!(!self.is_patched(link), "a branch that is linked does not leave");
        let block = self.block(to);
        let (ram, incoming, place) = (block.ram(), block.incoming, block.entrance());
        if let Some(patch) = patch {
            self.patch(patch, place);
            let (links, index) = self.links_of(link);
            links.put_on_list(index, incoming);
            self.block_mut(to).incoming = link;
        }
        if let Some(slot) = slot
            && self.may_link(link, tlb)
        {
            tlb.set_link(slot, linear, ram >> 12, self.code.address(place));
        }
    }

    /// Whether what lies behind a branch's page is the same wherever it runs in the current context.
    fn may_link(&self, link: u32, tlb: &Tlb) -> bool {
        let owner = self.site(self.link_at(link).site).block;
        let owner = self.own(owner);
        owner.page().is_some() || tlb.may_link(owner.ram() >> 12)
    }

    fn patch(&mut self, at: u32, target: u32) {
        let distance = target.wrapping_sub(at + 4);
        self.code.write(at, &distance.to_le_bytes());
    }

    /// Drops every block made from a page of RAM.
    pub(super) fn drop_page(&mut self, page: u64, tlb: &mut Tlb) {
        let Some(list) = self.by_page.remove(&page) else { return };
        let mut gone = Vec::with_capacity(list.len());
        list.into_iter().for_each(|block| self.take_out(block, &mut gone));
        tlb.forget_blocks(&gone);
    }

    pub(super) fn drop_block(&mut self, block: u32, tlb: &mut Tlb) {
        let mut gone = Vec::new();
        self.take_out(block, &mut gone);
        tlb.forget_blocks(&gone);
    }

    /// Takes a block out and its branches back; notes the addresses that jumps and slots must
    /// forget, with the place in RAM that they stand for.
    fn take_out(&mut self, number: u32, gone: &mut Vec<(u64, u64)>) {
        let block = self.block_mut(number);
        if !std::mem::replace(&mut block.live, false) {
            return;
        }
        let mut incoming = std::mem::replace(&mut block.incoming, NONE);
        let NativeBlock { place, next, extra, .. } = *block;
        let block = self.block(number);
        let (ram, pages, gate) = (block.ram(), block.ram_pages(), block.gate());
        let list = self.list_of(ram, block.page());
        if extra != NONE {
            *self.extra(number) = Extra::default();
        }
        let entries = gate.map_or([place; 3], |gate| [place, gate.place, gate.leave]);
        gone.extend(entries.map(|place| (ram, self.code.address(place))));
        while incoming != NONE {
            let Link { patch, stub, .. } = self.link_at(incoming);
            let (links, index) = self.links_of(incoming);
            links.take_off_list(index);
            incoming = links.next(index);
            self.patch(patch.expect("only patched links are noted"), stub);
        }
        self.take_off_list(list, number, next);
        for page in pages {
            if let Some(list) = self.by_page.get_mut(&page) {
                list.retain(|&other| other != number);
                if list.is_empty() {
                    self.by_page.remove(&page);
                }
            }
        }
    }

    /// Gives a block a gate: code that is added with a site and a slot, whose numbers it names. Only
    /// while the library is not full.
    pub(super) fn add_gate(
        &mut self,
        block: u32,
        site: &Site,
        tlb: &mut Tlb,
        code: impl FnOnce(&Stubs, u32, u32, u32) -> (Vec<u8>, u32),
    ) -> Gate {
        let current = self.code.current();
        let region = &mut self.regions[current];
        let site_number = number(current, region.sites.len() as usize);
        region.sites.push(site);
        let slot = slots(current).start + region.slots;
        region.slots += 1;
        let place = self.code.next();
        let (bytes, leave) = code(&self.stubs, place, slot, site_number);
        self.code.add(&bytes, &[]);
        tlb.add_slot(slot, self.body(block));
        let gate = Gate { place, leave: place + leave, slot };
        self.extra(block).gate = Some(gate);
        self.repatch(block);
        gate
    }

    /// The patched jumps that lead to a block now lead to its entrance.
    fn repatch(&mut self, block: u32) {
        let entrance = self.block(block).entrance();
        let mut at = self.block(block).incoming;
        while at != NONE {
            let patch = self.link_at(at).patch;
            self.patch(patch.expect("only patched links are noted"), entrance);
            let (links, index) = self.links_of(at);
            at = links.next(index);
        }
    }

    /// Takes a block off the list that it is on.
    fn take_off_list(&mut self, list: usize, number: u32, next: u32) {
        let mut at = self.by_place[list];
        if at == number {
            self.by_place[list] = next;
            return;
        }
        while self.own(at).next != number {
            at = self.own(at).next;
        }
        self.block_mut(at).next = next;
    }

    /// Goes on to the next region, whose blocks make way.
    pub(super) fn make_room(&mut self, tlb: &mut Tlb) {
        let next = (self.code.current() + 1) % REGIONS;
        self.empty(next, tlb);
        self.code.begin(next);
    }

    /// Drops a region.
    fn empty(&mut self, region: usize, tlb: &mut Tlb) {
        self.clears += 1;
        if self.regions[region].blocks.is_empty() && self.regions[region].slots == 0 {
            return;
        }
        // First of all lists, so that none names what is no more.
        self.forget_links_from(region);
        // Of gates that lie in other regions: younger ones, so that no gate goes before its block.
        let mut gone = Vec::new();
        for index in 0..self.regions[region].blocks.len() {
            self.take_out(number(region, index), &mut gone);
        }
        let code = self.code.addresses(region);
        gone.retain(|(_, address)| !code.contains(address));
        tlb.forget_blocks(&gone);
        tlb.forget_region(&self.code.addresses(region), &slots(region));
        self.regions[region].clear();
    }

    /// Takes a region's links off the lists of all blocks.
    fn forget_links_from(&mut self, region: usize) {
        for owner in 0..REGIONS {
            for index in 0..self.regions[owner].blocks.len() {
                let mut at = self.regions[owner].blocks[index].incoming;
                let mut kept = NONE;
                while at != NONE {
                    let (links, index) = self.links_of(at);
                    let next = links.next(index);
                    if parts(at).0 != region {
                        links.put_on_list(index, kept);
                        kept = at;
                    }
                    at = next;
                }
                self.regions[owner].blocks[index].incoming = kept;
            }
        }
    }

    /// Drops everything.
    pub(super) fn clear(&mut self, tlb: &mut Tlb) {
        for region in (0..REGIONS).rev() {
            self.empty(region, tlb);
            self.code.begin(region);
        }
    }
}

/// The slots of a region.
fn slots(region: usize) -> Range<u32> {
    region as u32 * SLOTS..(region as u32 + 1) * SLOTS
}

#[cfg(test)]
mod tests;
