//! INIT and the start-up IPI (SDM vol. 3, table 9-1 and 8.4).

use x86::{Activity, Cr0, Dr6, Dr7, Reg, Segment, TableRegister, segment::attr};

use crate::bus::{Bus, Flush};
use crate::cpu::{Cpu, Stop};
use crate::flags::LazyFlags;
use crate::op::slot;

/// Processor signature in EDX after INIT, as after RESET.
const SIGNATURE: u64 = 0x600;

impl<B: Bus> Cpu<B> {
    /// INIT: as RESET, but x87 and vector state, XCR0, MSRs (EFER apart), cache control in CR0 and
    /// the local APIC stay. The bootstrap processor starts over, others wait for a start-up IPI.
    /// The local APIC's own INIT is its owner's.
    pub fn init_reset(&mut self) {
        self.regs[..16].fill(0);
        self.regs[Reg::Rdx as usize] = SIGNATURE;
        self.regs[slot::RIP as usize] = 0xfff0;
        self.flags = LazyFlags::from_bits(0);
        self.stop = Stop::None;
        self.stepping = false;
        let data = attr::PRESENT | attr::S | attr::WRITE_READ | attr::ACCESSED;
        let system = |kind| Segment {
            limit: 0xffff,
            attributes: attr::PRESENT | kind,
            ..Segment::default()
        };
        let table = TableRegister { base: 0, limit: 0xffff };
        let state = &mut self.state;
        state.rflags = 2;
        state.segments = [Segment::real_mode(0, data); 6];
        state.segments[1] = Segment {
            base: 0xffff_0000,
            limit: 0xffff,
            selector: 0xf000,
            attributes: data | attr::CODE,
        };
        (state.ldtr, state.tr) = (system(2), system(11));
        (state.gdtr, state.idtr) = (table, table);
        state.cr0 = state.cr0 & (Cr0::CD | Cr0::NW).bits() | Cr0::ET.bits();
        (state.cr2, state.cr3, state.cr4) = (0, 0, 0);
        (state.dr, state.dr6, state.dr7) = ([0; 4], Dr6::FIXED, Dr7::FIXED);
        state.msrs.efer = 0;
        let bootstrap = state.msrs.apic_base >> 8 & 1 != 0;
        state.activity = if bootstrap { Activity::Running } else { Activity::WaitForSipi };
        state.pending_exception = None;
        state.pending_interrupt = None;
        (state.nmi_pending, state.nmi_blocked) = (false, false);
        (state.sti_shadow, state.mov_ss_shadow) = (false, false);
        self.bus.set_watchpoints(self.state.dr, self.state.dr7);
        self.refresh();
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
