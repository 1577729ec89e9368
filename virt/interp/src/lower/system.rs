//! Lowering of system instructions: which handler, its operand size in `extra`, and whether the
//! block ends.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use super::CodeSize;
use crate::bus::Bus;
use crate::exec::system::cpuid::Feature;
use crate::exec::system::segments::{DS, ES, FS, GS};
use crate::exec::system::{
    control, cpuid, debug, far, flagops, io, iret, misc, msr, segments, syscall, tables,
};
use crate::op::{Handler, Op, OpFlags};
use crate::operand::SS;

/// Names the handler of a system instruction.
pub fn lower<B: Bus>(
    instruction: &Instruction,
    size: CodeSize,
    op: &mut Op<B>,
    bus: &mut B,
) -> Option<Handler<B>> {
    transfer(instruction, op)
        .or_else(|| segment(instruction, op))
        .or_else(|| table(instruction, op))
        .or_else(|| control_register(instruction, size, op, bus))
        .or_else(|| port(instruction, op))
        .or_else(|| flag(instruction, op, bus))
        .or_else(|| event(instruction, op, bus))
        .or_else(|| model_specific(instruction, op, bus))
}

/// Ends the block after this op.
fn ending<B: Bus>(op: &mut Op<B>, handler: Handler<B>) -> Option<Handler<B>> {
    op.flags |= OpFlags::ENDS_BLOCK;
    Some(handler)
}

/// As `ending`, with an operand size.
fn sized<B: Bus>(op: &mut Op<B>, bytes: u8, handler: Handler<B>) -> Option<Handler<B>> {
    op.extra = bytes;
    ending(op, handler)
}

/// Far transfers, IRET, SYSCALL and kin.
fn transfer<B: Bus>(instruction: &Instruction, op: &mut Op<B>) -> Option<Handler<B>> {
    match instruction.code() {
        Code::Jmp_ptr1616 => sized(op, 2, far::jump_direct),
        Code::Jmp_ptr1632 => sized(op, 4, far::jump_direct),
        Code::Jmp_m1616 => sized(op, 2, far::jump_indirect),
        Code::Jmp_m1632 => sized(op, 4, far::jump_indirect),
        Code::Jmp_m1664 => sized(op, 8, far::jump_indirect),
        Code::Call_ptr1616 => sized(op, 2, far::call_direct),
        Code::Call_ptr1632 => sized(op, 4, far::call_direct),
        Code::Call_m1616 => sized(op, 2, far::call_indirect),
        Code::Call_m1632 => sized(op, 4, far::call_indirect),
        Code::Call_m1664 => sized(op, 8, far::call_indirect),
        Code::Retfw | Code::Retfw_imm16 => sized(op, 2, far::return_far),
        Code::Retfd | Code::Retfd_imm16 => sized(op, 4, far::return_far),
        Code::Retfq | Code::Retfq_imm16 => sized(op, 8, far::return_far),
        Code::Iretw => sized(op, 2, iret::interrupt_return),
        Code::Iretd => sized(op, 4, iret::interrupt_return),
        Code::Iretq => sized(op, 8, iret::interrupt_return),
        Code::Syscall => ending(op, syscall::syscall),
        Code::Sysretd => sized(op, 4, syscall::sysret),
        Code::Sysretq => sized(op, 8, syscall::sysret),
        Code::Sysenter => ending(op, syscall::sysenter),
        Code::Sysexitd => sized(op, 4, syscall::sysexit),
        Code::Sysexitq => sized(op, 8, syscall::sysexit),
        _ => None,
    }
}

