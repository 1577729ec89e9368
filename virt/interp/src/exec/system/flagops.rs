//! CLI, STI, PUSHF, POPF, CLAC, STAC with IOPL and the virtual interrupt flag
//! (SDM vol. 2; vol. 3, 20.3-20.4).

use x86::{Cr4, Flags};

use super::iret::USER_FLAGS;
use crate::bus::Bus;
use crate::cpu::{Cpu, Exec, Mode};
use crate::op::Op;

/// Which flag CLI and STI act on.
enum InterruptFlag {
    Real,
    Virtual,
}

impl<B: Bus> Cpu<B> {
    /// RFLAGS.IOPL.
    pub fn iopl(&self) -> u8 {
        Flags::from_bits_retain(self.state.rflags).iopl()
    }

    /// IF, VIF or #GP(0), by mode and privilege.
    fn interrupt_flag(&mut self) -> Exec<InterruptFlag> {
        let virtualised = match self.mode {
            Mode::Real => false,
            Mode::Vm86 => self.has_cr4(Cr4::VME),
            _ => self.cpl == 3 && self.has_cr4(Cr4::PVI),
        };
        if self.cpl <= self.iopl() {
            Ok(InterruptFlag::Real)
        } else if virtualised {
            Ok(InterruptFlag::Virtual)
        } else {
            Err(self.gp0())
        }
    }
}

/// CLI.
pub fn cli<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    let cleared = match cpu.interrupt_flag()? {
        InterruptFlag::Real => Flags::IF,
        InterruptFlag::Virtual => Flags::VIF,
    };
    cpu.state.rflags &= !cleared.bits();
    Ok(())
}

/// STI: opens a shadow of one instruction if IF was clear.
pub fn sti<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    match cpu.interrupt_flag()? {
        InterruptFlag::Real => {
            if !cpu.has_flag(Flags::IF) {
                cpu.state.sti_shadow = true;
            }
            cpu.state.rflags |= Flags::IF.bits();
        }
        InterruptFlag::Virtual => {
            if cpu.has_flag(Flags::VIP) {
                return Err(cpu.gp0());
            }
            cpu.state.rflags |= Flags::VIF.bits();
        }
    }
    Ok(())
}

/// PUSHF, PUSHFD, PUSHFQ: `extra` is the operand size.
pub fn pushf<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let mut image = cpu.rflags() & !(Flags::RF | Flags::VM).bits();
    if cpu.mode == Mode::Vm86 && cpu.iopl() < 3 {
        if !cpu.has_cr4(Cr4::VME) || op.extra != 2 {
            return Err(cpu.gp0());
        }
        let enabled = image & Flags::VIF.bits() != 0;
        image = image & !Flags::IF.bits() | Flags::IOPL.bits();
        image |= if enabled { Flags::IF.bits() } else { 0 };
    }
    match op.extra {
        2 => cpu.push(image as u16),
        4 => cpu.push(image as u32),
        _ => cpu.push(image),
    }
}

/// POPF, POPFD, POPFQ: `extra` is the operand size.
pub fn popf<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let mut image = cpu.stack_peek(0, op.extra)?;
    let mut mask = USER_FLAGS;
    if op.extra > 2 {
        mask |= (Flags::AC | Flags::ID).bits();
    }
    let iopl = cpu.iopl();
    if cpu.mode == Mode::Vm86 && iopl < 3 {
        if !cpu.has_cr4(Cr4::VME) || op.extra != 2 {
            return Err(cpu.gp0());
        }
        let enable = image & Flags::IF.bits() != 0;
        if enable && cpu.has_flag(Flags::VIP) || image & Flags::TF.bits() != 0 {
            return Err(cpu.gp0());
        }
        mask |= Flags::VIF.bits();
        image = image & !Flags::VIF.bits() | if enable { Flags::VIF.bits() } else { 0 };
    } else {
        if cpu.cpl <= iopl {
            mask |= Flags::IF.bits();
        }
        if cpu.cpl == 0 {
            mask |= Flags::IOPL.bits();
        }
    }
    cpu.set_stack_pointer(cpu.stack_pointer(i64::from(op.extra)));
    cpu.merge_flags(mask | Flags::RF.bits(), image & !Flags::RF.bits());
    cpu.refresh();
    Ok(())
}

/// STAC (`extra` 1) and CLAC (`extra` 0): #UD above CPL 0.
pub fn set_access_check<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    if cpu.cpl != 0 {
        return Err(cpu.ud());
    }
    let ac = if op.extra != 0 { Flags::AC.bits() } else { 0 };
    cpu.state.rflags = cpu.state.rflags & !Flags::AC.bits() | ac;
    cpu.refresh();
    Ok(())
}
