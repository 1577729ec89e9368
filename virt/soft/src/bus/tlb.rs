//! The software TLB: per translation context, direct-mapped entries for reads, writes, fetches.
//!
//! An entry maps a linear page to its host address and has a tag for each kind of access that
//! needs no further check: MMIO, pages with decoded code (writes), clean pages (writes), watched
//! or alignment-checked contexts never get one, so the hot path is one xor and one compare, here
//! and in translated code.
//!
//! Contexts stand for (address space, privilege, protection bits), each with an area of its own
//! (see `cache::layout`), where the jump cache and the link slots of translated code lie too. A
//! context switch is a change of index; a flush gives a context a fresh generation, which also
//! unbinds every cached jump into it. Kernel mode has contexts of its own that all address spaces
//! share: what is global stays in them when CR3 changes, what is not is dropped.
//!
//! A context that was not current for long gives its tables up when all of them take much memory.
//!
//! Behind each TLB stands a larger table of victims, looked at before the page tables are.

mod idle;
mod jumps;
#[cfg(test)]
mod tests;
mod windows;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use engine::EngineError;
use interp::Context;
use memory::{GuestMemory, RamOffset};
use x86::Cr4;

use super::bound::Bound;
use super::peers::Peers;
use crate::cache::area::{Areas, TlbEntry};
use crate::cache::layout::{TLB_ENTRIES, VICTIM_ENTRIES};
use crate::cache::windows::Windows;
use idle::JUMP_PAGES;
use windows::Worth;

/// Contexts kept per vCPU at most.
const CONTEXTS: usize = 16;
/// What the tables of a VM's contexts may take before those that were not current for the longest time
/// give theirs up; so much of it each vCPU may have in any case.
const TABLES_MIB: usize = 20;
const LEAST_TABLES_MIB: usize = 6;
/// A context that stays empty, for when every access must take the slow path.
const BLIND: usize = CONTEXTS;
/// Pages that are not global a kernel context keeps track of.
const LOCAL: usize = 256;
/// Victims' generations: what fits below a page number.
const GENERATIONS: u64 = 4096;

/// What an access wants; selects the tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read = 0,
    Write = 1,
    Fetch = 2,
}

#[inline(always)]
fn slot(linear: u64) -> usize {
    (linear >> 12) as usize % TLB_ENTRIES
}

/// A page of another slot: no address that looks at this one can match. It is 0 in all slots but
/// the first, so that tables are empty without being touched.
#[inline(always)]
fn no_tag(slot: usize) -> u64 {
    u64::from(slot == 0) << 12
}

fn empty(slot: usize) -> TlbEntry {
    TlbEntry { tags: [no_tag(slot); 3], host: 0 }
}

#[inline(always)]
fn victim_slot(linear: u64) -> usize {
    (linear >> 12) as usize % VICTIM_ENTRIES
}

struct TlbContext {
    key: Option<Context>,
    generation: u32,
    /// Linear range that large pages cover, as (lowest, highest) page base; empty when low > high.
    large: (u64, u64),
    last_use: u64,
    /// Address space that entries which are not global belong to (kernel contexts).
    space: u64,
    /// Pages cached that are not global (kernel contexts), and whether for fetches.
    local: Vec<(u64, bool)>,
    /// TLB slots in use, a bit each.
    used: [u64; TLB_ENTRIES / 64],
    /// Linear pages that jumps and links lead to, with their pages of RAM.
    code: BTreeMap<u64, u64>,
    /// Pages of RAM whose code ran at several linear pages of the lower half: what lies behind them
    /// differs by where they run.
    aliased: BTreeSet<u64>,
    /// A flush came: `code` must be walked again before translated code runs.
    stale: bool,
    /// Jump-cache entries in use.
    jumps: Vec<u32>,
    /// Linear addresses that link slots in use lead to, with the slots.
    links: BTreeSet<(u64, u32)>,
    /// Code that holds only while several linear pages are what they were: its host address.
    spread: Vec<(Box<[u64]>, u64)>,
    /// Where superblocks start.
    bound: Bound,
    /// The program that runs in it.
    worth: Worth,
    /// Its tables are ready, and cost memory.
    prepared: bool,
    /// Pages of its jump cache that cost memory, a bit each.
    jump_pages: [u64; JUMP_PAGES / 64],
}

