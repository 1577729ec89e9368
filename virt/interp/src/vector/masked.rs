//! Masked moves and gathers: memory element by element, so that masked-out elements never fault
//! (SDM vol. 2, MASKMOVDQU, VMASKMOV, VPMASKMOV, VGATHERDPS ff.).

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use super::arrange::{set_vector, vector};
use super::gate::{self, AVX, MMX, SSE};
use super::x87::{mmx_begin, mmx_register};
use crate::bus::{Access, Bus};
use crate::cpu::{Cpu, Exec};
use crate::exec::system::cpuid::is_amd;
use crate::op::{Handler, Op};
use crate::operand::truncate;

/// Names the handler of a masked move or gather.
pub(super) fn lower<B: Bus>(instruction: &Instruction, op: &mut Op<B>) -> Option<Handler<B>> {
    match instruction.code() {
        Code::Maskmovq_rDI_mm_mm => return Some(maskmovq::<B>),
        Code::Maskmovdqu_rDI_xmm_xmm => return Some(maskmovdqu::<B, SSE>),
        Code::VEX_Vmaskmovdqu_rDI_xmm_xmm => return Some(maskmovdqu::<B, AVX>),
        _ => {}
    }
    let wide = (0..3).any(|index| instruction.op_register(index).is_ymm());
    let store = instruction.op0_kind() == OpKind::Memory;
    Some(match (instruction.mnemonic(), store, wide) {
        (Mnemonic::Vmaskmovps | Mnemonic::Vpmaskmovd, false, false) => masked_load::<B, 4, 16>,
        (Mnemonic::Vmaskmovps | Mnemonic::Vpmaskmovd, false, true) => masked_load::<B, 4, 32>,
        (Mnemonic::Vmaskmovpd | Mnemonic::Vpmaskmovq, false, false) => masked_load::<B, 8, 16>,
        (Mnemonic::Vmaskmovpd | Mnemonic::Vpmaskmovq, false, true) => masked_load::<B, 8, 32>,
        (Mnemonic::Vmaskmovps | Mnemonic::Vpmaskmovd, true, false) => masked_store::<B, 4, 16>,
        (Mnemonic::Vmaskmovps | Mnemonic::Vpmaskmovd, true, true) => masked_store::<B, 4, 32>,
        (Mnemonic::Vmaskmovpd | Mnemonic::Vpmaskmovq, true, false) => masked_store::<B, 8, 16>,
        (Mnemonic::Vmaskmovpd | Mnemonic::Vpmaskmovq, true, true) => masked_store::<B, 8, 32>,
        _ => return lower_gather(instruction, op),
    })
}

fn lower_gather<B: Bus>(instruction: &Instruction, op: &mut Op<B>) -> Option<Handler<B>> {
    let (data, index) = match instruction.mnemonic() {
        Mnemonic::Vgatherdps | Mnemonic::Vpgatherdd => (4, 4),
        Mnemonic::Vgatherdpd | Mnemonic::Vpgatherdq => (8, 4),
        Mnemonic::Vgatherqps | Mnemonic::Vpgatherqd => (4, 8),
        Mnemonic::Vgatherqpd | Mnemonic::Vpgatherqq => (8, 8),
        _ => return None,
    };
    let vsib = instruction.memory_index();
    let register = vsib.number() as u8;
    if register == op.dst || register == op.src || op.dst == op.src {
        return None;
    }
    let wide_index = vsib.is_ymm();
    let wide_data = instruction.op0_register().is_ymm();
    let bytes = |wide: bool| if wide { 32u64 } else { 16 };
    let elements = (bytes(wide_index) / index).min(bytes(wide_data) / data);
    op.imm = elements;
    op.src2 = bytes(wide_index || wide_data) as u8;
    op.extra = register;
    Some(match (data, index) {
        (4, 4) => gather::<B, 4, 4>,
        (8, 4) => gather::<B, 8, 4>,
        (4, _) => gather::<B, 4, 8>,
        _ => gather::<B, 8, 8>,
    })
}

/// Linear address of an element `distance` bytes into the memory operand.
fn element<B: Bus>(
    cpu: &mut Cpu<B>,
    op: &Op<B>,
    distance: u64,
    length: u64,
    access: Access,
) -> Exec<u64> {
    let offset = truncate(cpu.offset(op).wrapping_add(distance), op.flags);
    cpu.segment_linear(op.segment, offset, length, access)
}

fn masked_load<B: Bus, const SIZE: usize, const N: usize>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass::<B, AVX>(cpu)?;
    let mask: [u8; N] = vector(&cpu.state.xsave, op.src);
    let mut value = [0; N];
    for start in (0..N).step_by(SIZE) {
        if mask[start + SIZE - 1] & 0x80 != 0 {
            let at = element(cpu, op, start as u64, SIZE as u64, Access::Read)?;
            let into = &mut value[start..start + SIZE];
            if let Err(exception) = cpu.bus.load_bytes(at, into) {
                return Err(cpu.memory_fault(exception, op.segment));
            }
        }
    }
    set_vector::<N, true>(&mut cpu.state.xsave, op.dst, &value);
    Ok(())
}

