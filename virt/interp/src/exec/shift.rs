//! Shifts and rotates (SDM vol. 2, SAL/SAR/SHL/SHR, RCL/RCR/ROL/ROR, SHLD, SHRD).
//!
//! Counts are masked to 5 bits, 6 for 64-bit operands; a masked count of 0 changes no flag. OF is
//! defined for counts of 1; for others it is what the same formula gives. AF is clear.

use crate::bus::Bus;
use crate::cpu::{Cpu, Exec};
use crate::exec::branch::require_protected;
use crate::flags::LazyFlags;
use crate::op::Op;
use crate::width::Width;

/// A shift or rotate by a count already masked.
pub trait Shift: 'static {
    /// Result and flags; `count` is not 0.
    fn apply<W: Width>(a: W, count: u32, flags: LazyFlags) -> (W, LazyFlags);
}

#[inline(always)]
fn mask<W: Width>(count: u64) -> u32 {
    count as u32 & if W::BITS == 64 { 63 } else { 31 }
}

#[inline(always)]
fn shifted<S: Shift, W: Width>(a: W, count: u32, flags: LazyFlags) -> (W, LazyFlags) {
    if count == 0 { (a, flags) } else { S::apply(a, count, flags) }
}

/// Bit `index` of a value; past 63 it is 0.
#[inline(always)]
fn bit(value: u64, index: u32) -> bool {
    value.checked_shr(index).unwrap_or(0) & 1 != 0
}

/// The two top bits differ.
#[inline(always)]
fn top_two_differ<W: Width>(value: W) -> bool {
    let value = value.to_u64();
    bit(value ^ value << 1, W::BITS - 1)
}

/// SHL and SAL.
pub struct Shl;
/// SHR.
pub struct Shr;
/// SAR.
pub struct Sar;
/// ROL.
pub struct Rol;
/// ROR.
pub struct Ror;
/// RCL.
pub struct Rcl;
/// RCR.
pub struct Rcr;

impl Shift for Shl {
    #[inline(always)]
    fn apply<W: Width>(a: W, count: u32, _: LazyFlags) -> (W, LazyFlags) {
        let result = W::from_u64(a.to_u64() << count);
        let carry = count <= W::BITS && bit(a.to_u64(), W::BITS.wrapping_sub(count));
        let overflow = (result.to_i64() < 0) != carry;
        (result, LazyFlags::with_carry_overflow(result, carry, overflow))
    }
}

impl Shift for Shr {
    #[inline(always)]
    fn apply<W: Width>(a: W, count: u32, _: LazyFlags) -> (W, LazyFlags) {
        let result = W::from_u64(a.to_u64() >> count);
        let carry = bit(a.to_u64(), count - 1);
        let overflow = top_two_differ(result);
        (result, LazyFlags::with_carry_overflow(result, carry, overflow))
    }
}

impl Shift for Sar {
    #[inline(always)]
    fn apply<W: Width>(a: W, count: u32, _: LazyFlags) -> (W, LazyFlags) {
        let result = W::from_u64((a.to_i64() >> count) as u64);
        let carry = bit(a.to_i64() as u64, count - 1);
        (result, LazyFlags::with_carry_overflow(result, carry, false))
    }
}

/// Rotates left within the width.
#[inline(always)]
fn rotated_left<W: Width>(a: W, count: u32) -> W {
    let count = count & (W::BITS - 1);
    let value = a.to_u64();
    W::from_u64(value << count | value >> ((W::BITS - count) & (W::BITS - 1)))
}

impl Shift for Rol {
    #[inline(always)]
    fn apply<W: Width>(a: W, count: u32, flags: LazyFlags) -> (W, LazyFlags) {
        let result = rotated_left(a, count);
        let carry = result.to_u64() & 1 != 0;
        (result, flags.with_both(carry, carry != (result.to_i64() < 0)))
    }
}

impl Shift for Ror {
    #[inline(always)]
    fn apply<W: Width>(a: W, count: u32, flags: LazyFlags) -> (W, LazyFlags) {
        let result = rotated_left(a, W::BITS - (count & (W::BITS - 1)));
        (result, flags.with_both(result.to_i64() < 0, top_two_differ(result)))
    }
}

/// Rotates CF:a left by `count` modulo its W + 1 bits.
#[inline(always)]
fn rotated_through_carry<W: Width>(a: W, carry: bool, count: u32) -> (W, bool) {
    let bits = W::BITS + 1;
    let count = count % bits;
    if count == 0 {
        return (a, carry);
    }
    let all = u128::from(carry) << W::BITS | u128::from(a.to_u64());
    let turned = all << count | all >> (bits - count);
    (W::from_u64(turned as u64), turned >> W::BITS & 1 != 0)
}

impl Shift for Rcl {
    #[inline(always)]
    fn apply<W: Width>(a: W, count: u32, flags: LazyFlags) -> (W, LazyFlags) {
        if count.is_multiple_of(W::BITS + 1) {
            return (a, flags);
        }
        let (result, carry) = rotated_through_carry(a, flags.carry(), count);
        (result, flags.with_both(carry, carry != (result.to_i64() < 0)))
    }
}

impl Shift for Rcr {
    #[inline(always)]
    fn apply<W: Width>(a: W, count: u32, flags: LazyFlags) -> (W, LazyFlags) {
        let count = count % (W::BITS + 1);
        if count == 0 {
            return (a, flags);
        }
        let (result, carry) = rotated_through_carry(a, flags.carry(), W::BITS + 1 - count);
        (result, flags.with_both(carry, top_two_differ(result)))
    }
}

