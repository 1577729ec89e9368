//! Whether vector and x87 instructions may execute now: CR0, CR4, XCR0 and pending x87 errors
//! (SDM vol. 2A, 2.4 tables 2-19 ff.; vol. 3, 2.5, 13.1). The order is #UD, #NM, #MF.

use x86::{Cr0, Cr4, Exception, Vector, Xcr0};

use crate::bus::Bus;
use crate::cpu::{Cpu, Exec, Mode, Trap};

/// Legacy SSE.
pub(super) const SSE: u8 = 0;
/// VEX-encoded.
pub(super) const AVX: u8 = 1;
/// MMX registers only.
pub(super) const MMX: u8 = 2;
/// SSE instructions that also use MMX registers.
pub(super) const SSE_MMX: u8 = 3;

const ES: u16 = 1 << 7;
const YMM_STATE: u64 = Xcr0::SSE.bits() | Xcr0::AVX.bits();

/// Raises what an instruction of this class raises before it looks at its operands.
#[inline(always)]
pub(super) fn pass<B: Bus, const GATE: u8>(cpu: &mut Cpu<B>) -> Exec {
    let cr0 = cpu.state.cr0;
    let ready = match GATE {
        SSE => cr0 & (Cr0::EM | Cr0::TS).bits() == 0 && cpu.state.cr4 & Cr4::OSFXSR.bits() != 0,
        AVX => {
            cr0 & Cr0::TS.bits() == 0
                && cpu.state.cr4 & Cr4::OSXSAVE.bits() != 0
                && cpu.state.xcr0 & YMM_STATE == YMM_STATE
                && !matches!(cpu.mode, Mode::Real | Mode::Vm86)
        }
        MMX => cr0 & (Cr0::EM | Cr0::TS).bits() == 0 && cpu.state.xsave.fsw() & ES == 0,
        _ => {
            cr0 & (Cr0::EM | Cr0::TS).bits() == 0
                && cpu.state.cr4 & Cr4::OSFXSR.bits() != 0
                && cpu.state.xsave.fsw() & ES == 0
        }
    };
    if ready { Ok(()) } else { Err(refuse(cpu, GATE)) }
}

#[cold]
fn refuse<B: Bus>(cpu: &mut Cpu<B>, gate: u8) -> Trap {
    let undefined = match gate {
        AVX => {
            !cpu.has_cr4(Cr4::OSXSAVE)
                || cpu.state.xcr0 & YMM_STATE != YMM_STATE
                || matches!(cpu.mode, Mode::Real | Mode::Vm86)
        }
        MMX => cpu.has_cr0(Cr0::EM),
        _ => cpu.has_cr0(Cr0::EM) || !cpu.has_cr4(Cr4::OSFXSR),
    };
    if undefined {
        cpu.ud()
    } else if cpu.has_cr0(Cr0::TS) {
        cpu.fault(Exception::NM)
    } else {
        cpu.fault(Exception::new(Vector::MathFault))
    }
}

/// x87 instructions: #NM under emulation or after a task switch.
#[inline(always)]
pub(super) fn pass_x87<B: Bus>(cpu: &mut Cpu<B>) -> Exec {
    if cpu.state.cr0 & (Cr0::EM | Cr0::TS).bits() == 0 {
        Ok(())
    } else {
        Err(cpu.fault(Exception::NM))
    }
}

/// Waiting x87 instructions: #MF when an unmasked exception is pending. (With CR0.NE = 0 a PC
/// would route FERR# to IRQ 13; #MF is raised there too.)
#[inline(always)]
pub(super) fn pass_waiting_x87<B: Bus>(cpu: &mut Cpu<B>) -> Exec {
    pass_x87(cpu)?;
    wait(cpu)
}

/// The check of WAIT itself.
#[inline(always)]
pub(super) fn wait<B: Bus>(cpu: &mut Cpu<B>) -> Exec {
    if cpu.state.xsave.fsw() & ES == 0 {
        Ok(())
    } else {
        Err(cpu.fault(Exception::new(Vector::MathFault)))
    }
}

/// FXSAVE and FXRSTOR: #NM under EM or TS.
pub(super) fn pass_fxsave<B: Bus>(cpu: &mut Cpu<B>) -> Exec {
    pass_x87(cpu)
}

/// The XSAVE family: #UD without OSXSAVE, #NM after a task switch.
pub(super) fn pass_xsave<B: Bus>(cpu: &mut Cpu<B>) -> Exec {
    if !cpu.has_cr4(Cr4::OSXSAVE) {
        return Err(cpu.ud());
    }
    if cpu.has_cr0(Cr0::TS) { Err(cpu.fault(Exception::NM)) } else { Ok(()) }
}
