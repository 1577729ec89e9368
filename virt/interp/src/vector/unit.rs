//! MMX, SSE and AVX instructions that compute: operands fetched here, executed by the unit.
//!
//! `op.imm` holds the unit's handle in bits 31:0 and the memory operand's size in bits 39:32;
//! `op.extra` says what else there is to move.

use iced_x86::{CpuidFeature, EncodingKind, Instruction, Mnemonic, OpKind};
use x86::{Cr4, Exception, Vector};

use super::gate::{self, AVX, MMX, SSE, SSE_MMX};
use super::x87::mmx_begin;
use super::{Exchange, STATUS_FLAGS, VectorHandle, any_register};
use crate::bus::{Access, Bus};
use crate::cpu::{Cpu, Exec, Trap};
use crate::exec::system::cpuid::is_amd;
use crate::op::{Handler, Op};

/// The memory operand is read.
pub(super) const LOADS: u8 = 1 << 0;
/// The memory operand is written.
pub(super) const STORES: u8 = 1 << 1;
/// The memory operand must be aligned to its size.
const ALIGNED: u8 = 1 << 2;
/// `op.dst` is a general register that is read.
const GENERAL_IN: u8 = 1 << 3;
/// `op.dst` is a general register that is written.
const GENERAL_OUT: u8 = 1 << 4;
/// Status flags are written.
pub(super) const FLAGS_OUT: u8 = 1 << 5;
/// PCMPESTRx and PCMPxSTRI: RAX and RDX in, RCX out.
const STRING: u8 = 1 << 6;
/// Status flags are read.
pub(super) const FLAGS_IN: u8 = 1 << 7;

/// Names the handler of a computing MMX, SSE or AVX instruction.
pub(super) fn lower<B: Bus>(
    instruction: &Instruction,
    op: &mut Op<B>,
    bus: &mut B,
) -> Option<Handler<B>> {
    let xmm = is_conversion(instruction) || any_register(instruction, |r| r.is_xmm() || r.is_ymm());
    let mmx = any_register(instruction, |r| r.is_mm());
    let vex = instruction.encoding() == EncodingKind::VEX;
    if !xmm && !mmx {
        return None;
    }
    let VectorHandle(handle) = bus.prepare(instruction)?;
    let size = instruction.memory_size().size() as u64;
    op.imm = u64::from(handle) | size << 32;
    op.extra = describe(instruction, op, vex, bus);
    Some(match (vex, xmm, mmx) {
        (true, ..) => by_operands::<B, AVX>(op.extra),
        (_, true, false) => by_operands::<B, SSE>(op.extra),
        (_, false, _) => by_operands::<B, MMX>(op.extra),
        (_, true, true) => by_operands::<B, SSE_MMX>(op.extra),
    })
}

fn by_operands<B: Bus, const GATE: u8>(extra: u8) -> Handler<B> {
    if extra == 0 {
        registers_only::<B, GATE>
    } else if extra & !(LOADS | ALIGNED) == 0 {
        with_load::<B, GATE>
    } else {
        general::<B, GATE>
    }
}

fn describe<B: Bus>(instruction: &Instruction, op: &mut Op<B>, vex: bool, bus: &mut B) -> u8 {
    let mut extra = 0;
    for index in 0..instruction.op_count() {
        match instruction.op_kind(index) {
            OpKind::Memory if index == 0 => extra |= STORES,
            OpKind::Memory => extra |= LOADS,
            OpKind::Register if instruction.op_register(index).is_gpr() => {
                op.dst = crate::lower::register_slot(instruction.op_register(index));
                extra |= if index == 0 { GENERAL_OUT } else { GENERAL_IN };
            }
            _ => {}
        }
    }
    // The memory size is the encoding's: it is there for register forms too.
    let in_memory = extra & (LOADS | STORES) != 0;
    let lax = vex || is_string(instruction);
    if in_memory
        && !lax
        && instruction.memory_size().size() == 16
        && !(is_sha(instruction) && is_amd(bus))
    {
        extra |= ALIGNED;
    }
    if instruction.rflags_modified() & STATUS_FLAGS != 0 {
        extra |= FLAGS_OUT;
    }
    if is_string(instruction) {
        extra |= STRING;
    }
    extra
}

/// CVTSS2SI, CVTPS2PI and kin: with a memory operand they name no XMM register, yet are SSE.
fn is_conversion(instruction: &Instruction) -> bool {
    matches!(
        instruction.mnemonic(),
        Mnemonic::Cvtps2pi
            | Mnemonic::Cvtpd2pi
            | Mnemonic::Cvttps2pi
            | Mnemonic::Cvttpd2pi
            | Mnemonic::Cvtss2si
            | Mnemonic::Cvtsd2si
            | Mnemonic::Cvttss2si
            | Mnemonic::Cvttsd2si
            | Mnemonic::Vcvtss2si
            | Mnemonic::Vcvtsd2si
            | Mnemonic::Vcvttss2si
            | Mnemonic::Vcvttsd2si
    )
}

/// PCMPxSTRx: unaligned operands, registers that go without saying.
fn is_string(instruction: &Instruction) -> bool {
    matches!(
        instruction.mnemonic(),
        Mnemonic::Pcmpestri
            | Mnemonic::Pcmpestri64
            | Mnemonic::Pcmpestrm
            | Mnemonic::Pcmpestrm64
            | Mnemonic::Pcmpistri
            | Mnemonic::Pcmpistrm
            | Mnemonic::Vpcmpestri
            | Mnemonic::Vpcmpestri64
            | Mnemonic::Vpcmpestrm
            | Mnemonic::Vpcmpestrm64
            | Mnemonic::Vpcmpistri
            | Mnemonic::Vpcmpistrm
    )
}

