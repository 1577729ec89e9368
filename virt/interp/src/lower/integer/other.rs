//! Flag instructions, no-operations, fences, cache lines, random numbers, BOUND, SALC.

use iced_x86::{Instruction, Mnemonic};

use super::bits;
use crate::bus::Bus;
use crate::exec::misc;
use crate::op::Handler;

pub(super) fn lower<B: Bus>(i: &Instruction) -> Option<Handler<B>> {
    match i.mnemonic() {
        Mnemonic::Nop
        | Mnemonic::Reservednop
        | Mnemonic::Pause
        | Mnemonic::Endbr32
        | Mnemonic::Endbr64
        | Mnemonic::Lfence
        | Mnemonic::Sfence => Some(misc::nothing),
        Mnemonic::Mfence => Some(misc::full_fence),
        Mnemonic::Clflush | Mnemonic::Clflushopt | Mnemonic::Clwb => Some(misc::write_back_line),
        Mnemonic::Clc => Some(misc::clear_carry),
        Mnemonic::Stc => Some(misc::set_carry),
        Mnemonic::Cmc => Some(misc::complement_carry),
        Mnemonic::Cld => Some(misc::clear_direction),
        Mnemonic::Std => Some(misc::set_direction),
        Mnemonic::Lahf => Some(misc::flags_to_ah),
        Mnemonic::Sahf => Some(misc::ah_to_flags),
        Mnemonic::Salc => Some(misc::carry_to_al),
        Mnemonic::Rdrand | Mnemonic::Rdseed => {
            sized_word!(bits(i, 0), W => misc::random::<B, W>)
        }
        Mnemonic::Bound => sized_word!(bits(i, 0), W => misc::bound::<B, W>),
        _ => None,
    }
}
