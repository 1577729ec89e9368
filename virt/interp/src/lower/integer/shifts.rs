//! Shifts and rotates.

use iced_x86::{Instruction, Mnemonic};

use super::{bits, in_memory, in_register};
use crate::bus::Bus;
use crate::exec::shift;
use crate::op::Handler;

pub(super) fn lower<B: Bus>(i: &Instruction) -> Option<Handler<B>> {
    match i.mnemonic() {
        Mnemonic::Shl | Mnemonic::Sal => single::<B, shift::Shl>(i),
        Mnemonic::Shr => single::<B, shift::Shr>(i),
        Mnemonic::Sar => single::<B, shift::Sar>(i),
        Mnemonic::Rol => single::<B, shift::Rol>(i),
        Mnemonic::Ror => single::<B, shift::Ror>(i),
        Mnemonic::Rcl => single::<B, shift::Rcl>(i),
        Mnemonic::Rcr => single::<B, shift::Rcr>(i),
        Mnemonic::Shld => double::<B, true>(i),
        Mnemonic::Shrd => double::<B, false>(i),
        Mnemonic::Shlx => flagless::<B, shift::Shl>(i),
        Mnemonic::Shrx => flagless::<B, shift::Shr>(i),
        Mnemonic::Sarx => flagless::<B, shift::Sar>(i),
        Mnemonic::Rorx if in_memory(i, 1) => {
            sized_double!(bits(i, 0), W => shift::rorx_memory::<B, W>)
        }
        Mnemonic::Rorx => sized_double!(bits(i, 0), W => shift::rorx_register::<B, W>),
        _ => None,
    }
}

fn single<B: Bus, S: shift::Shift>(i: &Instruction) -> Option<Handler<B>> {
    let width = bits(i, 0);
    match (in_memory(i, 0), in_register(i, 1)) {
        (true, true) => sized!(width, W => shift::memory_count::<B, S, W>),
        (true, false) => sized!(width, W => shift::memory_immediate::<B, S, W>),
        (false, true) => sized!(width, W => shift::register_count::<B, S, W>),
        (false, false) => sized!(width, W => shift::register_immediate::<B, S, W>),
    }
}

fn double<B: Bus, const LEFT: bool>(i: &Instruction) -> Option<Handler<B>> {
    let width = bits(i, 0);
    match (in_memory(i, 0), in_register(i, 2)) {
        (true, true) => sized_word!(width, W => shift::double_memory::<B, W, LEFT, true>),
        (true, false) => sized_word!(width, W => shift::double_memory::<B, W, LEFT, false>),
        (false, true) => sized_word!(width, W => shift::double_register::<B, W, LEFT, true>),
        (false, false) => sized_word!(width, W => shift::double_register::<B, W, LEFT, false>),
    }
}

fn flagless<B: Bus, S: shift::Flagless>(i: &Instruction) -> Option<Handler<B>> {
    if in_memory(i, 1) {
        sized_double!(bits(i, 0), W => shift::flagless_memory::<B, S, W>)
    } else {
        sized_double!(bits(i, 0), W => shift::flagless_register::<B, S, W>)
    }
}