/// SHA-1 and SHA-256: AMD's processors take their operand at any address, Intel's an aligned one
/// (SDM vol. 2, exceptions type 4).
fn is_sha(instruction: &Instruction) -> bool {
    instruction.cpuid_features().contains(&CpuidFeature::SHA)
}

/// The handle in an op.
#[inline(always)]
pub(super) fn handle<B: Bus>(op: &Op<B>) -> VectorHandle {
    VectorHandle(op.imm as u32)
}

/// The memory operand's size in an op, at most 64.
#[inline(always)]
pub(super) fn size<B: Bus>(op: &Op<B>) -> usize {
    (op.imm >> 32) as usize & 0x7f
}

fn registers_only<B: Bus, const GATE: u8>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass::<B, GATE>(cpu)?;
    let mut exchange = Exchange::default();
    execute::<B, GATE>(cpu, op, &mut exchange)
}

fn with_load<B: Bus, const GATE: u8>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass::<B, GATE>(cpu)?;
    let mut exchange = Exchange::default();
    load_memory(cpu, op, &mut exchange)?;
    execute::<B, GATE>(cpu, op, &mut exchange)
}

fn general<B: Bus, const GATE: u8>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    gate::pass::<B, GATE>(cpu)?;
    let mut exchange = Exchange::default();
    if op.extra & LOADS != 0 {
        load_memory(cpu, op, &mut exchange)?;
    }
    // VCVTPS2PH converts first on Intel, raising flags and exceptions even where it cannot store;
    // on AMD a place that cannot be written is found first.
    if op.extra & STORES != 0 && (GATE == MMX || is_amd(&mut cpu.bus)) {
        probe_store(cpu, op)?;
    }
    if op.extra & (GENERAL_IN | GENERAL_OUT) != 0 {
        exchange.rax = cpu.regs[usize::from(op.dst & 15)];
    }
    if op.extra & STRING != 0 {
        (exchange.rax, exchange.rcx, exchange.rdx) = (cpu.regs[0], cpu.regs[1], cpu.regs[2]);
    }
    execute::<B, GATE>(cpu, op, &mut exchange)?;
    if op.extra & STORES != 0 {
        cpu.store_operand(op, &exchange.memory.0[..size(op)], false)?;
    }
    if op.extra & GENERAL_OUT != 0 {
        cpu.regs[usize::from(op.dst & 15)] = exchange.rax;
    }
    if op.extra & STRING != 0 {
        cpu.regs[1] = exchange.rcx;
    }
    if op.extra & FLAGS_OUT != 0 {
        cpu.flags = crate::flags::LazyFlags::from_bits(exchange.rflags);
    }
    Ok(())
}

/// Loads the memory operand at its exact size.
#[inline(always)]
pub(super) fn load_memory<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>, exchange: &mut Exchange) -> Exec {
    let memory = &mut exchange.memory.0;
    match size(op) {
        8 => {
            let value: u64 = cpu.load(op)?;
            memory[..8].copy_from_slice(&value.to_le_bytes());
        }
        4 => {
            let value: u32 = cpu.load(op)?;
            memory[..4].copy_from_slice(&value.to_le_bytes());
        }
        16 => cpu.load_operand(op, &mut memory[..16], op.extra & ALIGNED != 0)?,
        length => cpu.load_operand(op, &mut memory[..length], false)?,
    }
    Ok(())
}

/// Checks that the memory operand can be written, before x87 state becomes MMX state.
pub(super) fn probe_store<B: Bus>(cpu: &mut Cpu<B>, op: &Op<B>) -> Exec {
    let length = size(op) as u64;
    let at = cpu.linear(op, length, Access::Write)?;
    match cpu.bus.probe(at, length, Access::Write) {
        Ok(()) => Ok(()),
        Err(exception) => Err(cpu.memory_fault(exception, op.segment)),
    }
}

#[inline(always)]
fn execute<B: Bus, const GATE: u8>(cpu: &mut Cpu<B>, op: &Op<B>, exchange: &mut Exchange) -> Exec {
    cpu.bus.execute(handle(op), &mut cpu.state.xsave, exchange);
    if exchange.unmasked == 0 {
        return Ok(());
    }
    if GATE == SSE_MMX {
        // The transition to MMX state has happened before the exception is found.
        mmx_begin(&mut cpu.state.xsave);
    }
    Err(simd_fault(cpu, exchange))
}

/// An unmasked SIMD floating-point exception. Flags found before computing (invalid, denormal,
/// divide) keep those found after it from being reported (SDM vol. 1, 11.5.2).
#[cold]
fn simd_fault<B: Bus>(cpu: &mut Cpu<B>, exchange: &Exchange) -> Trap {
    const BEFORE: u32 = 0b111;
    let raised =
        if exchange.unmasked & BEFORE != 0 { exchange.raised & BEFORE } else { exchange.raised };
    let mxcsr = cpu.state.xsave.mxcsr();
    cpu.state.xsave.set_mxcsr(mxcsr | raised & 0x3f);
    if cpu.has_cr4(Cr4::OSXMMEXCPT) {
        cpu.fault(Exception::new(Vector::SimdFault))
    } else {
        cpu.ud()
    }
}
