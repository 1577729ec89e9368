//! Virtual time in the run loop: deadlines are instruction counts, and idleness passes at once.
//!
//! Invariants: no instruction is executed at or after a deadline before the deadline was served;
//! nothing here depends on the host's clock, or on how code is executed.

use engine::{EventKind, Exit, GuestEvent};

use super::SoftVcpu;

impl SoftVcpu {
    /// Serves the local APIC's timer if it is due; gives the instructions until something else is.
    /// `Err`: a device of the machine waits.
    pub(super) fn keep_time(&mut self) -> Result<u64, Exit> {
        if self.cpu.bus.virtual_ns() >= self.timer_due {
            self.look_at_lapic();
        }
        let (now, deadline) = (self.cpu.bus.virtual_ns(), self.machine_deadline());
        if now >= deadline {
            return Err(Exit::Deadline);
        }
        Ok(self.timer_due.min(deadline).saturating_sub(now).max(1))
    }

    /// Halted: it is the time of the next deadline, or whoever is outside has to wake the guest.
    pub(super) fn skip_idle_time(&mut self) -> Option<Exit> {
        let (now, deadline) = (self.cpu.bus.virtual_ns(), self.machine_deadline());
        let next = self.timer_due.min(deadline);
        if next == u64::MAX {
            self.cpu.bus.publish_time();
            self.sleep(None);
            return None;
        }
        if next > now {
            self.tell(EventKind::Idle { until_ns: next });
            self.cpu.bus.added_ns += next - now;
        }
        (next >= deadline).then_some(Exit::Deadline)
    }

    fn machine_deadline(&self) -> u64 {
        self.shared.virtual_time.as_ref().map_or(u64::MAX, |time| time.deadline_ns())
    }

    /// In virtual time: tells the machine what happens before the next instruction.
    pub(super) fn tell(&mut self, kind: EventKind) {
        if !self.cpu.bus.is_virtual() {
            return;
        }
        let (rip, instructions) = (self.cpu.rip(), self.cpu.bus.retired);
        self.cpu.bus.publish_time();
        if let Some(io) = self.cpu.bus.io.get() {
            io.event(GuestEvent { instructions, rip, kind });
        }
    }
}