/// All contexts of one vCPU.
pub(crate) struct Tlb {
    areas: Areas,
    contexts: Vec<TlbContext>,
    current: usize,
    next_generation: u32,
    clock: u64,
    ram: u64,
    /// Where each link slot leads while it is not linked.
    unlinked: Vec<u64>,
    /// Pages of jump caches that cost memory.
    jump_pages: usize,
    /// Pages that contexts' tables may take before those of idle ones go.
    most_pages: usize,
    windows: Windows,
    /// Programs there were.
    programs: u64,
    pub(super) peers: Peers,
}

/// The part of CR3 that names an address space.
fn space(context: &Context) -> u64 {
    context.cr3 & !(1 << 63)
}

fn pcid(context: &Context) -> Option<u16> {
    const PCIDE: u64 = 1 << 17;
    (context.cr4 & PCIDE != 0).then_some(context.cr3 as u16 & 0xfff)
}

impl Tlb {
    /// The TLB of one of so many vCPUs.
    pub(crate) fn new(memory: &Arc<GuestMemory>, vcpus: usize) -> Result<Self, EngineError> {
        let mut tlb = Self {
            areas: Areas::new(CONTEXTS + 1)?,
            contexts: (0..=CONTEXTS)
                .map(|index| TlbContext {
                    key: None,
                    generation: index as u32,
                    large: (u64::MAX, 0),
                    last_use: 0,
                    space: 0,
                    local: Vec::new(),
                    used: [0; TLB_ENTRIES / 64],
                    code: BTreeMap::new(),
                    aliased: BTreeSet::new(),
                    stale: false,
                    jumps: Vec::new(),
                    links: BTreeSet::new(),
                    spread: Vec::new(),
                    bound: Bound::default(),
                    worth: Worth::of(index as u64),
                    prepared: false,
                    jump_pages: [0; JUMP_PAGES / 64],
                })
                .collect(),
            current: 0,
            next_generation: CONTEXTS as u32 + 1,
            clock: 0,
            ram: memory.host_base() as u64,
            unlinked: Vec::new(),
            jump_pages: 0,
            most_pages: (TABLES_MIB / vcpus).max(LEAST_TABLES_MIB) << 8,
            windows: Windows::new(memory.clone(), CONTEXTS + 1, vcpus),
            programs: CONTEXTS as u64,
            peers: Peers::default(),
        };
        tlb.prepare(0);
        tlb.prepare(BLIND);
        Ok(tlb)
    }

    /// Empties a context's tables, which are all zero, before its first use.
    fn prepare(&mut self, index: usize) {
        self.contexts[index].prepared = true;
        self.areas.tlb_mut(index)[0] = empty(0);
        for place in jumps::NOT_ZERO {
            self.areas.jumps_mut(index)[place] = jumps::no_jump(place);
        }
        *self.areas.victim_generation(index) = 1;
        let links = self.areas.links_mut(index);
        links[..self.unlinked.len()].copy_from_slice(&self.unlinked);
    }

    /// Looks an access of `size` bytes up: its place in RAM, if cached and within one page.
    #[inline(always)]
    pub(crate) fn lookup(&self, kind: Kind, linear: u64, size: u64) -> Option<RamOffset> {
        self.lookup_in(self.current, kind, linear, size)
    }

    /// Looks an access up in a context.
    #[inline(always)]
    pub(super) fn lookup_in(
        &self,
        context: usize,
        kind: Kind,
        linear: u64,
        size: u64,
    ) -> Option<RamOffset> {
        let entry = &self.areas.tlb(context)[slot(linear)];
        let offset = linear ^ entry.tags[kind as usize];
        (offset <= 4096 - size).then(|| RamOffset(entry.host.wrapping_sub(self.ram) + offset))
    }

    /// Host address of a page of RAM.
    pub(crate) fn host_address(&self, page: RamOffset) -> u64 {
        self.ram + page.0
    }

