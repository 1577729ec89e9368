//! String instructions: MOVS, STOS, LODS, SCAS, CMPS, with or without repeat prefixes
//! (SDM vol. 1, 7.3.9; vol. 2, REP).
//!
//! Invariant: after every element the registers are exact, so a fault or an interrupt in between
//! finds the state of a whole number of elements, and running the instruction again goes on. With
//! TF or a breakpoint set every repetition is an instruction of its own ([`Stop::Repeat`]).

use x86::{Dr7, Flags};

use crate::bus::{Access, Bus};
use crate::cpu::{Cpu, Exec, Stop, Trap};
use crate::flags::LazyFlags;
use crate::op::{Op, OpFlags};
use crate::operand::truncate;
use crate::width::Width;

const RAX: u8 = 0;
const RCX: u8 = 1;
const RSI: u8 = 6;
const RDI: u8 = 7;
const ES: u8 = 0;
/// Elements between two looks at [`crate::bus::Platform::attention`] where none is a whole run.
const PATIENCE: u64 = 64;
/// Most bytes of one run: bounds the time until the next look.
const RUN_BYTES: u64 = 1 << 16;

/// One kind of string instruction.
pub trait StringKind: 'static {
    /// SCAS and CMPS: REPE and REPNE end on ZF.
    const COMPARES: bool = false;
    /// Does one element: accesses only, no index moves; gives flags if it compares.
    fn element<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec<LazyFlags>;
    /// Moves the indices by `bytes`, negative going down.
    fn advance<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>, bytes: i64);
    /// Does ascending elements, up to `bytes`, at once; returns the bytes done, 0 if it can't.
    fn run<B: Bus, W: Width>(_: &mut Cpu<B>, _: &Op<B>, _: u64) -> u64 {
        0
    }
}

/// MOVS.
pub struct Movs;
/// STOS.
pub struct Stos;
/// LODS.
pub struct Lods;
/// SCAS.
pub struct Scas;
/// CMPS.
pub struct Cmps;

impl StringKind for Movs {
    #[inline(always)]
    fn element<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec<LazyFlags> {
        let value: W = load_source(cpu, op)?;
        store_destination(cpu, op, value)?;
        Ok(cpu.flags)
    }

    #[inline(always)]
    fn advance<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>, bytes: i64) {
        step(cpu, op, RSI, bytes);
        step(cpu, op, RDI, bytes);
    }

    fn run<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>, bytes: u64) -> u64 {
        let bytes = bytes.min(room(cpu, op, RSI)).min(room(cpu, op, RDI));
        let bytes = bytes - bytes % W::BYTES;
        let Some(from) = span(cpu, op, op.segment, RSI, bytes, Access::Read) else { return 0 };
        let Some(to) = span(cpu, op, ES, RDI, bytes, Access::Write) else { return 0 };
        // A fault is found again, exactly, by the element.
        cpu.bus.copy_forward(from, to, bytes, W::BYTES).unwrap_or(0)
    }
}

impl StringKind for Stos {
    #[inline(always)]
    fn element<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec<LazyFlags> {
        let value: W = cpu.reg(RAX);
        store_destination(cpu, op, value)?;
        Ok(cpu.flags)
    }

    #[inline(always)]
    fn advance<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>, bytes: i64) {
        step(cpu, op, RDI, bytes);
    }

    fn run<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>, bytes: u64) -> u64 {
        let bytes = bytes.min(room(cpu, op, RDI));
        let bytes = bytes - bytes % W::BYTES;
        let Some(to) = span(cpu, op, ES, RDI, bytes, Access::Write) else { return 0 };
        let value: W = cpu.reg(RAX);
        cpu.bus.fill_forward(to, bytes, value).unwrap_or(0)
    }
}

impl StringKind for Lods {
    #[inline(always)]
    fn element<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec<LazyFlags> {
        let value: W = load_source(cpu, op)?;
        cpu.set_reg(RAX, value);
        Ok(cpu.flags)
    }

    #[inline(always)]
    fn advance<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>, bytes: i64) {
        step(cpu, op, RSI, bytes);
    }
}

impl StringKind for Scas {
    const COMPARES: bool = true;

    #[inline(always)]
    fn element<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec<LazyFlags> {
        let right: W = load_destination(cpu, op)?;
        Ok(compared(cpu.reg(RAX), right))
    }

    #[inline(always)]
    fn advance<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>, bytes: i64) {
        step(cpu, op, RDI, bytes);
    }
}

impl StringKind for Cmps {
    const COMPARES: bool = true;

    #[inline(always)]
    fn element<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec<LazyFlags> {
        // Which one faults first is not specified; processors at hand read ES:DI first.
        let right: W = load_destination(cpu, op)?;
        let left: W = load_source(cpu, op)?;
        Ok(compared(left, right))
    }

    #[inline(always)]
    fn advance<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>, bytes: i64) {
        step(cpu, op, RSI, bytes);
        step(cpu, op, RDI, bytes);
    }
}

