//! Which pages windows show, and which the checks of stores fill the TLB for: those that the guest's
//! page tables let pass without a change.

use ::memory::{GuestMemory, GuestPhys, RamOffset};
use x86::addr::PAGE_SIZE;
use x86::paging::{TableMemory, Translation, WalkAccess};

use super::SoftBus;
use super::tlb::Kind;
use super::translate::Place;
use crate::cache::windows::Shown;

/// Pages looked at together when one is missing: they tend to be touched together, too.
const CLUSTER: u64 = 16;

/// Page tables that are only looked at: what a walk would set is noted instead.
struct Unchanged<T> {
    tables: T,
    /// An accessed or dirty bit was missing.
    wanted: bool,
}

impl<T: TableMemory> TableMemory for Unchanged<T> {
    fn entry(&mut self, at: GuestPhys, bytes: u8) -> Option<u64> {
        self.tables.entry(at, bytes)
    }

    fn replace(&mut self, _: GuestPhys, _: u8, _: u64, _: u64) -> bool {
        self.wanted = true;
        true
    }
}

impl SoftBus {
    /// Fills the TLB for stores near a linear address, if its page is dirty already. False: no table
    /// has been changed.
    pub(crate) fn fill_dirty(&mut self, linear: u64) -> bool {
        let mut tables = Unchanged { tables: self.tables(), wanted: false };
        let access = WalkAccess { write: true, fetch: false, user: self.context.user };
        let Ok(found) = self.walk_in(&mut tables, linear, access) else { return false };
        let wanted = tables.wanted;
        drop(tables);
        let Some((page, _)) = self.memory.locate(found.page).filter(|_| !wanted) else {
            return false;
        };
        self.fill(Kind::Write, linear, page, &found);
        true
    }

    /// What may be shown at a linear page: nothing unless it was accessed before, writable only if
    /// it is dirty and holds no code; and how it is mapped.
    fn showable(&self, page: u64) -> Option<(Shown, Translation)> {
        let mut tables = Unchanged { tables: self.tables(), wanted: false };
        let access = WalkAccess { write: false, fetch: false, user: self.context.user };
        let found = self.walk_in(&mut tables, page, access).ok()?;
        if tables.wanted {
            return None;
        }
        let (offset, _) = self.memory.locate(found.page)?;
        Some((self.shown_as(offset.0 >> 12, found.writable), found))
    }

    /// A page of RAM that may be read, and `writable` says whether the tables allow more.
    fn shown_as(&self, ram: u64, writable: bool) -> Shown {
        if writable {
            self.note_written(ram);
        }
        Shown { ram, writable: writable && !self.memory.code().is_set(ram) }
    }

    /// Shows the page of an access that faulted in its window. False: that is not all it needs.
    pub(crate) fn show(&mut self, kind: Kind, linear: u64) -> bool {
        let Ok(Place::Ram(_)) = self.translate(kind, linear) else { return false };
        let page = linear & !0xfff;
        let Some((wanted, found)) = self.showable(page) else { return false };
        if kind == Kind::Write && !wanted.writable || self.tlb.shown(page) == Some(wanted) {
            return false;
        }
        if let Some(ram) = self.large_page(page, &found) {
            return self.show_large(page, ram, found.writable);
        }
        let start = page & !(CLUSTER * PAGE_SIZE - 1);
        self.show_around(start, CLUSTER, |bus, at| match at == page {
            true => Some(wanted),
            false if bus.tlb.shown(at).is_some() => None,
            false => bus.showable(at).map(|found| found.0),
        })
    }

    /// Where the large page around a linear page lies in RAM, if one maps it and all of it is RAM.
    fn large_page(&self, page: u64, found: &Translation) -> Option<RamOffset> {
        let before = page & (GuestMemory::LARGE_PAGE - 1);
        let start = found.page.0.checked_sub(before).filter(|_| found.size > PAGE_SIZE)?;
        let (ram, left) = self.memory.locate(GuestPhys(start))?;
        (left >= GuestMemory::LARGE_PAGE && ram.0.is_multiple_of(GuestMemory::LARGE_PAGE))
            .then_some(ram)
    }

    /// Shows all of the large page around a linear page. Accessed, dirty or not, all of it is.
    fn show_large(&mut self, page: u64, ram: RamOffset, writable: bool) -> bool {
        self.want_large(ram);
        let start = page & !(GuestMemory::LARGE_PAGE - 1);
        let first = ram.0 >> 12;
        let count = GuestMemory::LARGE_PAGE / PAGE_SIZE;
        self.show_around(start, count, |bus, at| {
            Some(bus.shown_as(first + ((at - start) >> 12), writable))
        })
    }

    /// Shows pages that are not yet, in as few mappings as they lie in RAM.
    fn show_around(
        &mut self,
        start: u64,
        count: u64,
        what: impl Fn(&Self, u64) -> Option<Shown>,
    ) -> bool {
        let mut run: Option<(u64, u64, Shown)> = None;
        for index in 0..count {
            let at = start + index * PAGE_SIZE;
            let shown = what(self, at).filter(|&wanted| self.tlb.shown(at) != Some(wanted));
            let goes_on = |first: &(u64, u64, Shown), next: Shown| {
                first.2.writable == next.writable && first.2.ram + first.1 == next.ram
            };
            run = match (run, shown) {
                (Some(first), Some(next)) if goes_on(&first, next) => {
                    Some((first.0, first.1 + 1, first.2))
                }
                (before, next) => {
                    if before.is_some_and(|run| !self.show_run(run)) {
                        return false;
                    }
                    next.map(|shown| (at, 1, shown))
                }
            };
        }
        run.is_none_or(|run| self.show_run(run))
    }

    fn show_run(&mut self, (page, count, first): (u64, u64, Shown)) -> bool {
        if first.writable {
            (0..count).for_each(|index| {
                self.memory.dirty().set(first.ram + index);
            });
        }
        self.tlb.show(page, count, first)
    }

    /// Walks again to every page that is shown in the current context; what is not as it was is
    /// hidden.
    pub(super) fn revalidate_windows(&mut self) {
        let Some(pages) = self.tlb.take_stale_windows() else { return };
        for (page, shown) in pages {
            let now = self.showable(page).map(|found| found.0);
            let still =
                now.is_some_and(|now| now.ram == shown.ram && (now.writable || !shown.writable));
            if !still {
                self.tlb.hide(page);
            }
        }
    }
}
