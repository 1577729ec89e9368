//! Between instructions: messages, timer, interrupts, NMI, INIT, SIPI, sleep.

use std::sync::atomic::Ordering;
use std::time::Duration;

use engine::{EventKind, Exit, ShutdownCause};
use irqchip::Deadline;
use x86::{Activity, Flags};

use super::SoftVcpu;
use crate::shared::attention;
use crate::sys::host;

/// Blocks between looks at the timer.
const TIMER_CHECK_BLOCKS: u32 = 64;

impl SoftVcpu {
    /// Handles what others asked for. `Some`: leave `run`.
    #[cold]
    pub(super) fn service(&mut self) -> Option<Exit> {
        let bits = self.own.attention.swap(0, Ordering::AcqRel);
        if bits & attention::CODE != 0 {
            self.take_code_messages();
        }
        if bits & attention::INIT != 0 {
            self.own.lapic().init();
            self.cpu.init_reset();
            self.interrupt_ready = false;
        }
        if bits & attention::SIPI != 0 && self.cpu.state.activity == Activity::WaitForSipi {
            self.cpu.start_up(self.own.sipi_vector.load(Ordering::Acquire));
        }
        if bits & attention::NMI != 0 {
            // As KVM: two can wait, or one behind the one that is being handled.
            let state = &mut self.cpu.state;
            let limit = if state.nmi_blocked { 1 } else { 2 };
            let waiting = u8::from(state.nmi_pending) + u8::from(self.second_nmi);
            let pending = (waiting + self.own.nmis.swap(0, Ordering::AcqRel)).min(limit);
            (state.nmi_pending, self.second_nmi) = (pending > 0, pending > 1);
        }
        self.look_at_lapic();
        (bits & attention::KICK != 0).then_some(Exit::Interrupted)
    }

    fn take_code_messages(&mut self) {
        self.cpu.bus.protect_pages();
        match self.own.take_stale().listed() {
            Some(pages) => pages.into_iter().for_each(|page| self.drop_code(page)),
            None => self.drop_all_code(),
        }
    }

    /// Drops blocks whose code this vCPU itself wrote over.
    #[cold]
    pub(super) fn drop_stale_blocks(&mut self) {
        self.cpu.bus.cut = false;
        for page in std::mem::take(&mut self.cpu.bus.stale_pages) {
            self.drop_code(page);
        }
    }

    /// Drops whatever was made from a page of RAM.
    fn drop_code(&mut self, page: u64) {
        self.cache.drop_page(page);
        if let Some(native) = &mut self.native {
            native.drop_page(page, &mut self.cpu.bus.tlb);
        }
    }

    pub(super) fn drop_all_code(&mut self) {
        self.cache.clear();
        if let Some(native) = &mut self.native {
            native.clear(&mut self.cpu.bus.tlb);
        }
    }

    /// Brings the local APIC to the present and notes what it has.
    pub(super) fn look_at_lapic(&mut self) {
        self.own.tsc_offset.store(self.cpu.state.msrs.tsc_offset, Ordering::Relaxed);
        let now = self.cpu.bus.now();
        let mut lapic = self.own.lapic();
        // Whatever an expiry raises shows in `pending`.
        let _ = lapic.advance(now);
        self.interrupt_ready = lapic.pending().is_some() || lapic.external_interrupt();
        self.timer_due = match lapic.next_event() {
            None => u64::MAX,
            Some(Deadline::Ns(ns)) => self.shared.clock.tsc_at(ns),
            Some(Deadline::Tsc(tsc)) => tsc.wrapping_sub(self.cpu.state.msrs.tsc_offset),
        };
        self.until_timer_check = TIMER_CHECK_BLOCKS;
    }

    /// Every so many blocks: is the timer due?
    #[inline(always)]
    pub(super) fn poll_timer(&mut self) {
        if self.until_timer_check > 0 {
            self.until_timer_check -= 1;
            return;
        }
        self.until_timer_check = TIMER_CHECK_BLOCKS;
        if host::rdtsc() >= self.timer_due {
            self.look_at_lapic();
        }
    }

