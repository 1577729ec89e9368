//! The local APIC and the second processor (SDM vol. 3, 8.4, 10.4-10.6).

use iced_x86::code_asm::*;

use super::guest::{Assembled, Guest, variable};

/// Offsets of local-APIC registers.
pub(crate) mod lapic {
    pub(crate) const ICR_LOW: u32 = 0x300;
    pub(crate) const ICR_HIGH: u32 = 0x310;
    pub(crate) const SPURIOUS: u32 = 0xf0;
    pub(crate) const EOI: u32 = 0xb0;
}

const BASE: u32 = 0xfee0_0000;

impl Guest {
    /// Writes a local-APIC register through its page; RAX is lost.
    pub(crate) fn lapic_write(&mut self, register: u32, value: u32) -> Assembled {
        self.mov(eax, BASE + register)?;
        self.mov(dword_ptr(rax), value as i32)
    }

    /// Reads a local-APIC register into EAX.
    pub(crate) fn lapic_read(&mut self, register: u32) -> Assembled {
        self.mov(eax, BASE + register)?;
        self.mov(eax, dword_ptr(rax))
    }

    /// Enables the local APIC in its spurious-interrupt register; RAX is lost.
    pub(crate) fn lapic_enable(&mut self) -> Assembled {
        self.lapic_write(lapic::SPURIOUS, 0x1ff)
    }

    /// Sends an interrupt command; RAX is lost.
    pub(crate) fn ipi(&mut self, destination: u32, command: u32) -> Assembled {
        self.lapic_write(lapic::ICR_HIGH, destination << 24)?;
        self.lapic_write(lapic::ICR_LOW, command)
    }

    /// Writes vCPU 1's code and starts it here by INIT and SIPI; RAX is lost.
    pub(crate) fn second(&mut self, body: impl FnOnce(&mut Self) -> Assembled) -> Assembled {
        super::start_up::place_trampoline(self)?;
        self.other_cpu(body)?;
        self.lapic_enable()?;
        self.start_second()
    }

    /// INIT and SIPI to vCPU 1; RAX is lost.
    pub(crate) fn start_second(&mut self) -> Assembled {
        self.ipi(1, 0x4500)?;
        self.ipi(1, 0x4600 | (crate::layout::TRAMPOLINE >> 12) as u32)
    }

    /// Spins until a `u32` in memory has a value; EAX is lost.
    pub(crate) fn wait_for(&mut self, address: u64, value: u32) -> Assembled {
        let (mut again, mut done) = (self.create_label(), self.create_label());
        self.set_label(&mut again)?;
        self.mov(eax, dword_ptr(address))?;
        self.cmp(eax, value as i32)?;
        self.je(done)?;
        self.pause()?;
        self.jmp(again)?;
        self.set_label(&mut done)?;
        self.nop()
    }

    /// Where the silent handlers count a vector's interrupts, as `u32`.
    pub(crate) fn count_of(vector: u8) -> u64 {
        variable::COUNTS + u64::from(vector) * 4
    }
}
