//! Lowering of general-purpose instructions: which handler, for which width and operand form.

use iced_x86::{Instruction, OpKind};

use super::CodeSize;
use crate::bus::Bus;
use crate::op::{Handler, Op};

/// A handler with `$W` standing for the unsigned integer of `$bits`; `None` for other widths.
macro_rules! sized {
    ($bits:expr, $W:ident => $handler:expr) => {{
        let handler: Handler<B> = match $bits {
            8 => {
                type $W = u8;
                $handler
            }
            16 => {
                type $W = u16;
                $handler
            }
            32 => {
                type $W = u32;
                $handler
            }
            64 => {
                type $W = u64;
                $handler
            }
            _ => return None,
        };
        Some(handler)
    }};
}

/// [`sized!`] for instructions without a byte form.
macro_rules! sized_word {
    ($bits:expr, $W:ident => $handler:expr) => {{
        let handler: Handler<B> = match $bits {
            16 => {
                type $W = u16;
                $handler
            }
            32 => {
                type $W = u32;
                $handler
            }
            64 => {
                type $W = u64;
                $handler
            }
            _ => return None,
        };
        Some(handler)
    }};
}

/// [`sized!`] for instructions of 32 and 64 bits only.
macro_rules! sized_double {
    ($bits:expr, $W:ident => $handler:expr) => {{
        let handler: Handler<B> = match $bits {
            32 => {
                type $W = u32;
                $handler
            }
            64 => {
                type $W = u64;
                $handler
            }
            _ => return None,
        };
        Some(handler)
    }};
}

mod arithmetic;
mod bits;
mod flow;
mod moves;
mod other;
mod shifts;
mod stack;
mod strings;

/// Names the handler of a general-purpose instruction.
pub fn lower<B: Bus>(
    instruction: &Instruction,
    size: CodeSize,
    op: &mut Op<B>,
) -> Option<Handler<B>> {
    moves::lower(instruction, op)
        .or_else(|| arithmetic::lower(instruction))
        .or_else(|| flow::lower(instruction, size, op))
        .or_else(|| stack::lower(instruction, size))
        .or_else(|| shifts::lower(instruction))
        .or_else(|| bits::lower(instruction))
        .or_else(|| strings::lower(instruction))
        .or_else(|| other::lower(instruction))
}

/// Width in bits of a register or memory operand; 0 for other kinds.
fn bits(instruction: &Instruction, operand: u32) -> u32 {
    match instruction.op_kind(operand) {
        OpKind::Register => 8 * instruction.op_register(operand).size() as u32,
        OpKind::Memory => 8 * instruction.memory_size().size() as u32,
        _ => 0,
    }
}

/// Whether an operand is in memory.
fn in_memory(instruction: &Instruction, operand: u32) -> bool {
    instruction.op_kind(operand) == OpKind::Memory
}

/// Whether an operand is a register.
fn in_register(instruction: &Instruction, operand: u32) -> bool {
    instruction.op_kind(operand) == OpKind::Register
}
