//! Plain moves between vector registers, general registers and memory, as byte copies.
//!
//! These are the bulk of vector instructions in real code; they need no vector unit.

use iced_x86::{Code, EncodingKind, Instruction, Mnemonic, OpKind};

use super::arrange::{quad, set_quad, set_vector, vector};
use super::gate::{self, AVX, SSE};
use crate::bus::Bus;
use crate::cpu::{Cpu, Exec};
use crate::op::{Handler, Op};

/// Names the handler of a plain move.
pub(super) fn lower<B: Bus>(instruction: &Instruction, op: &mut Op<B>) -> Option<Handler<B>> {
    if (0..instruction.op_count()).any(|index| instruction.op_register(index).is_mm()) {
        return None;
    }
    let vex = instruction.encoding() == EncodingKind::VEX;
    full_move(instruction, op, vex)
        .or_else(|| if vex { part_move_vex(instruction) } else { part_move_legacy(instruction) })
        .or_else(|| zeroing(instruction, vex))
}

/// Moves of whole registers: MOVAPS and kin.
fn full_move<B: Bus>(instruction: &Instruction, op: &mut Op<B>, vex: bool) -> Option<Handler<B>> {
    let aligned = match instruction.mnemonic() {
        Mnemonic::Movups | Mnemonic::Movupd | Mnemonic::Movdqu | Mnemonic::Lddqu => false,
        Mnemonic::Vmovups | Mnemonic::Vmovupd | Mnemonic::Vmovdqu | Mnemonic::Vlddqu => false,
        Mnemonic::Movaps | Mnemonic::Movapd | Mnemonic::Movdqa | Mnemonic::Movntdqa => true,
        Mnemonic::Vmovaps | Mnemonic::Vmovapd | Mnemonic::Vmovdqa | Mnemonic::Vmovntdqa => true,
        Mnemonic::Movntps | Mnemonic::Movntpd | Mnemonic::Movntdq => true,
        Mnemonic::Vmovntps | Mnemonic::Vmovntpd | Mnemonic::Vmovntdq => true,
        _ => return None,
    };
    let wide = (0..2).any(|index| instruction.op_register(index).is_ymm());
    op.extra = u8::from(aligned);
    Some(match (instruction.op0_kind(), instruction.op1_kind(), vex, wide) {
        (OpKind::Memory, _, false, _) => store::<B, 16, SSE>,
        (OpKind::Memory, _, true, false) => store::<B, 16, AVX>,
        (OpKind::Memory, _, true, true) => store::<B, 32, AVX>,
        (_, OpKind::Memory, false, _) => load::<B, 16, false, SSE>,
        (_, OpKind::Memory, true, false) => load::<B, 16, true, AVX>,
        (_, OpKind::Memory, true, true) => load::<B, 32, true, AVX>,
        (_, _, false, _) => copy::<B, 16, false, SSE>,
        (_, _, true, false) => copy::<B, 16, true, AVX>,
        (_, _, true, true) => copy::<B, 32, true, AVX>,
    })
}

