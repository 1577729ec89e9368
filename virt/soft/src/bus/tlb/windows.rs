//! Windows of the current context: which it has, what they show, and when it gives them up.

use memory::RamOffset;

use super::{Kind, Tlb};
use crate::cache::windows::Shown;

/// Pages a context may miss in its windows beside those that its samples allow.
const FREE_SHOWS: u32 = 1500;
/// Pages that it takes about as long to show as from one sample to the next.
const SHOWS_A_SAMPLE: u32 = 5;
/// Samples without windows before they are tried again: their loss stays a tenth of the time.
const PAUSE: u32 = 10 * FREE_SHOWS / SHOWS_A_SAMPLE;
/// Each time they are given up, the pause doubles, so often.
const DOUBLINGS: u32 = 6;

/// What windows cost a program and what it runs for, by which it has them or does not.
#[derive(Debug, Default)]
pub(super) struct Worth {
    /// Which program it is: contexts serve one after the other.
    program: u64,
    /// How often its code was found running since it may have windows.
    samples: u32,
    /// How often a page was missing in its windows.
    shows: u32,
    /// How often its windows were given up.
    refusals: u32,
    /// Samples until they are tried again.
    pause: u32,
}

impl Worth {
    /// Of a program of which nothing is known yet.
    pub(super) fn of(program: u64) -> Self {
        Self { program, ..Self::default() }
    }

    fn may_have_windows(&self) -> bool {
        self.pause == 0
    }

    /// Counts a sample; tells how many there were since it may have windows.
    fn sample(&mut self) -> u32 {
        if self.pause > 0 {
            self.pause -= 1;
            return 0;
        }
        self.samples = self.samples.saturating_add(1);
        self.samples
    }

    /// Counts a missing page; false if there were so many that they are not worth it.
    fn show(&mut self) -> bool {
        self.shows = self.shows.saturating_add(1);
        !self.misses_too_much()
    }

    fn misses_too_much(&self) -> bool {
        self.shows > FREE_SHOWS.saturating_add(self.samples.saturating_mul(SHOWS_A_SAMPLE))
    }

    /// Gives windows up for a time.
    fn refuse(&mut self) {
        self.pause = PAUSE << self.refusals.min(DOUBLINGS);
        self.refusals = self.refusals.saturating_add(1);
        (self.samples, self.shows) = (0, 0);
    }
}

impl Tlb {
    /// Lets the current context's code use windows, and forgets what does not; false if the host
    /// has no room for them, or they were given up.
    pub(crate) fn enable_windows(&mut self) -> bool {
        if self.has_windows() || !self.contexts[self.current].worth.may_have_windows() {
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
        self.contexts[self.current].worth.show()
    }

    /// Gives the current context's windows up, for a time, if it is missing so many pages.
    pub(crate) fn weigh_windows(&mut self) {
        let worth = &mut self.contexts[self.current].worth;
        if worth.misses_too_much() {
            worth.refuse();
            self.forget_jumps(self.current);
            self.windows.disable(&mut self.areas, self.current);
        }
    }

    /// Notes that code of the current context was found running; tells how often it was since it may
    /// have windows.
    pub(crate) fn count_sample(&mut self) -> u32 {
        self.contexts[self.current].worth.sample()
    }

    /// Names the program that runs in the current context, among all there ever were.
    pub(crate) fn program(&self) -> u64 {
        self.contexts[self.current].worth.program
    }

    /// The context is another program's from now on.
    pub(super) fn begin_program(&mut self, index: usize) {
        self.programs += 1;
        self.contexts[index].worth = Worth::of(self.programs);
    }

    /// The current context's page tables lead to other code than before a flush: another program's.
    pub(in crate::bus) fn another_program(&mut self) {
        self.begin_program(self.current);
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

    /// Eight bytes of the guest's memory, where they were read lately; nothing happens if not.
    pub(crate) fn peek(&self, linear: u64) -> Option<u64> {
        let shown = || {
            let within = linear & 0xfff;
            let page = self.shown(linear & !0xfff).filter(|_| within <= 0xff8)?;
            Some(RamOffset(page.ram << 12 | within))
        };
        let place = self.lookup(Kind::Read, linear, 8).or_else(shown)?;
        Some(self.windows.memory().load(place))
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
    use super::*;

    #[test]
    fn windows_that_miss_too_much_are_tried_again_later_and_later() {
        let mut worth = Worth::of(1);
        assert_eq!((worth.sample(), worth.sample()), (1, 2));
        let mut pauses = Vec::new();
        for _ in 0..3 {
            let shown = (0..10 * FREE_SHOWS).take_while(|_| worth.show()).count() as u32;
            assert!((FREE_SHOWS..FREE_SHOWS + 3 * SHOWS_A_SAMPLE).contains(&shown), "{shown}");
            assert!(worth.misses_too_much() && worth.may_have_windows());
            worth.refuse();
            assert!(!worth.may_have_windows() && !worth.misses_too_much());
            pauses.push((0..).take_while(|_| worth.sample() == 0).count() as u32);
            assert!(worth.may_have_windows());
        }
        assert_eq!(pauses, [PAUSE, 2 * PAUSE, 4 * PAUSE]);
    }

    #[test]
    fn few_pages_a_sample_are_not_too_many() {
        let mut worth = Worth::of(1);
        let mut sample = || worth.sample() > 0 && (0..SHOWS_A_SAMPLE).all(|_| worth.show());
        assert!((0..20 * FREE_SHOWS).all(|_| sample()));
    }
}
