//! INIT and the start-up IPI (SDM vol. 3, table 9-1 and 8.4).

use x86::{Activity, CpuState, Cr0, Segment};

use crate::bus::{Bus, Flush};
use crate::cpu::Cpu;

impl<B: Bus> Cpu<B> {
    /// INIT: as RESET, but x87 and vector state, XCR0, MSRs (EFER apart), cache control in CR0 and
    /// the local APIC stay. The bootstrap processor starts over, others wait for a start-up IPI.
    /// The local APIC's own INIT is its owner's.
    pub fn init_reset(&mut self) {
        let mut fresh = CpuState::reset(0);
        let old = &mut self.state;
        let caches = (Cr0::CD | Cr0::NW).bits();
        fresh.cr0 = fresh.cr0 & !caches | old.cr0 & caches;
        let bootstrap = old.msrs.apic_base >> 8 & 1 != 0;
        fresh.activity = if bootstrap { Activity::Running } else { Activity::WaitForSipi };
        fresh.msrs = old.msrs.clone();
        fresh.msrs.efer = 0;
        fresh.xcr0 = old.xcr0;
        core::mem::swap(&mut fresh.xsave, &mut old.xsave);
        core::mem::swap(&mut fresh.lapic, &mut old.lapic);
        self.import(&fresh);
        self.bus.flush(Flush::All);
    }

    /// A start-up IPI: execution begins at `vector` * 4096 if the processor waits for one.
    pub fn start_up(&mut self, vector: u8) {
        if self.state.activity != Activity::WaitForSipi {
            return;
        }
        let selector = u16::from(vector) << 8;
        let cs = Segment { selector, base: u64::from(selector) << 4, ..*self.segment(1) };
        self.state.activity = Activity::Running;
        self.enter_code(cs, 0);
    }
}
