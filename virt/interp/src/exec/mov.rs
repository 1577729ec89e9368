//! Moves: MOV, MOVZX, MOVSX, MOVSXD, MOVBE, BSWAP, LEA, CMOVcc, SETcc, XLAT, CBW-CQO and MOVNTI
//! (SDM vol. 1, 5.1.1). No flag changes.

use crate::bus::Bus;
use crate::cpu::{Cpu, Exec};
use crate::op::Op;
use crate::width::Width;

/// `mov r, r`.
pub fn register_register<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let value = cpu.reg::<W>(op.src);
    cpu.set_reg(op.dst, value);
    Ok(())
}

/// `mov r, imm`.
pub fn register_immediate<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    cpu.set_reg(op.dst, W::from_u64(op.imm));
    Ok(())
}

/// `mov r, m`.
pub fn register_memory<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let value = cpu.load::<W>(op)?;
    cpu.set_reg(op.dst, value);
    Ok(())
}

/// `mov m, r`; also MOVNTI and MOVDIRI.
pub fn memory_register<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let value = cpu.reg::<W>(op.dst);
    cpu.store(op, value)
}

/// `mov m, imm`.
pub fn memory_immediate<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    cpu.store(op, W::from_u64(op.imm))
}

/// `mov accumulator, moffs`: the absolute offset is in `imm`.
pub fn accumulator_offset<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let value = cpu.load_at::<W>(op, op.imm)?;
    cpu.set_reg(0, value);
    Ok(())
}

/// `mov moffs, accumulator`.
pub fn offset_accumulator<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let value = cpu.reg::<W>(0);
    cpu.store_at(op, op.imm, value)
}

#[inline(always)]
fn extend<S: Width, D: Width, const SIGNED: bool>(value: S) -> D {
    D::from_u64(if SIGNED { value.to_i64() as u64 } else { value.to_u64() })
}

/// MOVZX, MOVSX, MOVSXD between registers.
pub fn extend_register<B: Bus, S: Width, D: Width, const SIGNED: bool>(
    cpu: &mut Cpu<B>,
    op: &Op<B>,
) -> Exec {
    let value = extend::<S, D, SIGNED>(cpu.reg(op.src));
    cpu.set_reg(op.dst, value);
    Ok(())
}

/// MOVZX, MOVSX, MOVSXD from memory.
pub fn extend_memory<B: Bus, S: Width, D: Width, const SIGNED: bool>(
    cpu: &mut Cpu<B>,
    op: &Op<B>,
) -> Exec {
    let value = extend::<S, D, SIGNED>(cpu.load(op)?);
    cpu.set_reg(op.dst, value);
    Ok(())
}

#[inline]
fn swapped<W: Width>(value: W) -> W {
    W::from_u64(value.to_u64().swap_bytes() >> (64 - W::BITS))
}

/// MOVBE from memory.
pub fn load_big_endian<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let value = cpu.load::<W>(op)?;
    cpu.set_reg(op.dst, swapped(value));
    Ok(())
}

/// MOVBE to memory.
pub fn store_big_endian<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let value = cpu.reg::<W>(op.dst);
    cpu.store(op, swapped(value))
}

/// BSWAP; of a 16-bit register (undefined) it gives 0, as processors do.
pub fn byte_swap<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let value = if W::BITS == 16 { W::from_u64(0) } else { swapped(cpu.reg::<W>(op.dst)) };
    cpu.set_reg(op.dst, value);
    Ok(())
}

/// LEA: the offset, truncated to address size, then to operand size.
pub fn lea<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let offset = cpu.offset(op);
    cpu.set_reg(op.dst, W::from_u64(offset));
    Ok(())
}

/// CMOVcc between registers: a 32-bit destination is zero-extended in any case.
pub fn conditional_register<B: Bus, W: Width, const CODE: u8>(
    cpu: &mut Cpu<B>,
    op: &Op<B>,
) -> Exec {
    let from = if cpu.flags.condition(CODE) { op.src } else { op.dst };
    let value = cpu.reg::<W>(from);
    cpu.set_reg(op.dst, value);
    Ok(())
}

/// CMOVcc from memory, which is read in any case; the condition is in `extra`.
pub fn conditional_memory<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let loaded = cpu.load::<W>(op)?;
    let value = if cpu.flags.condition(op.extra) { loaded } else { cpu.reg(op.dst) };
    cpu.set_reg(op.dst, value);
    Ok(())
}

/// SETcc of a register.
pub fn set_register<B: Bus, const CODE: u8>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let value = u8::from(cpu.flags.condition(CODE));
    cpu.set_reg(op.dst, value);
    Ok(())
}

/// SETcc of memory; the condition is in `extra`.
pub fn set_memory<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let value = u8::from(cpu.flags.condition(op.extra));
    cpu.store(op, value)
}

/// XLAT: AL = [base + AL].
pub fn translate<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let index = cpu.regs[0] & 0xff;
    let offset = cpu.displaced_offset(op, index);
    let value = cpu.load_at::<u8>(op, offset)?;
    cpu.set_reg(0, value);
    Ok(())
}

/// CBW, CWDE, CDQE: the accumulator from its lower half S to D.
pub fn extend_accumulator<B: Bus, S: Width, D: Width>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    let value = extend::<S, D, true>(cpu.reg(0));
    cpu.set_reg(0, value);
    Ok(())
}

/// CWD, CDQ, CQO: (E/R)DX filled with the accumulator's sign.
pub fn sign_to_data<B: Bus, W: Width>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    let sign = cpu.reg::<W>(0).to_i64() >> 63;
    cpu.set_reg(2, W::from_u64(sign as u64));
    Ok(())
}
