//! Jumps and links of translated code, by context: where a linear address's code lies, and what each
//! branch beyond its page leads to.
//!
//! A place in the cache has two entries: a jump makes way to the second when another one comes that has the same
//! place. Code looks at the first in line, and at the second before it leaves.
//!
//! Invariant: an address's jump and links lead to code of the page of RAM that `TlbContext::code`
//! says is there, so what leads to a page's code is found by the page.

use std::ops::{Range, RangeInclusive};

use super::Tlb;
use crate::cache::area::JumpEntry;
use crate::cache::layout::{JUMP_GRAIN, JUMP_PLACES, JUMP_SECOND, JUMP_SHIFT};
use crate::cache::state::NativeState;

/// The entries that may hold an address's jump, the likelier one first.
#[inline(always)]
fn entries(linear: u64) -> [usize; 2] {
    let sum = linear.wrapping_add(linear >> JUMP_SHIFT);
    let place = (sum >> JUMP_GRAIN) as usize % JUMP_PLACES;
    [place, place + JUMP_SECOND]
}

/// The entries in which a zero would be an address of theirs: address 0 has the first place, and is
/// looked for in the last as well where the budget is spent.
pub(super) const NOT_ZERO: [usize; 3] = [0, JUMP_PLACES - 1, JUMP_SECOND];

/// An address that none of these is looked at for.
const ELSEWHERE: u64 = 0x8000;

/// An address of another entry, as [`no_tag`].
pub(super) fn no_jump(place: usize) -> JumpEntry {
    let linear = if NOT_ZERO.contains(&place) { ELSEWHERE } else { 0 };
    JumpEntry { linear, code: 0 }
}

/// Whether a place's first entry holds a jump that was not forgotten.
fn is_live(entry: &JumpEntry, first: usize) -> bool {
    entry.code != 0 && entries(entry.linear)[0] == first
}

