//! MOV and its kin, LEA, exchanges, CMOVcc, SETcc, conversions.

use iced_x86::{Code, Instruction, Mnemonic};

use super::{bits, in_memory, in_register};
use crate::bus::Bus;
use crate::exec::{atomic, mov};
use crate::op::{Handler, Op, OpFlags, slot};

pub(super) fn lower<B: Bus>(i: &Instruction, op: &mut Op<B>) -> Option<Handler<B>> {
    match i.mnemonic() {
        Mnemonic::Mov => plain(i, op),
        Mnemonic::Lea => sized_word!(bits(i, 0), W => mov::lea::<B, W>),
        Mnemonic::Movzx => extend::<B, false>(i),
        Mnemonic::Movsx | Mnemonic::Movsxd => extend::<B, true>(i),
        Mnemonic::Movnti | Mnemonic::Movdiri => {
            sized_double!(bits(i, 1), W => mov::memory_register::<B, W>)
        }
        Mnemonic::Movbe if in_memory(i, 0) => {
            sized_word!(bits(i, 0), W => mov::store_big_endian::<B, W>)
        }
        Mnemonic::Movbe => sized_word!(bits(i, 0), W => mov::load_big_endian::<B, W>),
        Mnemonic::Bswap => sized_word!(bits(i, 0), W => mov::byte_swap::<B, W>),
        Mnemonic::Xlatb => {
            op.index = slot::ZERO; // AL, a byte: added by the handler
            Some(mov::translate)
        }
        Mnemonic::Cbw => Some(mov::extend_accumulator::<B, u8, u16>),
        Mnemonic::Cwde => Some(mov::extend_accumulator::<B, u16, u32>),
        Mnemonic::Cdqe => Some(mov::extend_accumulator::<B, u32, u64>),
        Mnemonic::Cwd => Some(mov::sign_to_data::<B, u16>),
        Mnemonic::Cdq => Some(mov::sign_to_data::<B, u32>),
        Mnemonic::Cqo => Some(mov::sign_to_data::<B, u64>),
        Mnemonic::Xchg | Mnemonic::Xadd | Mnemonic::Cmpxchg => exchange(i, op),
        Mnemonic::Cmpxchg8b => Some(atomic::compare_pair::<B, u32>),
        Mnemonic::Cmpxchg16b => Some(atomic::compare_pair::<B, u64>),
        _ => conditional(i, op),
    }
}

/// MOV of general registers, memory and immediates; segment, control and debug registers are not
/// this group's.
fn plain<B: Bus>(i: &Instruction, op: &mut Op<B>) -> Option<Handler<B>> {
    let general = |operand| !in_register(i, operand) || i.op_register(operand).is_gpr();
    if !general(0) || !general(1) {
        return None;
    }
    let width = bits(i, 0);
    match i.code() {
        Code::Mov_AL_moffs8
        | Code::Mov_AX_moffs16
        | Code::Mov_EAX_moffs32
        | Code::Mov_RAX_moffs64 => {
            op.imm = i.memory_displacement64();
            return sized!(width, W => mov::accumulator_offset::<B, W>);
        }
        Code::Mov_moffs8_AL
        | Code::Mov_moffs16_AX
        | Code::Mov_moffs32_EAX
        | Code::Mov_moffs64_RAX => {
            op.imm = i.memory_displacement64();
            return sized!(width, W => mov::offset_accumulator::<B, W>);
        }
        _ => {}
    }
    match (in_memory(i, 0), in_memory(i, 1), in_register(i, 1)) {
        (true, _, true) => sized!(width, W => mov::memory_register::<B, W>),
        (true, _, false) => sized!(width, W => mov::memory_immediate::<B, W>),
        (false, true, _) => sized!(width, W => mov::register_memory::<B, W>),
        (false, false, true) => sized!(width, W => mov::register_register::<B, W>),
        (false, false, false) => sized!(width, W => mov::register_immediate::<B, W>),
    }
}

