//! MUL, IMUL, DIV, IDIV, MULX (SDM vol. 1, 5.1.2). Flags a manual calls undefined: after products
//! SF, ZF, PF describe the low half and AF is clear; after quotients all stay.

use x86::{Exception, Vector};

use crate::bus::Bus;
use crate::cpu::{Cpu, Exec};
use crate::exec::branch::require_protected;
use crate::flags::LazyFlags;
use crate::op::Op;
use crate::width::Width;

const RAX: u8 = 0;
const RDX: u8 = 2;

/// High and low halves of a product.
#[inline(always)]
fn product<W: Width, const SIGNED: bool>(a: W, b: W) -> (W, W) {
    if W::BITS < 64 {
        let wide = if SIGNED {
            a.to_i64().wrapping_mul(b.to_i64()) as u64
        } else {
            a.to_u64().wrapping_mul(b.to_u64())
        };
        return (W::from_u64(wide >> W::BITS), W::from_u64(wide));
    }
    let wide = if SIGNED {
        (i128::from(a.to_i64()) * i128::from(b.to_i64())) as u128
    } else {
        u128::from(a.to_u64()) * u128::from(b.to_u64())
    };
    (W::from_u64((wide >> 64) as u64), W::from_u64(wide as u64))
}

/// Flags of a product: CF = OF = the high half is more than an extension of the low one.
#[inline(always)]
fn product_flags<W: Width, const SIGNED: bool>(high: W, low: W) -> LazyFlags {
    let extension = if SIGNED { W::from_u64((low.to_i64() >> 63) as u64) } else { W::default() };
    let exceeds = high != extension;
    LazyFlags::with_carry_overflow(low, exceeds, exceeds)
}

/// One-operand MUL and IMUL of a register.
pub fn wide_register<B: Bus, W: Width, const SIGNED: bool>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let factor = cpu.reg(op.dst);
    wide::<B, W, SIGNED>(cpu, factor);
    Ok(())
}

/// One-operand MUL and IMUL of memory.
pub fn wide_memory<B: Bus, W: Width, const SIGNED: bool>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let factor = cpu.load(op)?;
    wide::<B, W, SIGNED>(cpu, factor);
    Ok(())
}

#[inline(always)]
fn wide<B: Bus, W: Width, const SIGNED: bool>(cpu: &mut Cpu<B>, factor: W) {
    let (high, low) = product::<W, SIGNED>(cpu.reg(RAX), factor);
    cpu.flags = product_flags::<W, SIGNED>(high, low);
    set_pair(cpu, high, low);
}

/// AX for bytes, otherwise (E/R)DX:(E/R)AX.
#[inline(always)]
fn set_pair<B: Bus, W: Width>(cpu: &mut Cpu<B>, high: W, low: W) {
    if W::BITS == 8 {
        cpu.set_reg(RAX, (high.to_u64() << 8 | low.to_u64()) as u16);
    } else {
        cpu.set_reg(RAX, low);
        cpu.set_reg(RDX, high);
    }
}

#[inline(always)]
fn narrow<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>, a: W, b: W) {
    let (high, low) = product::<W, true>(a, b);
    cpu.flags = product_flags::<W, true>(high, low);
    cpu.set_reg(op.dst, low);
}

/// `imul r, r`.
pub fn register_register<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    narrow::<B, W>(cpu, op, cpu.reg(op.dst), cpu.reg(op.src));
    Ok(())
}

/// `imul r, m`.
pub fn register_memory<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let factor = cpu.load::<W>(op)?;
    narrow::<B, W>(cpu, op, cpu.reg(op.dst), factor);
    Ok(())
}

/// `imul r, r, imm`.
pub fn register_immediate<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    narrow::<B, W>(cpu, op, cpu.reg(op.src), W::from_u64(op.imm));
    Ok(())
}

/// `imul r, m, imm`.
pub fn memory_immediate<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let factor = cpu.load::<W>(op)?;
    narrow::<B, W>(cpu, op, factor, W::from_u64(op.imm));
    Ok(())
}

