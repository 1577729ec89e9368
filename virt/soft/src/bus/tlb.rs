//! The software TLB: per translation context, direct-mapped tables for reads, writes, fetches.
//!
//! An entry maps a linear page to a place in RAM and exists only while an access of that kind
//! needs no further check: MMIO, pages with decoded code (writes), clean pages (writes), watched
//! or alignment-checked contexts never get one, so the hot path is one xor and one compare.
//!
//! Contexts stand for (address space, privilege, protection bits). A context switch is a change of
//! index; a flush gives a context a fresh generation, which also unbinds every cached jump into it.

use interp::Context;
use memory::RamOffset;

/// Entries per table.
const ENTRIES: usize = 256;
/// Contexts kept per vCPU.
const CONTEXTS: usize = 8;

/// One cached translation.
#[derive(Clone, Copy)]
struct Entry {
    /// Linear page base, or a page that this slot can never hold.
    tag: u64,
    /// RAM offset of the page.
    ram: u64,
}

/// What an access wants; selects the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read = 0,
    Write = 1,
    Fetch = 2,
}

/// Direct-mapped table for one kind of access.
struct Table([Entry; ENTRIES]);

impl Table {
    fn new() -> Self {
        let mut table = Self([Entry { tag: 0, ram: 0 }; ENTRIES]);
        table.clear();
        table
    }

    #[inline(always)]
    fn slot(page: u64) -> usize {
        page as usize % ENTRIES
    }

    fn clear(&mut self) {
        for (index, entry) in self.0.iter_mut().enumerate() {
            // A page of another slot: no address that looks here can match.
            entry.tag = (index as u64 ^ 1) << 12;
        }
    }

    fn drop_page(&mut self, linear: u64) {
        let index = Self::slot(linear >> 12);
        if self.0[index].tag == linear & !0xfff {
            self.0[index].tag = (index as u64 ^ 1) << 12;
        }
    }
}

struct TlbContext {
    key: Option<Context>,
    generation: u32,
    tables: Box<[Table; 3]>,
    /// Linear range that large pages cover, as (lowest, highest) page base; empty when low > high.
    large: (u64, u64),
    last_use: u64,
}

impl TlbContext {
    fn clear(&mut self) {
        for table in self.tables.iter_mut() {
            table.clear();
        }
        self.large = (u64::MAX, 0);
    }
}

/// All contexts of one vCPU.
pub(crate) struct Tlb {
    contexts: Vec<TlbContext>,
    current: usize,
    next_generation: u32,
    clock: u64,
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
    pub(crate) fn new() -> Self {
        let contexts = (0..CONTEXTS)
            .map(|index| TlbContext {
                key: None,
                generation: index as u32,
                tables: Box::new([Table::new(), Table::new(), Table::new()]),
                large: (u64::MAX, 0),
                last_use: 0,
            })
            .collect();
        Self { contexts, current: 0, next_generation: CONTEXTS as u32, clock: 0 }
    }

    /// Looks an access of `size` bytes up: its place in RAM, if cached and within one page.
    #[inline(always)]
    pub(crate) fn lookup(&self, kind: Kind, linear: u64, size: u64) -> Option<RamOffset> {
        let table = &self.contexts[self.current].tables[kind as usize];
        let entry = &table.0[Table::slot(linear >> 12)];
        let offset = linear ^ entry.tag;
        (offset <= 4096 - size).then(|| RamOffset(entry.ram + offset))
    }

    /// Caches a translation for one kind of access in the current context.
    pub(crate) fn insert(&mut self, kind: Kind, linear: u64, page: RamOffset, mapped_size: u64) {
        let context = &mut self.contexts[self.current];
        let base = linear & !0xfff;
        context.tables[kind as usize].0[Table::slot(linear >> 12)] =
            Entry { tag: base, ram: page.0 };
        if mapped_size > 4096 {
            let low = linear & !(mapped_size - 1);
            context.large.0 = context.large.0.min(low);
            context.large.1 = context.large.1.max(low + (mapped_size - 4096));
        }
    }

