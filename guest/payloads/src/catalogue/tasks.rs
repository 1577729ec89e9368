//! Hardware task switches in 32-bit protected mode (SDM vol. 3, 7.2, 7.3).

use iced_x86::code_asm::*;

use crate::kit::{Assembled, Guest, vector};
use crate::layout::{self, selector};
use crate::payload::Payload;

const ENTRY: u64 = 0x2_0000;
const TSS_2: u64 = layout::TSS_2;
/// Offsets in a 32-bit TSS.
const EIP: u64 = 0x20;
const EFLAGS: u64 = 0x24;
const EAX: u64 = 0x28;
const ESP: u64 = 0x38;
const NT: i32 = 1 << 14;

/// Fills the second TSS: flat segments, a stack of its own, EIP at `ENTRY`.
fn fill(g: &mut Guest) {
    let mut put = |offset: u64, value: u32| g.place(TSS_2 + offset, &value.to_le_bytes());
    put(EIP, ENTRY as u32);
    put(EFLAGS, 2);
    put(EAX, 0x1234);
    put(ESP, layout::STACK_2 as u32);
    for segment in [0x48, 0x50, 0x54, 0x58, 0x5c] {
        put(segment, selector::DATA.into());
    }
    put(0x4c, selector::CODE32.into());
    put(0x64, 0x68 << 16);
}

/// JMP FAR or CALL FAR to a selector.
fn far(g: &mut Guest, opcode: u8, selector: u16) -> Assembled {
    g.db(&[opcode, 0, 0, 0, 0])?;
    g.db(&selector.to_le_bytes())
}

const JMP: u8 = 0xea;
const CALL: u8 = 0x9a;

/// The type byte of a TSS descriptor.
fn report_type(g: &mut Guest, selector: u16, value: u32) -> Assembled {
    g.movzx(eax, byte_ptr(layout::GDT + u64::from(selector) + 5))?;
    g.report(value)
}

fn report_str(g: &mut Guest, selector: u16) -> Assembled {
    g.xor(eax, eax)?;
    g.str(ax)?;
    g.report(selector.into())
}

pub(super) fn jump() -> Payload {
    Guest::protected("JMP to a TSS and back: registers, busy bits, CR0.TS", |g| {
        fill(g);
        g.mov(ebx, 0x5555)?;
        g.mov(ecx, 0x6666)?;
        far(g, JMP, selector::TSS_2)?;
        g.part(32, ENTRY, ENTRY, |g| {
            g.report(0x1234)?;
            g.mov(eax, ebx)?;
            g.report(0)?;
            g.mov(eax, esp)?;
            g.report(layout::STACK_2 as u32)?;
            report_str(g, selector::TSS_2)?;
            report_type(g, selector::TSS, 0x89)?;
            report_type(g, selector::TSS_2, 0x8b)?;
            g.mov(eax, cr0)?;
            g.and(eax, 8)?;
            g.report(8)?;
            g.clts()?;
            // What the old task was is in its TSS.
            g.mov(eax, dword_ptr(layout::TSS + 0x34))?;
            g.report(0x5555)?;
            far(g, JMP, selector::TSS)
        })?;
        g.mov(eax, ebx)?;
        g.report(0x5555)?;
        g.mov(eax, ecx)?;
        g.report(0x6666)?;
        report_str(g, selector::TSS)?;
        report_type(g, selector::TSS, 0x8b)?;
        report_type(g, selector::TSS_2, 0x89)?;
        report_flags_nt(g, 0)?;
        g.clts()
    })
}

fn report_flags_nt(g: &mut Guest, value: u32) -> Assembled {
    g.report_flags(NT as u32, value)
}

