//! ADD to CMP, TEST, INC, DEC, NEG, NOT, ADCX, ADOX, products, quotients and BCD.

use iced_x86::{Instruction, Mnemonic};

use super::{bits, in_memory, in_register};
use crate::bus::Bus;
use crate::exec::{alu, bcd, muldiv};
use crate::op::Handler;

pub(super) fn lower<B: Bus>(i: &Instruction) -> Option<Handler<B>> {
    match i.mnemonic() {
        Mnemonic::Add => binary::<B, alu::Add>(i),
        Mnemonic::Or => binary::<B, alu::Or>(i),
        Mnemonic::Adc => binary::<B, alu::Adc>(i),
        Mnemonic::Sbb => binary::<B, alu::Sbb>(i),
        Mnemonic::And => binary::<B, alu::And>(i),
        Mnemonic::Sub => binary::<B, alu::Sub>(i),
        Mnemonic::Xor => binary::<B, alu::Xor>(i),
        Mnemonic::Cmp => binary::<B, alu::Cmp>(i),
        Mnemonic::Test => binary::<B, alu::Test>(i),
        Mnemonic::Inc => unary::<B, alu::Inc>(i),
        Mnemonic::Dec => unary::<B, alu::Dec>(i),
        Mnemonic::Neg => unary::<B, alu::Neg>(i),
        Mnemonic::Not => unary::<B, alu::Not>(i),
        Mnemonic::Adcx => add_chain::<B, false>(i),
        Mnemonic::Adox => add_chain::<B, true>(i),
        Mnemonic::Mul => wide::<B, false>(i),
        Mnemonic::Imul => signed_product(i),
        Mnemonic::Mulx => mulx(i),
        Mnemonic::Div => divide::<B, false>(i),
        Mnemonic::Idiv => divide::<B, true>(i),
        Mnemonic::Daa => Some(bcd::daa),
        Mnemonic::Das => Some(bcd::das),
        Mnemonic::Aaa => Some(bcd::aaa),
        Mnemonic::Aas => Some(bcd::aas),
        Mnemonic::Aam => Some(bcd::aam),
        Mnemonic::Aad => Some(bcd::aad),
        _ => None,
    }
}

fn binary<B: Bus, O: alu::Binary>(i: &Instruction) -> Option<Handler<B>> {
    let width = bits(i, 0);
    match (in_memory(i, 0), in_memory(i, 1), in_register(i, 1)) {
        (true, _, true) => sized!(width, W => alu::memory_register::<B, O, W>),
        (true, _, false) => sized!(width, W => alu::memory_immediate::<B, O, W>),
        (false, true, _) => sized!(width, W => alu::register_memory::<B, O, W>),
        (false, false, true) => sized!(width, W => alu::register_register::<B, O, W>),
        (false, false, false) => sized!(width, W => alu::register_immediate::<B, O, W>),
    }
}

fn unary<B: Bus, O: alu::Unary>(i: &Instruction) -> Option<Handler<B>> {
    if in_memory(i, 0) {
        sized!(bits(i, 0), W => alu::unary_memory::<B, O, W>)
    } else {
        sized!(bits(i, 0), W => alu::unary_register::<B, O, W>)
    }
}

fn add_chain<B: Bus, const OVERFLOW: bool>(i: &Instruction) -> Option<Handler<B>> {
    if in_memory(i, 1) {
        sized_double!(bits(i, 0), W => alu::add_chain_memory::<B, W, OVERFLOW>)
    } else {
        sized_double!(bits(i, 0), W => alu::add_chain_register::<B, W, OVERFLOW>)
    }
}

fn wide<B: Bus, const SIGNED: bool>(i: &Instruction) -> Option<Handler<B>> {
    if in_memory(i, 0) {
        sized!(bits(i, 0), W => muldiv::wide_memory::<B, W, SIGNED>)
    } else {
        sized!(bits(i, 0), W => muldiv::wide_register::<B, W, SIGNED>)
    }
}

fn signed_product<B: Bus>(i: &Instruction) -> Option<Handler<B>> {
    let width = bits(i, 0);
    match (i.op_count(), i.op_count() > 1 && in_memory(i, 1)) {
        (1, _) => wide::<B, true>(i),
        (2, false) => sized_word!(width, W => muldiv::register_register::<B, W>),
        (2, true) => sized_word!(width, W => muldiv::register_memory::<B, W>),
        (_, false) => sized_word!(width, W => muldiv::register_immediate::<B, W>),
        (_, true) => sized_word!(width, W => muldiv::memory_immediate::<B, W>),
    }
}

fn mulx<B: Bus>(i: &Instruction) -> Option<Handler<B>> {
    if in_memory(i, 2) {
        sized_double!(bits(i, 0), W => muldiv::extended_memory::<B, W>)
    } else {
        sized_double!(bits(i, 0), W => muldiv::extended_register::<B, W>)
    }
}

fn divide<B: Bus, const SIGNED: bool>(i: &Instruction) -> Option<Handler<B>> {
    if in_memory(i, 0) {
        sized!(bits(i, 0), W => muldiv::divide_memory::<B, W, SIGNED>)
    } else {
        sized!(bits(i, 0), W => muldiv::divide_register::<B, W, SIGNED>)
    }
}
