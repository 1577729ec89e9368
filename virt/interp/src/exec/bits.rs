//! Bit tests, scans, counts, BMI1, BMI2 and CRC32 (SDM vol. 2, BT-BTS, BSF, BSR, TZCNT, LZCNT,
//! POPCNT, ANDN, BEXTR, BLSI, BLSMSK, BLSR, BZHI, PDEP, PEXT, CRC32). Undefined flags stay.

use crate::bus::Bus;
use crate::cpu::{Cpu, Exec};
use crate::exec::branch::require_protected;
use crate::flags::LazyFlags;
use crate::op::Op;
use crate::width::Width;

/// What BT, BTS, BTR, BTC do with the tested bit.
pub trait BitChange: 'static {
    /// BT does not write.
    const STORES: bool = true;
    /// The new value, `bit` being the one bit in question.
    fn apply(value: u64, bit: u64) -> u64;
}

/// BT.
pub struct Keep;
/// BTS.
pub struct Set;
/// BTR.
pub struct Reset;
/// BTC.
pub struct Complement;

impl BitChange for Keep {
    const STORES: bool = false;
    #[inline(always)]
    fn apply(value: u64, _: u64) -> u64 {
        value
    }
}

impl BitChange for Set {
    #[inline(always)]
    fn apply(value: u64, bit: u64) -> u64 {
        value | bit
    }
}

impl BitChange for Reset {
    #[inline(always)]
    fn apply(value: u64, bit: u64) -> u64 {
        value & !bit
    }
}

impl BitChange for Complement {
    #[inline(always)]
    fn apply(value: u64, bit: u64) -> u64 {
        value ^ bit
    }
}

#[inline(always)]
fn bit_register<B: Bus, C: BitChange, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>, index: u64) {
    let bit = 1 << (index & u64::from(W::BITS - 1));
    let value = cpu.reg::<W>(op.dst).to_u64();
    cpu.flags = cpu.flags.with_carry(value & bit != 0);
    if C::STORES {
        cpu.set_reg(op.dst, W::from_u64(C::apply(value, bit)));
    }
}

/// Bit of a register, by a register.
pub fn bit_register_register<B: Bus, C: BitChange, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let index = cpu.regs[(op.src & 31) as usize];
    bit_register::<B, C, W>(cpu, op, index);
    Ok(())
}

/// Bit of a register, by an immediate.
pub fn bit_register_immediate<B: Bus, C: BitChange, W: Width>(
    cpu: &mut Cpu<B>,
    op: &Op<B>,
) -> Exec {
    bit_register::<B, C, W>(cpu, op, op.imm);
    Ok(())
}

#[inline(always)]
fn bit_memory<B: Bus, C: BitChange, W: Width>(
    cpu: &mut Cpu<B>,
    op: &Op<B>,
    offset: u64,
    index: u64,
) -> Exec {
    let bit = 1u64 << (index & u64::from(W::BITS - 1));
    let was_set = if C::STORES {
        cpu.modify_at(op, offset, |_, old: W| {
            let old = old.to_u64();
            (W::from_u64(C::apply(old, bit)), old & bit != 0)
        })?
    } else {
        cpu.load_at::<W>(op, offset)?.to_u64() & bit != 0
    };
    cpu.flags = cpu.flags.with_carry(was_set);
    Ok(())
}

/// Bit of a string in memory, by a signed register index that may reach beyond the operand.
pub fn bit_memory_register<B: Bus, C: BitChange, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let index = cpu.reg::<W>(op.dst).to_i64();
    let element = index >> W::BITS.trailing_zeros();
    let offset = cpu.displaced_offset(op, (element as u64).wrapping_mul(W::BYTES));
    bit_memory::<B, C, W>(cpu, op, offset, index as u64)
}

/// Bit of a memory operand, by an immediate.
pub fn bit_memory_immediate<B: Bus, C: BitChange, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let offset = cpu.offset(op);
    bit_memory::<B, C, W>(cpu, op, offset, op.imm)
}

/// A function of one source: scans, counts, BLS*. `None` leaves the destination as it was.
pub trait Source: 'static {
    /// Encoded with VEX: #UD outside protected mode.
    const VEX: bool = false;
    /// Result and flags.
    fn apply<W: Width>(a: W, flags: LazyFlags) -> (Option<W>, LazyFlags);
}

/// BSF.
pub struct Bsf;
/// BSR.
pub struct Bsr;
/// TZCNT.
pub struct Tzcnt;
/// LZCNT.
pub struct Lzcnt;
/// POPCNT.
pub struct Popcnt;
/// BLSI.
pub struct Blsi;
/// BLSMSK.
pub struct Blsmsk;
/// BLSR.
pub struct Blsr;

