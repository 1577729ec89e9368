//! x87 instructions (SDM vol. 1, 8): checks, pointers and memory here, arithmetic in the unit.
//!
//! FIP, FDP and FOP are the guest's; FCS and FDS read as zero, as CPUID.7.0:EBX[13] announces.
//! Invariant: FSW.ES says whether an unmasked exception is pending, always.

mod control;
mod environment;

use iced_x86::{Code, Instruction, Mnemonic, OpKind};
use x86::XsaveArea;

use super::arrange::{ST_OFFSET, set_quad_at};
use super::unit::{self, FLAGS_IN, FLAGS_OUT, LOADS, STORES};
use super::{Exchange, STATUS_FLAGS, VectorHandle, gate};
use crate::bus::Bus;
use crate::cpu::{Cpu, Exec};
use crate::exec::system::cpuid::is_amd;
use crate::flags::LazyFlags;
use crate::op::{Handler, Op};

/// Set in `op.extra`: there is a memory operand, so FDP changes.
const MEMORY: u8 = LOADS | STORES;

/// Names the handler of an x87 instruction.
pub(super) fn lower<B: Bus>(
    instruction: &Instruction,
    bytes: &[u8],
    op: &mut Op<B>,
    bus: &mut B,
) -> Option<Handler<B>> {
    if instruction.code() == Code::Wait {
        return Some(control::fwait::<B>);
    }
    let opcode = opcode(bytes)?;
    if let Some(handler) = control::lower(instruction).or_else(|| environment::lower(instruction)) {
        return Some(handler);
    }
    let VectorHandle(handle) = bus.prepare(instruction)?;
    let size = instruction.memory_size().size() as u64;
    op.imm = u64::from(handle) | size << 32 | u64::from(opcode) << 40;
    op.extra = 0;
    if (0..instruction.op_count()).any(|index| instruction.op_kind(index) == OpKind::Memory) {
        op.extra |= if is_store(instruction.mnemonic()) { STORES } else { LOADS };
    }
    if instruction.rflags_read() & STATUS_FLAGS != 0 {
        op.extra |= FLAGS_IN;
    }
    if instruction.rflags_modified() & STATUS_FLAGS != 0 {
        op.extra |= FLAGS_OUT;
    }
    Some(execute::<B>)
}

/// FOP: the low three bits of the opcode byte and ModRM. `None` if this is not an x87 opcode.
fn opcode(bytes: &[u8]) -> Option<u16> {
    let is_prefix = |byte: u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3);
    // 0x40-0x4f open an instruction of their own outside 64-bit mode, never an x87 one.
    let first = bytes.iter().position(|&byte| !is_prefix(byte))?;
    match bytes[first..] {
        [escape @ 0xd8..=0xdf, modrm, ..] => Some(u16::from(escape & 7) << 8 | u16::from(modrm)),
        _ => None,
    }
}

fn is_store(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Fst
            | Mnemonic::Fstp
            | Mnemonic::Fist
            | Mnemonic::Fistp
            | Mnemonic::Fisttp
            | Mnemonic::Fbstp
    )
}

fn execute<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass_waiting_x87(cpu)?;
    let mut exchange = Exchange::default();
    if op.extra & LOADS != 0 {
        unit::load_memory(cpu, op, &mut exchange)?;
    }
    if op.extra & FLAGS_IN != 0 {
        exchange.rflags = cpu.flags.bits();
    }
    let pointer = if op.extra & MEMORY != 0 { Some(cpu.offset(op)) } else { None };
    if op.extra & STORES != 0 {
        execute_store(cpu, op, &mut exchange)?;
    } else {
        cpu.bus.execute(unit::handle(op), &mut cpu.state.xsave, &mut exchange);
    }
    if op.extra & FLAGS_OUT != 0 {
        cpu.flags = LazyFlags::from_bits(exchange.rflags);
    }
    let instruction_pointer = cpu.rip().wrapping_sub(u64::from(op.len));
    let area = &mut cpu.state.xsave;
    area.0[6..8].copy_from_slice(&((op.imm >> 40) as u16).to_le_bytes());
    set_quad_at(area, 8, instruction_pointer);
    if let Some(pointer) = pointer {
        set_quad_at(area, 16, pointer);
    }
    Ok(())
}

/// FST and kin: whether there is anything to store shows only afterwards, and a store that faults
/// must leave everything as it was.
fn execute_store<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>, exchange: &mut Exchange) -> Exec {
    let mut before = [0; ST_OFFSET + 128];
    before.copy_from_slice(&cpu.state.xsave.0[..ST_OFFSET + 128]);
    cpu.bus.execute(unit::handle(op), &mut cpu.state.xsave, exchange);
    let stored = if !is_withheld(&cpu.state.xsave) {
        cpu.store_operand(op, &exchange.memory.0[..unit::size(op)], false)
    } else if is_amd(&mut cpu.bus) {
        // What is not stored still has to have a place there.
        unit::probe_store(cpu, op)
    } else {
        Ok(())
    };
    if stored.is_err() {
        cpu.state.xsave.0[..ST_OFFSET + 128].copy_from_slice(&before);
    }
    stored
}

/// Whether an unmasked exception other than precision kept the result from being stored.
fn is_withheld(area: &XsaveArea) -> bool {
    area.fsw() & !area.fcw() & 0x1f != 0
}

/// TOP of FSW.
fn top(area: &XsaveArea) -> usize {
    usize::from(area.fsw() >> 11 & 7)
}

/// What every MMX instruction does to x87 state: TOP 0, every tag valid.
pub(super) fn mmx_begin(area: &mut XsaveArea) {
    // The image keeps registers by their place from TOP; MMX registers are physical.
    let by = top(area);
    area.0[ST_OFFSET..ST_OFFSET + 128].rotate_right(by * 16);
    area.set_fsw(area.fsw() & !0x3800);
    area.0[4] = 0xff;
}

/// MMX register 0-7.
pub(super) fn mmx_register(area: &XsaveArea, register: u8) -> [u8; 8] {
    let place = (usize::from(register) + 8 - top(area)) & 7;
    let at = ST_OFFSET + place * 16;
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&area.0[at..at + 8]);
    bytes
}
