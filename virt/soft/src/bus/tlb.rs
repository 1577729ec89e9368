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
//! Behind each TLB stands a larger table of victims, looked at before the page tables are.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use engine::EngineError;
use interp::Context;
use memory::{GuestMemory, RamOffset};
use x86::Cr4;

use super::bound::Bound;
use super::peers::Peers;
use crate::cache::area::{Areas, JumpEntry, TlbEntry};
use crate::cache::layout::{JUMP_ENTRIES, JUMP_SHIFT, TLB_ENTRIES, VICTIM_ENTRIES};
use crate::cache::state::NativeState;
use crate::cache::windows::{Shown, Windows};

/// Contexts kept per vCPU.
const CONTEXTS: usize = 16;
/// A context that stays empty, for when every access must take the slow path.
const BLIND: usize = CONTEXTS;
/// Pages that are not global a kernel context keeps track of.
const LOCAL: usize = 256;
/// Victims' generations: what fits below a page number.
const GENERATIONS: u64 = 4096;

/// Pages a context may miss in its windows beside one for each sample of its code, which is about as
/// long as showing a page takes.
const FREE_SHOWS: u32 = 1000;

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

#[inline(always)]
fn jump_slot(linear: u64) -> usize {
    (linear ^ linear >> JUMP_SHIFT) as usize % JUMP_ENTRIES
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
    jumps: Vec<u16>,
    /// Link slots in use, by the linear address they lead to.
    links: BTreeMap<u64, Vec<u32>>,
    /// Code that holds only while several linear pages are what they were: its host address.
    spread: Vec<(Box<[u64]>, u64)>,
    /// Where superblocks start.
    bound: Bound,
    /// How often its code was found running.
    samples: u32,
    /// How often a page was missing in its windows.
    shows: u32,
    /// Windows cost it more than they saved.
    refuses_windows: bool,
}

