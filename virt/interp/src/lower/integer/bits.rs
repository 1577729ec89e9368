//! BT family, scans, counts, BMI1, BMI2 and CRC32.

use iced_x86::{Instruction, Mnemonic};

use super::{bits, in_memory, in_register};
use crate::bus::Bus;
use crate::exec::bits as exec;
use crate::op::Handler;

pub(super) fn lower<B: Bus>(i: &Instruction) -> Option<Handler<B>> {
    match i.mnemonic() {
        Mnemonic::Bt => bit::<B, exec::Keep>(i),
        Mnemonic::Bts => bit::<B, exec::Set>(i),
        Mnemonic::Btr => bit::<B, exec::Reset>(i),
        Mnemonic::Btc => bit::<B, exec::Complement>(i),
        Mnemonic::Bsf => source::<B, exec::Bsf>(i),
        Mnemonic::Bsr => source::<B, exec::Bsr>(i),
        Mnemonic::Tzcnt => source::<B, exec::Tzcnt>(i),
        Mnemonic::Lzcnt => source::<B, exec::Lzcnt>(i),
        Mnemonic::Popcnt => source::<B, exec::Popcnt>(i),
        Mnemonic::Blsi => source::<B, exec::Blsi>(i),
        Mnemonic::Blsmsk => source::<B, exec::Blsmsk>(i),
        Mnemonic::Blsr => source::<B, exec::Blsr>(i),
        Mnemonic::Andn => two_sources::<B, exec::Andn>(i),
        Mnemonic::Bextr => two_sources::<B, exec::Bextr>(i),
        Mnemonic::Bzhi => two_sources::<B, exec::Bzhi>(i),
        Mnemonic::Pdep => two_sources::<B, exec::Pdep>(i),
        Mnemonic::Pext => two_sources::<B, exec::Pext>(i),
        Mnemonic::Crc32 => {
            if in_memory(i, 1) {
                sized!(bits(i, 1), W => exec::crc32_memory::<B, W>)
            } else {
                sized!(bits(i, 1), W => exec::crc32_register::<B, W>)
            }
        }
        _ => None,
    }
}

fn bit<B: Bus, C: exec::BitChange>(i: &Instruction) -> Option<Handler<B>> {
    let width = bits(i, 0);
    match (in_memory(i, 0), in_register(i, 1)) {
        (true, true) => sized_word!(width, W => exec::bit_memory_register::<B, C, W>),
        (true, false) => sized_word!(width, W => exec::bit_memory_immediate::<B, C, W>),
        (false, true) => sized_word!(width, W => exec::bit_register_register::<B, C, W>),
        (false, false) => sized_word!(width, W => exec::bit_register_immediate::<B, C, W>),
    }
}

fn source<B: Bus, S: exec::Source>(i: &Instruction) -> Option<Handler<B>> {
    // The BLS group has its destination in VEX.vvvv: still operand 0.
    if in_memory(i, 1) {
        sized_word!(bits(i, 0), W => exec::source_memory::<B, S, W>)
    } else {
        sized_word!(bits(i, 0), W => exec::source_register::<B, S, W>)
    }
}

fn two_sources<B: Bus, S: exec::TwoSources>(i: &Instruction) -> Option<Handler<B>> {
    // TBM's BEXTR takes an immediate and is not announced.
    if in_memory(i, 1) || in_memory(i, 2) {
        sized_double!(bits(i, 0), W => exec::two_memory::<B, S, W>)
    } else if in_register(i, 2) {
        sized_double!(bits(i, 0), W => exec::two_register::<B, S, W>)
    } else {
        None
    }
}