pub(super) fn call_and_return() -> Payload {
    Guest::protected("CALL to a TSS and to a task gate, IRET back: NT and the link", |g| {
        fill(g);
        g.mov(esi, 0x77)?;
        for gate in [selector::TSS_2, selector::TASK_GATE] {
            g.mov(dword_ptr(TSS_2 + EIP), ENTRY as i32)?;
            g.mov(dword_ptr(TSS_2 + EFLAGS), 2)?;
            g.mov(dword_ptr(TSS_2 + ESP), layout::STACK_2 as i32)?;
            far(g, CALL, gate)?;
            // What the task at ENTRY reports.
            for value in [NT as u32, selector::TSS.into(), 0x8b, 0x8b] {
                g.expect(value);
            }
            report_str(g, selector::TSS)?;
            report_type(g, selector::TSS_2, 0x89)?;
            report_flags_nt(g, 0)?;
            g.mov(eax, esi)?;
            g.report(0x77)?;
        }
        g.part(32, ENTRY, ENTRY, |g| {
            g.without_expectations(|g| {
                report_flags_nt(g, NT as u32)?;
                g.movzx(eax, word_ptr(TSS_2))?;
                g.report(selector::TSS.into())?;
                report_type(g, selector::TSS, 0x8b)?;
                report_type(g, selector::TSS_2, 0x8b)
            })?;
            g.mov(esi, 0x99)?;
            g.iretd()
        })?;
        g.clts()
    })
}

pub(super) fn interrupt() -> Payload {
    Guest::protected("an exception through a task gate: error code on the new task's stack", |g| {
        fill(g);
        let gate = layout::IDT + u64::from(vector::GP) * 8;
        g.mov(dword_ptr(gate), i32::from(selector::TSS_2) << 16)?;
        g.mov(dword_ptr(gate + 4), 0x8500)?;
        g.mov(edx, i32::from(selector::EXECUTE_ONLY))?;
        g.mov(es, edx)?;
        g.part(32, ENTRY, ENTRY, |g| {
            g.pop(eax)?;
            g.report(selector::EXECUTE_ONLY.into())?;
            report_str(g, selector::TSS_2)?;
            report_flags_nt(g, NT as u32)?;
            // Past the MOV ES of two bytes.
            g.add(dword_ptr(layout::TSS + EIP), 2)?;
            g.iretd()
        })?;
        report_str(g, selector::TSS)?;
        g.clts()
    })
}

pub(super) fn refusals() -> Payload {
    Guest::protected("task switches that are refused: busy, absent, too small, wrong type", |g| {
        fill(g);
        let descriptor = layout::GDT + u64::from(selector::TSS_2);
        let code = u32::from(selector::TSS_2);
        // The running task is busy.
        g.fault(vector::GP, selector::TSS.into(), |g| far(g, JMP, selector::TSS))?;
        g.fault(vector::GP, selector::TSS.into(), |g| far(g, CALL, selector::TSS))?;
        g.mov(byte_ptr(descriptor + 5), 0x09)?;
        g.fault(vector::NP, code, |g| far(g, JMP, selector::TSS_2))?;
        g.mov(byte_ptr(descriptor + 5), 0x89)?;
        g.mov(word_ptr(descriptor), 0x60)?;
        g.fault(vector::TS, code, |g| far(g, JMP, selector::TSS_2))?;
        g.mov(word_ptr(descriptor), 0x67)?;
        // A task gate to something that is no TSS.
        let gate = layout::GDT + u64::from(selector::TASK_GATE);
        g.mov(word_ptr(gate + 2), i32::from(selector::DATA))?;
        g.fault(vector::GP, selector::DATA.into(), |g| far(g, JMP, selector::TASK_GATE))?;
        report_str(g, selector::TSS)?;
        // IRET with NT and a link to a task that is not busy.
        g.mov(word_ptr(layout::TSS), i32::from(selector::TSS_2))?;
        g.pushfd()?;
        g.or(dword_ptr(esp), NT)?;
        g.popfd()?;
        g.fault(vector::TS, code, |g| g.iretd())?;
        g.pushfd()?;
        g.and(dword_ptr(esp), !NT)?;
        g.popfd()
    })
}
