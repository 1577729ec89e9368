//! Operands: registers by slot, memory by effective address and segment.

use x86::{Exception, Vector, segment::attr};

use crate::bus::{Access, Bus};
use crate::cpu::{Cpu, Exec, Trap};
use crate::exec::system::cpuid::is_amd;
use crate::op::{AddressForm, Op, OpFlags, slot};
use crate::width::Width;

/// SS in encoding order.
pub const SS: u8 = 2;

impl<B: Bus> Cpu<B> {
    /// Reads a register operand of width W (AH-BH by slots 32-35).
    #[inline(always)]
    pub fn reg<W: Width>(&self, register: u8) -> W {
        let value = self.regs[(register & 31) as usize];
        if W::BITS == 8 { W::from_u64(value >> ((register >> 5) << 3)) } else { W::from_u64(value) }
    }

    /// Writes a register operand: 32-bit writes zero the high half, narrower ones merge.
    #[inline(always)]
    pub fn set_reg<W: Width>(&mut self, register: u8, value: W) {
        let place = &mut self.regs[(register & 31) as usize];
        if W::BITS == 8 {
            let shift = (register >> 5) << 3;
            *place = *place & !(0xff << shift) | value.to_u64() << shift;
        } else if W::BITS == 16 {
            *place = *place & !0xffff | value.to_u64();
        } else {
            *place = value.to_u64();
        }
    }

    /// Offset of the memory operand within its segment, truncated to the address size.
    #[inline(always)]
    pub fn offset(&self, op: &Op<B>) -> u64 {
        let raw = self.regs[(op.base & 31) as usize]
            .wrapping_add(self.regs[(op.index & 31) as usize] << (op.scale & 3))
            .wrapping_add(op.disp as i64 as u64);
        if op.form == AddressForm::Flat { raw } else { truncate(raw, op.flags) }
    }

    /// Offset `delta` bytes beyond the memory operand, truncated to the address size.
    #[inline(always)]
    pub fn displaced_offset(&self, op: &Op<B>, delta: u64) -> u64 {
        truncate(self.offset(op).wrapping_add(delta), op.flags)
    }

    /// Linear address of `length` bytes at the memory operand, segment-checked.
    #[inline(always)]
    pub fn linear(&mut self, op: &Op<B>, length: u64, access: Access) -> Exec<u64> {
        let offset = self.offset(op);
        self.linear_at(op, offset, length, access)
    }

    /// Linear address of `length` bytes at another offset of the memory operand's segment.
    #[inline(always)]
    pub fn linear_at(&mut self, op: &Op<B>, offset: u64, length: u64, access: Access) -> Exec<u64> {
        match op.form {
            AddressForm::Flat => Ok(offset),
            AddressForm::Long => {
                let base = if op.segment >= 4 { self.segment(op.segment).base } else { 0 };
                Ok(base.wrapping_add(offset))
            }
            AddressForm::Segmented => self.checked_linear(op.segment, offset, length, access),
        }
    }

    /// Linear address of `length` bytes at `offset` of a segment in any mode, with the checks of
    /// protected mode (SDM vol. 3, 5.3-5.5). In 64-bit mode only FS and GS have a base.
    pub fn segment_linear(
        &mut self,
        segment: u8,
        offset: u64,
        length: u64,
        access: Access,
    ) -> Exec<u64> {
        if self.is_long() {
            let base = if segment >= 4 { self.segment(segment).base } else { 0 };
            return Ok(base.wrapping_add(offset));
        }
        self.checked_linear(segment, offset, length, access)
    }

    #[inline(always)]
    fn checked_linear(
        &mut self,
        segment: u8,
        offset: u64,
        length: u64,
        access: Access,
    ) -> Exec<u64> {
        let descriptor = self.segment(segment);
        let last = offset.wrapping_add(length.max(1) - 1);
        // Present, writable, expand-up data: what nearly every access meets.
        const KIND: u16 = attr::PRESENT | attr::CODE | attr::DOWN_CONFORMING | attr::WRITE_READ;
        let plain = descriptor.attributes & KIND == attr::PRESENT | attr::WRITE_READ;
        if plain && last <= u64::from(descriptor.limit) {
            return Ok(descriptor.base.wrapping_add(offset) & 0xffff_ffff);
        }
        self.fully_checked_linear(segment, offset, length, access)
    }

