//! Single step, breakpoints, DR6 and DR7 (SDM vol. 3, 17.2, 17.3).

use iced_x86::code_asm::*;

use crate::kit::{Assembled, Guest, pf, vector};
use crate::layout::{self, selector};
use crate::payload::Direction::{PortIn, PortOut};
use crate::payload::Payload;
use crate::ports;

const WATCHED: u64 = layout::DATA + 0x100;
/// Where the handler's variables lie: flags to set in the saved RFLAGS, and to clear.
const SET: u64 = layout::DATA;
const CLEAR: u64 = layout::DATA + 8;
const TF: i32 = 0x100;
const RF: i32 = 0x1_0000;

/// A #DB handler that reports DR6 and how far RIP is from R14, clears DR6, and edits the saved
/// flags.
fn install(g: &mut Guest) -> Assembled {
    let (mut handler, mut over) = (g.create_label(), g.create_label());
    g.set_gate(vector::DB, handler)?;
    g.jmp(over)?;
    g.set_label(&mut handler)?;
    g.push(rax)?;
    g.mov(rax, dr6)?;
    g.and(eax, 0xe00f)?;
    g.out(i32::from(ports::REPORT), eax)?;
    g.mov(eax, 0xffff_0ff0u32)?;
    g.mov(dr6, rax)?;
    g.mov(rax, qword_ptr(rsp + 8))?;
    g.sub(rax, r14)?;
    g.out(i32::from(ports::REPORT), eax)?;
    g.mov(eax, dword_ptr(SET))?;
    g.or(dword_ptr(rsp + 24), eax)?;
    g.mov(eax, dword_ptr(CLEAR))?;
    g.not(eax)?;
    g.and(dword_ptr(rsp + 24), eax)?;
    g.pop(rax)?;
    g.iretq()?;
    g.set_label(&mut over)?;
    g.nop()
}

fn expect_debug(g: &mut Guest, dr6_: u32, delta: u32) {
    g.expect(dr6_);
    g.expect(delta);
}

fn step_on(g: &mut Guest) -> Assembled {
    g.pushfq()?;
    g.or(dword_ptr(rsp), TF)?;
    g.popfq()
}

const BS: u32 = 0x4000;

pub(super) fn single_step() -> Payload {
    Guest::long("TF: a #DB behind every instruction; not behind the POPF that sets it", |g| {
        install(g)?;
        let mut here = g.create_label();
        g.lea(r14, ptr(here))?;
        g.xor(ecx, ecx)?;
        step_on(g)?;
        g.set_label(&mut here)?;
        for delta in [1, 3, 5, 6, 14, 15] {
            expect_debug(g, BS, delta);
        }
        g.nop()?; // 1
        g.inc(ecx)?; // 3
        g.mov(eax, eax)?; // 5
        g.pushfq()?; // 6
        g.and(qword_ptr(rsp), !TF)?; // 14
        g.popfq()?; // 15
        g.nop()?;
        g.mov(eax, ecx)?;
        g.report(1)
    })
}

pub(super) fn single_step_special() -> Payload {
    Guest::long("TF over branches, INT, REP, MOV SS and IRET", |g| {
        install(g)?;
        let mut here = g.create_label();
        g.lea(r14, ptr(here))?;
        g.mov(ecx, 2)?;
        g.mov(edi, WATCHED as u32)?;
        g.mov(esi, i32::from(selector::DATA))?;
        step_on(g)?;
        g.set_label(&mut here)?;
        // JMP over two bytes: at the target.
        expect_debug(g, BS, 4);
        g.db(&[0xeb, 2, 0x0f, 0x0b])?;
        // REP STOSB twice: behind each iteration.
        expect_debug(g, BS, 4);
        expect_debug(g, BS, 6);
        g.rep().stosb()?; // 4..6
        // MOV SS holds the trap back by one instruction.
        expect_debug(g, BS, 9);
        g.mov(ss, esi)?; // 6..8
        g.nop()?; // 8..9
        // INT clears TF; the handler's IRET restores it, with the next trap behind the one after.
        g.expect(Guest::INTERRUPT | u32::from(vector::REPORTED));
        expect_debug(g, BS, 12);
        g.int(i32::from(vector::REPORTED))?; // 9..11
        g.nop()?; // 11..12
        expect_debug(g, BS, 13);
        expect_debug(g, BS, 21);
        expect_debug(g, BS, 22);
        g.pushfq()?; // 13
        g.and(qword_ptr(rsp), !TF)?; // 21
        g.popfq()?; // 22
        g.nop()
    })
}

/// Sets DR7; RAX is lost.
fn set_breakpoint(g: &mut Guest, dr7_: u32) -> Assembled {
    g.mov(eax, dr7_)?;
    g.mov(dr7, rax)
}