impl Source for Bsf {
    #[inline(always)]
    fn apply<W: Width>(a: W, flags: LazyFlags) -> (Option<W>, LazyFlags) {
        let value = a.to_u64();
        let found = (value != 0).then(|| W::from_u64(u64::from(value.trailing_zeros())));
        (found, flags.with_zero(value == 0))
    }
}

impl Source for Bsr {
    #[inline(always)]
    fn apply<W: Width>(a: W, flags: LazyFlags) -> (Option<W>, LazyFlags) {
        let value = a.to_u64();
        let found = value.checked_ilog2().map(|index| W::from_u64(u64::from(index)));
        (found, flags.with_zero(value == 0))
    }
}

/// Flags of TZCNT and LZCNT: CF = source is 0, ZF = result is 0.
#[inline(always)]
fn counted<W: Width>(a: W, count: u32) -> (Option<W>, LazyFlags) {
    let result = W::from_u64(u64::from(count));
    (Some(result), LazyFlags::with_carry_overflow(result, a.to_u64() == 0, false))
}

impl Source for Tzcnt {
    #[inline(always)]
    fn apply<W: Width>(a: W, _: LazyFlags) -> (Option<W>, LazyFlags) {
        counted(a, a.to_u64().trailing_zeros().min(W::BITS))
    }
}

impl Source for Lzcnt {
    #[inline(always)]
    fn apply<W: Width>(a: W, _: LazyFlags) -> (Option<W>, LazyFlags) {
        counted(a, a.to_u64().leading_zeros() - (64 - W::BITS))
    }
}

impl Source for Popcnt {
    #[inline(always)]
    fn apply<W: Width>(a: W, _: LazyFlags) -> (Option<W>, LazyFlags) {
        let zf = u64::from(a.to_u64() == 0) << 6;
        (Some(W::from_u64(u64::from(a.to_u64().count_ones()))), LazyFlags::from_bits(zf))
    }
}

impl Source for Blsi {
    const VEX: bool = true;
    #[inline(always)]
    fn apply<W: Width>(a: W, _: LazyFlags) -> (Option<W>, LazyFlags) {
        let value = a.to_u64();
        let result = W::from_u64(value & value.wrapping_neg());
        (Some(result), LazyFlags::with_carry_overflow(result, value != 0, false))
    }
}

impl Source for Blsmsk {
    const VEX: bool = true;
    #[inline(always)]
    fn apply<W: Width>(a: W, _: LazyFlags) -> (Option<W>, LazyFlags) {
        let value = a.to_u64();
        let result = W::from_u64(value ^ value.wrapping_sub(1));
        (Some(result), LazyFlags::with_carry_overflow(result, value == 0, false))
    }
}

impl Source for Blsr {
    const VEX: bool = true;
    #[inline(always)]
    fn apply<W: Width>(a: W, _: LazyFlags) -> (Option<W>, LazyFlags) {
        let value = a.to_u64();
        let result = W::from_u64(value & value.wrapping_sub(1));
        (Some(result), LazyFlags::with_carry_overflow(result, value == 0, false))
    }
}

#[inline(always)]
fn one_source<B: Bus, S: Source, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>, value: W) -> Exec {
    if S::VEX {
        require_protected(cpu)?;
    }
    let (result, flags) = S::apply(value, cpu.flags);
    cpu.flags = flags;
    if let Some(result) = result {
        cpu.set_reg(op.dst, result);
    }
    Ok(())
}

/// `op r, r`.
pub fn source_register<B: Bus, S: Source, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let value = cpu.reg(op.src);
    one_source::<B, S, W>(cpu, op, value)
}

/// `op r, m`.
pub fn source_memory<B: Bus, S: Source, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    if S::VEX {
        require_protected(cpu)?;
    }
    let value = cpu.load(op)?;
    one_source::<B, S, W>(cpu, op, value)
}

/// A VEX function of two sources, given in operand order.
pub trait TwoSources: 'static {
    /// The memory operand, when there is one, is the first source (BEXTR, BZHI), not the second.
    const MEMORY_FIRST: bool;
    /// Result, and new flags if it changes them.
    fn apply<W: Width>(a: W, b: W) -> (W, Option<LazyFlags>);
}

/// ANDN.
pub struct Andn;
/// BEXTR.
pub struct Bextr;
/// BZHI.
pub struct Bzhi;
/// PDEP.
pub struct Pdep;
/// PEXT.
pub struct Pext;

