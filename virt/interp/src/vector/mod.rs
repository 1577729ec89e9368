//! Vector and x87 instructions: checks and operands here, the arithmetic behind a seam.
//!
//! This module owns what is architecture (SDM vol. 1, 8-14; vol. 3, 2.5, 13): which exceptions an
//! instruction raises and in what order, alignment, masked and gathered memory operands, saved
//! images of the state, MXCSR. What an instruction computes is asked of the bus's [`VectorUnit`].
//! Guest registers live in `cpu.state.xsave` all the time. Invariant: no floating point here.

mod arrange;
mod gate;
mod masked;
mod moves;
mod save;
mod state_words;
#[cfg(test)]
mod tests;
mod unit;
mod x87;

use iced_x86::{EncodingKind, Instruction, Register, RflagsBits};
use x86::XsaveArea;

use crate::bus::Bus;
use crate::lower::CodeSize;
use crate::op::{Handler, Op};

/// What an instruction exchanges with a [`VectorUnit`] beside the register image.
///
/// The layout is fixed because units reach into it from machine code.
#[derive(Clone, Debug, Default)]
#[repr(C, align(64))]
pub struct Exchange {
    /// The memory operand, from byte 0: in, out or unused.
    pub memory: MemoryOperand,
    /// The general-register operand, in and out; RAX of PCMPESTRx.
    pub rax: u64,
    /// RCX out of PCMPxSTRI.
    pub rcx: u64,
    /// RDX of PCMPESTRx.
    pub rdx: u64,
    /// The six status flags, in and out; the other bits are ignored.
    pub rflags: u64,
    /// MXCSR exception flags that were raised unmasked: no result was stored.
    pub unmasked: u32,
    /// MXCSR exception flags raised at all.
    pub raised: u32,
    /// The unit's own.
    pub scratch: [u64; 3],
}

/// 64 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct MemoryOperand(pub [u8; 64]);

impl Default for MemoryOperand {
    fn default() -> Self {
        Self([0; 64])
    }
}

/// The six status flags in iced's numbering, which has bits for C0-C3 of x87 too.
pub const STATUS_FLAGS: u32 = RflagsBits::OF
    | RflagsBits::SF
    | RflagsBits::ZF
    | RflagsBits::AF
    | RflagsBits::CF
    | RflagsBits::PF;

/// Names a prepared instruction within its [`VectorUnit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VectorHandle(pub u32);

/// Executes vector and x87 arithmetic on the guest's register image.
pub trait VectorUnit {
    /// Whether CPUID announces the instruction to the guest.
    fn supports(&self, instruction: &Instruction) -> bool;

    /// Makes an instruction ready. Its memory operand will be [`Exchange::memory`], its explicit
    /// general register [`Exchange::rax`]. `None` where the unit cannot execute it.
    fn prepare(&mut self, instruction: &Instruction) -> Option<VectorHandle>;

    /// Executes: reads and writes registers in `area`. A SIMD floating-point exception that the
    /// guest does not mask leaves `area` alone and sets [`Exchange::unmasked`]; an x87 one is left
    /// pending in FSW. FIP, FDP and FOP stay as they are.
    fn execute(&mut self, handle: VectorHandle, area: &mut XsaveArea, exchange: &mut Exchange);
}

/// Names the handler of a vector or x87 instruction.
pub fn lower<B: Bus>(
    instruction: &Instruction,
    bytes: &[u8],
    _: CodeSize,
    op: &mut Op<B>,
    bus: &mut B,
) -> Option<Handler<B>> {
    if !matches!(instruction.encoding(), EncodingKind::Legacy | EncodingKind::VEX)
        || !bus.supports(instruction)
    {
        return None;
    }
    state_words::lower(instruction, op)
        .or_else(|| save::lower(instruction, op))
        .or_else(|| moves::lower(instruction, op))
        .or_else(|| masked::lower(instruction, op))
        .or_else(|| x87::lower(instruction, bytes, op, bus))
        .or_else(|| unit::lower(instruction, op, bus))
}

fn any_register(instruction: &Instruction, test: impl Fn(Register) -> bool) -> bool {
    (0..instruction.op_count()).any(|index| test(instruction.op_register(index)))
}