pub(super) fn instruction_breakpoints() -> Payload {
    Guest::long("DR0-3 on code: faults before the instruction, RF lets it pass", |g| {
        install(g)?;
        g.mov(dword_ptr(SET), RF)?;
        let mut here = g.create_label();
        g.lea(r14, ptr(here))?;
        g.mov(dr2, r14)?;
        g.lea(rax, ptr(r14 + 2))?;
        g.mov(dr0, rax)?;
        // L2, G0.
        set_breakpoint(g, 0x400 | 1 << 4 | 1 << 1)?;
        g.xor(ecx, ecx)?;
        for _ in 0..2 {
            expect_debug(g, 4, 0);
            expect_debug(g, 1, 2);
        }
        g.set_label(&mut here)?;
        g.inc(ecx)?;
        g.inc(ecx)?;
        g.cmp(ecx, 4)?;
        g.jne(here)?;
        g.mov(eax, ecx)?;
        g.report(4)?;
        set_breakpoint(g, 0x400)
    })
}

pub(super) fn data_breakpoints() -> Payload {
    Guest::long("DR0-3 on data: traps behind writes or accesses that touch the range", |g| {
        install(g)?;
        g.mov(eax, WATCHED as u32)?;
        g.mov(dr1, rax)?;
        // L1, write, 4 bytes.
        set_breakpoint(g, 0x400 | 1 << 2 | 1 << 20 | 3 << 22)?;
        let traced = |g: &mut Guest,
                      dr6_: u32,
                      length: u32,
                      body: &dyn Fn(&mut Guest) -> Assembled|
         -> Assembled {
            let mut here = g.create_label();
            g.lea(r14, ptr(here))?;
            g.set_label(&mut here)?;
            if dr6_ != 0 {
                expect_debug(g, dr6_, length);
            }
            body(g)?;
            g.nop()
        };
        // MOV [disp32], AL is 7 bytes, MOV [disp32], EAX too; 8 with REX.W.
        traced(g, 2, 7, &|g| g.mov(byte_ptr(WATCHED + 3), cl))?;
        traced(g, 2, 7, &|g| g.mov(dword_ptr(WATCHED), ecx))?;
        traced(g, 2, 8, &|g| g.mov(qword_ptr(WATCHED - 4), rcx))?;
        traced(g, 2, 7, &|g| g.mov(dword_ptr(WATCHED - 3), ecx))?;
        traced(g, 0, 0, &|g| g.mov(dword_ptr(WATCHED - 4), ecx))?;
        traced(g, 0, 0, &|g| g.mov(dword_ptr(WATCHED + 4), ecx))?;
        traced(g, 0, 0, &|g| g.mov(ecx, dword_ptr(WATCHED)))?;
        // Accesses, 8 bytes, in DR3.
        g.mov(eax, WATCHED as u32 + 8)?;
        g.mov(dr3, rax)?;
        set_breakpoint(g, 0x400 | 1 << 6 | 3 << 28 | 2 << 30)?;
        traced(g, 8, 7, &|g| g.mov(ecx, dword_ptr(WATCHED + 12)))?;
        traced(g, 8, 7, &|g| g.mov(dword_ptr(WATCHED + 8), ecx))?;
        traced(g, 8, 8, &|g| g.lock().inc(dword_ptr(WATCHED + 8)))?;
        traced(g, 0, 0, &|g| g.mov(dword_ptr(WATCHED), ecx))?;
        traced(g, 8, 8, &|g| g.movups(xmm0, xmmword_ptr(WATCHED)))?;
        // One that faults behind its first half has met nothing.
        g.unmap(0x5_1000);
        g.mov(eax, 0x5_0ff8)?;
        g.mov(dr3, rax)?;
        g.page_fault(pf::W, 0x5_1000, |g| g.mov(qword_ptr(0x5_0fffu32), rcx))?;
        g.mov(eax, WATCHED as u32 + 8)?;
        g.mov(dr3, rax)?;
        // REP MOVSB: behind the iteration that touches it.
        g.mov(esi, WATCHED as u32 + 0x40)?;
        g.mov(edi, WATCHED as u32 + 6)?;
        g.mov(ecx, 4)?;
        let mut here = g.create_label();
        g.lea(r14, ptr(here))?;
        g.set_label(&mut here)?;
        expect_debug(g, 8, 0);
        expect_debug(g, 8, 2);
        g.rep().movsb()?;
        g.nop()?;
        g.mov(eax, ecx)?;
        g.report(0)?;
        // Disabled: it may be noted in DR6, but does not trap.
        set_breakpoint(g, 0x400)?;
        g.mov(dword_ptr(WATCHED + 8), ecx)?;
        g.mov(eax, 0xffff_0ff0u32)?;
        g.mov(dr6, rax)
    })
}