    #[inline(never)]
    fn fully_checked_linear(
        &mut self,
        segment: u8,
        offset: u64,
        length: u64,
        access: Access,
    ) -> Exec<u64> {
        let descriptor = *self.segment(segment);
        let allowed = match (descriptor.is_code(), access) {
            (false, Access::Read) => true,
            (false, Access::Write) => descriptor.attributes & attr::WRITE_READ != 0,
            (true, Access::Read) => {
                // Real mode reads and writes through CS whatever its type bits.
                !self.is_protected() || descriptor.attributes & attr::WRITE_READ != 0
            }
            (true, Access::Write) => !self.is_protected(),
        };
        let last = offset.wrapping_add(length.max(1) - 1);
        let expand_down =
            !descriptor.is_code() && descriptor.attributes & attr::DOWN_CONFORMING != 0;
        let limit = u64::from(descriptor.limit);
        let inside = if expand_down {
            let top = if descriptor.is_big() { 0xffff_ffff } else { 0xffff };
            offset > limit && last <= top && last >= offset
        } else {
            // A limit of 4 GiB lets an access wrap around on Intel, which leaves it open.
            last <= limit && last >= offset
                || descriptor.limit == u32::MAX && !is_amd(&mut self.bus)
        };
        if allowed && inside && descriptor.is_present() {
            return Ok(descriptor.base.wrapping_add(offset) & 0xffff_ffff);
        }
        let vector = if segment == SS { Vector::StackFault } else { Vector::GeneralProtection };
        Err(self.fault_code(vector, 0))
    }

    /// Turns a memory exception into a trap; #GP(0) of a stack access becomes #SS(0).
    #[cold]
    pub fn memory_fault(&mut self, exception: Exception, segment: u8) -> Trap {
        if segment == SS && exception == Exception::GP0 {
            return self.fault(Exception::SS0);
        }
        self.fault(exception)
    }

    /// Loads the memory operand.
    #[inline(always)]
    pub fn load<W: Width>(&mut self, op: &Op<B>) -> Exec<W> {
        let offset = self.offset(op);
        self.load_at(op, offset)
    }

    /// Loads from another offset of the memory operand's segment.
    #[inline(always)]
    pub fn load_at<W: Width>(&mut self, op: &Op<B>, offset: u64) -> Exec<W> {
        let at = self.linear_at(op, offset, W::BYTES, Access::Read)?;
        match self.bus.load(at) {
            Ok(value) => Ok(value),
            Err(exception) => Err(self.memory_fault(exception, op.segment)),
        }
    }

    /// Stores to the memory operand.
    #[inline(always)]
    pub fn store<W: Width>(&mut self, op: &Op<B>, value: W) -> Exec {
        let offset = self.offset(op);
        self.store_at(op, offset, value)
    }

    /// Stores to another offset of the memory operand's segment.
    #[inline(always)]
    pub fn store_at<W: Width>(&mut self, op: &Op<B>, offset: u64, value: W) -> Exec {
        let at = self.linear_at(op, offset, W::BYTES, Access::Write)?;
        match self.bus.store(at, value) {
            Ok(()) => Ok(()),
            Err(exception) => Err(self.memory_fault(exception, op.segment)),
        }
    }

    /// Applies `change` to the memory operand and stores its result: plainly, or atomically with a
    /// LOCK prefix. `change` may run several times and must be pure; its last value counts.
    #[inline(always)]
    pub fn modify<W: Width, T>(
        &mut self,
        op: &Op<B>,
        change: impl FnMut(&Self, W) -> (W, T),
    ) -> Exec<T> {
        let offset = self.offset(op);
        self.modify_at(op, offset, change)
    }

    /// [`Cpu::modify`] at another offset of the memory operand's segment.
    #[inline(always)]
    pub fn modify_at<W: Width, T>(
        &mut self,
        op: &Op<B>,
        offset: u64,
        mut change: impl FnMut(&Self, W) -> (W, T),
    ) -> Exec<T> {
        let at = self.linear_at(op, offset, W::BYTES, Access::Write)?;
        let old: W = match self.bus.load_for_write(at) {
            Ok(old) => old,
            Err(exception) => return Err(self.memory_fault(exception, op.segment)),
        };
        if op.flags.contains(OpFlags::LOCK) {
            return self.modify_locked(op, at, old, change);
        }
        let (new, out) = change(self, old);
        match self.bus.store(at, new) {
            Ok(()) => Ok(out),
            Err(exception) => Err(self.memory_fault(exception, op.segment)),
        }
    }

    #[inline(never)]
    fn modify_locked<W: Width, T>(
        &mut self,
        op: &Op<B>,
        at: u64,
        mut old: W,
        mut change: impl FnMut(&Self, W) -> (W, T),
    ) -> Exec<T> {
        loop {
            let (new, out) = change(self, old);
            match self.bus.compare_exchange(at, old, new) {
                Ok(found) if found == old => return Ok(out),
                Ok(found) => old = found,
                Err(exception) => return Err(self.memory_fault(exception, op.segment)),
            }
        }
    }