#[inline(always)]
fn compared<W: Width>(left: W, right: W) -> LazyFlags {
    let difference = W::from_u64(left.to_u64().wrapping_sub(right.to_u64()));
    LazyFlags::sub(left, right, difference)
}

/// Moves an index register within the address size.
#[inline(always)]
pub fn step<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>, register: u8, bytes: i64) {
    let moved = cpu.regs[register as usize].wrapping_add(bytes as u64);
    cpu.set_masked(register, op.flags, moved);
}

/// The distance between elements: negative when DF is set.
#[inline(always)]
pub fn stride<B: Bus, W: Width>(cpu: &Cpu<B>) -> i64 {
    if cpu.has_flag(Flags::DF) { -(W::BYTES as i64) } else { W::BYTES as i64 }
}

/// Loads the element at segment:(R/E)SI.
#[inline(always)]
pub fn load_source<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec<W> {
    load_index(cpu, op, op.segment, RSI)
}

/// Loads the element at ES:(R/E)DI.
#[inline(always)]
pub fn load_destination<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec<W> {
    load_index(cpu, op, ES, RDI)
}

#[inline(always)]
fn load_index<B: Bus, W: Width>(
    cpu: &mut Cpu<B>,
    op: &Op<B>,
    segment: u8,
    register: u8,
) -> Exec<W> {
    let offset = cpu.masked(register, op.flags);
    let at = cpu.segment_linear(segment, offset, W::BYTES, Access::Read)?;
    match cpu.bus.load(at) {
        Ok(value) => Ok(value),
        Err(exception) => Err(cpu.memory_fault(exception, segment)),
    }
}

/// Stores the element at ES:(R/E)DI.
#[inline(always)]
pub fn store_destination<B: Bus, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>, value: W) -> Exec {
    let offset = cpu.masked(RDI, op.flags);
    let at = cpu.segment_linear(ES, offset, W::BYTES, Access::Write)?;
    match cpu.bus.store(at, value) {
        Ok(()) => Ok(()),
        Err(exception) => Err(cpu.memory_fault(exception, ES)),
    }
}

/// Bytes from an index to where the address size wraps.
fn room<B: Bus>(cpu: &Cpu<B>, op: &Op<B>, register: u8) -> u64 {
    let offset = cpu.masked(register, op.flags);
    truncate(u64::MAX, op.flags).wrapping_sub(offset).saturating_add(1)
}

/// Linear address of a whole run, if all of it is within the segment.
fn span<B: Bus>(
    cpu: &mut Cpu<B>,
    op: &Op<B>,
    segment: u8,
    register: u8,
    bytes: u64,
    access: Access,
) -> Option<u64> {
    let offset = cpu.masked(register, op.flags);
    let at = cpu.segment_linear(segment, offset, bytes, access).ok();
    if at.is_none() {
        cpu.stop = Stop::None; // not a fault yet: the element decides
    }
    at
}

/// Without a repeat prefix.
pub fn once<B: Bus, K: StringKind, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    cpu.flags = K::element::<B, W>(cpu, op)?;
    let stride = stride::<B, W>(cpu);
    K::advance(cpu, op, stride);
    Ok(())
}

/// With a repeat prefix; for MOVS, STOS and LODS both prefixes mean the same.
pub fn repeated<B: Bus, K: StringKind, W: Width>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let until_equal = op.flags.contains(OpFlags::REPNE);
    let stride = stride::<B, W>(cpu);
    let stepwise = cpu.has_flag(Flags::TF) || cpu.state.dr7 & Dr7::ANY_ENABLED.bits() != 0;
    let mut count = cpu.masked(RCX, op.flags);
    let mut patience = PATIENCE;
    // A fault in the middle leaves the flags from before the instruction (SDM vol. 2, REP).
    let mut flags = cpu.flags;
    while count != 0 {
        let wanted = count.min(RUN_BYTES) * W::BYTES;
        let bytes =
            if stride > 0 && count > 1 && !stepwise { K::run::<B, W>(cpu, op, wanted) } else { 0 };
        let mut ended = false;
        if bytes == 0 {
            flags = K::element::<B, W>(cpu, op)?;
            K::advance(cpu, op, stride);
            count -= 1;
            patience -= 1;
            ended = K::COMPARES && flags.zero() == until_equal;
        } else {
            K::advance(cpu, op, bytes as i64);
            count -= bytes / W::BYTES;
            patience = 0;
        }
        cpu.set_masked(RCX, op.flags, count);
        if ended || count == 0 {
            break;
        }
        if stepwise || patience == 0 && cpu.bus.attention() {
            cpu.flags = flags;
            cpu.stop = Stop::Repeat;
            return Err(Trap);
        }
        if patience == 0 {
            patience = PATIENCE;
        }
    }
    cpu.flags = flags;
    Ok(())
}
