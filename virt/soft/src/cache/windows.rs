//! Windows: the guest's pages where the host's own MMU finds them, for hot translated code.
//!
//! The low 48 bits of an address name one of 65,536 stretches of 4 GiB. A stretch in use has a
//! window: 4 GiB of the host's address space in which the stretch's pages of RAM are shown as
//! the guest's page tables have them, one by one as they are first touched. The context's table
//! holds for each stretch what leads from the guest's address to the window's, so that an access
//! costs two instructions more, and no flags:
//!
//! ```text
//! rorx  r11, rbx, 32
//! mov   r11, gs:[r11d*8 + WINDOWS_MIDDLE]
//! mov   eax, [rbx + r11 + 8]
//! ```
//!
//! Where the address comes out of memory itself, it is compared with the stretch it will probably be in, and what leads
//! there is loaded without waiting for it; elsewhere it is looked up out of line (see `translate::forecast`).
//!
//! With the address's size of 32 bits (67h) the upper half's entries lie in front of the lower half's. An address
//! that is not canonical finds no entry: most find what is not accessible, and the signal's handler gives them what leads
//! nowhere; the others find a number by which they are not canonical after (see `layout`).
//!
//! A stretch without a window leads to a nowhere that is never accessible, and addresses that are
//! not canonical stay so, because an entry moves bits 47:0 and leaves what is above. So whatever
//! the guest's registers hold, an access reaches a page of its own or faults; then `SoftVcpu`
//! shows the page, or leaves the instruction to the interpreter.
//!
//! Invariant: a page is shown only where a walk of the guest's tables allows what it is shown for
//! (writable only once dirty, never while it holds decoded code) and until that translation is
//! flushed: what is flushed whole is walked again before translated code runs.

use std::collections::HashMap;
use std::fs::File;
use std::hash::BuildHasherDefault;
use std::io::{self, Write};
use std::sync::Arc;

use memory::{GuestMemory, RamOffset, Reservation};
use rustix::fs::{MemfdFlags, memfd_create};

use super::area::Areas;
use super::layout::{WINDOW_ENTRIES, WINDOW_TABLE, window_entry};
use crate::block::Mix;

/// Bytes of a window.
const SPAN: u64 = 1 << 32;
/// Bytes on both sides of one that are never accessible: more than emitted code adds to an address
/// behind the look-up, which is REACH, a displacement of 32 bits, and an index of INDEX_BITS.
const GUARD: u64 = 40 << 30;
/// The most bits of an index, a signed number, times its scale.
pub(crate) const INDEX_BITS: u8 = 36;
/// Between the addresses of accesses that share a look-up.
pub(crate) const REACH: i32 = 1 << 20;
/// Stretches a context can have a window for.
const MOST_WINDOWS: usize = 64;
/// Pages shown at once by all vCPUs of a VM; each may be a mapping of its own, of which the host
/// allows a process 65,530 (vm.max_map_count).
const MOST_PAGES: usize = 48_000;

type Map<K, V> = HashMap<K, V, BuildHasherDefault<Mix>>;

/// A page that is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Page of RAM.
    pub(crate) ram: u64,
    pub(crate) writable: bool,
}

struct Window {
    stretch: u16,
    space: Reservation,
}

impl Window {
    /// Host address of its first byte.
    fn base(&self) -> u64 {
        self.space.address() + GUARD
    }
}

#[derive(Default)]
struct Context {
    enabled: bool,
    /// A flush came: pages must be walked again.
    stale: bool,
    windows: Vec<Window>,
    /// By linear page.
    pages: Map<u64, Shown>,
}

/// Where stretches without a window lead, and the table that says so for all of them.
struct Nowhere {
    space: Reservation,
    table: File,
}

impl Nowhere {
    fn new() -> io::Result<Self> {
        let space = Reservation::new((GUARD + SPAN + GUARD) as usize)?;
        let mut table = File::from(memfd_create(c"window table", MemfdFlags::CLOEXEC)?);
        let mut bytes = vec![0; WINDOW_TABLE];
        for stretch in 0..WINDOW_ENTRIES as u32 {
            let stretch = stretch as u16;
            let at = window_entry(stretch) * 8;
            let lead = entry(stretch, space.address() + GUARD);
            bytes[at..at + 8].copy_from_slice(&lead.to_le_bytes());
        }
        table.write_all(&bytes)?;
        Ok(Self { space, table })
    }
}

/// What leads from a stretch to 4 GiB at a host address.
pub(super) fn entry(stretch: u16, base: u64) -> u64 {
    base.wrapping_sub(u64::from(stretch) << 32)
}

fn stretch_of(linear: u64) -> u16 {
    (linear >> 32) as u16
}