    /// Caches a translation for one kind of access in the current context. `global` entries serve
    /// every address space.
    pub(crate) fn insert(
        &mut self,
        kind: Kind,
        linear: u64,
        page: RamOffset,
        mapped_size: u64,
        global: bool,
    ) {
        let host = self.ram + page.0;
        let base = linear & !0xfff;
        let place = slot(linear);
        let current = self.current;
        let entry = &mut self.areas.tlb_mut(current)[place];
        if entry.host != host {
            *entry = TlbEntry { tags: [no_tag(place); 3], host };
        }
        entry.tags[kind as usize] = base;
        let tag = base | *self.areas.victim_generation(current);
        let victim = &mut self.areas.victims_mut(current)[victim_slot(linear)];
        if victim.host != host {
            *victim = TlbEntry { tags: [0; 3], host };
        }
        victim.tags[kind as usize] = tag;
        let context = &mut self.contexts[current];
        context.used[place / 64] |= 1 << (place % 64);
        if mapped_size > 4096 {
            let low = linear & !(mapped_size - 1);
            context.large.0 = context.large.0.min(low);
            context.large.1 = context.large.1.max(low + (mapped_size - 4096));
        }
        if !global && context.key.is_some_and(|key| !key.user) {
            context.local.push((base, kind == Kind::Fetch));
            if context.local.len() > LOCAL {
                let kept = context.local.split_off(LOCAL);
                self.drop_local(current);
                self.contexts[current].local = kept;
            }
        }
    }

    /// Makes a context current, reusing what it cached before.
    pub(crate) fn switch(&mut self, wanted: &Context) {
        if let Some(peer) = self.peers.get(wanted) {
            self.make_current(peer);
            return;
        }
        let mut key = *wanted;
        key.cr3 = if wanted.user { space(wanted) } else { 0 };
        // It lifts SMAP, which no user has.
        key.ac &= !wanted.user && wanted.cr4 & Cr4::SMAP.bits() != 0;
        if self.contexts[self.current].key != Some(key) {
            let found = self.contexts.iter().position(|context| context.key == Some(key));
            let index = found.unwrap_or_else(|| self.evict(key));
            self.make_current(index);
        }
        if self.contexts[self.current].space != space(wanted) {
            self.drop_local(self.current);
            self.contexts[self.current].space = space(wanted);
        }
        self.peers.note(wanted, self.current);
        self.limit_tables();
    }

    /// Makes a context current that is known to be right.
    pub(super) fn make_current(&mut self, index: usize) {
        if self.current != index {
            self.clock += 1;
            self.current = index;
            self.contexts[index].last_use = self.clock;
        }
    }

    /// Makes a context current for a moment.
    pub(super) fn exchange_current(&mut self, index: usize) -> usize {
        std::mem::replace(&mut self.current, index)
    }

    /// Drops what is not global from a kernel context.
    fn drop_local(&mut self, index: usize) {
        for (page, fetch) in std::mem::take(&mut self.contexts[index].local) {
            self.drop_entry(index, page);
            if fetch {
                self.forget_page_jumps(index, page);
                self.contexts[index].generation = self.fresh_generation();
            }
        }
    }

    /// Drops one page's entries in one context.
    fn drop_entry(&mut self, index: usize, page: u64) {
        let place = slot(page);
        for tag in &mut self.areas.tlb_mut(index)[place].tags {
            if *tag == page {
                *tag = no_tag(place);
            }
        }
        for tag in &mut self.areas.victims_mut(index)[victim_slot(page)].tags {
            if *tag & !0xfff == page {
                *tag = 0;
            }
        }
    }

    fn evict(&mut self, key: Context) -> usize {
        let (victim, _) = self
            .contexts
            .iter()
            .enumerate()
            .take(CONTEXTS)
            .min_by_key(|(_, context)| context.last_use)
            .expect("there are always contexts");
        if !self.contexts[victim].prepared {
            self.prepare(victim);
        }
        self.clock += 1;
        self.contexts[victim].last_use = self.clock;
        self.contexts[victim].key = Some(key);
        self.begin_program(victim);
        self.forget_jumps(victim);
        self.windows.disable(&mut self.areas, victim);
        self.flush_context(victim);
        victim
    }

    /// Drops a context's victims, by a change of generation while there is a fresh one.
    fn drop_victims(&mut self, index: usize) {
        let generation = self.areas.victim_generation(index);
        *generation += 1;
        if *generation == GENERATIONS {
            // Tag 0 is of no generation: they count from 1.
            *generation = 1;
            self.areas.victims_mut(index).fill(TlbEntry { tags: [0; 3], host: 0 });
        }
    }

    /// Makes the empty context current until [`Tlb::see_again`]; the caller inserts nothing.
    pub(crate) fn go_blind(&mut self) -> usize {
        self.contexts[BLIND].generation = self.fresh_generation();
        std::mem::replace(&mut self.current, BLIND)
    }

    /// Between `go_blind` and `see_again`.
    pub(super) fn is_blind(&self) -> bool {
        self.current == BLIND
    }

