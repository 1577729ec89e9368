//! A stack under construction: pushes go to memory at once, registers change only on commit
//! (SDM vol. 3, 5.8.5, 6.12.1, 6.14.2).

use x86::{Exception, Segment, Vector};

use super::segments::{Blame, contains, is_null};
use crate::bus::Bus;
use crate::cpu::{Cpu, Exec};
use crate::operand::SS;
use crate::width::Width;

/// Where an event's or call's frame goes.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// SS after commit.
    pub ss: Segment,
    /// RSP; only the bits of `mask` move.
    pub rsp: u64,
    /// Bits of the stack pointer that pushes change.
    mask: u64,
    /// CPL after commit: decides the privilege of the stores.
    cpl: u8,
    /// Flat 64-bit stack: no limit, canonical addresses.
    long: bool,
    /// Error code of a #SS.
    code: u32,
}

impl Frame {
    /// The current stack, or in 64-bit mode one at another RSP.
    pub fn current<B: Bus>(cpu: &Cpu<B>, external: u32) -> Self {
        let mask = match cpu.stack_bits() {
            64 => u64::MAX,
            32 => 0xffff_ffff,
            _ => 0xffff,
        };
        let rsp = if mask == 0xffff_ffff { cpu.regs[4] & mask } else { cpu.regs[4] };
        let long = mask == u64::MAX;
        Self { ss: *cpu.segment(SS), rsp, mask, cpl: cpu.cpl, long, code: external }
    }

    /// A stack of an inner level outside 64-bit mode.
    pub fn inner(ss: Segment, esp: u64, external: u32) -> Self {
        let mask = if ss.is_big() { 0xffff_ffff } else { 0xffff };
        let code = u32::from(ss.selector & !3) | external;
        Self { ss, rsp: esp, mask, cpl: ss.dpl(), long: false, code }
    }

    /// A stack of 64-bit mode at a privilege level.
    pub fn long(ss: Segment, rsp: u64, cpl: u8, external: u32) -> Self {
        Self { ss, rsp, mask: u64::MAX, cpl, long: true, code: external }
    }

    /// Pushes a value.
    pub fn push<W: Width, B: Bus>(&mut self, cpu: &mut Cpu<B>, value: W) -> Exec {
        let offset = self.rsp.wrapping_sub(W::BYTES) & self.mask;
        let at = if self.long {
            offset
        } else {
            if !contains(&self.ss, offset, W::BYTES) || !self.ss.is_present() {
                return Err(cpu.fault_code(Vector::StackFault, self.code));
            }
            self.ss.base.wrapping_add(offset) & 0xffff_ffff
        };
        let stored = if self.cpl == cpu.cpl {
            cpu.bus.store(at, value)
        } else {
            cpu.bus.store_system(at, value)
        };
        stored.map_err(|exception| {
            if exception == Exception::GP0 {
                cpu.fault_code(Vector::StackFault, self.code)
            } else {
                cpu.fault(exception)
            }
        })?;
        self.rsp = self.rsp & !self.mask | offset;
        Ok(())
    }

    /// Pushes a value of 2, 4 or 8 bytes.
    pub fn push_sized<B: Bus>(&mut self, cpu: &mut Cpu<B>, bytes: u8, value: u64) -> Exec {
        match bytes {
            2 => self.push(cpu, value as u16),
            4 => self.push(cpu, value as u32),
            _ => self.push(cpu, value),
        }
    }

    /// Makes it the stack. The caller refreshes.
    pub fn commit<B: Bus>(self, cpu: &mut Cpu<B>) {
        cpu.set_segment(SS, self.ss);
        cpu.regs[4] = self.rsp;
    }
}

impl<B: Bus> Cpu<B> {
    /// Loads a value of 2, 4 or 8 bytes at `delta` bytes above the top of the stack.
    pub fn stack_peek(&mut self, delta: u64, bytes: u8) -> Exec<u64> {
        let at = self.stack_pointer(delta as i64);
        match bytes {
            2 => self.stack_load::<u16>(at).map(u64::from),
            4 => self.stack_load::<u32>(at).map(u64::from),
            _ => self.stack_load::<u64>(at),
        }
    }

    /// The stack that the current TSS names for an inner level, outside IA-32e mode
    /// (SDM vol. 3, figures 7-2 and 7-10): fully checked, #TS or #SS.
    pub fn inner_stack(&mut self, cpl: u8, external: u32) -> Exec<Frame> {
        let tr = self.state.tr;
        let blame = Blame { vector: Vector::InvalidTss, external };
        let wide = tr.kind() & 8 != 0;
        let (at, size) =
            if wide { (4 + u64::from(cpl) * 8, 4) } else { (2 + u64::from(cpl) * 4, 2) };
        if at + size + 1 > u64::from(tr.limit) {
            return Err(self.selector_fault(blame, tr.selector));
        }
        let base = tr.base.wrapping_add(at);
        let esp = if wide {
            u64::from(self.table_load::<u32>(base)?)
        } else {
            u64::from(self.table_load::<u16>(base)?)
        };
        let selector: u16 = self.table_load(base.wrapping_add(size))?;
        if is_null(selector) {
            return Err(self.fault_code(Vector::InvalidTss, external));
        }
        let ss = self.stack_segment(selector, cpl, blame)?;
        Ok(Frame::inner(ss, esp, external))
    }

    /// RSP0-RSP2 (`index` 0-2) or IST1-IST7 (`index` 4-10) of the current 64-bit TSS
    /// (SDM vol. 3, figure 7-11): slot n lies at 4 + 8n.
    pub fn long_stack_pointer(&mut self, index: u8, external: u32) -> Exec<u64> {
        let tr = self.state.tr;
        let at = 4 + u64::from(index) * 8;
        if at + 7 > u64::from(tr.limit) {
            let blame = Blame { vector: Vector::InvalidTss, external };
            return Err(self.selector_fault(blame, tr.selector));
        }
        let rsp: u64 = self.table_load(tr.base.wrapping_add(at))?;
        if !x86::GuestVirt(rsp).is_canonical() {
            return Err(self.fault_code(Vector::StackFault, external));
        }
        Ok(rsp)
    }
}