/// Loads, stores, pushes and pops of segment registers.
fn segment<B: Bus>(instruction: &Instruction, op: &mut Op<B>) -> Option<Handler<B>> {
    let register = instruction.op0_kind() == OpKind::Register;
    let code = instruction.code();
    match code {
        Code::Mov_rm16_Sreg | Code::Mov_r32m16_Sreg | Code::Mov_r64m16_Sreg => {
            op.extra = if code == Code::Mov_rm16_Sreg { 2 } else { 8 };
            Some(if register {
                segments::mov_register_segment
            } else {
                segments::mov_memory_segment
            })
        }
        Code::Mov_Sreg_rm16 | Code::Mov_Sreg_r32m16 | Code::Mov_Sreg_r64m16 => {
            if op.dst == SS {
                op.flags |= OpFlags::ENDS_BLOCK;
            }
            Some(if instruction.op1_kind() == OpKind::Register {
                segments::mov_segment_register
            } else {
                segments::mov_segment_memory
            })
        }
        Code::Les_r16_m1616 => far_load(op, 2, ES),
        Code::Les_r32_m1632 => far_load(op, 4, ES),
        Code::Lds_r16_m1616 => far_load(op, 2, DS),
        Code::Lds_r32_m1632 => far_load(op, 4, DS),
        Code::Lss_r16_m1616 => far_load(op, 2, SS),
        Code::Lss_r32_m1632 => far_load(op, 4, SS),
        Code::Lss_r64_m1664 => far_load(op, 8, SS),
        Code::Lfs_r16_m1616 => far_load(op, 2, FS),
        Code::Lfs_r32_m1632 => far_load(op, 4, FS),
        Code::Lfs_r64_m1664 => far_load(op, 8, FS),
        Code::Lgs_r16_m1616 => far_load(op, 2, GS),
        Code::Lgs_r32_m1632 => far_load(op, 4, GS),
        Code::Lgs_r64_m1664 => far_load(op, 8, GS),
        _ => push_pop_segment(code, op),
    }
}

fn far_load<B: Bus>(op: &mut Op<B>, bytes: u8, segment: u8) -> Option<Handler<B>> {
    op.src2 = segment;
    sized(op, bytes, segments::load_far_pointer)
}

fn push_pop_segment<B: Bus>(code: Code, op: &mut Op<B>) -> Option<Handler<B>> {
    let (bytes, push) = match code {
        Code::Pushw_ES | Code::Pushw_CS | Code::Pushw_SS => (2, true),
        Code::Pushw_DS | Code::Pushw_FS | Code::Pushw_GS => (2, true),
        Code::Pushd_ES | Code::Pushd_CS | Code::Pushd_SS => (4, true),
        Code::Pushd_DS | Code::Pushd_FS | Code::Pushd_GS => (4, true),
        Code::Pushq_FS | Code::Pushq_GS => (8, true),
        Code::Popw_ES | Code::Popw_SS | Code::Popw_DS | Code::Popw_FS | Code::Popw_GS => (2, false),
        Code::Popd_ES | Code::Popd_SS | Code::Popd_DS | Code::Popd_FS | Code::Popd_GS => (4, false),
        Code::Popq_FS | Code::Popq_GS => (8, false),
        _ => return None,
    };
    op.extra = bytes;
    if push {
        return Some(segments::push_segment);
    }
    if op.dst == SS {
        op.flags |= OpFlags::ENDS_BLOCK;
    }
    Some(segments::pop_segment)
}

/// Descriptor tables and what looks into them.
fn table<B: Bus>(instruction: &Instruction, op: &mut Op<B>) -> Option<Handler<B>> {
    let code = instruction.code();
    let in_memory = instruction.op0_kind() == OpKind::Memory
        || instruction.op_count() > 1 && instruction.op1_kind() == OpKind::Memory;
    let handler: Handler<B> = match instruction.mnemonic() {
        Mnemonic::Sgdt => tables::sgdt,
        Mnemonic::Sidt => tables::sidt,
        Mnemonic::Lgdt | Mnemonic::Lidt => {
            let narrow = matches!(code, Code::Lgdt_m1632_16 | Code::Lidt_m1632_16);
            let global = instruction.mnemonic() == Mnemonic::Lgdt;
            let handler = if global { tables::lgdt } else { tables::lidt };
            return sized(op, if narrow { 2 } else { 4 }, handler);
        }
        Mnemonic::Sldt => tables::sldt,
        Mnemonic::Str => tables::str,
        Mnemonic::Lldt => tables::lldt,
        Mnemonic::Ltr => tables::ltr,
        Mnemonic::Lar => tables::lar,
        Mnemonic::Lsl => tables::lsl,
        Mnemonic::Verr => tables::verr,
        Mnemonic::Verw => tables::verw,
        Mnemonic::Arpl if in_memory => return Some(tables::arpl_memory),
        Mnemonic::Arpl => return Some(tables::arpl_register),
        _ => return None,
    };
    op.extra = match code {
        Code::Sldt_rm16 | Code::Str_rm16 | Code::Lar_r16_rm16 | Code::Lsl_r16_rm16 => 2,
        _ => 8,
    };
    op.src2 = if in_memory { tables::FROM_MEMORY } else { 0 };
    Some(handler)
}