/// All windows of one vCPU, by context.
pub(crate) struct Windows {
    memory: Arc<GuestMemory>,
    nowhere: Option<Nowhere>,
    contexts: Vec<Context>,
    /// Windows to be used again; all of them hidden.
    spare: Vec<Reservation>,
    /// Where pages of RAM are shown writable: context and linear page.
    writable: Map<u64, Vec<(usize, u64)>>,
    /// Pages shown, and the most there may be.
    shown: usize,
    most: usize,
}

impl Windows {
    /// Windows of so many contexts, for one of so many vCPUs.
    pub(crate) fn new(memory: Arc<GuestMemory>, contexts: usize, vcpus: usize) -> Self {
        Self {
            memory,
            nowhere: None,
            contexts: (0..contexts).map(|_| Context::default()).collect(),
            spare: Vec::new(),
            writable: Map::default(),
            shown: 0,
            most: MOST_PAGES / vcpus,
        }
    }

    /// The RAM whose pages they show.
    pub(crate) fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Gives a context its table; false if the host has no room.
    pub(crate) fn enable(&mut self, areas: &mut Areas, context: usize) -> bool {
        if self.contexts[context].enabled {
            return true;
        }
        if self.nowhere.is_none() {
            self.nowhere = Nowhere::new().ok();
        }
        let Some(nowhere) = &self.nowhere else { return false };
        areas.state().nowhere = nowhere.space.address() + GUARD;
        self.contexts[context].enabled = areas.lay_window_table(context, &nowhere.table).is_ok();
        self.contexts[context].enabled
    }

    /// Whether a context has its table.
    #[inline]
    pub(crate) fn is_enabled(&self, context: usize) -> bool {
        self.contexts[context].enabled
    }

    /// Opens the window of an address; false if it is there already, or cannot be.
    pub(crate) fn open(&mut self, areas: &mut Areas, context: usize, linear: u64) -> bool {
        let stretch = stretch_of(linear);
        let Context { enabled, windows, .. } = &mut self.contexts[context];
        let has = windows.iter().any(|window| window.stretch == stretch);
        if !*enabled || has || windows.len() == MOST_WINDOWS {
            return false;
        }
        let length = (GUARD + SPAN + GUARD) as usize;
        let Some(space) = self.spare.pop().or_else(|| Reservation::new(length).ok()) else {
            return false;
        };
        let window = Window { stretch, space };
        // Upper-half addresses are canonical with all bits above 47 set: these come off, too.
        areas.windows_mut(context)[window_entry(stretch)] =
            entry(stretch, window.base()).wrapping_sub(upper_bits(stretch));
        windows.push(window);
        true
    }

    /// The guest's address that a host address in one of a context's windows stands for.
    pub(crate) fn linear(&self, context: usize, host: u64) -> Option<u64> {
        self.contexts[context].windows.iter().find_map(|window| {
            let offset = host.wrapping_sub(window.base());
            let stretch = u64::from(window.stretch) << 32 | upper_bits(window.stretch);
            (offset < SPAN).then_some(stretch | offset)
        })
    }

    /// What is shown at a linear page.
    pub(crate) fn at(&self, context: usize, page: u64) -> Option<Shown> {
        self.contexts[context].pages.get(&page).copied()
    }

    /// Shows a run of pages, which lie together in RAM, too. False: the host has no room, and
    /// nothing is shown any more in this context.
    pub(crate) fn show(&mut self, context: usize, page: u64, count: u64, first: Shown) -> bool {
        while self.shown + count as usize > self.most {
            let largest = |&index: &usize| self.contexts[index].pages.len();
            let others = (0..self.contexts.len()).filter(|&index| index != context);
            let other = others.max_by_key(largest).filter(|index| largest(index) > 0);
            self.hide_all(other.unwrap_or(context));
            if other.is_none() {
                return false;
            }
        }
        let stretch = stretch_of(page);
        let Self { memory, contexts, writable, shown, .. } = self;
        let Context { windows, pages, .. } = &mut contexts[context];
        let Some(window) = windows.iter_mut().find(|window| window.stretch == stretch) else {
            return false;
        };
        let offset = GUARD + (page & (SPAN - 1));
        let ram = RamOffset(first.ram << 12);
        let done = window.space.show(offset, memory, ram, count << 12, first.writable);
        if done.is_err() {
            self.hide_all(context);
            return false;
        }
        for index in 0..count {
            let linear = page + (index << 12);
            let now = Shown { ram: first.ram + index, writable: first.writable };
            match pages.insert(linear, now) {
                Some(old) if old.writable => forget_writable(writable, old.ram, context, linear),
                Some(_) => {}
                None => *shown += 1,
            }
            if now.writable {
                writable.entry(now.ram).or_default().push((context, linear));
            }
        }
        true
    }

