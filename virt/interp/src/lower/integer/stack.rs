//! PUSH and POP of general registers, memory and immediates, PUSHA, POPA, ENTER, LEAVE.

use iced_x86::{Code, Instruction, Mnemonic};

use super::super::CodeSize;
use super::{in_memory, in_register};
use crate::bus::Bus;
use crate::exec::stack;
use crate::op::Handler;

pub(super) fn lower<B: Bus>(i: &Instruction, size: CodeSize) -> Option<Handler<B>> {
    let element = 8 * i.stack_pointer_increment().unsigned_abs();
    match i.mnemonic() {
        Mnemonic::Push | Mnemonic::Pop if in_register(i, 0) && !i.op0_register().is_gpr() => None,
        Mnemonic::Push if size == CodeSize::Bits64 => push::<B, true>(i, element),
        Mnemonic::Push => push::<B, false>(i, element),
        Mnemonic::Pop if in_memory(i, 0) => sized_word!(element, W => stack::pop_memory::<B, W>),
        Mnemonic::Pop if size == CodeSize::Bits64 => {
            sized_word!(element, W => stack::pop_register::<B, W, true>)
        }
        Mnemonic::Pop => sized_word!(element, W => stack::pop_register::<B, W, false>),
        Mnemonic::Pusha => Some(stack::push_all::<B, u16>),
        Mnemonic::Pushad => Some(stack::push_all::<B, u32>),
        Mnemonic::Popa => Some(stack::pop_all::<B, u16>),
        Mnemonic::Popad => Some(stack::pop_all::<B, u32>),
        Mnemonic::Enter | Mnemonic::Leave => frame(i),
        _ => None,
    }
}

fn push<B: Bus, const LONG: bool>(i: &Instruction, element: u32) -> Option<Handler<B>> {
    if in_memory(i, 0) {
        sized_word!(element, W => stack::push_memory::<B, W, LONG>)
    } else if in_register(i, 0) {
        sized_word!(element, W => stack::push_register::<B, W, LONG>)
    } else {
        sized_word!(element, W => stack::push_immediate::<B, W, LONG>)
    }
}

fn frame<B: Bus>(i: &Instruction) -> Option<Handler<B>> {
    match i.code() {
        Code::Enterw_imm16_imm8 => Some(stack::enter::<B, u16>),
        Code::Enterd_imm16_imm8 => Some(stack::enter::<B, u32>),
        Code::Enterq_imm16_imm8 => Some(stack::enter::<B, u64>),
        Code::Leavew => Some(stack::leave::<B, u16>),
        Code::Leaved => Some(stack::leave::<B, u32>),
        Code::Leaveq => Some(stack::leave::<B, u64>),
        _ => None,
    }
}
