//! Decoding: bytes to [`Op`], through iced-x86 and one lowering function per instruction group.
//!
//! A group's `lower` looks at the instruction, completes the op's operands where the common fill
//! below does not do, and names the handler; `None` passes to the next group. What no group takes
//! raises #UD, as does everything CPUID does not announce.

pub mod features;
pub mod integer;
pub mod system;

use iced_x86::{
    Code, Decoder, DecoderError, DecoderOptions, Instruction, Mnemonic, OpKind, Register,
};

use crate::bus::Bus;
use crate::cpu::{Cpu, Exec};
use crate::exec::system::cpuid::is_amd;
use crate::op::{AddressForm, Handler, Op, OpFlags, slot};
use crate::vector;

/// Default sizes of a code segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CodeSize {
    /// Real, vm86 and 16-bit protected mode.
    Bits16 = 16,
    /// 32-bit protected and compatibility mode.
    Bits32 = 32,
    /// 64-bit mode.
    Bits64 = 64,
}

/// The bytes at hand do not hold a whole instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError;

/// Decodes one instruction from the start of `bytes` (up to 15 are looked at).
///
/// Needs more bytes: `Err`. An instruction longer than 15 bytes becomes an op that raises #GP(0),
/// an undefined one an op that raises #UD.
pub fn decode<B: Bus>(bytes: &[u8], size: CodeSize, bus: &mut B) -> Result<Op<B>, DecodeError> {
    let window = &bytes[..bytes.len().min(15)];
    let mut instruction = Instruction::default();
    let (error, position) = decode_for_vendor(&mut instruction, window, size, is_amd(bus));
    if instruction.is_invalid() {
        return match error {
            DecoderError::NoMoreBytes => Err(DecodeError),
            // With 15 bytes at hand, iced calls one that wants more invalid.
            _ if position == 15 => Ok(plain(too_long::<B>, position, size)),
            _ => Ok(plain(undefined::<B>, position.max(1), size)),
        };
    }
    if !features::announced(&instruction, size, bus) {
        // Without the feature the mandatory prefix of TZCNT and LZCNT is ignored: BSF and BSR.
        let options = match instruction.mnemonic() {
            Mnemonic::Tzcnt => OPTIONS | DecoderOptions::NO_MPFX_0FBC,
            Mnemonic::Lzcnt => OPTIONS | DecoderOptions::NO_MPFX_0FBD,
            _ => return Ok(plain(undefined::<B>, instruction.len(), size)),
        };
        decode_into(&mut instruction, window, size, options);
    }
    let mut op = plain(undefined::<B>, instruction.len(), size);
    op.flags.remove(OpFlags::ENDS_BLOCK);
    fill(&instruction, size, &mut op);
    let handler = integer::lower(&instruction, size, &mut op)
        .or_else(|| system::lower(&instruction, size, &mut op, bus))
        .or_else(|| vector::lower(&instruction, &window[..instruction.len()], size, &mut op, bus));
    op.run = handler.unwrap_or(undefined::<B>);
    if op.run as usize == undefined::<B> as Handler<B> as usize {
        op.flags |= OpFlags::ENDS_BLOCK;
    }
    Ok(op)
}

/// 0F0D and 0F18-0F1F are hints: prefetches, ENDBR and all that is not announced do nothing.
const OPTIONS: u32 = DecoderOptions::FORCE_RESERVED_NOP;

/// Decodes as the guest's vendor does: on AMD, near branches obey an operand-size prefix in 64-bit
/// mode too, far ones know no 64-bit offset, and UD0 has no ModRM byte (APM vol. 3, 1.2.2, 3).
fn decode_for_vendor(
    instruction: &mut Instruction,
    window: &[u8],
    size: CodeSize,
    amd: bool,
) -> (DecoderError, usize) {
    let options = if amd { OPTIONS | DecoderOptions::AMD } else { OPTIONS };
    let found = decode_into(instruction, window, size, options);
    let names_cr8 = |index| instruction.op_register(index) == Register::CR8;
    if amd && (names_cr8(0) || names_cr8(1)) {
        // LOCK MOV CR0 would be CR8 where CPUID announced it; with REX.R it is in any case.
        return decode_into(instruction, window, size, OPTIONS);
    }
    found
}