    /// Delivers an NMI or interrupt if one may come now. `Some`: delivery shut the processor down.
    #[cold]
    pub(super) fn deliver_pending(&mut self) -> Option<Exit> {
        if self.cpu.state.nmi_pending
            && !self.cpu.state.nmi_blocked
            && !self.cpu.state.mov_ss_shadow
            && !self.cpu.state.sti_shadow
        {
            self.cpu.state.nmi_pending = std::mem::take(&mut self.second_nmi);
            self.cpu.state.activity = Activity::Running;
            self.tell(EventKind::Nmi);
            let delivered = self.cpu.deliver_nmi();
            return self.after_delivery(delivered);
        }
        if self.interrupt_ready && self.cpu.interrupts_open() {
            let vector = self.acknowledge();
            self.look_at_lapic();
            if let Some(vector) = vector {
                self.cpu.state.activity = Activity::Running;
                self.tell(EventKind::Interrupt { vector });
                let delivered = self.cpu.deliver_interrupt(vector);
                return self.after_delivery(delivered);
            }
        }
        None
    }

    /// Takes the vector of the highest interrupt: the 8259 pair's before the local APIC's.
    fn acknowledge(&mut self) -> Option<u8> {
        let external = self.own.lapic().external_interrupt();
        if external {
            let vector = self.cpu.bus.with_io(|io| io.acknowledge_pic()).flatten();
            self.own.lapic().acknowledge_external();
            if vector.is_some() {
                return vector;
            }
        }
        self.own.lapic().acknowledge()
    }

    /// Delivers what a loaded state had pending.
    pub(super) fn deliver_loaded(&mut self) -> Option<Exit> {
        if let Some(exception) = self.cpu.state.pending_exception.take() {
            return self.raise(exception);
        }
        if let Some(vector) = self.cpu.state.pending_interrupt.take() {
            let delivered = self.cpu.deliver_interrupt(vector);
            return self.after_delivery(delivered);
        }
        None
    }

    /// A delivery that failed for good is a triple fault.
    pub(super) fn after_delivery(&mut self, delivered: interp::Exec) -> Option<Exit> {
        if delivered.is_ok() {
            return None;
        }
        let last = match std::mem::take(&mut self.cpu.stop) {
            interp::Stop::TripleFault(exception) => Some(exception),
            _ => None,
        };
        self.cpu.state.activity = Activity::Shutdown;
        Some(Exit::Shutdown(ShutdownCause::TripleFault(last)))
    }

    /// Whether something ends a HLT now.
    fn has_wake_event(&self) -> bool {
        let interrupts = self.cpu.state.rflags & Flags::IF.bits() != 0;
        self.interrupt_ready && interrupts
            || self.cpu.state.nmi_pending && !self.cpu.state.nmi_blocked
    }

    /// Sleeps while halted or waiting for SIPI, unless the budget is spent. `Some`: leave `run`.
    pub(super) fn wait(&mut self, left: u64) -> Option<Exit> {
        loop {
            if self.own.attention.load(Ordering::Acquire) != 0
                && let Some(exit) = self.service()
            {
                return Some(exit);
            }
            match self.cpu.state.activity {
                Activity::Running => return None,
                Activity::Shutdown => {
                    return Some(Exit::Shutdown(ShutdownCause::TripleFault(None)));
                }
                Activity::Halted => {
                    self.look_at_lapic();
                    if self.has_wake_event() || self.own.unhalted.swap(false, Ordering::AcqRel) {
                        self.cpu.state.activity = Activity::Running;
                        return None;
                    }
                    if left == 0 {
                        return Some(Exit::BudgetSpent);
                    }
                    if self.cpu.state.rflags & Flags::IF.bits() == 0 {
                        if self.shared.enter_dead_halt() {
                            return Some(Exit::Halted);
                        }
                        self.sleep(None);
                        self.shared.leave_dead_halt();
                        continue;
                    }
                    if !self.cpu.bus.is_virtual() {
                        self.rest();
                        self.sleep(self.until_timer());
                    } else if let Some(exit) = self.skip_idle_time() {
                        return Some(exit);
                    }
                }
                Activity::WaitForSipi => {
                    if self.shared.enter_dead_halt() {
                        return Some(Exit::Halted);
                    }
                    self.sleep(None);
                    self.shared.leave_dead_halt();
                }
            }
        }
    }

    pub(super) fn sleep(&mut self, at_most: Option<Duration>) {
        self.own.presence.go_outside();
        self.own.sleep(at_most);
        self.cpu.bus.come_inside();
    }

    fn until_timer(&self) -> Option<Duration> {
        (self.timer_due != u64::MAX).then(|| self.shared.clock.until_tsc(self.timer_due))
    }
}