impl TlbContext {
    /// Whether so many pages were missing in its windows that they are not worth it.
    fn misses_too_much(&self) -> bool {
        self.shows > FREE_SHOWS.saturating_add(self.samples)
    }
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
    windows: Windows,
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
                    links: BTreeMap::new(),
                    spread: Vec::new(),
                    bound: Bound::default(),
                    samples: 0,
                    shows: 0,
                    refuses_windows: false,
                })
                .collect(),
            current: 0,
            next_generation: CONTEXTS as u32 + 1,
            clock: 0,
            ram: memory.host_base() as u64,
            unlinked: Vec::new(),
            windows: Windows::new(memory.clone(), CONTEXTS + 1, vcpus),
            peers: Peers::default(),
        };
        tlb.prepare(0);
        tlb.prepare(BLIND);
        Ok(tlb)
    }

    /// Empties a context's tables, which are all zero, before its first use.
    fn prepare(&mut self, index: usize) {
        self.areas.tlb_mut(index)[0] = empty(0);
        self.areas.jumps_mut(index)[0] = no_jump(0);
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
        if self.contexts[victim].last_use == 0 {
            self.prepare(victim);
        }
        self.clock += 1;
        self.contexts[victim].last_use = self.clock;
        self.contexts[victim].key = Some(key);
        self.contexts[victim].samples = 0;
        self.contexts[victim].shows = 0;
        self.contexts[victim].refuses_windows = false;
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

/// An address of another entry, as [`no_tag`].
fn no_jump(place: usize) -> JumpEntry {
    JumpEntry { linear: u64::from(place == 0), code: 0 }
}

/// Jumps of translated code.
impl Tlb {
    /// What translated code reaches through GS, state first.
    pub(crate) fn state(&mut self) -> &mut NativeState {
        self.areas.state()
    }

    /// What GS is while the current context runs.
    #[inline]
    pub(crate) fn gs_base(&self) -> u64 {
        self.gs_base_of(self.current)
    }

    /// What GS is while a context runs.
    pub(super) fn gs_base_of(&self, index: usize) -> u64 {
        self.areas.gs_base(index)
    }

    /// Translated code for a linear address, if the current context knows it.
    #[inline]
    pub(crate) fn jump(&self, linear: u64) -> Option<u64> {
        let entry = &self.areas.jumps(self.current)[jump_slot(linear)];
        (entry.linear == linear).then_some(entry.code)
    }

    /// Remembers translated code for a linear address.
    pub(crate) fn set_jump(&mut self, linear: u64, ram_page: u64, code: u64) {
        self.code_runs_at(linear & !0xfff, ram_page);
        let place = jump_slot(linear);
        let entry = &mut self.areas.jumps_mut(self.current)[place];
        if entry.code == 0 {
            self.contexts[self.current].jumps.push(place as u16);
        }
        *entry = JumpEntry { linear, code };
    }

    /// Takes a slot in; it leads to `stub` in every context.
    pub(crate) fn add_slot(&mut self, slot: u32, stub: u64) {
        if self.unlinked.len() <= slot as usize {
            self.unlinked.resize(slot as usize + 1, 0);
        }
        self.unlinked[slot as usize] = stub;
        for index in 0..self.contexts.len() {
            if self.contexts[index].last_use != 0 || index == 0 {
                self.areas.links_mut(index)[slot as usize] = stub;
            }
        }
    }

    /// Links a slot in the current context to code at a linear address.
    pub(crate) fn set_link(&mut self, slot: u32, linear: u64, ram_page: u64, code: u64) {
        self.code_runs_at(linear & !0xfff, ram_page);
        self.areas.links_mut(self.current)[slot as usize] = code;
        let slots = self.contexts[self.current].links.entry(linear).or_default();
        if !slots.contains(&slot) {
            slots.push(slot);
        }
    }

    /// After a flush: the code pages of the current context and their pages of RAM, to be compared
    /// with what the page tables say now.
    pub(crate) fn take_stale_code(&mut self) -> Option<Vec<(u64, u64)>> {
        let context = &mut self.contexts[self.current];
        std::mem::take(&mut context.stale)
            .then(|| context.code.iter().map(|(&linear, &ram)| (linear, ram)).collect())
    }

    /// Forgets the current context's jumps and links to a linear page.
    pub(crate) fn forget_code_page(&mut self, page: u64) {
        self.forget_page_jumps(self.current, page);
    }

    /// Code in use by the current context that holds only while all these linear pages lead to
    /// these pages of RAM; it starts in the first. False: its start runs elsewhere, too.
    pub(crate) fn add_spread(&mut self, pages: &[(u64, u64)], code: u64) -> bool {
        let context = &mut self.contexts[self.current];
        let (linear, ram) = pages[0];
        if !context.bound.bind(linear, ram, &context.code) {
            return false;
        }
        for &(linear, ram) in pages {
            self.code_runs_at(linear, ram);
        }
        let pages = pages.iter().map(|page| page.0).collect();
        self.contexts[self.current].spread.push((pages, code));
        true
    }

    /// Notes that code of a page of RAM runs at a linear page of the current context.
    fn code_runs_at(&mut self, linear: u64, ram: u64) {
        let context = &mut self.contexts[self.current];
        if context.code.get(&linear).is_some_and(|&before| before != ram) {
            // What is found by its page of RAM must be all that leads there.
            self.forget_page_jumps(self.current, linear);
        }
        self.look_for_alias(linear, ram);
        let context = &mut self.contexts[self.current];
        let other = context.bound.meet(linear, ram);
        context.code.insert(linear, ram);
        if let Some(other) = other {
            let bound = context.spread.iter().filter(|(pages, _)| pages[0] == other);
            let gone: Vec<u64> = bound.map(|&(_, code)| code).collect();
            context.spread.retain(|(pages, _)| pages[0] != other);
            self.forget_code_in(self.current, &|_, code| gone.contains(&code));
        }
    }

    /// Code of a page of RAM is about to run at a linear page: if it does elsewhere, too, no slot of its
    /// blocks may stay linked, because blocks of the lower half are the same at both places.
    fn look_for_alias(&mut self, linear: u64, ram: u64) {
        const UPPER_HALF: u64 = 1 << 63;
        let context = &mut self.contexts[self.current];
        if linear >= UPPER_HALF || context.code.contains_key(&linear) {
            return;
        }
        let mut lower = context.code.range(..UPPER_HALF);
        if lower.any(|(_, &other)| other == ram) && context.aliased.insert(ram) {
            self.unlink_all(self.current);
        }
    }

    /// Whether slots of blocks that are not bound to a linear page may be linked in the current context.
    pub(crate) fn may_link(&self, ram_page: u64) -> bool {
        !self.contexts[self.current].aliased.contains(&ram_page)
    }

    /// Lets every slot of a context lead to where it is not linked.
    fn unlink_all(&mut self, index: usize) {
        for slot in std::mem::take(&mut self.contexts[index].links).into_values().flatten() {
            self.areas.links_mut(index)[slot as usize] = self.unlinked[slot as usize];
        }
    }

    /// Lets the current context's jumps and links to a linear address lead to other code.
    pub(crate) fn redirect(&mut self, linear: u64, from: u64, to: u64) {
        let Self { areas, contexts, current, .. } = self;
        let entry = &mut areas.jumps_mut(*current)[jump_slot(linear)];
        if entry.linear == linear && entry.code == from {
            entry.code = to;
        }
        let links = areas.links_mut(*current);
        for &slot in contexts[*current].links.get(&linear).into_iter().flatten() {
            if links[slot as usize] == from {
                links[slot as usize] = to;
            }
        }
    }

    fn forget_jumps(&mut self, index: usize) {
        self.contexts[index].code.clear();
        self.contexts[index].spread.clear();
        self.contexts[index].bound.clear();
        self.contexts[index].aliased.clear();
        for place in std::mem::take(&mut self.contexts[index].jumps) {
            self.areas.jumps_mut(index)[place as usize] = no_jump(place as usize);
        }
        self.unlink_all(index);
    }

    fn forget_page_jumps(&mut self, index: usize, page: u64) {
        let Some(ram) = self.contexts[index].code.remove(&page) else { return };
        self.contexts[index].bound.release(page, ram);
        self.forget_jumps_where(index, |entry| entry.linear & !0xfff == page);
        let Self { areas, contexts, unlinked, .. } = self;
        let links = &mut contexts[index].links;
        let mut rest = links.split_off(&page);
        // The last page has no successor.
        if let Some(next) = page.checked_add(0x1000) {
            links.append(&mut rest.split_off(&next));
        }
        for slot in rest.into_values().flatten() {
            areas.links_mut(index)[slot as usize] = unlinked[slot as usize];
        }
        let mut gone = Vec::new();
        self.contexts[index].spread.retain(|(pages, code)| {
            let goes = pages.contains(&page);
            if goes {
                gone.push(*code);
            }
            !goes
        });
        if !gone.is_empty() {
            self.forget_code_in(index, &|_, code| gone.contains(&code));
        }
    }

    /// Drops a context's jumps and links to code that `gone` says is no more; it is asked about
    /// slots, too.
    fn forget_code_in(&mut self, index: usize, gone: &impl Fn(Option<u32>, u64) -> bool) {
        self.forget_jumps_where(index, |entry| gone(None, entry.code));
        let Self { areas, contexts, unlinked, .. } = self;
        let links = areas.links_mut(index);
        contexts[index].links.retain(|_, slots| {
            slots.retain(|&slot| {
                let goes = gone(Some(slot), links[slot as usize]);
                if goes {
                    links[slot as usize] = unlinked[slot as usize];
                }
                !goes
            });
            !slots.is_empty()
        });
    }

    fn forget_jumps_where(&mut self, index: usize, jump: impl Fn(&JumpEntry) -> bool) {
        let Self { areas, contexts, .. } = self;
        let context = &mut contexts[index];
        let jumps = areas.jumps_mut(index);
        context.jumps.retain(|&place| {
            let entry = &mut jumps[place as usize];
            let goes = jump(entry);
            if goes {
                *entry = no_jump(place as usize);
            }
            !goes
        });
    }

    /// Drops every jump and link, in every context, to blocks that are no more, named by their places
    /// in RAM and the code's addresses: only where a context has that page's code are there any.
    pub(crate) fn forget_blocks(&mut self, gone: &[(u64, u64)]) {
        let mut pages: Vec<u64> = gone.iter().map(|(ram, _)| ram >> 12).collect();
        pages.sort_unstable();
        pages.dedup();
        for index in 0..self.contexts.len() {
            let at = self.contexts[index].code.iter();
            let at = at.filter(|(_, ram)| pages.binary_search(ram).is_ok());
            let at: Vec<(u64, u64)> = at.map(|(&linear, &ram)| (linear, ram)).collect();
            for (page, ram_page) in at {
                for &(ram, code) in gone.iter().filter(|(ram, _)| ram >> 12 == ram_page) {
                    self.forget_block(index, page | ram & 0xfff, code);
                }
                let spread = &mut self.contexts[index].spread;
                spread.retain(|(_, at)| !gone.iter().any(|(_, code)| code == at));
            }
        }
    }

    /// Drops a context's jump and links to code for a linear address.
    fn forget_block(&mut self, index: usize, linear: u64, code: u64) {
        let Self { areas, contexts, unlinked, .. } = self;
        let place = jump_slot(linear);
        let entry = &mut areas.jumps_mut(index)[place];
        if entry.linear == linear && entry.code == code {
            // Still among the entries in use, as its code says: that list is not searched here.
            entry.linear = no_jump(place).linear;
        }
        let links = areas.links_mut(index);
        if let Entry::Occupied(mut slots) = contexts[index].links.entry(linear) {
            slots.get_mut().retain(|&slot| {
                let goes = links[slot as usize] == code;
                if goes {
                    links[slot as usize] = unlinked[slot as usize];
                }
                !goes
            });
            if slots.get().is_empty() {
                slots.remove();
            }
        }
    }

    /// Drops every jump and link, in every context, to code in this range, and what these slots
    /// lead to: they may be taken in anew.
    pub(crate) fn forget_region(&mut self, code: &Range<u64>, slots: &Range<u32>) {
        for index in 0..self.contexts.len() {
            self.contexts[index].spread.retain(|(_, at)| !code.contains(at));
            self.forget_code_in(index, &|slot, to| {
                slot.is_some_and(|slot| slots.contains(&slot)) || code.contains(&to)
            });
        }
    }
}

#[cfg(test)]
impl Tlb {
    /// Host addresses that jumps and linked slots of any context lead to.
    pub(crate) fn code_in_use(&mut self) -> Vec<u64> {
        let Self { areas, contexts, unlinked, .. } = self;
        let mut found = Vec::new();
        for (index, context) in contexts.iter().enumerate() {
            let jumps = context.jumps.iter();
            let jumps = jumps.map(|&place| (place, &areas.jumps(index)[usize::from(place)]));
            let used = jumps.filter(|&(place, entry)| jump_slot(entry.linear) == place.into());
            found.extend(used.map(|(_, entry)| entry.code));
            let links = context.links.values().flatten();
            let links = links.map(|&slot| (slot, areas.links_mut(index)[slot as usize]));
            // A slot that was linked at two addresses may be on the list of the first one still.
            let used = links.filter(|&(slot, code)| code != unlinked[slot as usize]);
            found.extend(used.map(|(_, code)| code));
        }
        found
    }
}

/// Windows of the current context.
impl Tlb {
    /// Lets the current context's code use windows, and forgets what does not; false if the host
    /// has no room for them, or they were given up.
    pub(crate) fn enable_windows(&mut self) -> bool {
        if self.has_windows() || self.contexts[self.current].refuses_windows {
            return self.has_windows();
        }
        let enabled = self.windows.enable(&mut self.areas, self.current);
        if enabled {
            self.forget_jumps(self.current);
        }
        enabled
    }

    /// Whether the current context's code uses windows.
    #[inline]
    pub(crate) fn has_windows(&self) -> bool {
        self.windows.is_enabled(self.current)
    }

    /// Counts a page that is missing; false if so many are that windows are not worth it.
    pub(crate) fn may_show_another(&mut self) -> bool {
        let context = &mut self.contexts[self.current];
        context.shows = context.shows.saturating_add(1);
        !context.misses_too_much()
    }

    /// Gives the current context's windows up, for good, if it is missing so many pages.
    pub(crate) fn weigh_windows(&mut self) {
        let context = &mut self.contexts[self.current];
        if context.misses_too_much() && !context.refuses_windows {
            context.refuses_windows = true;
            self.forget_jumps(self.current);
            self.windows.disable(&mut self.areas, self.current);
        }
    }

    /// Notes that code of the current context was found running; tells how often it was.
    pub(crate) fn count_sample(&mut self) -> u32 {
        let samples = &mut self.contexts[self.current].samples;
        *samples = samples.saturating_add(1);
        *samples
    }

    /// Opens the window of an address; false if it is open or cannot be.
    pub(crate) fn open_window(&mut self, linear: u64) -> bool {
        self.windows.open(&mut self.areas, self.current, linear)
    }

    /// The address that a host address in a window stands for.
    pub(crate) fn seen_through(&self, host: u64) -> Option<u64> {
        self.windows.linear(self.current, host)
    }

    /// What is shown at a linear page.
    pub(crate) fn shown(&self, page: u64) -> Option<Shown> {
        self.windows.at(self.current, page)
    }

    /// Shows a run of pages; false if the host has no room.
    pub(crate) fn show(&mut self, page: u64, count: u64, first: Shown) -> bool {
        self.windows.show(self.current, page, count, first)
    }

    /// Hides a linear page.
    pub(crate) fn hide(&mut self, page: u64) {
        self.windows.hide(self.current, page);
    }

    /// After a flush: what the current context shows, to be walked again.
    pub(crate) fn take_stale_windows(&mut self) -> Option<Vec<(u64, Shown)>> {
        self.windows.take_stale(self.current)
    }
}

#[cfg(test)]
mod tests {
    use x86::GuestPhys;

    use super::*;

    fn tlb() -> Tlb {
        let memory = GuestMemory::new(&[(GuestPhys(0), 0x10_0000)]).unwrap();
        Tlb::new(&Arc::new(memory), 1).unwrap()
    }

    fn context(cr3: u64, user: bool) -> Context {
        Context { cr3, user, cr4: 1 << 17, ..Context::default() }
    }

    #[test]
    fn contexts_keep_their_own_entries_and_flush_apart() {
        let mut tlb = tlb();
        tlb.switch(&context(0x1001, true));
        tlb.insert(Kind::Read, 0x7000, RamOffset(0x2000), 4096, false);
        assert_eq!(tlb.lookup(Kind::Read, 0x7ff8, 8), Some(RamOffset(0x2ff8)));
        assert_eq!(tlb.lookup(Kind::Read, 0x7ff9, 8), None, "crosses the page");
        assert_eq!(tlb.lookup(Kind::Write, 0x7000, 1), None);
        tlb.switch(&context(0x2002, true));
        assert_eq!(tlb.lookup(Kind::Read, 0x7000, 8), None);
        tlb.flush_pcid(2);
        tlb.switch(&context(0x1001, true));
        assert!(tlb.lookup(Kind::Read, 0x7000, 8).is_some());
        let before = tlb.generation();
        tlb.flush_page(0x7abc);
        assert_eq!(tlb.lookup(Kind::Read, 0x7000, 8), None);
        assert_ne!(tlb.generation(), before);
    }

    #[test]
    fn kernel_contexts_keep_what_is_global_when_the_space_changes() {
        let mut tlb = tlb();
        tlb.switch(&context(0x1001, false));
        tlb.insert(Kind::Read, 0x7000, RamOffset(0x2000), 4096, false);
        tlb.insert(Kind::Read, 0x9000, RamOffset(0x3000), 4096, true);
        tlb.switch(&context(0x2002, false));
        assert_eq!(tlb.lookup(Kind::Read, 0x7000, 8), None);
        assert_eq!(tlb.lookup(Kind::Read, 0x9000, 8), Some(RamOffset(0x3000)));
        tlb.flush_pcid(2);
        assert!(tlb.lookup(Kind::Read, 0x9000, 8).is_some());
        tlb.flush_page(0x9000);
        assert_eq!(tlb.lookup(Kind::Read, 0x9000, 8), None);
    }

    #[test]
    fn victims_outlive_the_tlb_by_no_flush() {
        let mut tlb = tlb();
        for _ in 0..2 * GENERATIONS {
            tlb.switch(&context(0x1001, true));
            tlb.insert(Kind::Write, 0x5000, RamOffset(0x4000), 4096, false);
            tlb.flush_all();
            let generation = *tlb.areas.victim_generation(tlb.current);
            let tags = tlb.areas.victims_mut(tlb.current)[5].tags;
            assert!(tags.iter().all(|&tag| tag != 0x5000 | generation));
        }
    }

    #[test]
    fn a_page_inside_a_large_one_flushes_the_whole() {
        let mut tlb = tlb();
        tlb.switch(&context(0x1001, false));
        tlb.insert(Kind::Read, 0x20_1000, RamOffset(0x1000), 1 << 21, false);
        tlb.flush_page(0x3f_f000);
        assert_eq!(tlb.lookup(Kind::Read, 0x20_1000, 1), None);
    }

    #[test]
    fn empty_slots_never_match() {
        let tlb = tlb();
        for page in 0..1024u64 {
            assert_eq!(tlb.lookup(Kind::Read, page << 12, 1), None);
            assert_eq!(tlb.lookup(Kind::Fetch, !0 << 47 | page << 12, 1), None);
        }
    }
}