/// Decodes at IP 0; gives the error, if it is invalid, and the bytes consumed.
fn decode_into(
    instruction: &mut Instruction,
    window: &[u8],
    size: CodeSize,
    options: u32,
) -> (DecoderError, usize) {
    let mut decoder = Decoder::with_ip(size as u32, window, 0, options);
    decoder.decode_out(instruction);
    (decoder.last_error(), decoder.position())
}

/// An op with no operands that ends its block.
fn plain<B: Bus>(run: Handler<B>, len: usize, size: CodeSize) -> Op<B> {
    let mut flags = OpFlags::ENDS_BLOCK;
    flags.set(OpFlags::LONG_MODE, size == CodeSize::Bits64);
    Op {
        run,
        imm: 0,
        disp: 0,
        flags,
        len: len as u8,
        dst: slot::ZERO,
        src: slot::ZERO,
        src2: slot::ZERO,
        base: slot::ZERO,
        index: slot::ZERO,
        scale: 0,
        segment: 3,
        form: if size == CodeSize::Bits64 { AddressForm::Flat } else { AddressForm::Segmented },
        extra: 0,
    }
}

fn undefined<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    Err(cpu.ud())
}

fn too_long<B: Bus>(cpu: &mut Cpu<B>, _: &Op<B>) -> Exec {
    Err(cpu.gp0())
}

/// Fills what most instructions share: registers in operand order into dst, src, src2; the memory
/// operand; the immediate; prefixes and address size.
fn fill<B: Bus>(instruction: &Instruction, size: CodeSize, op: &mut Op<B>) {
    op.flags.set(OpFlags::LOCK, instruction.has_lock_prefix());
    op.flags.set(OpFlags::REP, instruction.has_rep_prefix());
    op.flags.set(OpFlags::REPNE, instruction.has_repne_prefix());
    let mut registers = 0;
    let mut immediates = 0;
    for index in 0..instruction.op_count() {
        match instruction.op_kind(index) {
            OpKind::Register => {
                let register = register_slot(instruction.op_register(index));
                match registers {
                    0 => op.dst = register,
                    1 => op.src = register,
                    _ => op.src2 = register,
                }
                registers += 1;
            }
            OpKind::Memory => fill_memory(instruction, size, op),
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                // Relative to the next instruction: decoded at IP 0.
                let target = instruction.near_branch_target() as i64;
                let relative = target.wrapping_sub(instruction.len() as i64);
                op.imm = match instruction.op_kind(index) {
                    OpKind::NearBranch16 => i64::from(relative as i16),
                    OpKind::NearBranch32 => i64::from(relative as i32),
                    _ => relative,
                } as u64;
            }
            OpKind::FarBranch16 | OpKind::FarBranch32 => {
                op.imm = if instruction.op_kind(index) == OpKind::FarBranch16 {
                    u64::from(instruction.far_branch16())
                } else {
                    u64::from(instruction.far_branch32())
                };
                op.disp = i32::from(instruction.far_branch_selector() as i16);
            }
            OpKind::Immediate8
            | OpKind::Immediate8_2nd
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => {
                let value = instruction.immediate(index);
                if immediates == 0 {
                    op.imm = value;
                } else {
                    op.src2 = value as u8;
                }
                immediates += 1;
            }
            // String operands: the segment override and the address size matter.
            _ => {
                op.segment = segment_number(instruction.memory_segment());
                string_address_size(instruction.op_kind(index), op);
            }
        }
    }
}

