//! Two-operand arithmetic and logic, and INC, DEC, NEG, NOT (SDM vol. 1, 5.1.2, 5.1.4).
//!
//! One zero-sized type per operation, one handler per operand form. Invariant: an operation is a
//! pure function of its operands and the old flags, so that a locked form may run it again.

use crate::bus::Bus;
use crate::cpu::{Cpu, Exec};
use crate::flags::LazyFlags;
use crate::op::Op;
use crate::width::Width;

/// A two-operand operation.
pub trait Binary: 'static {
    /// Whether the result is written (CMP and TEST only set flags).
    const STORES: bool = true;
    /// Result and flags.
    fn apply<W: Width>(a: W, b: W, flags: LazyFlags) -> (W, LazyFlags);
}

/// A one-operand operation.
pub trait Unary: 'static {
    /// Result and flags.
    fn apply<W: Width>(a: W, flags: LazyFlags) -> (W, LazyFlags);
}

#[inline(always)]
fn sum<W: Width>(a: W, b: W, carry: bool) -> W {
    W::from_u64(a.to_u64().wrapping_add(b.to_u64()).wrapping_add(u64::from(carry)))
}

#[inline(always)]
fn difference<W: Width>(a: W, b: W, borrow: bool) -> W {
    W::from_u64(a.to_u64().wrapping_sub(b.to_u64()).wrapping_sub(u64::from(borrow)))
}

macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident $stores:literal |$a:ident, $b:ident, $flags:pat_param| $body:expr;)*) => {$(
        $(#[$doc])*
        pub struct $name;
        impl Binary for $name {
            const STORES: bool = $stores;
            #[inline(always)]
            fn apply<W: Width>($a: W, $b: W, $flags: LazyFlags) -> (W, LazyFlags) {
                $body
            }
        }
    )*};
}

binary! {
    /// ADD.
    Add true |a, b, _| { let r = sum(a, b, false); (r, LazyFlags::add(a, b, r)) };
    /// OR.
    Or true |a, b, _| { let r = W::from_u64(a.to_u64() | b.to_u64()); (r, LazyFlags::logic(r)) };
    /// ADC.
    Adc true |a, b, flags| { let r = sum(a, b, flags.carry()); (r, LazyFlags::add(a, b, r)) };
    /// SBB.
    Sbb true |a, b, flags| { let r = difference(a, b, flags.carry()); (r, LazyFlags::sub(a, b, r)) };
    /// AND.
    And true |a, b, _| { let r = W::from_u64(a.to_u64() & b.to_u64()); (r, LazyFlags::logic(r)) };
    /// SUB.
    Sub true |a, b, _| { let r = difference(a, b, false); (r, LazyFlags::sub(a, b, r)) };
    /// XOR.
    Xor true |a, b, _| { let r = W::from_u64(a.to_u64() ^ b.to_u64()); (r, LazyFlags::logic(r)) };
    /// CMP.
    Cmp false |a, b, _| { let r = difference(a, b, false); (r, LazyFlags::sub(a, b, r)) };
    /// TEST.
    Test false |a, b, _| { let r = W::from_u64(a.to_u64() & b.to_u64()); (r, LazyFlags::logic(r)) };
}

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident |$a:ident, $flags:pat_param| $body:expr;)*) => {$(
        $(#[$doc])*
        pub struct $name;
        impl Unary for $name {
            #[inline(always)]
            fn apply<W: Width>($a: W, $flags: LazyFlags) -> (W, LazyFlags) {
                $body
            }
        }
    )*};
}

unary! {
    /// INC: CF stays.
    Inc |a, flags| {
        let one = W::from_u64(1);
        let r = sum(a, one, false);
        (r, LazyFlags::add(a, one, r).with_carry(flags.carry()))
    };
    /// DEC: CF stays.
    Dec |a, flags| {
        let one = W::from_u64(1);
        let r = difference(a, one, false);
        (r, LazyFlags::sub(a, one, r).with_carry(flags.carry()))
    };
    /// NEG.
    Neg |a, _| {
        let zero = W::from_u64(0);
        let r = difference(zero, a, false);
        (r, LazyFlags::sub(zero, a, r))
    };
    /// NOT: no flags.
    Not |a, flags| (W::from_u64(!a.to_u64()), flags);
}