/// Control and debug registers, and what drops translations.
fn control_register<B: Bus>(
    instruction: &Instruction,
    size: CodeSize,
    op: &mut Op<B>,
    bus: &mut B,
) -> Option<Handler<B>> {
    let register = instruction.op_count() > 0 && instruction.op0_kind() == OpKind::Register;
    let bytes = if size == CodeSize::Bits64 { 8 } else { 4 };
    match instruction.code() {
        Code::Mov_r32_cr | Code::Mov_r64_cr => {
            op.extra = bytes;
            Some(control::mov_from_control)
        }
        Code::Mov_cr_r32 | Code::Mov_cr_r64 => sized(op, bytes, control::mov_to_control),
        Code::Mov_r32_dr | Code::Mov_r64_dr => sized(op, bytes, debug::mov_from_debug),
        Code::Mov_dr_r32 | Code::Mov_dr_r64 => sized(op, bytes, debug::mov_to_debug),
        Code::Smsw_rm16 | Code::Smsw_r32m16 | Code::Smsw_r64m16 => {
            op.extra = match instruction.code() {
                Code::Smsw_rm16 => 2,
                _ => 8,
            };
            Some(if register { control::smsw_register } else { control::smsw_memory })
        }
        Code::Lmsw_rm16 | Code::Lmsw_r32m16 | Code::Lmsw_r64m16 => {
            let handler = if register { control::lmsw_register } else { control::lmsw_memory };
            ending(op, handler)
        }
        Code::Clts => ending(op, control::clear_task_switched),
        Code::Invlpg_m => ending(op, control::invlpg),
        Code::Invpcid_r32_m128 | Code::Invpcid_r64_m128 if Feature::INVPCID.announced(bus) => {
            ending(op, control::invpcid)
        }
        Code::Rdpkru if Feature::PKU.announced(bus) => Some(control::rdpkru),
        Code::Wrpkru if Feature::PKU.announced(bus) => ending(op, control::wrpkru),
        Code::Xgetbv => Some(control::xgetbv),
        Code::Xsetbv => ending(op, control::xsetbv),
        _ => None,
    }
}

/// Port I/O.
fn port<B: Bus>(instruction: &Instruction, op: &mut Op<B>) -> Option<Handler<B>> {
    let handler: Handler<B> = match instruction.code() {
        Code::In_AL_imm8 => io::in_immediate::<B, u8>,
        Code::In_AX_imm8 => io::in_immediate::<B, u16>,
        Code::In_EAX_imm8 => io::in_immediate::<B, u32>,
        Code::In_AL_DX => io::in_register::<B, u8>,
        Code::In_AX_DX => io::in_register::<B, u16>,
        Code::In_EAX_DX => io::in_register::<B, u32>,
        Code::Out_imm8_AL => io::out_immediate::<B, u8>,
        Code::Out_imm8_AX => io::out_immediate::<B, u16>,
        Code::Out_imm8_EAX => io::out_immediate::<B, u32>,
        Code::Out_DX_AL => io::out_register::<B, u8>,
        Code::Out_DX_AX => io::out_register::<B, u16>,
        Code::Out_DX_EAX => io::out_register::<B, u32>,
        Code::Insb_m8_DX => io::ins::<B, u8>,
        Code::Insw_m16_DX => io::ins::<B, u16>,
        Code::Insd_m32_DX => io::ins::<B, u32>,
        Code::Outsb_DX_m8 => io::outs::<B, u8>,
        Code::Outsw_DX_m16 => io::outs::<B, u16>,
        Code::Outsd_DX_m32 => io::outs::<B, u32>,
        _ => return None,
    };
    ending(op, handler)
}