    /// Ends what `go_blind` began.
    pub(crate) fn see_again(&mut self, before: usize) {
        self.current = before;
    }

    /// Names the current translations: jumps cached under one generation are valid while it lasts.
    #[inline(always)]
    pub(crate) fn generation(&self) -> u32 {
        self.contexts[self.current].generation
    }

    fn fresh_generation(&mut self) -> u32 {
        self.next_generation = self.next_generation.wrapping_add(1);
        self.next_generation
    }

    fn flush_context(&mut self, index: usize) {
        for (word, bits) in self.contexts[index].used.iter_mut().enumerate() {
            let mut left = std::mem::take(bits);
            while left != 0 {
                let place = word * 64 + left.trailing_zeros() as usize;
                self.areas.tlb_mut(index)[place] = empty(place);
                left &= left - 1;
            }
        }
        self.drop_victims(index);
        self.windows.flush(index);
        self.peers.forget(index);
        self.contexts[index].large = (u64::MAX, 0);
        self.contexts[index].local.clear();
        self.contexts[index].stale = true;
        self.contexts[index].generation = self.fresh_generation();
    }

    /// Drops everything.
    pub(crate) fn flush_all(&mut self) {
        for index in 0..self.contexts.len() {
            if self.contexts[index].key.is_some() {
                self.flush_context(index);
            }
        }
    }

    /// Drops the address space that is current (the one of this CR3 and PCID).
    pub(crate) fn flush_current_space(&mut self, current: &Context) {
        // Without PCIDs there is one set of non-global entries, whatever CR3 was.
        self.flush_spaces(|context| pcid(context).is_none() || pcid(context) == pcid(current));
    }

    /// Drops one PCID's translations.
    pub(crate) fn flush_pcid(&mut self, id: u16) {
        self.flush_spaces(|context| pcid(context).is_none_or(|other| other == id));
    }

    /// Drops all that is not global of the address spaces selected.
    fn flush_spaces(&mut self, selected: impl Fn(&Context) -> bool) {
        for index in 0..self.contexts.len() {
            let Some(mut key) = self.contexts[index].key else { continue };
            if !key.user {
                key.cr3 = self.contexts[index].space;
            }
            match selected(&key) {
                true if key.user => self.flush_context(index),
                true => self.drop_local(index),
                false => {}
            }
        }
    }

    /// Drops one linear page everywhere (it may be global), large pages whole.
    pub(crate) fn flush_page(&mut self, linear: u64) {
        let page = linear & !0xfff;
        for index in 0..self.contexts.len() {
            if self.contexts[index].key.is_none() {
                continue;
            }
            let (low, high) = self.contexts[index].large;
            if page >= low && page <= high {
                self.flush_context(index);
                continue;
            }
            self.drop_entry(index, page);
            self.windows.hide(index, page);
            self.forget_page_jumps(index, page);
            self.contexts[index].generation = self.fresh_generation();
        }
    }

    /// Drops one linear page everywhere, unless it is of a large one or the current context's code lies
    /// there: then nothing that runs may be wrong after it.
    pub(crate) fn flush_data_page(&mut self, linear: u64) -> bool {
        let page = linear & !0xfff;
        let mut known = self.contexts.iter().filter(|context| context.key.is_some());
        let large = known.any(|context| (context.large.0..=context.large.1).contains(&page));
        let simple = !large && !self.contexts[self.current].code.contains_key(&page);
        if simple {
            self.flush_page(linear);
        }
        simple
    }

    /// Drops all write entries that point at one page of RAM: it now holds decoded code.
    pub(crate) fn protect_ram_page(&mut self, page: RamOffset) {
        self.windows.protect(page.0 >> 12);
        let host = self.ram + page.0;
        self.protect_where(|entry| entry.host == host);
    }

    /// Drops all write entries.
    pub(crate) fn protect_all(&mut self) {
        self.windows.protect_all();
        self.protect_where(|_| true);
    }

    fn protect_where(&mut self, protected: impl Fn(&TlbEntry) -> bool) {
        for index in 0..self.contexts.len() {
            if self.contexts[index].key.is_none() {
                continue;
            }
            self.drop_victims(index);
            for (place, entry) in self.areas.tlb_mut(index).iter_mut().enumerate() {
                if protected(entry) {
                    entry.tags[Kind::Write as usize] = no_tag(place);
                }
            }
        }
    }
}
