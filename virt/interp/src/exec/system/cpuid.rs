//! CPUID: the bus's table with the bits that follow registers (SDM vol. 2A, CPUID), and the
//! features other handlers ask for.

use x86::cpuid::CpuidResult;
use x86::lapic::reg;
use x86::{Cr4, Reg};

use crate::bus::Bus;
use crate::cpu::{Cpu, Exec};
use crate::op::Op;

/// One feature bit: leaf, subleaf, register (0 EAX .. 3 EDX), bit.
#[derive(Clone, Copy, Debug)]
pub struct Feature(u32, u32, u8, u8);

#[allow(missing_docs)]
impl Feature {
    pub const MONITOR: Self = Self(1, 0, 2, 3);
    pub const PCID: Self = Self(1, 0, 2, 17);
    pub const XSAVE: Self = Self(1, 0, 2, 26);
    pub const VME: Self = Self(1, 0, 3, 1);
    pub const DE: Self = Self(1, 0, 3, 2);
    pub const PSE: Self = Self(1, 0, 3, 3);
    pub const TSC: Self = Self(1, 0, 3, 4);
    pub const MSR: Self = Self(1, 0, 3, 5);
    pub const PAE: Self = Self(1, 0, 3, 6);
    pub const MCE: Self = Self(1, 0, 3, 7);
    pub const SEP: Self = Self(1, 0, 3, 11);
    pub const PGE: Self = Self(1, 0, 3, 13);
    pub const MCA: Self = Self(1, 0, 3, 14);
    pub const FXSR: Self = Self(1, 0, 3, 24);
    pub const SSE: Self = Self(1, 0, 3, 25);
    pub const FSGSBASE: Self = Self(7, 0, 1, 0);
    pub const TSC_ADJUST: Self = Self(7, 0, 1, 1);
    pub const SMEP: Self = Self(7, 0, 1, 7);
    pub const INVPCID: Self = Self(7, 0, 1, 10);
    pub const SMAP: Self = Self(7, 0, 1, 20);
    pub const UMIP: Self = Self(7, 0, 2, 2);
    pub const PKU: Self = Self(7, 0, 2, 3);
    pub const LA57: Self = Self(7, 0, 2, 16);
    pub const PKS: Self = Self(7, 0, 2, 31);
    pub const RDPID: Self = Self(7, 0, 2, 22);
    pub const SERIALIZE: Self = Self(7, 0, 3, 14);
    pub const IBRS: Self = Self(7, 0, 3, 26);
    pub const STIBP: Self = Self(7, 0, 3, 27);
    pub const L1D_FLUSH: Self = Self(7, 0, 3, 28);
    pub const SSBD: Self = Self(7, 0, 3, 31);
    pub const XGETBV_1: Self = Self(0xd, 1, 0, 2);
    pub const NX: Self = Self(0x8000_0001, 0, 3, 20);
    pub const FFXSR: Self = Self(0x8000_0001, 0, 3, 25);
    pub const RDTSCP: Self = Self(0x8000_0001, 0, 3, 27);
    pub const LONG_MODE: Self = Self(0x8000_0001, 0, 3, 29);
    pub const SYSCALL: Self = Self(0x8000_0001, 0, 3, 11);
    pub const TCE: Self = Self(0x8000_0001, 0, 2, 17);
    pub const AUTOMATIC_IBRS: Self = Self(0x8000_0021, 0, 0, 8);
    pub const AMD_IBPB: Self = Self(0x8000_0008, 0, 1, 12);
    pub const AMD_IBRS: Self = Self(0x8000_0008, 0, 1, 14);
    pub const AMD_STIBP: Self = Self(0x8000_0008, 0, 1, 15);
    pub const AMD_SSBD: Self = Self(0x8000_0008, 0, 1, 24);

    /// Whether the guest's CPUID has it.
    pub fn announced<B: Bus>(self, bus: &mut B) -> bool {
        let result = bus.cpuid(self.0, self.1);
        let register = [result.eax, result.ebx, result.ecx, result.edx][usize::from(self.2 & 3)];
        register >> self.3 & 1 != 0
    }
}

/// Whether the guest's vendor is AMD (or Hygon, which behaves alike).
pub fn is_amd<B: Bus>(bus: &mut B) -> bool {
    let ebx = bus.cpuid(0, 0).ebx;
    ebx == u32::from_le_bytes(*b"Auth") || ebx == u32::from_le_bytes(*b"Hygo")
}

/// Physical address width.
pub fn physical_bits<B: Bus>(bus: &mut B) -> u32 {
    match bus.cpuid(0x8000_0008, 0).eax & 0xff {
        0 => 36,
        bits => bits.min(52),
    }
}

/// CPUID.
pub fn cpuid<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    let leaf = cpu.regs[Reg::Rax as usize] as u32;
    let subleaf = cpu.regs[Reg::Rcx as usize] as u32;
    let result = cpu.live_cpuid(leaf, subleaf);
    cpu.regs[Reg::Rax as usize] = u64::from(result.eax);
    cpu.regs[Reg::Rbx as usize] = u64::from(result.ebx);
    cpu.regs[Reg::Rcx as usize] = u64::from(result.ecx);
    cpu.regs[Reg::Rdx as usize] = u64::from(result.edx);
    Ok(())
}

impl<B: Bus> Cpu<B> {
    /// A leaf as this processor shows it now.
    pub fn live_cpuid(&mut self, leaf: u32, subleaf: u32) -> CpuidResult {
        let mut result = self.bus.cpuid(leaf, subleaf);
        match leaf {
            1 => {
                result.ebx = result.ebx & 0x00ff_ffff | self.apic_id() << 24;
                set_bit(&mut result.ecx, 27, self.has_cr4(Cr4::OSXSAVE));
                if self.state.msrs.apic_base >> 11 & 1 == 0 {
                    result.edx &= !(1 << 9);
                }
            }
            7 if subleaf == 0 => set_bit(&mut result.ecx, 4, self.has_cr4(Cr4::PKE)),
            0xb | 0x1f if result != CpuidResult::default() => result.edx = self.apic_id(),
            0xd if subleaf == 0 => result.ebx = self.xsave_size(false),
            0xd if subleaf == 1 && result.eax & 0b1010 != 0 => result.ebx = self.xsave_size(true),
            0x8000_001e if result != CpuidResult::default() => result.eax = self.apic_id(),
            _ => {}
        }
        result
    }

    /// The local APIC's id, whichever layout its register has: ids are below 2^24, so that the
    /// xAPIC layout is the one with clear low bits.
    fn apic_id(&self) -> u32 {
        let raw = self.state.lapic.registers[reg::ID];
        if raw & 0x00ff_ffff != 0 { raw } else { raw >> 24 }
    }

    /// Bytes of an XSAVE area for the components in XCR0 (SDM vol. 1, 13.4.2-13.4.3).
    fn xsave_size(&mut self, compacted: bool) -> u32 {
        let mut end = 576u32;
        for component in 2..63 {
            if self.state.xcr0 >> component & 1 == 0 {
                continue;
            }
            let leaf = self.bus.cpuid(0xd, component);
            if compacted {
                // ECX bit 1: aligned to 64 bytes.
                let start = if leaf.ecx & 2 != 0 { end.saturating_add(63) & !63 } else { end };
                end = start.saturating_add(leaf.eax);
            } else {
                end = end.max(leaf.ebx.saturating_add(leaf.eax));
            }
        }
        end
    }
}

fn set_bit(register: &mut u32, bit: u32, set: bool) {
    *register = *register & !(1 << bit) | u32::from(set) << bit;
}
