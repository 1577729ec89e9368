//! Windows of the current context: which it has, what they show, and when it gives them up.

use super::{Tlb, TlbContext};
use crate::cache::windows::Shown;

/// Pages a context may miss in its windows beside one for each sample of its code, which is about as
/// long as showing a page takes.
const FREE_SHOWS: u32 = 2500;

impl TlbContext {
    /// Whether so many pages were missing in its windows that they are not worth it.
    fn misses_too_much(&self) -> bool {
        self.shows > FREE_SHOWS.saturating_add(self.samples)
    }
}

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