/// The slots that lead to a linear address, among a context's links.
fn slots_at(linear: u64) -> RangeInclusive<(u64, u32)> {
    (linear, 0)..=(linear, u32::MAX)
}

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
    pub(in crate::bus) fn gs_base_of(&self, index: usize) -> u64 {
        self.areas.gs_base(index)
    }

    /// Translated code for a linear address, if the current context knows it: from now on where it is
    /// looked for first.
    #[inline]
    pub(crate) fn jump(&mut self, linear: u64) -> Option<u64> {
        let jumps = self.areas.jumps(self.current);
        let [first, second] = entries(linear);
        if jumps[first].linear == linear {
            return Some(jumps[first].code);
        }
        if jumps[second].linear != linear {
            return None;
        }
        let (before, jump) = (jumps[first], jumps[second]);
        if is_live(&before, first) {
            self.areas.jumps_mut(self.current)[second] = before;
        }
        self.put_jump(first, jump);
        Some(jump.code)
    }

    /// Remembers translated code for a linear address.
    pub(crate) fn set_jump(&mut self, linear: u64, ram_page: u64, code: u64) {
        self.code_runs_at(linear & !0xfff, ram_page);
        let [first, second] = entries(linear);
        let before = self.areas.jumps(self.current)[first];
        if is_live(&before, first) && before.linear != linear {
            self.put_jump(second, before);
        }
        self.put_jump(first, JumpEntry { linear, code });
    }

    fn put_jump(&mut self, at: usize, jump: JumpEntry) {
        let entry = &mut self.areas.jumps_mut(self.current)[at];
        let context = &mut self.contexts[self.current];
        if entry.code == 0 {
            context.jumps.push(at as u32);
            self.jump_pages += usize::from(context.touch_jump(at));
        }
        *entry = jump;
    }

    /// Takes a slot in; it leads to `stub` in every context.
    pub(crate) fn add_slot(&mut self, slot: u32, stub: u64) {
        if self.unlinked.len() <= slot as usize {
            self.unlinked.resize(slot as usize + 1, 0);
        }
        self.unlinked[slot as usize] = stub;
        for index in 0..self.contexts.len() {
            if self.contexts[index].prepared {
                self.areas.links_mut(index)[slot as usize] = stub;
            }
        }
    }

    /// Links a slot in the current context to code at a linear address.
    pub(crate) fn set_link(&mut self, slot: u32, linear: u64, ram_page: u64, code: u64) {
        self.code_runs_at(linear & !0xfff, ram_page);
        self.areas.links_mut(self.current)[slot as usize] = code;
        self.contexts[self.current].links.insert((linear, slot));
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
        match context.code.get(&linear) {
            Some(&before) if before == ram => return,
            // What is found by its page of RAM must be all that leads there.
            Some(_) => self.forget_page_jumps(self.current, linear),
            None => {}
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
        for (_, slot) in std::mem::take(&mut self.contexts[index].links) {
            self.areas.links_mut(index)[slot as usize] = self.unlinked[slot as usize];
        }
    }

    /// Lets the current context's jumps and links to a linear address lead to other code.
    pub(crate) fn redirect(&mut self, linear: u64, from: u64, to: u64) {
        let Self { areas, contexts, current, .. } = self;
        for at in entries(linear) {
            let entry = &mut areas.jumps_mut(*current)[at];
            if entry.linear == linear && entry.code == from {
                entry.code = to;
            }
        }
        let links = areas.links_mut(*current);
        for &(_, slot) in contexts[*current].links.range(slots_at(linear)) {
            if links[slot as usize] == from {
                links[slot as usize] = to;
            }
        }
    }

    pub(super) fn forget_jumps(&mut self, index: usize) {
        self.contexts[index].code.clear();
        self.contexts[index].spread.clear();
        self.contexts[index].bound.clear();
        self.contexts[index].aliased.clear();
        for place in std::mem::take(&mut self.contexts[index].jumps) {
            self.areas.jumps_mut(index)[place as usize] = no_jump(place as usize);
        }
        self.unlink_all(index);
    }

    pub(super) fn forget_page_jumps(&mut self, index: usize, page: u64) {
        let Some(ram) = self.contexts[index].code.remove(&page) else { return };
        self.contexts[index].bound.release(page, ram);
        self.forget_jumps_where(index, |entry| entry.linear & !0xfff == page);
        let Self { areas, contexts, unlinked, .. } = self;
        let links = &mut contexts[index].links;
        let there: Vec<_> = links.range((page, 0)..=(page | 0xfff, u32::MAX)).copied().collect();
        for link in there {
            links.remove(&link);
            areas.links_mut(index)[link.1 as usize] = unlinked[link.1 as usize];
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
        contexts[index].links.retain(|&(_, slot)| {
            let goes = gone(Some(slot), links[slot as usize]);
            if goes {
                links[slot as usize] = unlinked[slot as usize];
            }
            !goes
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
        for place in entries(linear) {
            let entry = &mut areas.jumps_mut(index)[place];
            if entry.linear == linear && entry.code == code {
                // Still among the entries in use, as its code says: that list is not searched here.
                entry.linear = no_jump(place).linear;
            }
        }
        let links = areas.links_mut(index);
        let there = contexts[index].links.range(slots_at(linear));
        let gone: Vec<_> =
            there.filter(|(_, slot)| links[*slot as usize] == code).copied().collect();
        for link in gone {
            contexts[index].links.remove(&link);
            links[link.1 as usize] = unlinked[link.1 as usize];
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
            let jumps = jumps.map(|&place| (place, &areas.jumps(index)[place as usize]));
            let used =
                jumps.filter(|&(place, entry)| entries(entry.linear).contains(&(place as usize)));
            found.extend(used.map(|(_, entry)| entry.code));
            let links = context.links.iter();
            let links = links.map(|&(_, slot)| (slot, areas.links_mut(index)[slot as usize]));
            // A slot that was linked at two addresses may be on the list of the first one still.
            let used = links.filter(|&(slot, code)| code != unlinked[slot as usize]);
            found.extend(used.map(|(_, code)| code));
        }
        found
    }
}
