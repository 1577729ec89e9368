//! PUSH, POP, PUSHA, POPA, ENTER, LEAVE (SDM vol. 2; stack width: vol. 1, 6.2.3).
//!
//! The stack pointer's width is SS.B's or 64, the element's is the operand size. `LONG` handlers
//! serve 64-bit mode. Invariant: RSP moves only after the last access of the instruction.

use crate::bus::{Access, Bus};
use crate::cpu::{Cpu, Exec};
use crate::op::Op;
use crate::operand::SS;
use crate::width::Width;

const RSP: u8 = 4;
const RBP: u8 = 5;

#[inline(always)]
fn push<B: Bus, W: Width, const LONG: bool>(cpu: &mut Cpu<B>, value: W) -> Exec {
    if LONG { cpu.push_long(value) } else { cpu.push(value) }
}

/// `push r`: PUSH ESP pushes the value before.
pub fn push_register<B: Bus, W: Width, const LONG: bool>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let value: W = cpu.reg(op.dst);
    push::<B, W, LONG>(cpu, value)
}

/// `push imm`.
pub fn push_immediate<B: Bus, W: Width, const LONG: bool>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    push::<B, W, LONG>(cpu, W::from_u64(op.imm))
}

/// `push m`: an address made with ESP uses the value before.
pub fn push_memory<B: Bus, W: Width, const LONG: bool>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let value: W = cpu.load(op)?;
    push::<B, W, LONG>(cpu, value)
}

/// `pop r`: POP ESP gets the popped value, not the incremented pointer.
pub fn pop_register<B: Bus, W: Width, const LONG: bool>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let value: W = if LONG {
        let value = cpu.stack_load_long(cpu.regs[RSP as usize])?;
        cpu.regs[RSP as usize] = cpu.regs[RSP as usize].wrapping_add(W::BYTES);
        value
    } else {
        cpu.pop()?
    };
    cpu.set_reg(op.dst, value);
    Ok(())
}

/// `pop m`: an address made with ESP uses the incremented pointer.
pub fn pop_memory<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let before = cpu.regs[RSP as usize];
    let value: W = cpu.pop()?;
    let stored = cpu.store(op, value);
    if stored.is_err() {
        cpu.regs[RSP as usize] = before;
    }
    stored
}

/// PUSHA, PUSHAD: eight registers from (E)AX to (E)DI, the stack pointer as it was.
pub fn push_all<B: Bus, W: Width>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    for register in 0..8u8 {
        let at = cpu.stack_pointer(-((i64::from(register) + 1) * W::BYTES as i64));
        let value: W = cpu.reg(register);
        cpu.stack_store(at, value)?;
    }
    cpu.set_stack_pointer(cpu.stack_pointer(-8 * W::BYTES as i64));
    Ok(())
}

/// POPA, POPAD: the stack pointer's image is skipped.
pub fn pop_all<B: Bus, W: Width>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    let mut values = [W::default(); 8];
    for (place, step) in values.iter_mut().zip(0..8i64) {
        *place = cpu.stack_load(cpu.stack_pointer(step * W::BYTES as i64))?;
    }
    for (value, register) in values.into_iter().zip((0..8u8).rev()) {
        if register != RSP {
            cpu.set_reg(register, value);
        }
    }
    cpu.set_stack_pointer(cpu.stack_pointer(8 * W::BYTES as i64));
    Ok(())
}

/// ENTER: `imm` bytes of locals, `src2` levels of nesting.
pub fn enter<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let size = W::BYTES as i64;
    let level = i64::from(op.src2 & 31);
    let base: W = cpu.reg(RBP);
    let frame = cpu.stack_pointer(-size);
    cpu.stack_store(frame, base)?;
    let mut pushed = 1;
    // Copies of the outer frames' pointers, then the new one's.
    for outer in 1..level {
        let from = stack_offset(cpu, cpu.regs[RBP as usize], -outer * size);
        let pointer: W = cpu.stack_load(from)?;
        pushed += 1;
        cpu.stack_store(cpu.stack_pointer(-pushed * size), pointer)?;
    }
    let kept = frame_pointer(cpu, frame);
    if level > 0 {
        pushed += 1;
        cpu.stack_store(cpu.stack_pointer(-pushed * size), W::from_u64(kept))?;
    }
    let top = cpu.stack_pointer(-pushed * size - (op.imm & 0xffff) as i64);
    // The final top of stack must be writable, though nothing is written.
    let at = cpu.segment_linear(SS, top, W::BYTES, Access::Write)?;
    if let Err(exception) = cpu.bus.probe(at, W::BYTES, Access::Write) {
        return Err(cpu.memory_fault(exception, SS));
    }
    cpu.set_reg(RBP, W::from_u64(kept));
    cpu.set_stack_pointer(top);
    Ok(())
}

/// The whole stack pointer after the first push, with the bits above the stack width.
fn frame_pointer<B: Bus>(cpu: &Cpu<B>, frame: u64) -> u64 {
    if cpu.stack_bits() == 16 { cpu.regs[RSP as usize] & !0xffff | frame } else { frame }
}

/// `base + delta` within the stack width.
fn stack_offset<B: Bus>(cpu: &Cpu<B>, base: u64, delta: i64) -> u64 {
    base.wrapping_add(delta as u64) & u64::MAX >> (64 - cpu.stack_bits())
}

/// LEAVE: the frame pointer becomes the stack pointer (stack width), then is popped.
pub fn leave<B: Bus, W: Width>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    let from = stack_offset(cpu, cpu.regs[RBP as usize], 0);
    let value: W = cpu.stack_load(from)?;
    cpu.set_stack_pointer(stack_offset(cpu, from, W::BYTES as i64));
    cpu.set_reg(RBP, value);
    Ok(())
}