fn part_move_legacy<B: Bus>(instruction: &Instruction) -> Option<Handler<B>> {
    let memory = [instruction.op0_kind(), instruction.op1_kind()].contains(&OpKind::Memory);
    Some(match (instruction.code(), memory) {
        (Code::Movss_xmm_xmmm32, true) => load_part::<B, u32, false, SSE>,
        (Code::Movsd_xmm_xmmm64 | Code::Movq_xmm_xmmm64, true) => load_part::<B, u64, false, SSE>,
        (Code::Movd_xmm_rm32, true) => load_part::<B, u32, false, SSE>,
        (Code::Movq_xmm_rm64, true) => load_part::<B, u64, false, SSE>,
        (Code::Movss_xmmm32_xmm | Code::Movd_rm32_xmm, true) => store_part::<B, u32, 0, SSE>,
        (Code::Movsd_xmmm64_xmm | Code::Movq_xmmm64_xmm, true) => store_part::<B, u64, 0, SSE>,
        (Code::Movq_rm64_xmm, true) => store_part::<B, u64, 0, SSE>,
        (Code::Movlps_m64_xmm | Code::Movlpd_m64_xmm, true) => store_part::<B, u64, 0, SSE>,
        (Code::Movhps_m64_xmm | Code::Movhpd_m64_xmm, true) => store_part::<B, u64, 1, SSE>,
        (Code::Movlps_xmm_m64 | Code::Movlpd_xmm_m64, true) => load_half::<B, 0>,
        (Code::Movhps_xmm_m64 | Code::Movhpd_xmm_m64, true) => load_half::<B, 1>,
        (Code::Movsd_xmm_xmmm64 | Code::Movsd_xmmm64_xmm, false) => merge_low::<B>,
        (Code::Movq_xmm_xmmm64 | Code::Movq_xmmm64_xmm, false) => copy_low::<B, false, SSE>,
        (Code::Movd_xmm_rm32, false) => from_general::<B, u32, false, SSE>,
        (Code::Movq_xmm_rm64, false) => from_general::<B, u64, false, SSE>,
        (Code::Movd_rm32_xmm, false) => to_general::<B, u32, SSE>,
        (Code::Movq_rm64_xmm, false) => to_general::<B, u64, SSE>,
        _ => return None,
    })
}

fn part_move_vex<B: Bus>(instruction: &Instruction) -> Option<Handler<B>> {
    let memory = [instruction.op0_kind(), instruction.op1_kind()].contains(&OpKind::Memory);
    Some(match (instruction.code(), memory) {
        (Code::VEX_Vmovss_xmm_m32 | Code::VEX_Vmovd_xmm_rm32, true) => {
            load_part::<B, u32, true, AVX>
        }
        (
            Code::VEX_Vmovsd_xmm_m64 | Code::VEX_Vmovq_xmm_rm64 | Code::VEX_Vmovq_xmm_xmmm64,
            true,
        ) => load_part::<B, u64, true, AVX>,
        (Code::VEX_Vmovss_m32_xmm | Code::VEX_Vmovd_rm32_xmm, true) => store_part::<B, u32, 0, AVX>,
        (
            Code::VEX_Vmovsd_m64_xmm | Code::VEX_Vmovq_rm64_xmm | Code::VEX_Vmovq_xmmm64_xmm,
            true,
        ) => store_part::<B, u64, 0, AVX>,
        (Code::VEX_Vmovlps_m64_xmm | Code::VEX_Vmovlpd_m64_xmm, true) => {
            store_part::<B, u64, 0, AVX>
        }
        (Code::VEX_Vmovhps_m64_xmm | Code::VEX_Vmovhpd_m64_xmm, true) => {
            store_part::<B, u64, 1, AVX>
        }
        (Code::VEX_Vmovq_xmm_xmmm64 | Code::VEX_Vmovq_xmmm64_xmm, false) => {
            copy_low::<B, true, AVX>
        }
        (Code::VEX_Vmovd_xmm_rm32, false) => from_general::<B, u32, true, AVX>,
        (Code::VEX_Vmovq_xmm_rm64, false) => from_general::<B, u64, true, AVX>,
        (Code::VEX_Vmovd_rm32_xmm, false) => to_general::<B, u32, AVX>,
        (Code::VEX_Vmovq_rm64_xmm, false) => to_general::<B, u64, AVX>,
        _ => return None,
    })
}

/// PXOR and XORPS of a register with itself.
fn zeroing<B: Bus>(instruction: &Instruction, vex: bool) -> Option<Handler<B>> {
    let sources = if vex { (1, 2) } else { (0, 1) };
    if instruction.op_count() != sources.1 + 1
        || instruction.op_kind(sources.1) != OpKind::Register
        || instruction.op_register(sources.0) != instruction.op_register(sources.1)
    {
        return None;
    }
    match instruction.mnemonic() {
        Mnemonic::Pxor | Mnemonic::Xorps | Mnemonic::Xorpd => Some(zero::<B, false, SSE>),
        Mnemonic::Vpxor | Mnemonic::Vxorps | Mnemonic::Vxorpd => Some(zero::<B, true, AVX>),
        _ => None,
    }
}