/// Register by an immediate (or by 1), which is not 0 once masked.
pub fn register_immediate<B: Bus, S: Shift, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let (result, flags) = shifted::<S, W>(cpu.reg(op.dst), mask::<W>(op.imm), cpu.flags);
    cpu.flags = flags;
    cpu.set_reg(op.dst, result);
    Ok(())
}

/// Register by CL.
pub fn register_count<B: Bus, S: Shift, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let (result, flags) = shifted::<S, W>(cpu.reg(op.dst), mask::<W>(cpu.regs[1]), cpu.flags);
    cpu.flags = flags;
    cpu.set_reg(op.dst, result);
    Ok(())
}

/// Memory by an immediate.
pub fn memory_immediate<B: Bus, S: Shift, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let count = mask::<W>(op.imm);
    cpu.flags = cpu.modify(op, |cpu, old: W| shifted::<S, W>(old, count, cpu.flags))?;
    Ok(())
}

/// Memory by CL.
pub fn memory_count<B: Bus, S: Shift, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let count = mask::<W>(cpu.regs[1]);
    cpu.flags = cpu.modify(op, |cpu, old: W| shifted::<S, W>(old, count, cpu.flags))?;
    Ok(())
}

/// SHLD (`LEFT`) and SHRD. A 16-bit operand with a count over 16 (undefined) takes further bits
/// from the destination itself, as processors do.
#[inline(always)]
fn double<W: Width, const LEFT: bool>(
    a: W,
    filler: W,
    count: u32,
    flags: LazyFlags,
) -> (W, LazyFlags) {
    if count == 0 {
        return (a, flags);
    }
    let (low, fill) = (u128::from(a.to_u64()), u128::from(filler.to_u64()));
    let bits = W::BITS;
    let (result, carry) = if bits == 16 {
        let ring = low << 32 | fill << 16 | low;
        if LEFT {
            (ring << count >> 32, ring >> (48 - count) & 1)
        } else {
            (ring >> count, ring >> (count - 1) & 1)
        }
    } else if LEFT {
        ((low << bits | fill) << count >> bits, low >> (bits - count) & 1)
    } else {
        ((fill << bits | low) >> count, low >> (count - 1) & 1)
    };
    let result = W::from_u64(result as u64);
    let overflow = (result.to_i64() ^ a.to_i64()) < 0;
    (result, LazyFlags::with_carry_overflow(result, carry != 0, overflow))
}

#[inline(always)]
fn double_count<B: Bus, W: Width, const BY_CL: bool>(cpu: &Cpu<B>, op: &Op<B>) -> u32 {
    mask::<W>(if BY_CL { cpu.regs[1] } else { op.imm })
}

/// SHLD and SHRD on a register, by CL or an immediate.
pub fn double_register<B: Bus, W: Width, const LEFT: bool, const BY_CL: bool>(
    cpu: &mut Cpu<B>,
    op: &Op<B>,
) -> Exec {
    let count = double_count::<B, W, BY_CL>(cpu, op);
    let (result, flags) = double::<W, LEFT>(cpu.reg(op.dst), cpu.reg(op.src), count, cpu.flags);
    cpu.flags = flags;
    cpu.set_reg(op.dst, result);
    Ok(())
}

/// SHLD and SHRD on memory.
pub fn double_memory<B: Bus, W: Width, const LEFT: bool, const BY_CL: bool>(
    cpu: &mut Cpu<B>,
    op: &Op<B>,
) -> Exec {
    let count = double_count::<B, W, BY_CL>(cpu, op);
    let filler: W = cpu.reg(op.dst);
    cpu.flags = cpu.modify(op, |cpu, old: W| double::<W, LEFT>(old, filler, count, cpu.flags))?;
    Ok(())
}

/// SARX, SHLX, SHRX, RORX: no flags.
pub trait Flagless: 'static {
    /// `count` is masked.
    fn apply<W: Width>(a: W, count: u32) -> W;
}

impl Flagless for Sar {
    #[inline(always)]
    fn apply<W: Width>(a: W, count: u32) -> W {
        W::from_u64((a.to_i64() >> count) as u64)
    }
}

impl Flagless for Shl {
    #[inline(always)]
    fn apply<W: Width>(a: W, count: u32) -> W {
        W::from_u64(a.to_u64() << count)
    }
}

impl Flagless for Shr {
    #[inline(always)]
    fn apply<W: Width>(a: W, count: u32) -> W {
        W::from_u64(a.to_u64() >> count)
    }
}

/// `sarx/shlx/shrx r, r, count`.
pub fn flagless_register<B: Bus, S: Flagless, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    require_protected(cpu)?;
    let count = mask::<W>(cpu.regs[(op.src2 & 31) as usize]);
    let result = S::apply::<W>(cpu.reg(op.src), count);
    cpu.set_reg(op.dst, result);
    Ok(())
}

/// `sarx/shlx/shrx r, m, count`: the count is the second register operand.
pub fn flagless_memory<B: Bus, S: Flagless, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    require_protected(cpu)?;
    let value = cpu.load::<W>(op)?;
    let count = mask::<W>(cpu.regs[(op.src & 31) as usize]);
    cpu.set_reg(op.dst, S::apply(value, count));
    Ok(())
}

/// `rorx r, r, imm`.
pub fn rorx_register<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    require_protected(cpu)?;
    let count = W::BITS - (op.imm as u32 & (W::BITS - 1));
    let result = rotated_left::<W>(cpu.reg(op.src), count);
    cpu.set_reg(op.dst, result);
    Ok(())
}

/// `rorx r, m, imm`.
pub fn rorx_memory<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    require_protected(cpu)?;
    let value = cpu.load::<W>(op)?;
    let count = W::BITS - (op.imm as u32 & (W::BITS - 1));
    cpu.set_reg(op.dst, rotated_left(value, count));
    Ok(())
}
