//! MOVS, STOS, LODS, SCAS, CMPS. MOVSD and CMPSD are SSE2 mnemonics too.

use iced_x86::{Instruction, Mnemonic};

use crate::bus::Bus;
use crate::exec::string::{self, Cmps, Lods, Movs, Scas, Stos, StringKind};
use crate::op::Handler;

pub(super) fn lower<B: Bus>(i: &Instruction) -> Option<Handler<B>> {
    if !i.is_string_instruction() {
        return None;
    }
    match i.mnemonic() {
        Mnemonic::Movsb => string::<B, Movs>(i, 8),
        Mnemonic::Movsw => string::<B, Movs>(i, 16),
        Mnemonic::Movsd => string::<B, Movs>(i, 32),
        Mnemonic::Movsq => string::<B, Movs>(i, 64),
        Mnemonic::Stosb => string::<B, Stos>(i, 8),
        Mnemonic::Stosw => string::<B, Stos>(i, 16),
        Mnemonic::Stosd => string::<B, Stos>(i, 32),
        Mnemonic::Stosq => string::<B, Stos>(i, 64),
        Mnemonic::Lodsb => string::<B, Lods>(i, 8),
        Mnemonic::Lodsw => string::<B, Lods>(i, 16),
        Mnemonic::Lodsd => string::<B, Lods>(i, 32),
        Mnemonic::Lodsq => string::<B, Lods>(i, 64),
        Mnemonic::Scasb => string::<B, Scas>(i, 8),
        Mnemonic::Scasw => string::<B, Scas>(i, 16),
        Mnemonic::Scasd => string::<B, Scas>(i, 32),
        Mnemonic::Scasq => string::<B, Scas>(i, 64),
        Mnemonic::Cmpsb => string::<B, Cmps>(i, 8),
        Mnemonic::Cmpsw => string::<B, Cmps>(i, 16),
        Mnemonic::Cmpsd => string::<B, Cmps>(i, 32),
        Mnemonic::Cmpsq => string::<B, Cmps>(i, 64),
        _ => None,
    }
}

fn string<B: Bus, K: StringKind>(i: &Instruction, width: u32) -> Option<Handler<B>> {
    if i.has_rep_prefix() || i.has_repne_prefix() {
        sized!(width, W => string::repeated::<B, K, W>)
    } else {
        sized!(width, W => string::once::<B, K, W>)
    }
}