fn load<B: Bus, const N: usize, const VEX: bool, const GATE: u8>(
    cpu: &mut Cpu<B>,
    op: &Op<B>,
) -> Exec {
    gate::pass::<B, GATE>(cpu)?;
    let mut bytes = [0; N];
    cpu.load_operand(op, &mut bytes, op.extra != 0)?;
    set_vector::<N, VEX>(&mut cpu.state.xsave, op.dst, &bytes);
    Ok(())
}

fn store<B: Bus, const N: usize, const GATE: u8>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass::<B, GATE>(cpu)?;
    let bytes: [u8; N] = vector(&cpu.state.xsave, op.dst);
    cpu.store_operand(op, &bytes, op.extra != 0)
}

fn copy<B: Bus, const N: usize, const VEX: bool, const GATE: u8>(
    cpu: &mut Cpu<B>,
    op: &Op<B>,
) -> Exec {
    gate::pass::<B, GATE>(cpu)?;
    let bytes: [u8; N] = vector(&cpu.state.xsave, op.src);
    set_vector::<N, VEX>(&mut cpu.state.xsave, op.dst, &bytes);
    Ok(())
}

/// Memory to the low part, the rest of XMM zero.
fn load_part<B: Bus, W: crate::Width, const VEX: bool, const GATE: u8>(
    cpu: &mut Cpu<B>,
    op: &Op<B>,
) -> Exec {
    gate::pass::<B, GATE>(cpu)?;
    let value: W = cpu.load(op)?;
    set_low::<VEX>(&mut cpu.state.xsave, op.dst, value.to_u64());
    Ok(())
}

fn set_low<const VEX: bool>(area: &mut x86::XsaveArea, register: u8, value: u64) {
    set_vector::<16, VEX>(area, register, &u128::from(value).to_le_bytes());
}

fn store_part<B: Bus, W: crate::Width, const HALF: usize, const GATE: u8>(
    cpu: &mut Cpu<B>,
    op: &Op<B>,
) -> Exec {
    gate::pass::<B, GATE>(cpu)?;
    let value = W::from_u64(quad(&cpu.state.xsave, op.dst, HALF));
    cpu.store(op, value)
}

/// Memory to one half, the other stays.
fn load_half<B: Bus, const HALF: usize>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass::<B, SSE>(cpu)?;
    let value: u64 = cpu.load(op)?;
    set_quad(&mut cpu.state.xsave, op.dst, HALF, value);
    Ok(())
}

/// MOVSD between registers.
fn merge_low<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass::<B, SSE>(cpu)?;
    let value = quad(&cpu.state.xsave, op.src, 0);
    set_quad(&mut cpu.state.xsave, op.dst, 0, value);
    Ok(())
}

/// MOVQ between registers: the high half becomes zero.
fn copy_low<B: Bus, const VEX: bool, const GATE: u8>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass::<B, GATE>(cpu)?;
    let value = quad(&cpu.state.xsave, op.src, 0);
    set_low::<VEX>(&mut cpu.state.xsave, op.dst, value);
    Ok(())
}

fn from_general<B: Bus, W: crate::Width, const VEX: bool, const GATE: u8>(
    cpu: &mut Cpu<B>,
    op: &Op<B>,
) -> Exec {
    gate::pass::<B, GATE>(cpu)?;
    let value = cpu.reg::<W>(op.src).to_u64();
    set_low::<VEX>(&mut cpu.state.xsave, op.dst, value);
    Ok(())
}

fn to_general<B: Bus, W: crate::Width, const GATE: u8>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass::<B, GATE>(cpu)?;
    let value = W::from_u64(quad(&cpu.state.xsave, op.src, 0));
    cpu.set_reg(op.dst, value);
    Ok(())
}

fn zero<B: Bus, const VEX: bool, const GATE: u8>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass::<B, GATE>(cpu)?;
    set_low::<VEX>(&mut cpu.state.xsave, op.dst, 0);
    Ok(())
}