    /// Hides a linear page.
    pub(crate) fn hide(&mut self, context: usize, page: u64) {
        let Some(old) = self.contexts[context].pages.remove(&page) else { return };
        self.shown -= 1;
        if old.writable {
            forget_writable(&mut self.writable, old.ram, context, page);
        }
        self.unmap(context, page, 1);
    }

    fn unmap(&mut self, context: usize, page: u64, count: u64) {
        let stretch = stretch_of(page);
        let windows = &mut self.contexts[context].windows;
        let found = windows.iter_mut().find(|window| window.stretch == stretch);
        let window = found.expect("pages are shown in windows");
        let offset = GUARD + (page & (SPAN - 1));
        // Hiding can split a mapping, for which the host may have no room; hiding all splits none.
        if window.space.hide(offset, count << 12).is_err() {
            self.hide_all(context);
        }
    }

    /// Hides a page of RAM wherever it is shown writable: it now holds decoded code.
    pub(crate) fn protect(&mut self, ram: u64) {
        for (context, page) in self.writable.get(&ram).cloned().unwrap_or_default() {
            self.hide(context, page);
        }
    }

    /// Hides every page that is shown writable.
    pub(crate) fn protect_all(&mut self) {
        let pages: Vec<u64> = self.writable.keys().copied().collect();
        pages.into_iter().for_each(|ram| self.protect(ram));
    }

    /// A context's translations were flushed.
    pub(crate) fn flush(&mut self, context: usize) {
        self.contexts[context].stale = !self.contexts[context].pages.is_empty();
    }

    /// After a flush: what is shown in a context, to be compared with what the tables say now.
    pub(crate) fn take_stale(&mut self, context: usize) -> Option<Vec<(u64, Shown)>> {
        let Context { stale, pages, .. } = &mut self.contexts[context];
        std::mem::take(stale).then(|| pages.iter().map(|(&page, &shown)| (page, shown)).collect())
    }

    /// Hides everything in a context; its windows stay.
    pub(crate) fn hide_all(&mut self, context: usize) {
        let Self { contexts, writable, shown, .. } = self;
        let Context { windows, pages, stale, .. } = &mut contexts[context];
        if pages.is_empty() {
            return;
        }
        *stale = false;
        *shown -= pages.len();
        for (linear, page) in pages.drain() {
            if page.writable {
                forget_writable(writable, page.ram, context, linear);
            }
        }
        for window in windows {
            let hidden = window.space.hide(GUARD, SPAN);
            hidden.expect("replacing whole mappings takes no new one");
        }
    }

    /// The context becomes another's: its table goes.
    pub(crate) fn disable(&mut self, areas: &mut Areas, context: usize) {
        if !self.contexts[context].enabled {
            return;
        }
        self.hide_all(context);
        let nowhere = self.nowhere.as_ref().expect("enabling made it").space.address() + GUARD;
        for window in std::mem::take(&mut self.contexts[context].windows) {
            areas.windows_mut(context)[window_entry(window.stretch)] =
                entry(window.stretch, nowhere);
            self.spare.push(window.space);
        }
        self.contexts[context].enabled = false;
    }
}

/// Bits 63:48 of the canonical addresses in a stretch.
fn upper_bits(stretch: u16) -> u64 {
    if stretch >> 15 != 0 { 0xffff << 48 } else { 0 }
}

fn forget_writable(map: &mut Map<u64, Vec<(usize, u64)>>, ram: u64, context: usize, page: u64) {
    let Some(places) = map.get_mut(&ram) else { return };
    places.retain(|&place| place != (context, page));
    if places.is_empty() {
        map.remove(&ram);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::memory::GuestPhys;

    #[test]
    fn what_is_shown_elsewhere_makes_room() {
        let memory = Arc::new(GuestMemory::new(&[(GuestPhys(0), 0x10_0000)]).unwrap());
        let mut areas = Areas::new(2).unwrap();
        let mut windows = Windows::new(memory, 2, MOST_PAGES / 4);
        for context in 0..2 {
            assert!(windows.enable(&mut areas, context));
            assert!(windows.open(&mut areas, context, 0x40_0000));
        }
        let first = Shown { ram: 5, writable: true };
        assert!(windows.show(0, 0x40_0000, 3, first));
        assert!(windows.show(1, 0x40_0000, 2, first));
        assert_eq!((windows.shown, windows.at(0, 0x40_0000)), (2, None));
        assert_eq!(windows.at(1, 0x40_1000), Some(Shown { ram: 6, writable: true }));
        // Nobody else has anything to give.
        assert!(!windows.show(1, 0x40_2000, 3, first));
        assert_eq!((windows.shown, windows.at(1, 0x40_1000)), (0, None));
        assert!(windows.writable.is_empty());
    }
}