/// Base, index, scale, displacement, segment, address size and form of the memory operand.
pub fn fill_memory<B: Bus>(instruction: &Instruction, size: CodeSize, op: &mut Op<B>) {
    let base = instruction.memory_base();
    let index = instruction.memory_index();
    op.segment = segment_number(instruction.memory_segment());
    if size == CodeSize::Bits64 && op.segment < 4 {
        // ES, CS, SS and DS prefixes are ignored: the base register alone makes it a stack access.
        let stack = matches!(base.full_register(), Register::RSP | Register::RBP);
        op.segment = if stack { 2 } else { 3 };
    }
    op.base = if base == Register::None { slot::ZERO } else { register_slot(base) };
    // A vector index (VSIB) is the vector group's own business.
    op.index = if index == Register::None || index.is_vector_register() {
        slot::ZERO
    } else {
        register_slot(index)
    };
    op.scale = instruction.memory_index_scale().trailing_zeros() as u8;
    op.disp = instruction.memory_displacement64() as i32;
    let address_bits = match (base, index) {
        (b, _) if b.is_gpr16() => 16,
        (_, i) if i.is_gpr16() => 16,
        (b, _) if b.is_gpr32() || b == Register::EIP => 32,
        (_, i) if i.is_gpr32() => 32,
        (b, _) if b.is_gpr64() || b == Register::RIP => 64,
        (_, i) if i.is_gpr64() => 64,
        _ => match instruction.memory_displ_size() {
            2 => 16,
            8 => 64,
            4 if size == CodeSize::Bits64 => disp_only_bits(instruction),
            4 => 32,
            _ => size as u32,
        },
    };
    if base == Register::RIP || base == Register::EIP {
        op.base = slot::RIP;
        // iced gives the absolute address for IP 0; ours is relative to the next instruction.
        op.disp = (instruction.memory_displacement64() as i64 - instruction.len() as i64) as i32;
    }
    op.flags.set(OpFlags::ADDR16, address_bits == 16);
    op.flags.set(OpFlags::ADDR32, address_bits == 32);
    op.flags.set(OpFlags::STACK_SEGMENT, op.segment == 2);
    op.form = match size {
        CodeSize::Bits64 if address_bits == 64 && op.segment < 4 => AddressForm::Flat,
        CodeSize::Bits64 => AddressForm::Long,
        _ => AddressForm::Segmented,
    };
}

/// A bare displacement in 64-bit mode is sign-extended (64) unless an address-size prefix cut it.
fn disp_only_bits(instruction: &Instruction) -> u32 {
    if instruction.memory_displacement64() >> 32 == 0
        && instruction.memory_displacement32() >> 31 != 0
    {
        32
    } else {
        64
    }
}

fn string_address_size<B: Bus>(kind: OpKind, op: &mut Op<B>) {
    match kind {
        OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => {
            op.flags |= OpFlags::ADDR16;
        }
        OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => {
            op.flags |= OpFlags::ADDR32;
        }
        _ => {}
    }
}

/// Segment registers in encoding order; anything else is DS.
pub fn segment_number(register: Register) -> u8 {
    match register {
        Register::ES => 0,
        Register::CS => 1,
        Register::SS => 2,
        Register::FS => 4,
        Register::GS => 5,
        _ => 3,
    }
}

/// The slot of a general register, or the plain number of any other kind of register.
pub fn register_slot(register: Register) -> u8 {
    match register {
        Register::AH | Register::CH | Register::DH | Register::BH => {
            slot::HIGH_BYTE + (register as u8 - Register::AH as u8)
        }
        // Byte registers count SPL to DIL after BH: the full register has the encoding's number.
        _ if register.is_gpr() => register.full_register().number() as u8,
        _ => register.number() as u8,
    }
}

/// Whether an instruction's memory form has this code in either encoding; helper for groups.
pub fn is_code(instruction: &Instruction, codes: &[Code]) -> bool {
    codes.contains(&instruction.code())
}
