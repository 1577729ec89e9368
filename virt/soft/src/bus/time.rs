//! What time it is: the host's, or virtual time made of retired instructions
//! (`engine::VirtualTime`): now = instructions + what was added besides.
//!
//! Added are the jumps of a halted processor, and a nanosecond for each exception delivered, so
//! that a guest that only faults has time go by. Invariant: `retired` is exact whenever an
//! instruction is interpreted, so that time is the same however code is executed.

use engine::GuestIo;
use irqchip::Now;

use super::SoftBus;
use crate::sys::host;

impl SoftBus {
    /// Whether instructions make the time.
    #[inline]
    pub(crate) fn is_virtual(&self) -> bool {
        self.virtual_time.is_some()
    }

    /// Virtual time.
    #[inline]
    pub(crate) fn virtual_ns(&self) -> u64 {
        self.retired.wrapping_add(self.added_ns)
    }

    /// The TSC without the guest's offset.
    #[inline]
    pub(crate) fn raw_tsc(&self) -> u64 {
        if self.is_virtual() { self.virtual_ns() } else { host::rdtsc() }
    }

    /// The time for the local APIC.
    pub(crate) fn now(&self) -> Now {
        self.shared.at(&self.own, self.raw_tsc())
    }

    /// Tells the machine what time it is.
    #[inline]
    pub(crate) fn publish_time(&self) {
        if let Some(time) = &self.virtual_time {
            time.set(self.virtual_ns(), self.retired);
        }
    }

    /// Lets the machine around do something; it knows what time it is, and others do not wait for
    /// this vCPU meanwhile. In virtual time whatever it does is seen right after the instruction.
    #[inline]
    pub(crate) fn with_io<T>(&mut self, act: impl FnOnce(&mut dyn GuestIo) -> T) -> Option<T> {
        if self.is_virtual() {
            self.publish_time();
            self.cut = true;
        }
        let io = self.io.get()?;
        self.own.presence.go_outside();
        let result = act(io);
        self.come_inside();
        Some(result)
    }

    /// The next random number in virtual time: SplitMix64 (Steele, Lea, Flood 2014).
    pub(super) fn next_random(&mut self) -> u64 {
        self.random_state = self.random_state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random_state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}