/// `op r, r`.
pub fn register_register<B: Bus, O: Binary, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let (result, flags) = O::apply(cpu.reg::<W>(op.dst), cpu.reg::<W>(op.src), cpu.flags);
    cpu.flags = flags;
    if O::STORES {
        cpu.set_reg(op.dst, result);
    }
    Ok(())
}

/// `op r, imm`.
pub fn register_immediate<B: Bus, O: Binary, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let (result, flags) = O::apply(cpu.reg::<W>(op.dst), W::from_u64(op.imm), cpu.flags);
    cpu.flags = flags;
    if O::STORES {
        cpu.set_reg(op.dst, result);
    }
    Ok(())
}

/// `op r, m`.
pub fn register_memory<B: Bus, O: Binary, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let right = cpu.load::<W>(op)?;
    let (result, flags) = O::apply(cpu.reg::<W>(op.dst), right, cpu.flags);
    cpu.flags = flags;
    if O::STORES {
        cpu.set_reg(op.dst, result);
    }
    Ok(())
}

/// `op m, r`.
pub fn memory_register<B: Bus, O: Binary, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    // The only register operand is in `dst`.
    let right = cpu.reg::<W>(op.dst);
    memory_value::<B, O, W>(cpu, op, right)
}

/// `op m, imm`.
pub fn memory_immediate<B: Bus, O: Binary, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    memory_value::<B, O, W>(cpu, op, W::from_u64(op.imm))
}

#[inline(always)]
fn memory_value<B: Bus, O: Binary, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>, right: W) -> Exec {
    cpu.flags = if O::STORES {
        cpu.modify(op, |cpu, left: W| O::apply(left, right, cpu.flags))?
    } else {
        let left = cpu.load::<W>(op)?;
        O::apply(left, right, cpu.flags).1
    };
    Ok(())
}

/// One-operand operation on a register.
pub fn unary_register<B: Bus, O: Unary, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let (result, flags) = O::apply(cpu.reg::<W>(op.dst), cpu.flags);
    cpu.flags = flags;
    cpu.set_reg(op.dst, result);
    Ok(())
}

/// One-operand operation on memory.
pub fn unary_memory<B: Bus, O: Unary, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    cpu.flags = cpu.modify(op, |cpu, old: W| O::apply(old, cpu.flags))?;
    Ok(())
}

/// ADCX (`OVERFLOW` false: CF chain) and ADOX (OF chain) on registers; other flags stay.
pub fn add_chain_register<B: Bus, W: Width, const OVERFLOW: bool>(
    cpu: &mut Cpu<B>,
    op: &Op<B>,
) -> Exec {
    let right = cpu.reg::<W>(op.src);
    add_chain::<B, W, OVERFLOW>(cpu, op, right);
    Ok(())
}

/// ADCX and ADOX with a memory source.
pub fn add_chain_memory<B: Bus, W: Width, const OVERFLOW: bool>(
    cpu: &mut Cpu<B>,
    op: &Op<B>,
) -> Exec {
    let right = cpu.load::<W>(op)?;
    add_chain::<B, W, OVERFLOW>(cpu, op, right);
    Ok(())
}

#[inline(always)]
fn add_chain<B: Bus, W: Width, const OVERFLOW: bool>(cpu: &mut Cpu<B>, op: &Op<B>, right: W) {
    let (carry, overflow) = (cpu.flags.carry(), cpu.flags.overflow());
    let carry_in = if OVERFLOW { overflow } else { carry };
    let left = cpu.reg::<W>(op.dst);
    let wide = u128::from(left.to_u64()) + u128::from(right.to_u64()) + u128::from(carry_in);
    let carry_out = wide >> W::BITS != 0;
    cpu.flags = if OVERFLOW {
        cpu.flags.with_both(carry, carry_out)
    } else {
        cpu.flags.with_both(carry_out, overflow)
    };
    cpu.set_reg(op.dst, W::from_u64(wide as u64));
}
