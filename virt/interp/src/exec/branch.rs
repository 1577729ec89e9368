//! Near control transfers (SDM vol. 2, JMP, CALL, RET, Jcc, JCXZ, LOOP).
//!
//! `LONG` handlers serve 64-bit mode, where operand size is 64 and a target only has to be
//! canonical; the others truncate the target to operand size and check it against the limit of CS.
//! On AMD a prefix makes operand size 16 in 64-bit mode too (APM vol. 3, table B-1), without a
//! limit; which branches those are, the decoder knows. Invariant: nothing changes before the target
//! is checked.

use x86::{Cr4, Exception};

use super::system::cpuid::is_amd;
use crate::bus::{Access, Bus};
use crate::cpu::{Cpu, Exec, Mode, Stop, Trap};
use crate::op::{Op, OpFlags, slot};
use crate::width::Width;

const CS: u8 = 1;
const SS: u8 = 2;
const RCX: u8 = 1;

/// #UD outside protected mode: VEX-encoded instructions.
#[inline(always)]
pub fn require_protected<B: Bus>(cpu: &mut Cpu<B>) -> Exec {
    if matches!(cpu.mode, Mode::Real | Mode::Vm86) { Err(cpu.ud()) } else { Ok(()) }
}

/// Whether an address is canonical for 48-bit (or, under CR4.LA57, 57-bit) linear addresses.
#[inline(always)]
pub fn is_canonical<B: Bus>(cpu: &Cpu<B>, address: u64) -> bool {
    (address as i64) << 16 >> 16 == address as i64 || wide_canonical(cpu, address)
}

#[cold]
fn wide_canonical<B: Bus>(cpu: &Cpu<B>, address: u64) -> bool {
    cpu.has_cr4(Cr4::LA57) && (address as i64) << 7 >> 7 == address as i64
}

/// #GP(0) unless code can go on at `target`, already truncated to operand size.
#[inline(always)]
fn check<B: Bus, const LONG: bool>(cpu: &mut Cpu<B>, target: u64) -> Exec {
    let good = if LONG {
        is_canonical(cpu, target)
    } else {
        target <= u64::from(cpu.segment(CS).limit) || cpu.is_long()
    };
    if good { Ok(()) } else { Err(cpu.gp0()) }
}

/// Cuts a target to the operand size outside 64-bit mode.
#[inline(always)]
fn cut<B: Bus, const LONG: bool>(op: &Op<B>, target: u64) -> u64 {
    if LONG {
        target
    } else if op.flags.contains(OpFlags::OP16) {
        target & 0xffff
    } else {
        target & 0xffff_ffff
    }
}

/// Jumps to a target relative to the next instruction.
#[inline(always)]
fn relative<B: Bus, const LONG: bool>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let target = cut::<B, LONG>(op, cpu.rip().wrapping_add(op.imm));
    check::<B, LONG>(cpu, target)?;
    cpu.set_rip(target);
    Ok(())
}

/// `jmp rel`.
pub fn jump<B: Bus, const LONG: bool>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    relative::<B, LONG>(cpu, op)
}

/// `jcc rel`.
pub fn jump_if<B: Bus, const LONG: bool, const CODE: u8>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    if cpu.flags.condition(CODE) { relative::<B, LONG>(cpu, op) } else { Ok(()) }
}

/// JCXZ, JECXZ, JRCXZ: the register's width is the address size.
pub fn jump_if_no_count<B: Bus, const LONG: bool>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    if cpu.masked(RCX, op.flags) == 0 { relative::<B, LONG>(cpu, op) } else { Ok(()) }
}

/// LOOP, and LOOPE, LOOPNE with the wanted ZF in REP, REPNE of the op's flags.
pub fn count_down<B: Bus, const LONG: bool>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let count = cpu.masked(RCX, op.flags).wrapping_sub(1);
    let held = crate::operand::truncate(count, op.flags) != 0
        && (!op.flags.contains(OpFlags::REP) || cpu.flags.zero())
        && (!op.flags.contains(OpFlags::REPNE) || !cpu.flags.zero());
    if held {
        relative::<B, LONG>(cpu, op)?;
    }
    cpu.set_masked(RCX, op.flags, count);
    Ok(())
}

/// Register or memory target.
#[inline(always)]
fn target<B: Bus, W: Width, const MEMORY: bool>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec<u64> {
    let target: W = if MEMORY { cpu.load(op)? } else { cpu.reg(op.dst) };
    Ok(target.to_u64())
}

/// `jmp r/m`: W is the operand size.
pub fn jump_to<B: Bus, W: Width, const MEMORY: bool>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let target = target::<B, W, MEMORY>(cpu, op)?;
    check_for::<B, W>(cpu, target)?;
    cpu.set_rip(target);
    Ok(())
}

/// Operand size 64 exists in 64-bit mode only.
#[inline(always)]
fn check_for<B: Bus, W: Width>(cpu: &mut Cpu<B>, target: u64) -> Exec {
    if W::BITS == 64 { check::<B, true>(cpu, target) } else { check::<B, false>(cpu, target) }
}

/// `call rel`.
pub fn call<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let back = cpu.rip();
    let target = W::from_u64(back.wrapping_add(op.imm)).to_u64();
    enter::<B, W>(cpu, target, back)
}

/// `call r/m`.
pub fn call_to<B: Bus, W: Width, const MEMORY: bool>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let target = target::<B, W, MEMORY>(cpu, op)?;
    let back = cpu.rip();
    enter::<B, W>(cpu, target, back)
}

#[inline(always)]
fn enter<B: Bus, W: Width>(cpu: &mut Cpu<B>, target: u64, back: u64) -> Exec {
    if let Err(trap) = check_for::<B, W>(cpu, target) {
        return if W::BITS == 64 { refuse_call(cpu, trap) } else { Err(trap) };
    }
    if W::BITS == 64 {
        cpu.push_long(W::from_u64(back))?;
    } else {
        cpu.push(W::from_u64(back))?;
    }
    cpu.regs[slot::RIP as usize] = target;
    Ok(())
}

/// A call of what is not canonical: pushes nothing, but on AMD's processors a stack that cannot take
/// the return address is reported first.
#[cold]
fn refuse_call<B: Bus>(cpu: &mut Cpu<B>, trap: Trap) -> Exec {
    if is_amd(&mut cpu.bus) {
        let top = cpu.regs[4].wrapping_sub(8);
        if let Err(exception) = cpu.bus.probe(top, 8, Access::Write) {
            return Err(cpu.memory_fault(exception, SS));
        }
        cpu.stop = Stop::Fault(Exception::GP0);
    }
    Err(trap)
}

/// RET, with `imm` more bytes to drop.
pub fn ret<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    if W::BITS == 64 {
        let target = cpu.stack_load_long::<W>(cpu.regs[4])?.to_u64();
        check::<B, true>(cpu, target)?;
        cpu.regs[4] = cpu.regs[4].wrapping_add(8).wrapping_add(op.imm);
        cpu.set_rip(target);
        return Ok(());
    }
    let target = cpu.stack_load::<W>(cpu.stack_pointer(0))?.to_u64();
    check_for::<B, W>(cpu, target)?;
    let top = cpu.stack_pointer(W::BYTES.wrapping_add(op.imm) as i64);
    cpu.set_stack_pointer(top);
    cpu.set_rip(target);
    Ok(())
}