    /// The stack pointer's width in bits: 64, 32 or 16 (SS.B, 64-bit mode).
    #[inline]
    pub fn stack_bits(&self) -> u32 {
        if self.is_long() {
            64
        } else if self.segment(SS).is_big() {
            32
        } else {
            16
        }
    }

    /// RSP/ESP/SP plus `delta`, within the stack width.
    #[inline]
    pub fn stack_pointer(&self, delta: i64) -> u64 {
        let raw = self.regs[4].wrapping_add(delta as u64);
        match self.stack_bits() {
            64 => raw,
            32 => raw & 0xffff_ffff,
            _ => raw & 0xffff,
        }
    }

    /// Sets RSP/ESP/SP, leaving the bits above the stack width.
    #[inline]
    pub fn set_stack_pointer(&mut self, value: u64) {
        match self.stack_bits() {
            64 => self.regs[4] = value,
            32 => self.regs[4] = value & 0xffff_ffff,
            _ => self.regs[4] = self.regs[4] & !0xffff | value & 0xffff,
        }
    }

    /// Pushes: the stack pointer moves only after the store succeeded.
    #[inline(always)]
    pub fn push<W: Width>(&mut self, value: W) -> Exec {
        let top = self.stack_pointer(-(W::BYTES as i64));
        self.stack_store(top, value)?;
        self.set_stack_pointer(top);
        Ok(())
    }

    /// Pops: the caller moves the stack pointer by [`Cpu::set_stack_pointer`] or uses this whole.
    #[inline(always)]
    pub fn pop<W: Width>(&mut self) -> Exec<W> {
        let value = self.stack_load(self.stack_pointer(0))?;
        self.set_stack_pointer(self.stack_pointer(W::BYTES as i64));
        Ok(value)
    }

    /// Loads from the stack segment at an offset.
    #[inline(always)]
    pub fn stack_load<W: Width>(&mut self, offset: u64) -> Exec<W> {
        let at = if self.is_long() {
            offset
        } else {
            self.segment_linear(SS, offset, W::BYTES, Access::Read)?
        };
        match self.bus.load(at) {
            Ok(value) => Ok(value),
            Err(exception) => Err(self.memory_fault(exception, SS)),
        }
    }

    /// Stores to the stack segment at an offset.
    #[inline(always)]
    pub fn stack_store<W: Width>(&mut self, offset: u64, value: W) -> Exec {
        let at = if self.is_long() {
            offset
        } else {
            self.segment_linear(SS, offset, W::BYTES, Access::Write)?
        };
        match self.bus.store(at, value) {
            Ok(()) => Ok(()),
            Err(exception) => Err(self.memory_fault(exception, SS)),
        }
    }

    /// Pushes in 64-bit mode, where SS needs no look.
    #[inline(always)]
    pub fn push_long<W: Width>(&mut self, value: W) -> Exec {
        let top = self.regs[4].wrapping_sub(W::BYTES);
        if let Err(exception) = self.bus.store(top, value) {
            return Err(self.memory_fault(exception, SS));
        }
        self.regs[4] = top;
        Ok(())
    }

    /// Loads from the stack in 64-bit mode.
    #[inline(always)]
    pub fn stack_load_long<W: Width>(&mut self, at: u64) -> Exec<W> {
        match self.bus.load(at) {
            Ok(value) => Ok(value),
            Err(exception) => Err(self.memory_fault(exception, SS)),
        }
    }

    /// The count register's slot value masked to the address size, for REP, LOOP, JCXZ.
    #[inline]
    pub fn masked(&self, register: u8, flags: OpFlags) -> u64 {
        truncate(self.regs[(register & 31) as usize], flags)
    }

    /// Writes a register at address size: 16-bit merges, 32-bit zero-extends.
    #[inline]
    pub fn set_masked(&mut self, register: u8, flags: OpFlags, value: u64) {
        let place = &mut self.regs[(register & 31) as usize];
        if flags.contains(OpFlags::ADDR16) {
            *place = *place & !0xffff | value & 0xffff;
        } else if flags.contains(OpFlags::ADDR32) {
            *place = value & 0xffff_ffff;
        } else {
            *place = value;
        }
    }
}

/// Cuts an address to the op's address size (64-bit when neither flag is set).
#[inline]
pub fn truncate(address: u64, flags: OpFlags) -> u64 {
    if flags.contains(OpFlags::ADDR16) {
        address & 0xffff
    } else if flags.contains(OpFlags::ADDR32) {
        address & 0xffff_ffff
    } else {
        address
    }
}

/// Whether a slot names a high byte register.
#[inline]
pub fn is_high_byte(register: u8) -> bool {
    register >= slot::HIGH_BYTE
}
