//! Vector and x87 instructions: checks and operands here, the arithmetic behind a seam.

use iced_x86::Instruction;

use crate::bus::Bus;
use crate::lower::CodeSize;
use crate::op::{Handler, Op};

/// Executes vector and x87 arithmetic on the guest's register image.
pub trait VectorUnit {}

/// Names the handler of a vector or x87 instruction.
pub fn lower<B: Bus>(
    _: &Instruction,
    _: &[u8],
    _: CodeSize,
    _: &mut Op<B>,
    _: &mut B,
) -> Option<Handler<B>> {
    None
}