pub(super) fn port_breakpoints() -> Payload {
    Guest::long("CR4.DE: breakpoints on ports", |g| {
        install(g)?;
        g.mov(rax, cr4)?;
        g.bts(rax, 3)?;
        g.mov(cr4, rax)?;
        g.mov(eax, u32::from(ports::DEVICE))?;
        g.mov(dr0, rax)?;
        // L0, I/O, 2 bytes.
        set_breakpoint(g, 0x400 | 1 | 2 << 16 | 1 << 18)?;
        g.mov(edx, u32::from(ports::DEVICE) + 1)?;
        let mut here = g.create_label();
        g.lea(r14, ptr(here))?;
        g.set_label(&mut here)?;
        let value = u64::from(ports::port_byte(ports::DEVICE + 1));
        g.expect_access(PortIn, (ports::DEVICE + 1).into(), 1, value);
        expect_debug(g, 1, 1);
        g.in_(al, dx)?;
        g.nop()?;
        g.expect_access(PortOut, (ports::DEVICE + 1).into(), 1, value);
        expect_debug(g, 1, 3);
        g.out(dx, al)?;
        g.nop()?;
        g.inc(edx)?;
        let value = u64::from(ports::port_byte(ports::DEVICE + 2));
        g.expect_access(PortIn, (ports::DEVICE + 2).into(), 1, value);
        g.in_(al, dx)?;
        // TF and the breakpoint are one #DB.
        g.dec(edx)?;
        g.mov(dword_ptr(CLEAR), TF)?;
        let mut here = g.create_label();
        g.lea(r14, ptr(here))?;
        step_on(g)?;
        g.set_label(&mut here)?;
        let value = u64::from(ports::port_byte(ports::DEVICE + 1));
        g.expect_access(PortIn, (ports::DEVICE + 1).into(), 1, value);
        expect_debug(g, BS | 1, 1);
        g.in_(al, dx)?;
        g.nop()?;
        g.mov(dword_ptr(CLEAR), 0)?;
        // DR4 and DR5 are gone.
        g.fault(vector::UD, 0, |g| g.db(&[0x0f, 0x21, 0xe0]))?;
        set_breakpoint(g, 0x400)
    })
}

pub(super) fn registers() -> Payload {
    Guest::long("DR6 and DR7: fixed bits, aliases DR4 and DR5, refusals", |g| {
        g.mov(rax, dr6)?;
        g.report(0xffff_0ff0)?;
        g.mov(rax, dr7)?;
        g.report(0x400)?;
        g.mov(eax, 0xffff_ffffu32)?;
        g.mov(dr6, rax)?;
        g.mov(rax, dr6)?;
        g.and(eax, 0xffff_e00fu32 as i32)?;
        g.report(0xffff_e00f)?;
        // DR4 is DR6 without CR4.DE.
        g.db(&[0x0f, 0x21, 0xe0])?;
        g.and(eax, 0xe00f)?;
        g.report(0xe00f)?;
        g.mov(eax, 0xffff_0ff0u32)?;
        g.mov(dr6, rax)?;
        for number in [dr0, dr1, dr2, dr3] {
            g.mov(rax, 0x1234_5678_9abcu64)?;
            g.mov(number, rax)?;
            g.mov(rbx, number)?;
            g.report64(rbx, 0x1234_5678_9abc)?;
        }
        g.mov(rax, 1u64 << 32)?;
        g.fault(vector::GP, 0, |g| g.mov(dr7, rax))?;
        g.fault(vector::GP, 0, |g| g.mov(dr6, rax))?;
        for number in [dr0, dr1, dr2, dr3] {
            g.xor(eax, eax)?;
            g.mov(number, rax)?;
        }
        Ok(())
    })
}

pub(super) fn general_detect() -> Payload {
    Guest::long("GD and INT1: what raises #DB without a breakpoint", |g| {
        install(g)?;
        // GD: the access faults with BD, and the handler can access them, for GD is cleared.
        let mut here = g.create_label();
        g.lea(r14, ptr(here))?;
        set_breakpoint(g, 0x400 | 1 << 13)?;
        g.set_label(&mut here)?;
        expect_debug(g, 0x2000, 0);
        g.mov(rax, dr7)?;
        g.report(0x400)?;
        // INT1 traps and leaves DR6 alone.
        let mut here = g.create_label();
        g.lea(r14, ptr(here))?;
        g.set_label(&mut here)?;
        expect_debug(g, 0, 1);
        g.db(&[0xf1])
    })
}
