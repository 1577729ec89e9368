//! Near JMP, CALL, RET, Jcc, JCXZ, LOOP: all end their block.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use super::super::CodeSize;
use super::{bits, in_memory};
use crate::bus::Bus;
use crate::exec::branch;
use crate::op::{Handler, Op, OpFlags};

pub(super) fn lower<B: Bus>(i: &Instruction, size: CodeSize, op: &mut Op<B>) -> Option<Handler<B>> {
    let long = size == CodeSize::Bits64;
    let branch_bits = match i.op0_kind() {
        OpKind::NearBranch16 => 16,
        OpKind::NearBranch32 => 32,
        OpKind::NearBranch64 => 64,
        _ => 0,
    };
    // With operand size 16, which AMD has in 64-bit mode, targets are cut as elsewhere.
    let long = long && branch_bits != 16;
    let handler = match i.mnemonic() {
        Mnemonic::Jmp if branch_bits != 0 => {
            pick(long, branch::jump::<B, true>, branch::jump::<B, false>)
        }
        Mnemonic::Jmp if is_near_indirect(i) => jump_to(i),
        Mnemonic::Call if branch_bits != 0 => sized_word!(branch_bits, W => branch::call::<B, W>),
        Mnemonic::Call if is_near_indirect(i) => call_to(i),
        Mnemonic::Ret => sized_word!(return_bits(i), W => branch::ret::<B, W>),
        Mnemonic::Jcxz | Mnemonic::Jecxz | Mnemonic::Jrcxz => {
            count_address_size(i, op);
            pick(long, branch::jump_if_no_count::<B, true>, branch::jump_if_no_count::<B, false>)
        }
        Mnemonic::Loop | Mnemonic::Loope | Mnemonic::Loopne => {
            count_address_size(i, op);
            // Repeat prefixes mean nothing here; their flags say which ZF goes on.
            op.flags.set(OpFlags::REP, i.mnemonic() == Mnemonic::Loope);
            op.flags.set(OpFlags::REPNE, i.mnemonic() == Mnemonic::Loopne);
            pick(long, branch::count_down::<B, true>, branch::count_down::<B, false>)
        }
        _ if i.is_jcc_short_or_near() => jump_if(i, long),
        _ => None,
    }?;
    op.flags.set(OpFlags::OP16, branch_bits == 16);
    op.flags.set(OpFlags::OP32, branch_bits == 32);
    op.flags.set(OpFlags::OP64, branch_bits == 64);
    if i.mnemonic() == Mnemonic::Ret && i.op_count() == 0 {
        op.imm = 0;
    }
    op.flags |= OpFlags::ENDS_BLOCK;
    Some(handler)
}

#[expect(clippy::unnecessary_wraps, reason = "an arm like the others")]
fn pick<B: Bus>(long: bool, in_long: Handler<B>, elsewhere: Handler<B>) -> Option<Handler<B>> {
    Some(if long { in_long } else { elsewhere })
}

fn is_near_indirect(i: &Instruction) -> bool {
    i.is_jmp_near_indirect() || i.is_call_near_indirect()
}

fn jump_to<B: Bus>(i: &Instruction) -> Option<Handler<B>> {
    if in_memory(i, 0) {
        sized_word!(bits(i, 0), W => branch::jump_to::<B, W, true>)
    } else {
        sized_word!(bits(i, 0), W => branch::jump_to::<B, W, false>)
    }
}

fn call_to<B: Bus>(i: &Instruction) -> Option<Handler<B>> {
    if in_memory(i, 0) {
        sized_word!(bits(i, 0), W => branch::call_to::<B, W, true>)
    } else {
        sized_word!(bits(i, 0), W => branch::call_to::<B, W, false>)
    }
}

fn return_bits(i: &Instruction) -> u32 {
    match i.code() {
        Code::Retnw | Code::Retnw_imm16 => 16,
        Code::Retnd | Code::Retnd_imm16 => 32,
        _ => 64,
    }
}

/// The count register's width is an address size that only the code tells.
fn count_address_size<B: Bus>(i: &Instruction, op: &mut Op<B>) {
    let bits = match i.code() {
        Code::Jcxz_rel8_16
        | Code::Jcxz_rel8_32
        | Code::Loop_rel8_16_CX
        | Code::Loop_rel8_32_CX
        | Code::Loope_rel8_16_CX
        | Code::Loope_rel8_32_CX
        | Code::Loopne_rel8_16_CX
        | Code::Loopne_rel8_32_CX => 16,
        Code::Jrcxz_rel8_16
        | Code::Jrcxz_rel8_64
        | Code::Loop_rel8_16_RCX
        | Code::Loop_rel8_64_RCX
        | Code::Loope_rel8_16_RCX
        | Code::Loope_rel8_64_RCX
        | Code::Loopne_rel8_16_RCX
        | Code::Loopne_rel8_64_RCX => 64,
        _ => 32,
    };
    op.flags.set(OpFlags::ADDR16, bits == 16);
    op.flags.set(OpFlags::ADDR32, bits == 32);
}

fn jump_if<B: Bus>(i: &Instruction, long: bool) -> Option<Handler<B>> {
    macro_rules! table {
        ($($code:literal)*) => {
            match (i.condition_code() as u8).wrapping_sub(1) {
                $($code => pick(
                    long,
                    branch::jump_if::<B, true, $code>,
                    branch::jump_if::<B, false, $code>,
                ),)*
                _ => None,
            }
        };
    }
    table!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
}
