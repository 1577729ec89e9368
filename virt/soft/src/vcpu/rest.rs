//! A vCPU with little to do gives back what it keeps to be fast: translated code, decoded blocks and
//! tables of contexts come back when they are needed, and so do the pages of the program itself.

use std::time::{Duration, Instant};

use super::SoftVcpu;
use crate::sys::host;

/// How long it must have had little to do.
const LONG: Duration = Duration::from_secs(10);
/// Instructions in that time: ticks and what polls, a thousandth of what it could execute.
const LITTLE: u64 = 20_000_000;
/// Code that it needs for those may stay.
const WORTH: usize = 3 << 20;

/// Since when it may have had little to do.
pub(super) struct Rest {
    since: Instant,
    /// Instructions executed by then.
    retired: u64,
}

impl Rest {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), retired: 0 }
    }

    /// Whether there was little to do for long.
    fn is_due(&mut self, now: Instant, retired: u64) -> bool {
        if now.duration_since(self.since) < LONG {
            return false;
        }
        let executed = retired - self.retired;
        *self = Self { since: now, retired };
        executed < LITTLE
    }
}

impl SoftVcpu {
    /// Before sleep: gives back what is not worth its memory.
    pub(super) fn rest(&mut self) {
        if !self.rest.is_due(Instant::now(), self.cpu.bus.retired) {
            return;
        }
        if self.native.as_ref().is_some_and(|native| native.bytes() > WORTH) {
            self.drop_all_code();
            self.cpu.bus.tlb.give_up_idle();
            host::trim_heap();
            host::let_program_go();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_follows_long_quiet_only() {
        let start = Instant::now();
        let mut rest = Rest { since: start, retired: 0 };
        assert!(!rest.is_due(start + LONG / 2, 0));
        assert!(!rest.is_due(start + LONG, LITTLE), "it was busy");
        assert!(!rest.is_due(start + LONG * 2 - Duration::from_secs(1), LITTLE + 5));
        assert!(rest.is_due(start + LONG * 2, LITTLE + 10));
        assert!(!rest.is_due(start + LONG * 2, LITTLE + 10), "it begins anew");
    }
}
