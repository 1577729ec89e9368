//! What contexts' tables cost, and how those of idle contexts go.
//!
//! Invariant: neither the current context nor one that translated code may go to by itself (a peer)
//! gives its tables up.

use super::{BLIND, CONTEXTS, Tlb, TlbContext};
use crate::cache::layout::{JUMP_ENTRIES, TLB_ENTRIES, TLB_ENTRY, VICTIM_ENTRIES};

/// log2 of the jump-cache entries that lie in a page.
const ENTRIES_BITS: u32 = 8;
/// Pages of a jump cache.
pub(super) const JUMP_PAGES: usize = JUMP_ENTRIES >> ENTRIES_BITS;
/// Pages of a context's TLB and victims.
const TLB_PAGES: usize = (TLB_ENTRIES + VICTIM_ENTRIES) * TLB_ENTRY / 4096;
/// log2 of the link slots that lie in a page.
const SLOTS_BITS: u32 = 9;

impl TlbContext {
    /// Notes a jump-cache entry in use; whether its page was not before.
    pub(super) fn touch_jump(&mut self, place: usize) -> bool {
        let page = place >> ENTRIES_BITS;
        let word = &mut self.jump_pages[page / 64];
        let bit = 1 << (page % 64);
        std::mem::replace(word, *word | bit) & bit == 0
    }
}

impl Tlb {
    /// Pages that the tables of all contexts take, at most.
    fn tables(&self) -> usize {
        let prepared = self.contexts.iter().filter(|context| context.prepared).count();
        self.jump_pages + prepared * (TLB_PAGES + (self.unlinked.len() >> SLOTS_BITS))
    }

    /// Lets idle contexts go until the others' tables take no more than they may.
    pub(super) fn limit_tables(&mut self) {
        self.limit_tables_to(self.most_pages);
    }

    /// Lets all idle contexts go.
    pub(crate) fn give_up_idle(&mut self) {
        self.limit_tables_to(0);
    }

    fn limit_tables_to(&mut self, most: usize) {
        while !self.is_blind() && self.tables() > most {
            let idle = |&index: &usize| {
                self.contexts[index].prepared && index != self.current && !self.peers.has(index)
            };
            let least = (0..CONTEXTS).filter(idle).min_by_key(|&at| self.contexts[at].last_use);
            let Some(index) = least else { return };
            self.give_up(index);
        }
    }

    /// Lets a context go with its tables.
    fn give_up(&mut self, index: usize) {
        debug_assert!(index != BLIND);
        self.forget_jumps(index);
        self.windows.disable(&mut self.areas, index);
        self.flush_context(index);
        self.areas.give_back(index);
        let context = &mut self.contexts[index];
        context.key = None;
        // The next one that is wanted comes here.
        context.last_use = 0;
        context.prepared = false;
        let pages = std::mem::replace(&mut context.jump_pages, [0; JUMP_PAGES / 64]);
        self.jump_pages -= pages.iter().map(|word| word.count_ones() as usize).sum::<usize>();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use interp::Context;
    use memory::{GuestMemory, RamOffset};
    use x86::GuestPhys;

    use super::super::Kind;
    use super::*;
    use crate::cache::layout::JUMP_GRAIN;

    fn user(space: u64) -> Context {
        Context { cr3: space << 12, user: true, cr4: 1 << 17, ..Context::default() }
    }

    /// As many jumps as fill a jump cache.
    fn run_much(tlb: &mut Tlb, code: u64) {
        for page in 0..JUMP_PAGES as u64 {
            let linear = page << (ENTRIES_BITS + u32::from(JUMP_GRAIN));
            tlb.set_jump(linear, linear >> 12, code + page);
        }
    }

    #[test]
    fn contexts_that_are_not_used_give_their_tables_up() {
        let memory = Arc::new(GuestMemory::new(&[(GuestPhys(0), 0x10_0000)]).unwrap());
        let mut tlb = Tlb::new(&memory, 4).unwrap();
        for slot in 0..1000 {
            tlb.add_slot(slot, 0x5000 + u64::from(slot));
        }
        for space in 1..=12 {
            tlb.switch(&user(space));
            tlb.insert(Kind::Read, 0x7000, RamOffset(space << 12), 4096, false);
            run_much(&mut tlb, space << 32);
            tlb.set_link(7, 0x100, 0, space << 32);
            tlb.switch(&user(1));
            assert!(tlb.tables() <= tlb.most_pages, "{} pages", tlb.tables());
        }
        let kept = |tlb: &Tlb, space| tlb.contexts.iter().any(|at| at.key == Some(user(space)));
        assert!(kept(&tlb, 1) && kept(&tlb, 12) && !kept(&tlb, 2));
        assert_eq!(tlb.jump(0xc00), Some((1 << 32) + 3), "what is used stays");
        // Back again, it knows nothing of before, and works.
        tlb.switch(&user(2));
        assert_eq!((tlb.jump(0xc00), tlb.lookup(Kind::Read, 0x7000, 1)), (None, None));
        assert!(
            tlb.areas.links_mut(tlb.current)[..1000].iter().zip(0x5000..).all(|(a, b)| *a == b)
        );
        assert_eq!(tlb.jump(0), None);
        tlb.insert(Kind::Read, 0x7000, RamOffset(0x9000), 4096, false);
        run_much(&mut tlb, 5);
        assert_eq!(tlb.jump(0xc00), Some(8));
        assert_eq!(tlb.lookup(Kind::Read, 0x7000, 1), Some(RamOffset(0x9000)));
    }

    #[test]
    fn peers_keep_their_tables() {
        let memory = Arc::new(GuestMemory::new(&[(GuestPhys(0), 0x10_0000)]).unwrap());
        let mut tlb = Tlb::new(&memory, 4).unwrap();
        tlb.most_pages = 1;
        let kernel = Context { user: false, ..user(1) };
        tlb.switch(&kernel);
        run_much(&mut tlb, 5);
        tlb.switch(&user(1));
        run_much(&mut tlb, 6);
        tlb.switch(&kernel);
        assert_eq!(tlb.jump(0xc00), Some(8));
        tlb.switch(&user(1));
        assert_eq!(tlb.jump(0xc00), Some(9));
    }
}