fn masked_store<B: Bus, const SIZE: usize, const N: usize>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass::<B, AVX>(cpu)?;
    let mask: [u8; N] = vector(&cpu.state.xsave, op.dst);
    let value: [u8; N] = vector(&cpu.state.xsave, op.src);
    let chosen = |start: usize| mask[start + SIZE - 1] & 0x80 != 0;
    store_chosen::<B, SIZE>(cpu, op, &value, chosen, element::<B>)
}

/// Stores the chosen elements: all are checked before the first is written.
fn store_chosen<B: Bus, const SIZE: usize>(
    cpu: &mut Cpu<B>,
    op: &Op<B>,
    value: &[u8],
    chosen: impl Fn(usize) -> bool,
    place: impl Fn(&mut Cpu<B>, &Op<B>, u64, u64, Access) -> Exec<u64>,
) -> Exec {
    for write in [false, true] {
        for start in (0..value.len()).step_by(SIZE).filter(|&start| chosen(start)) {
            let at = place(cpu, op, start as u64, SIZE as u64, Access::Write)?;
            let done = if write {
                cpu.bus.store_bytes(at, &value[start..start + SIZE])
            } else {
                cpu.bus.probe(at, SIZE as u64, Access::Write)
            };
            if let Err(exception) = done {
                return Err(cpu.memory_fault(exception, op.segment));
            }
        }
    }
    Ok(())
}

/// DS:RDI (or an overriding segment) plus a distance.
fn at_di<B: Bus>(
    cpu: &mut Cpu<B>,
    op: &Op<B>,
    distance: u64,
    length: u64,
    access: Access,
) -> Exec<u64> {
    let offset = truncate(cpu.masked(7, op.flags).wrapping_add(distance), op.flags);
    cpu.segment_linear(op.segment, offset, length, access)
}

fn maskmovdqu<B: Bus, const GATE: u8>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass::<B, GATE>(cpu)?;
    let value: [u8; 16] = vector(&cpu.state.xsave, op.dst);
    let mask: [u8; 16] = vector(&cpu.state.xsave, op.src);
    store_chosen::<B, 1>(cpu, op, &value, |start| mask[start] & 0x80 != 0, at_di::<B>)
}

fn maskmovq<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass::<B, MMX>(cpu)?;
    let value = mmx_register(&cpu.state.xsave, op.dst);
    let mask = mmx_register(&cpu.state.xsave, op.src);
    store_chosen::<B, 1>(cpu, op, &value, |start| mask[start] & 0x80 != 0, at_di::<B>)?;
    mmx_begin(&mut cpu.state.xsave);
    Ok(())
}

/// Elements move one by one, each clearing its mask element, so that a fault in between leaves
/// the instruction ready to go on.
fn gather<B: Bus, const DATA: usize, const INDEX: usize>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass::<B, AVX>(cpu)?;
    let indices: [u8; 32] = vector(&cpu.state.xsave, op.extra);
    let mut mask: [u8; 32] = vector(&cpu.state.xsave, op.src);
    let mut value: [u8; 32] = vector(&cpu.state.xsave, op.dst);
    let count = op.imm as usize & 15;
    let length = op.src2 as usize & 63;
    let mut raw = mask;
    // The mask is its sign bits from the start, as an interrupted gather shows it.
    for number in 0..32 / DATA {
        let here = number * DATA..(number + 1) * DATA;
        let chosen = here.end <= length && mask[here.end - 1] & 0x80 != 0;
        mask[here].fill(if chosen { 0xff } else { 0 });
    }
    for number in 0..count {
        let here = number * DATA..(number + 1) * DATA;
        if mask[here.end - 1] & 0x80 != 0 {
            let distance = signed_index::<INDEX>(&indices, number) << (op.scale & 3);
            let at = element(cpu, op, distance as u64, DATA as u64, Access::Read);
            let loaded = at.and_then(|at| {
                let into = &mut value[here.clone()];
                cpu.bus.load_bytes(at, into).map_err(|e| cpu.memory_fault(e, op.segment))
            });
            if loaded.is_ok() && length == 16 {
                // The first element written to an XMM register clears what lies above.
                value[16..].fill(0);
            }
            if let Err(trap) = loaded {
                if is_amd(&mut cpu.bus) {
                    // There the mask elements yet to come keep all their bits, and what lies above
                    // an XMM register stays until the end.
                    mask = raw;
                    let above: [u8; 32] = vector(&cpu.state.xsave, op.dst);
                    value[length..].copy_from_slice(&above[length..]);
                }
                // What has been gathered stays; its mask elements are clear.
                set_vector::<32, true>(&mut cpu.state.xsave, op.dst, &value);
                set_vector::<32, true>(&mut cpu.state.xsave, op.src, &mask);
                return Err(trap);
            }
        }
        mask[here.clone()].fill(0);
        raw[here].fill(0);
    }
    value[count * DATA..].fill(0);
    set_vector::<32, true>(&mut cpu.state.xsave, op.dst, &value);
    set_vector::<32, true>(&mut cpu.state.xsave, op.src, &[0; 32]);
    Ok(())
}

fn signed_index<const INDEX: usize>(indices: &[u8; 32], number: usize) -> i64 {
    let mut bytes = [0; 8];
    bytes[..INDEX].copy_from_slice(&indices[number * INDEX..(number + 1) * INDEX]);
    let raw = i64::from_le_bytes(bytes);
    if INDEX == 4 { i64::from(raw as i32) } else { raw }
}