fn extend<B: Bus, const SIGNED: bool>(i: &Instruction) -> Option<Handler<B>> {
    macro_rules! table {
        ($handler:ident) => {
            match (bits(i, 1), bits(i, 0)) {
                (8, 16) => Some(mov::$handler::<B, u8, u16, SIGNED>),
                (8, 32) => Some(mov::$handler::<B, u8, u32, SIGNED>),
                (8, 64) => Some(mov::$handler::<B, u8, u64, SIGNED>),
                (16, 16) => Some(mov::$handler::<B, u16, u16, SIGNED>),
                (16, 32) => Some(mov::$handler::<B, u16, u32, SIGNED>),
                (16, 64) => Some(mov::$handler::<B, u16, u64, SIGNED>),
                (32, 32) => Some(mov::$handler::<B, u32, u32, SIGNED>),
                (32, 64) => Some(mov::$handler::<B, u32, u64, SIGNED>),
                _ => None,
            }
        };
    }
    if in_memory(i, 1) { table!(extend_memory) } else { table!(extend_register) }
}

fn exchange<B: Bus>(i: &Instruction, op: &mut Op<B>) -> Option<Handler<B>> {
    let width = bits(i, 0);
    match (i.mnemonic(), in_memory(i, 0)) {
        (Mnemonic::Xchg, true) => {
            op.flags |= OpFlags::LOCK;
            sized!(width, W => atomic::exchange_memory::<B, W>)
        }
        (Mnemonic::Xchg, false) => sized!(width, W => atomic::exchange_register::<B, W>),
        (Mnemonic::Xadd, true) => sized!(width, W => atomic::add_memory::<B, W>),
        (Mnemonic::Xadd, false) => sized!(width, W => atomic::add_register::<B, W>),
        (_, true) => sized!(width, W => atomic::compare_memory::<B, W>),
        (_, false) => sized!(width, W => atomic::compare_register::<B, W>),
    }
}

/// CMOVcc and SETcc.
fn conditional<B: Bus>(i: &Instruction, op: &mut Op<B>) -> Option<Handler<B>> {
    let (moves, sets) = (is_move(i.mnemonic()), is_set(i.mnemonic()));
    if !moves && !sets {
        return None;
    }
    let code = (i.condition_code() as u8).wrapping_sub(1);
    op.extra = code;
    macro_rules! table {
        ($($code:literal)*) => {
            match code {
                $($code if sets => Some(mov::set_register::<B, $code>),
                $code => {
                    sized_word!(bits(i, 0), W => mov::conditional_register::<B, W, $code>)
                })*
                _ => None,
            }
        };
    }
    match (moves, in_memory(i, if moves { 1 } else { 0 })) {
        (true, true) => sized_word!(bits(i, 0), W => mov::conditional_memory::<B, W>),
        (false, true) => Some(mov::set_memory),
        _ => table!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
    }
}

fn is_move(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Cmova
            | Mnemonic::Cmovae
            | Mnemonic::Cmovb
            | Mnemonic::Cmovbe
            | Mnemonic::Cmove
            | Mnemonic::Cmovg
            | Mnemonic::Cmovge
            | Mnemonic::Cmovl
            | Mnemonic::Cmovle
            | Mnemonic::Cmovne
            | Mnemonic::Cmovno
            | Mnemonic::Cmovnp
            | Mnemonic::Cmovns
            | Mnemonic::Cmovo
            | Mnemonic::Cmovp
            | Mnemonic::Cmovs
    )
}

fn is_set(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Seta
            | Mnemonic::Setae
            | Mnemonic::Setb
            | Mnemonic::Setbe
            | Mnemonic::Sete
            | Mnemonic::Setg
            | Mnemonic::Setge
            | Mnemonic::Setl
            | Mnemonic::Setle
            | Mnemonic::Setne
            | Mnemonic::Setno
            | Mnemonic::Setnp
            | Mnemonic::Setns
            | Mnemonic::Seto
            | Mnemonic::Setp
            | Mnemonic::Sets
    )
}
