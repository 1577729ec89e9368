//! SYSCALL, SYSRET, SYSENTER, SYSEXIT (SDM vol. 2B; vol. 3, 5.8.7-5.8.8; APM vol. 3).
//!
//! Intel's semantics, except where the guest's vendor is AMD: SYSCALL and SYSRET work outside
//! 64-bit mode only there, SYSENTER and SYSEXIT in IA-32e mode only elsewhere.

use x86::{Efer, Flags, GuestVirt, Reg, Segment, segment::attr};

use super::cpuid::is_amd;
use crate::bus::Bus;
use crate::cpu::{Cpu, Exec, Stop, Trap};
use crate::flags::LazyFlags;
use crate::op::Op;
use crate::operand::SS;

const FLAT: u16 = attr::PRESENT | attr::S | attr::WRITE_READ | attr::ACCESSED | attr::GRANULAR;

fn flat_code(selector: u16, cpl: u8, long: bool) -> Segment {
    let size = if long { attr::LONG } else { attr::DB };
    let attributes = FLAT | attr::CODE | size | u16::from(cpl) << 5;
    Segment { base: 0, limit: u32::MAX, selector, attributes }
}

fn flat_stack(selector: u16, cpl: u8) -> Segment {
    let attributes = FLAT | attr::DB | u16::from(cpl) << 5;
    Segment { base: 0, limit: u32::MAX, selector, attributes }
}

/// CS and SS as SYSCALL loads them, or SYSRET to 64-bit mode.
pub fn flat_segments(star: u64, user: bool) -> (Segment, Segment) {
    if user {
        let star = (star >> 48) as u16;
        let (cs, ss) = (star.wrapping_add(16) | 3, star.wrapping_add(8) | 3);
        return (flat_code(cs, 3, true), flat_stack(ss, 3));
    }
    let selector = (star >> 32) as u16 & 0xfffc;
    (flat_code(selector, 0, true), flat_stack(selector.wrapping_add(8), 0))
}

impl<B: Bus> Cpu<B> {
    /// Enters flat code; a step is due only if TF is set after the instruction.
    fn enter_flat(&mut self, cs: Segment, ss: Segment, rip: u64) {
        self.stepping = self.has_flag(Flags::TF);
        self.set_segment(SS, ss);
        self.enter_code(cs, rip);
    }

    /// #UD unless EFER.SCE is set and the mode has SYSCALL and SYSRET.
    fn require_syscall(&mut self) -> Exec {
        let enabled = self.state.msrs.efer & Efer::SCE.bits() != 0;
        let fine = self.is_long() || self.is_protected() && is_amd(&mut self.bus);
        if enabled && fine { Ok(()) } else { Err(self.ud()) }
    }

    /// #UD where SYSENTER and SYSEXIT do not exist.
    fn require_sysenter(&mut self) -> Exec {
        if self.is_ia32e() && is_amd(&mut self.bus) {
            return Err(self.ud());
        }
        if !self.is_protected() || self.state.msrs.sysenter_cs & 0xfffc == 0 {
            return Err(self.gp0());
        }
        Ok(())
    }
}

/// SYSCALL.
pub fn syscall<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    cpu.require_syscall()?;
    let msrs = &cpu.state.msrs;
    let (star, mask) = (msrs.star, msrs.sfmask);
    let selector = (star >> 32) as u16 & 0xfffc;
    let rflags = cpu.rflags() & !Flags::RF.bits();
    let target = if cpu.is_ia32e() {
        let target = if cpu.is_long() { msrs.lstar } else { msrs.cstar };
        cpu.regs[Reg::R11 as usize] = rflags;
        let cleared = rflags & !mask | Flags::FIXED.bits();
        cpu.state.rflags = cleared;
        cpu.flags = LazyFlags::from_bits(cleared);
        target
    } else {
        cpu.state.rflags = rflags & !(Flags::IF | Flags::VM).bits();
        star & 0xffff_ffff
    };
    cpu.regs[Reg::Rcx as usize] = cpu.rip();
    let long = cpu.is_ia32e();
    cpu.enter_flat(flat_code(selector, 0, long), flat_stack(selector.wrapping_add(8), 0), target);
    Ok(())
}

/// SYSRET: `extra` is the operand size, 8 returns to 64-bit mode.
pub fn sysret<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    cpu.require_syscall()?;
    cpu.require_cpl0()?;
    let long = op.extra == 8;
    let rip = cpu.regs[Reg::Rcx as usize];
    let rip = if long { rip } else { rip & 0xffff_ffff };
    if !GuestVirt(rip).is_canonical() {
        return Err(cpu.gp0());
    }
    let star = (cpu.state.msrs.star >> 48) as u16;
    let cs = if long { star.wrapping_add(16) } else { star } | 3;
    let ss = star.wrapping_add(8) | 3;
    if cpu.is_ia32e() {
        let rflags = cpu.regs[Reg::R11 as usize] & 0x3c_7fd7 | Flags::FIXED.bits();
        cpu.state.rflags = rflags;
        cpu.flags = LazyFlags::from_bits(rflags);
    } else {
        cpu.state.rflags |= Flags::IF.bits();
    }
    cpu.enter_flat(flat_code(cs, 3, long), flat_stack(ss, 3), rip);
    // TF that it restores counts at once, also where it was clear before.
    match cpu.debug_trap() {
        Some(exception) => {
            cpu.stop = Stop::TrapAfter(exception);
            Err(Trap)
        }
        None => Ok(()),
    }
}

/// SYSENTER.
pub fn sysenter<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    cpu.require_sysenter()?;
    let long = cpu.is_ia32e();
    let width = if long { u64::MAX } else { 0xffff_ffff };
    let msrs = &cpu.state.msrs;
    let selector = msrs.sysenter_cs as u16 & 0xfffc;
    let (rip, rsp) = (msrs.sysenter_eip & width, msrs.sysenter_esp & width);
    cpu.state.rflags &= !(Flags::VM | Flags::IF | Flags::RF).bits();
    cpu.regs[Reg::Rsp as usize] = rsp;
    cpu.enter_flat(flat_code(selector, 0, long), flat_stack(selector.wrapping_add(8), 0), rip);
    Ok(())
}

/// SYSEXIT: `extra` is the operand size, 8 returns to 64-bit mode.
pub fn sysexit<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    cpu.require_sysenter()?;
    cpu.require_cpl0()?;
    let long = op.extra == 8;
    let width = if long { u64::MAX } else { 0xffff_ffff };
    let (rsp, rip) = (cpu.regs[Reg::Rcx as usize] & width, cpu.regs[Reg::Rdx as usize] & width);
    if !GuestVirt(rsp).is_canonical() || !GuestVirt(rip).is_canonical() {
        return Err(cpu.gp0());
    }
    let base = cpu.state.msrs.sysenter_cs as u16 & 0xfffc;
    let (cs, ss) = if long { (32, 40) } else { (16, 24) };
    cpu.regs[Reg::Rsp as usize] = rsp;
    let cs = flat_code(base.wrapping_add(cs) | 3, 3, long);
    cpu.enter_flat(cs, flat_stack(base.wrapping_add(ss) | 3, 3), rip);
    Ok(())
}