    /// Makes a context current, reusing what it cached before; true if it is another one.
    pub(crate) fn switch(&mut self, wanted: &Context) -> bool {
        let mut key = *wanted;
        key.cr3 = space(wanted);
        if self.contexts[self.current].key == Some(key) {
            return false;
        }
        self.clock += 1;
        let found = self.contexts.iter().position(|context| context.key == Some(key));
        self.current = found.unwrap_or_else(|| self.evict(key));
        self.contexts[self.current].last_use = self.clock;
        true
    }

    fn evict(&mut self, key: Context) -> usize {
        let (victim, _) = self
            .contexts
            .iter()
            .enumerate()
            .min_by_key(|(_, context)| context.last_use)
            .expect("there are always contexts");
        self.contexts[victim].key = Some(key);
        self.flush_context(victim);
        victim
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
        let generation = self.fresh_generation();
        let context = &mut self.contexts[index];
        context.clear();
        context.generation = generation;
    }

    fn flush_where(&mut self, mut drop: impl FnMut(&Context) -> bool) {
        for index in 0..self.contexts.len() {
            if self.contexts[index].key.as_ref().is_some_and(&mut drop) {
                self.flush_context(index);
            }
        }
    }

    /// Drops everything.
    pub(crate) fn flush_all(&mut self) {
        self.flush_where(|_| true);
    }

    /// Drops the address space that is current (the one of this CR3 and PCID).
    pub(crate) fn flush_current_space(&mut self) {
        let Some(current) = self.contexts[self.current].key else { return };
        match pcid(&current) {
            Some(id) => self.flush_pcid(id),
            // Without PCIDs there is one set of non-global entries, whatever CR3 was.
            None => self.flush_all(),
        }
    }

    /// Drops one PCID's translations.
    pub(crate) fn flush_pcid(&mut self, id: u16) {
        self.flush_where(|context| pcid(context).is_none_or(|other| other == id));
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
            let generation = self.fresh_generation();
            let context = &mut self.contexts[index];
            for table in context.tables.iter_mut() {
                table.drop_page(page);
            }
            context.generation = generation;
        }
    }

    /// Drops all write entries that point at one page of RAM: it now holds decoded code.
    pub(crate) fn protect_ram_page(&mut self, page: RamOffset) {
        for context in &mut self.contexts {
            for (index, entry) in context.tables[Kind::Write as usize].0.iter_mut().enumerate() {
                if entry.ram == page.0 {
                    entry.tag = (index as u64 ^ 1) << 12;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(cr3: u64, user: bool) -> Context {
        Context { cr3, user, cr4: 1 << 17, ..Context::default() }
    }

    #[test]
    fn contexts_keep_their_own_entries_and_flush_apart() {
        let mut tlb = Tlb::new();
        tlb.switch(&context(0x1001, false));
        tlb.insert(Kind::Read, 0x7000, RamOffset(0x2000), 4096);
        assert_eq!(tlb.lookup(Kind::Read, 0x7ff8, 8), Some(RamOffset(0x2ff8)));
        assert_eq!(tlb.lookup(Kind::Read, 0x7ff9, 8), None, "crosses the page");
        assert_eq!(tlb.lookup(Kind::Write, 0x7000, 1), None);
        tlb.switch(&context(0x2002, false));
        assert_eq!(tlb.lookup(Kind::Read, 0x7000, 8), None);
        tlb.flush_pcid(2);
        tlb.switch(&context(0x1001, false));
        assert!(tlb.lookup(Kind::Read, 0x7000, 8).is_some());
        let before = tlb.generation();
        tlb.flush_page(0x7abc);
        assert_eq!(tlb.lookup(Kind::Read, 0x7000, 8), None);
        assert_ne!(tlb.generation(), before);
    }

    #[test]
    fn a_page_inside_a_large_one_flushes_the_whole() {
        let mut tlb = Tlb::new();
        tlb.switch(&context(0x1001, false));
        tlb.insert(Kind::Read, 0x20_1000, RamOffset(0x1000), 1 << 21);
        tlb.flush_page(0x3f_f000);
        assert_eq!(tlb.lookup(Kind::Read, 0x20_1000, 1), None);
    }

    #[test]
    fn empty_slots_never_match() {
        let tlb = Tlb::new();
        for page in 0..1024u64 {
            assert_eq!(tlb.lookup(Kind::Read, page << 12, 1), None);
            assert_eq!(tlb.lookup(Kind::Fetch, !0 << 47 | page << 12, 1), None);
        }
    }
}
