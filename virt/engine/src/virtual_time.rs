//! Time that instructions make: one instruction, one nanosecond.
//!
//! A VM with one vCPU whose engine counts instructions exactly can live in such time: its TSC (at
//! 1 GHz), timers, clocks and wall clock are all functions of what it executed, and while it is
//! halted time jumps to the next deadline. The engine sets the time, at the latest before each
//! call of [`crate::GuestIo`]; the machine reads it, and names the next deadline of its devices,
//! for which `run` comes back with [`crate::Exit::Deadline`]. Invariant: time and count change on
//! the vCPU's thread alone and never go back.

use std::sync::atomic::{AtomicU64, Ordering};

/// The TSC's frequency in such time: one tick is one nanosecond.
pub const VIRTUAL_TSC_KHZ: u32 = 1_000_000;

/// The clock of one VM, and what else must not come from the host.
#[derive(Debug)]
pub struct VirtualTime {
    now_ns: AtomicU64,
    instructions: AtomicU64,
    deadline_ns: AtomicU64,
    start_unix_ns: u64,
    seed: u64,
}

impl VirtualTime {
    /// Time 0, at this Unix time in nanoseconds; random numbers come from `seed`.
    pub fn new(start_unix_ns: u64, seed: u64) -> Self {
        Self {
            now_ns: AtomicU64::new(0),
            instructions: AtomicU64::new(0),
            deadline_ns: AtomicU64::new(u64::MAX),
            start_unix_ns,
            seed,
        }
    }

    /// Nanoseconds since the start.
    pub fn now_ns(&self) -> u64 {
        self.now_ns.load(Ordering::Relaxed)
    }

    /// Unix time in nanoseconds.
    pub fn wall_ns(&self) -> u64 {
        self.start_unix_ns.saturating_add(self.now_ns())
    }

    /// Unix time in nanoseconds at time 0.
    pub fn start_unix_ns(&self) -> u64 {
        self.start_unix_ns
    }

    /// Where random numbers come from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Instructions retired so far.
    pub fn instructions(&self) -> u64 {
        self.instructions.load(Ordering::Relaxed)
    }

    /// The engine's: it is now this late.
    pub fn set(&self, now_ns: u64, instructions: u64) {
        self.now_ns.store(now_ns, Ordering::Relaxed);
        self.instructions.store(instructions, Ordering::Relaxed);
    }

    /// When `run` shall come back; `u64::MAX`: never for this.
    pub fn deadline_ns(&self) -> u64 {
        self.deadline_ns.load(Ordering::Relaxed)
    }

    /// The machine's: a device waits for this time, or for the next instruction if it is past.
    pub fn ask(&self, deadline_ns: u64) {
        let earliest = self.now_ns().saturating_add(1);
        self.deadline_ns.fetch_min(deadline_ns.max(earliest), Ordering::Relaxed);
    }

    /// The machine's: nobody waits any more.
    pub fn forget_deadline(&self) {
        self.deadline_ns.store(u64::MAX, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_deadline_counts_and_lies_ahead() {
        let time = VirtualTime::new(1_000, 7);
        time.set(50, 40);
        assert_eq!((time.now_ns(), time.instructions(), time.wall_ns()), (50, 40, 1_050));
        assert_eq!(time.deadline_ns(), u64::MAX);
        time.ask(90);
        time.ask(200);
        assert_eq!(time.deadline_ns(), 90);
        time.ask(3);
        assert_eq!(time.deadline_ns(), 51, "past ones are due after the next instruction");
        time.forget_deadline();
        assert_eq!(time.deadline_ns(), u64::MAX);
    }
}
