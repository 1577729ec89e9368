//! XCHG, XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B (SDM vol. 3, 8.1.2).
//!
//! XCHG with memory is locked without being asked; lowering sets its LOCK flag.

use crate::bus::{Access, Bus};
use crate::cpu::{Cpu, Exec};
use crate::exec::alu::{Add, Binary};
use crate::flags::LazyFlags;
use crate::op::{Op, OpFlags};
use crate::width::Width;

const RAX: u8 = 0;
const RCX: usize = 1;
const RDX: u8 = 2;
const RBX: usize = 3;

/// `xchg r, r`.
pub fn exchange_register<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let (a, b) = (cpu.reg::<W>(op.dst), cpu.reg::<W>(op.src));
    cpu.set_reg(op.dst, b);
    cpu.set_reg(op.src, a);
    Ok(())
}

/// `xchg m, r`.
pub fn exchange_memory<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let new: W = cpu.reg(op.dst);
    let old: W = cpu.modify(op, |_, old: W| (new, old))?;
    cpu.set_reg(op.dst, old);
    Ok(())
}

/// `xadd r, r`: the destination, written last, wins when both are the same.
pub fn add_register<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let old: W = cpu.reg(op.dst);
    let (sum, flags) = Add::apply(old, cpu.reg(op.src), cpu.flags);
    cpu.flags = flags;
    cpu.set_reg(op.src, old);
    cpu.set_reg(op.dst, sum);
    Ok(())
}

/// `xadd m, r`.
pub fn add_memory<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let addend: W = cpu.reg(op.dst);
    let (old, flags) = cpu.modify(op, |cpu, old: W| {
        let (sum, flags) = Add::apply(old, addend, cpu.flags);
        (sum, (old, flags))
    })?;
    cpu.flags = flags;
    cpu.set_reg(op.dst, old);
    Ok(())
}

/// Flags of CMP accumulator, found; and the accumulator if they differ.
#[inline(always)]
fn compared<B: Bus, W: Width>(cpu: &mut Cpu<B>, expected: W, found: W) {
    let difference = W::from_u64(expected.to_u64().wrapping_sub(found.to_u64()));
    cpu.flags = LazyFlags::sub(expected, found, difference);
    if found != expected {
        cpu.set_reg(RAX, found);
    }
}

/// `cmpxchg r, r`: only one of destination and accumulator is written (a 32-bit destination that
/// stays keeps its high half, as processors do).
pub fn compare_register<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let (expected, found): (W, W) = (cpu.reg(RAX), cpu.reg(op.dst));
    if found == expected {
        let new: W = cpu.reg(op.src);
        cpu.set_reg(op.dst, new);
    }
    compared(cpu, expected, found);
    Ok(())
}

/// `cmpxchg m, r`.
pub fn compare_memory<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let (expected, new): (W, W) = (cpu.reg(RAX), cpu.reg(op.dst));
    let found = if op.flags.contains(OpFlags::LOCK) {
        let at = cpu.linear(op, W::BYTES, Access::Write)?;
        match cpu.bus.compare_exchange(at, expected, new) {
            Ok(found) => found,
            Err(exception) => return Err(cpu.memory_fault(exception, op.segment)),
        }
    } else {
        cpu.modify(op, |_, old: W| (if old == expected { new } else { old }, old))?
    };
    compared(cpu, expected, found);
    Ok(())
}

#[inline(always)]
fn pair<W: Width>(high: u64, low: u64) -> u128 {
    u128::from(W::from_u64(high).to_u64()) << W::BITS | u128::from(W::from_u64(low).to_u64())
}

/// CMPXCHG8B (W = u32) and CMPXCHG16B (W = u64, #GP(0) unless aligned): only ZF changes.
pub fn compare_pair<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let expected = pair::<W>(cpu.regs[RDX as usize], cpu.regs[RAX as usize]);
    let new = pair::<W>(cpu.regs[RCX], cpu.regs[RBX]);
    let at = cpu.linear(op, 2 * W::BYTES, Access::Write)?;
    if W::BITS == 64 && at & 15 != 0 {
        return Err(cpu.gp0());
    }
    let outcome = if W::BITS == 64 {
        cpu.bus.compare_exchange_16(at, expected, new)
    } else {
        cpu.bus.compare_exchange(at, expected as u64, new as u64).map(u128::from)
    };
    let found = match outcome {
        Ok(found) => found,
        Err(exception) => return Err(cpu.memory_fault(exception, op.segment)),
    };
    cpu.flags = cpu.flags.with_zero(found == expected);
    if found != expected {
        cpu.set_reg(RAX, W::from_u64(found as u64));
        cpu.set_reg(RDX, W::from_u64((found >> W::BITS) as u64));
    }
    Ok(())
}