/// `mulx high, low, r`: no flags; the same register twice gets the high half.
pub fn extended_register<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    require_protected(cpu)?;
    let factor = cpu.reg(op.src2);
    extended::<B, W>(cpu, op, factor);
    Ok(())
}

/// `mulx high, low, m`.
pub fn extended_memory<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    require_protected(cpu)?;
    let factor = cpu.load(op)?;
    extended::<B, W>(cpu, op, factor);
    Ok(())
}

#[inline(always)]
fn extended<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>, factor: W) {
    let (high, low) = product::<W, false>(cpu.reg(RDX), factor);
    cpu.set_reg(op.src, low);
    cpu.set_reg(op.dst, high);
}

/// DIV and IDIV by a register.
pub fn divide_register<B: Bus, W: Width, const SIGNED: bool>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let divisor = cpu.reg(op.dst);
    divide::<B, W, SIGNED>(cpu, divisor)
}

/// DIV and IDIV by memory.
pub fn divide_memory<B: Bus, W: Width, const SIGNED: bool>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let divisor = cpu.load(op)?;
    divide::<B, W, SIGNED>(cpu, divisor)
}

#[inline(always)]
fn divide<B: Bus, W: Width, const SIGNED: bool>(cpu: &mut Cpu<B>, divisor: W) -> Exec {
    let (high, low) = if W::BITS == 8 {
        (W::from_u64(cpu.regs[0] >> 8), cpu.reg::<W>(RAX))
    } else {
        (cpu.reg::<W>(RDX), cpu.reg::<W>(RAX))
    };
    let outcome = if SIGNED {
        signed_quotient(high, low, divisor)
    } else {
        unsigned_quotient(high, low, divisor)
    };
    let Some((quotient, remainder)) = outcome else {
        return Err(cpu.fault(Exception::new(Vector::DivideError)));
    };
    set_pair(cpu, remainder, quotient);
    Ok(())
}

/// Quotient and remainder, unless the divisor is 0 or the quotient too big.
#[inline(always)]
fn unsigned_quotient<W: Width>(high: W, low: W, divisor: W) -> Option<(W, W)> {
    let (high, low, divisor) = (high.to_u64(), low.to_u64(), divisor.to_u64());
    if high >= divisor {
        return None; // also divisor == 0
    }
    let (quotient, remainder) = if W::BITS < 64 || high == 0 {
        let dividend = if W::BITS < 64 { high << (W::BITS & 63) | low } else { low };
        (dividend / divisor, dividend % divisor)
    } else {
        let (dividend, divisor) = (u128::from(high) << 64 | u128::from(low), u128::from(divisor));
        ((dividend / divisor) as u64, (dividend % divisor) as u64)
    };
    Some((W::from_u64(quotient), W::from_u64(remainder)))
}

#[inline(always)]
fn signed_quotient<W: Width>(high: W, low: W, divisor: W) -> Option<(W, W)> {
    let divisor = divisor.to_i64();
    if divisor == 0 {
        return None;
    }
    let (quotient, remainder) = if W::BITS < 64 || high.to_i64() == low.to_i64() >> 63 {
        let dividend = if W::BITS < 64 {
            high.to_i64() << (W::BITS & 63) | low.to_u64() as i64
        } else {
            low.to_i64()
        };
        (dividend.checked_div(divisor)?, dividend.checked_rem(divisor)?)
    } else {
        let dividend = i128::from(high.to_i64()) << 64 | i128::from(low.to_u64());
        let wide = i128::from(divisor);
        let quotient = i64::try_from(dividend.checked_div(wide)?).ok()?;
        (quotient, dividend.checked_rem(wide)? as i64)
    };
    let narrowed = W::from_u64(quotient as u64);
    (narrowed.to_i64() == quotient).then_some((narrowed, W::from_u64(remainder as u64)))
}
