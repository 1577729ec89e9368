//! Lowering of system instructions.

use iced_x86::Instruction;

use super::CodeSize;
use crate::bus::Bus;
use crate::op::{Handler, Op};

/// Names the handler of a system instruction.
pub fn lower<B: Bus>(_: &Instruction, _: CodeSize, _: &mut Op<B>) -> Option<Handler<B>> {
    None
}
