//! IRET in every mode (SDM vol. 2A, IRET/IRETD/IRETQ).

use x86::{Cr4, Flags, Segment};

use super::segments::{DS, ES, FS, GS, VM86_ATTRIBUTES};
use crate::bus::Bus;
use crate::cpu::{Cpu, Exec, Mode};
use crate::flags::LazyFlags;
use crate::op::Op;
use crate::operand::SS;

/// Flags that IRET and POPF may change at any privilege, whatever the operand size.
pub const USER_FLAGS: u64 =
    Flags::STATUS.bits() | Flags::TF.bits() | Flags::DF.bits() | Flags::NT.bits();
/// Further flags that a 32-bit or 64-bit IRET changes.
const WIDE_FLAGS: u64 = Flags::RF.bits() | Flags::AC.bits() | Flags::ID.bits();
/// All defined flags.
const ALL_FLAGS: u64 = 0x3f_7fd5;

/// IRET, IRETD, IRETQ: `extra` is the operand size.
pub fn interrupt_return<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    // Even an IRET that faults ends the blocking of NMIs (SDM vol. 3, 6.7.1).
    cpu.state.nmi_blocked = false;
    let bytes = op.extra;
    match cpu.mode {
        Mode::Real => cpu.iret_real(bytes),
        Mode::Vm86 => cpu.iret_vm86(bytes),
        _ if cpu.has_flag(Flags::NT) => {
            if cpu.is_ia32e() {
                return Err(cpu.gp0());
            }
            cpu.return_task()
        }
        _ => cpu.iret_protected(bytes),
    }
}

impl<B: Bus> Cpu<B> {
    /// The three items of every frame: RIP, CS, flags.
    fn iret_frame(&mut self, bytes: u8) -> Exec<(u64, u16, u64)> {
        let size = u64::from(bytes);
        let rip = self.stack_peek(0, bytes)?;
        let cs = self.stack_peek(size, bytes)? as u16;
        let flags = self.stack_peek(2 * size, bytes)?;
        Ok((rip, cs, flags))
    }

    /// Replaces the flags under `mask`; the caller refreshes.
    pub fn merge_flags(&mut self, mask: u64, image: u64) {
        let merged = self.rflags() & !mask | image & mask | Flags::FIXED.bits();
        self.state.rflags = merged;
        self.flags = LazyFlags::from_bits(merged);
    }

    fn iret_real_segments(&mut self, bytes: u8, mask: u64, image: u64, to: (u64, u16)) -> Exec {
        let cs = self.real_code(to.1);
        self.check_target(&cs, to.0, 0)?;
        self.set_stack_pointer(self.stack_pointer(3 * i64::from(bytes)));
        self.merge_flags(mask, image);
        self.enter_code(cs, to.0);
        Ok(())
    }

    fn iret_real(&mut self, bytes: u8) -> Exec {
        let (rip, selector, image) = self.iret_frame(bytes)?;
        let mask = if bytes == 2 { ALL_FLAGS & 0xffff } else { 0x25_7fd5 };
        self.iret_real_segments(bytes, mask, image, (rip, selector))
    }

    fn iret_vm86(&mut self, bytes: u8) -> Exec {
        let iopl = Flags::from_bits_retain(self.rflags()).iopl();
        if iopl < 3 && !(self.has_cr4(Cr4::VME) && bytes == 2) {
            return Err(self.gp0());
        }
        let (rip, selector, mut image) = self.iret_frame(bytes)?;
        let wide = if bytes == 2 { 0 } else { WIDE_FLAGS };
        let mut mask = USER_FLAGS | wide;
        if iopl == 3 {
            mask |= Flags::IF.bits();
        } else {
            let enable = image & Flags::IF.bits() != 0;
            let pending = self.has_flag(Flags::VIP);
            if enable && pending || image & Flags::TF.bits() != 0 {
                return Err(self.gp0());
            }
            mask |= Flags::VIF.bits();
            image = image & !Flags::VIF.bits() | if enable { Flags::VIF.bits() } else { 0 };
        }
        self.iret_real_segments(bytes, mask, image, (rip, selector))
    }

    fn iret_protected(&mut self, bytes: u8) -> Exec {
        let (rip, selector, image) = self.iret_frame(bytes)?;
        let to_vm86 = bytes == 4 && image & Flags::VM.bits() != 0;
        if to_vm86 && self.cpl == 0 && !self.is_ia32e() {
            return self.iret_to_vm86(rip, selector, image);
        }
        let cs = self.return_code(selector)?;
        let mask = self.iret_flags(bytes);
        let size = u64::from(bytes);
        if cs.rpl() == self.cpl && !self.is_long() {
            self.check_target(&cs, rip, 0)?;
            self.set_stack_pointer(self.stack_pointer(3 * size as i64));
            self.merge_flags(mask, image);
            self.enter_code(cs, rip);
            return Ok(());
        }
        let rsp = self.stack_peek(3 * size, bytes)?;
        let ss_selector = self.stack_peek(4 * size, bytes)? as u16;
        let ss = self.return_stack(ss_selector, &cs)?;
        self.check_target(&cs, rip, 0)?;
        self.merge_flags(mask, image);
        self.enter_outer(cs, rip, ss, rsp);
        Ok(())
    }

    /// What IRET may change at the current privilege.
    fn iret_flags(&self, bytes: u8) -> u64 {
        let mut mask = USER_FLAGS;
        if bytes > 2 {
            mask |= WIDE_FLAGS;
        }
        if self.cpl <= Flags::from_bits_retain(self.rflags()).iopl() {
            mask |= Flags::IF.bits();
        }
        if self.cpl == 0 {
            mask |= Flags::IOPL.bits();
            if bytes > 2 {
                mask |= (Flags::VIF | Flags::VIP).bits();
            }
        }
        mask
    }

    fn iret_to_vm86(&mut self, eip: u64, cs: u16, image: u64) -> Exec {
        let esp = self.stack_peek(12, 4)?;
        let mut selectors = [0u16; 5];
        for (index, selector) in selectors.iter_mut().enumerate() {
            *selector = self.stack_peek(16 + 4 * index as u64, 4)? as u16;
        }
        let cs = Segment::real_mode(cs, VM86_ATTRIBUTES);
        self.check_target(&cs, eip, 0)?;
        self.merge_flags(ALL_FLAGS, image);
        for (index, selector) in [SS, ES, DS, FS, GS].into_iter().zip(selectors) {
            self.set_segment(index, Segment::real_mode(selector, VM86_ATTRIBUTES));
        }
        self.enter_code(cs, eip);
        self.regs[4] = esp;
        Ok(())
    }
}