/// RFLAGS beyond arithmetic.
fn flag<B: Bus>(instruction: &Instruction, op: &mut Op<B>, bus: &mut B) -> Option<Handler<B>> {
    let (bytes, push) = match instruction.code() {
        Code::Cli => return ending(op, flagops::cli),
        Code::Sti => return ending(op, flagops::sti),
        code @ (Code::Stac | Code::Clac) if Feature::SMAP.announced(bus) => {
            op.extra = u8::from(code == Code::Stac);
            return Some(flagops::set_access_check);
        }
        Code::Pushfw => (2, true),
        Code::Pushfd => (4, true),
        Code::Pushfq => (8, true),
        Code::Popfw => (2, false),
        Code::Popfd => (4, false),
        Code::Popfq => (8, false),
        _ => return None,
    };
    op.extra = bytes;
    if push { Some(flagops::pushf) } else { ending(op, flagops::popf) }
}

/// Software interrupts, HLT, cache control, waiting, hypercalls.
fn event<B: Bus>(instruction: &Instruction, op: &mut Op<B>, bus: &mut B) -> Option<Handler<B>> {
    let handler: Handler<B> = match instruction.code() {
        Code::Int_imm8 => misc::int,
        Code::Int3 => misc::int3,
        Code::Into => misc::into,
        Code::Int1 => misc::int1,
        Code::Hlt => misc::hlt,
        Code::Invd | Code::Wbinvd | Code::Wbnoinvd => misc::cache_control,
        Code::Serialize if Feature::SERIALIZE.announced(bus) => misc::serialize,
        code @ (Code::Monitorw | Code::Monitord | Code::Monitorq)
            if Feature::MONITOR.announced(bus) =>
        {
            op.segment = super::segment_number(match instruction.segment_prefix() {
                iced_x86::Register::None => iced_x86::Register::DS,
                prefix => prefix,
            });
            op.flags.set(OpFlags::ADDR16, code == Code::Monitorw);
            op.flags.set(OpFlags::ADDR32, code == Code::Monitord);
            misc::monitor
        }
        Code::Mwait if Feature::MONITOR.announced(bus) => misc::mwait,
        Code::Vmcall | Code::Vmmcall => misc::hypercall,
        _ => return None,
    };
    ending(op, handler)
}

/// MSRs, counters, identification, segment bases.
fn model_specific<B: Bus>(
    instruction: &Instruction,
    op: &mut Op<B>,
    bus: &mut B,
) -> Option<Handler<B>> {
    match instruction.code() {
        Code::Cpuid => ending(op, cpuid::cpuid),
        Code::Rdmsr => ending(op, msr::rdmsr),
        Code::Wrmsr => ending(op, msr::wrmsr),
        Code::Rdtsc => Some(msr::rdtsc),
        Code::Rdtscp if Feature::RDTSCP.announced(bus) => Some(msr::rdtscp),
        Code::Rdpid_r32 | Code::Rdpid_r64 if Feature::RDPID.announced(bus) => Some(msr::rdpid),
        Code::Rdpmc => Some(msr::rdpmc),
        Code::Swapgs => Some(msr::swap_gs),
        Code::Rdfsbase_r32 => base_access(op, 4, FS, msr::read_base),
        Code::Rdfsbase_r64 => base_access(op, 8, FS, msr::read_base),
        Code::Rdgsbase_r32 => base_access(op, 4, GS, msr::read_base),
        Code::Rdgsbase_r64 => base_access(op, 8, GS, msr::read_base),
        Code::Wrfsbase_r32 => base_access(op, 4, FS, msr::write_base),
        Code::Wrfsbase_r64 => base_access(op, 8, FS, msr::write_base),
        Code::Wrgsbase_r32 => base_access(op, 4, GS, msr::write_base),
        Code::Wrgsbase_r64 => base_access(op, 8, GS, msr::write_base),
        _ => None,
    }
}

fn base_access<B: Bus>(
    op: &mut Op<B>,
    bytes: u8,
    segment: u8,
    handler: Handler<B>,
) -> Option<Handler<B>> {
    op.extra = bytes;
    op.src2 = segment;
    Some(handler)
}
