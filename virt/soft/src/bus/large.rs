//! Large pages of the host for RAM that programs use through windows.
//!
//! Where the guest maps a large page, a program's window shows all of it at once. If the host holds
//! those bytes in a page of its own, too, an access takes one entry of the host's TLB where it
//! took 512: programs that touch many megabytes wait for little else. RAM begins as small pages;
//! the host is asked to move it (MADV_COLLAPSE), a large page at a time, for no more than a part of
//! the time that programs run.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use ::memory::{GuestMemory, RamOffset};

use super::SoftBus;

/// Of the time that passes, what may be spent: one part in so many.
const SHARE: u32 = 5;
/// Time that may be spent at once.
const ADVANCE: Duration = Duration::from_millis(20);
/// Refusals after which nobody asks any more: the host cannot.
const ENOUGH: u32 = 8;

/// RAM to be held in large pages.
#[derive(Debug, Default)]
pub(super) struct Large {
    /// Pages to ask for, by number.
    wanted: VecDeque<u64>,
    /// Pages asked for, or to be.
    known: BTreeSet<u64>,
    /// Time left to spend, and when it was reckoned.
    credit: Duration,
    since: Option<Instant>,
    refusals: u32,
}

impl SoftBus {
    /// The large page of RAM around this place is in use.
    pub(super) fn want_large(&mut self, ram: RamOffset) {
        let page = ram.0 / GuestMemory::LARGE_PAGE;
        if self.large.refusals < ENOUGH && self.large.known.insert(page) {
            self.large.wanted.push_back(page);
        }
    }

    /// Asks for the next large page that is wanted, if it is time to.
    pub(crate) fn make_large_pages(&mut self) {
        let large = &mut self.large;
        if large.wanted.is_empty() {
            return;
        }
        let now = Instant::now();
        let passed = large.since.replace(now).map_or(ADVANCE * SHARE, |since| now - since);
        large.credit = (large.credit + passed / SHARE).min(ADVANCE);
        while large.credit > Duration::ZERO
            && let Some(page) = large.wanted.pop_front()
        {
            let began = Instant::now();
            let made = self.memory.make_large(RamOffset(page * GuestMemory::LARGE_PAGE));
            large.credit = large.credit.saturating_sub(began.elapsed());
            if made.is_err() {
                large.refusals += 1;
                if large.refusals == ENOUGH {
                    large.wanted.clear();
                }
            }
        }
    }
}