impl TwoSources for Andn {
    const MEMORY_FIRST: bool = false;
    fn apply<W: Width>(a: W, b: W) -> (W, Option<LazyFlags>) {
        let result = W::from_u64(!a.to_u64() & b.to_u64());
        (result, Some(LazyFlags::logic(result)))
    }
}

impl TwoSources for Bextr {
    const MEMORY_FIRST: bool = true;
    fn apply<W: Width>(a: W, b: W) -> (W, Option<LazyFlags>) {
        let (start, length) = (b.to_u64() as u8, (b.to_u64() >> 8) as u8);
        let low = a.to_u64().checked_shr(u32::from(start)).unwrap_or(0);
        let mask = 1u64.checked_shl(u32::from(length)).unwrap_or(0).wrapping_sub(1);
        let result = W::from_u64(low & mask);
        (result, Some(LazyFlags::logic(result)))
    }
}

impl TwoSources for Bzhi {
    const MEMORY_FIRST: bool = true;
    fn apply<W: Width>(a: W, b: W) -> (W, Option<LazyFlags>) {
        let index = u32::from(b.to_u64() as u8);
        let beyond = index >= W::BITS;
        let mask = 1u64.checked_shl(index).unwrap_or(0).wrapping_sub(1);
        let result = W::from_u64(a.to_u64() & mask);
        (result, Some(LazyFlags::with_carry_overflow(result, beyond, false)))
    }
}

impl TwoSources for Pdep {
    const MEMORY_FIRST: bool = false;
    fn apply<W: Width>(a: W, b: W) -> (W, Option<LazyFlags>) {
        let (mut source, mut mask, mut result) = (a.to_u64(), b.to_u64(), 0);
        while mask != 0 {
            let lowest = mask & mask.wrapping_neg();
            result |= if source & 1 != 0 { lowest } else { 0 };
            source >>= 1;
            mask ^= lowest;
        }
        (W::from_u64(result), None)
    }
}

impl TwoSources for Pext {
    const MEMORY_FIRST: bool = false;
    fn apply<W: Width>(a: W, b: W) -> (W, Option<LazyFlags>) {
        let (source, mut mask, mut result) = (a.to_u64(), b.to_u64(), 0);
        let mut place = 1u64;
        while mask != 0 {
            let lowest = mask & mask.wrapping_neg();
            result |= if source & lowest != 0 { place } else { 0 };
            place <<= 1;
            mask ^= lowest;
        }
        (W::from_u64(result), None)
    }
}

/// `op r, r, r`.
pub fn two_register<B: Bus, S: TwoSources, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    require_protected(cpu)?;
    finish::<B, S, W>(cpu, op, cpu.reg(op.src), cpu.reg(op.src2));
    Ok(())
}

/// `op r, r, m` or `op r, m, r`.
pub fn two_memory<B: Bus, S: TwoSources, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    require_protected(cpu)?;
    let (memory, register) = (cpu.load::<W>(op)?, cpu.reg::<W>(op.src));
    if S::MEMORY_FIRST {
        finish::<B, S, W>(cpu, op, memory, register);
    } else {
        finish::<B, S, W>(cpu, op, register, memory);
    }
    Ok(())
}

#[inline(always)]
fn finish<B: Bus, S: TwoSources, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>, a: W, b: W) {
    let (result, flags) = S::apply(a, b);
    if let Some(flags) = flags {
        cpu.flags = flags;
    }
    cpu.set_reg(op.dst, result);
}

/// CRC32C remainders of the 256 bytes, polynomial 0x11edc6f41 reflected.
static CRC32C: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut remainder = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            remainder = (remainder >> 1) ^ (0x82f6_3b78 * (remainder & 1));
            bit += 1;
        }
        table[byte] = remainder;
        byte += 1;
    }
    table
};

#[inline(always)]
fn crc32<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>, data: W) {
    let mut crc: u32 = cpu.reg(op.dst);
    let mut rest = data.to_u64();
    for _ in 0..W::BYTES {
        crc = crc >> 8 ^ CRC32C[((crc as u64 ^ rest) & 0xff) as usize];
        rest >>= 8;
    }
    cpu.set_reg(op.dst, crc);
}

/// `crc32 r, r`: W is the source's width.
pub fn crc32_register<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let data: W = cpu.reg(op.src);
    crc32(cpu, op, data);
    Ok(())
}

/// `crc32 r, m`.
pub fn crc32_memory<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let data: W = cpu.load(op)?;
    crc32(cpu, op, data);
    Ok(())
}
