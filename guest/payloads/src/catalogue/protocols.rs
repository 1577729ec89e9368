//! What kernels count on while code is hot: Linux's text_poke_bp (SDM vol. 3, 9.1.3), interrupts that
//! wait across SYSRET and in the middle of REP MOVS and REP STOS (6.6, vol. 2 REP), INVLPG in a loop.

use iced_x86::code_asm::*;

use crate::kit::{Assembled, Guest, lapic, page, vector};
use crate::layout::{self, selector};
use crate::payload::Payload;

const READY: u64 = layout::DATA;
const COUNT: u64 = layout::DATA + 0x40;
const WRONG: u64 = layout::DATA + 0x80;
const NEW: u64 = layout::DATA + 0xc0;
const ANNOUNCED: u64 = layout::DATA + 0x100;
const CALLS: u64 = layout::DATA + 0x140;
const DONE: u64 = layout::DATA + 0x180;
const PING: u8 = vector::COUNTED + 1;

/// Ends an interrupt; RAX is lost.
fn end_of_interrupt(g: &mut Guest) -> Assembled {
    g.lapic_write(lapic::EOI, 0)
}

/// Counts a fault of the engine's, unless the last comparison was equal.
fn unless_equal(g: &mut Guest) -> Assembled {
    let mut good = g.create_label();
    g.je(good)?;
    g.lock().inc(dword_ptr(WRONG))?;
    g.set_label(&mut good)?;
    g.nop()
}

/// Sends an IPI to vCPU 1 and waits until it has counted as many as R10D; RAX is lost.
fn ping(g: &mut Guest) -> Assembled {
    let mut wait = g.create_label();
    g.ipi(1, PING.into())?;
    g.inc(r10d)?;
    g.set_label(&mut wait)?;
    g.pause()?;
    g.cmp(dword_ptr(COUNT), r10d)?;
    g.jne(wait)
}

pub(super) fn text_poke() -> Payload {
    /// MOV EAX, imm32; RET. The value's bytes are alike, so that a mixture of two shows.
    const PATCHED: u64 = layout::DATA + 0x1003;
    const ROUNDS: u32 = 120;
    const ALIKE: i32 = 0x0101_0101;
    Guest::long("text_poke_bp: INT3, IPI, tail, IPI, first byte, IPI, under a running caller", |g| {
        g.place(PATCHED, &[0xb8, 0, 0, 0, 0, 0xc3]);
        g.second(poked_caller)?;
        g.wait_for(READY, 1)?;
        g.xor(r10d, r10d)?;
        g.mov(esi, 1)?;
        let (mut next, mut wait) = (g.create_label(), g.create_label());
        g.set_label(&mut next)?;
        g.imul_3(edi, esi, ALIKE)?;
        g.mov(dword_ptr(NEW), edi)?;
        g.mov(byte_ptr(PATCHED), 0xcc)?;
        ping(g)?;
        g.mov(dword_ptr(PATCHED + 1), edi)?;
        ping(g)?;
        g.mov(byte_ptr(PATCHED), 0xb8)?;
        ping(g)?;
        g.mov(dword_ptr(ANNOUNCED), edi)?;
        // Often enough that it is translated.
        g.mov(edx, dword_ptr(CALLS))?;
        g.add(edx, 20)?;
        g.set_label(&mut wait)?;
        g.pause()?;
        g.mov(eax, dword_ptr(CALLS))?;
        g.sub(eax, edx)?;
        g.js(wait)?;
        g.inc(esi)?;
        g.cmp(esi, ROUNDS as i32)?;
        g.jbe(next)?;
        // How many calls there were is each engine's own.
        g.xor(edx, edx)?;
        g.mov(eax, dword_ptr(WRONG))?;
        g.report(0)?;
        g.mov(eax, dword_ptr(ANNOUNCED))?;
        g.report(ROUNDS * ALIKE as u32)
    })
}

/// Calls the code that is being changed for ever: what it returns is no mixture, not older than what was
/// announced before the call and not newer than what is being written after it.
fn poked_caller(g: &mut Guest) -> Assembled {
    const PATCHED: u64 = layout::DATA + 0x1003;
    let (mut breakpoint, mut sync) = (g.create_label(), g.create_label());
    let (mut over, mut forever) = (g.create_label(), g.create_label());
    g.set_gate(vector::BP, breakpoint)?;
    g.set_gate(PING, sync)?;
    g.lapic_enable()?;
    g.jmp(over)?;
    // As Linux's poke_int3_handler does: the new instruction instead of INT3.
    g.set_label(&mut breakpoint)?;
    g.cmp(qword_ptr(rsp), (PATCHED + 1) as i32)?;
    unless_equal(g)?;
    g.mov(eax, dword_ptr(NEW))?;
    g.add(qword_ptr(rsp), 4)?;
    g.iretq()?;
    g.set_label(&mut sync)?;
    g.push(rax)?;
    end_of_interrupt(g)?;
    g.pop(rax)?;
    g.lock().inc(dword_ptr(COUNT))?;
    g.iretq()?;
    g.set_label(&mut over)?;
    g.sti()?;
    g.lock().inc(dword_ptr(READY))?;
    g.set_label(&mut forever)?;
    g.mov(ebx, dword_ptr(ANNOUNCED))?;
    g.mov(edx, PATCHED as u32)?;
    g.call(rdx)?;
    g.mov(ecx, eax)?;
    g.ror(ecx, 8)?;
    g.cmp(ecx, eax)?;
    unless_equal(g)?;
    for newest in [false, true] {
        let mut good = g.create_label();
        if newest {
            g.cmp(dword_ptr(NEW), eax)?;
        } else {
            g.cmp(eax, ebx)?;
        }
        g.jae(good)?;
        g.lock().inc(dword_ptr(WRONG))?;
        g.set_label(&mut good)?;
    }
    g.inc(dword_ptr(CALLS))?;
    g.jmp(forever)
}

pub(super) fn interrupt_across_sysret() -> Payload {
    const ENTRY: u64 = 0x2_0000;
    const ROUNDS: u32 = 200;
    Guest::long("an interrupt that waits is taken right behind the SYSRET that sets IF", |g| {
        let star = u64::from(selector::USER_CODE32) << 48 | u64::from(selector::SYSCALL) << 32;
        g.write_msr(0xc000_0081, star)?;
        g.write_msr(0xc000_0082, ENTRY)?;
        g.write_msr(0xc000_0084, 0x4_7701)?; // AC NT DF IF TF CF and more
        g.write_msr(0xc000_0080, 0xd01)?;
        g.lapic_enable()?;
        let (mut handler, mut over) = (g.create_label(), g.create_label());
        g.set_gate(PING, handler)?;
        g.jmp(over)?;
        // RIP is SYSRET's, RCX and R11 are as it left them, nothing of user code has run.
        g.set_label(&mut handler)?;
        for (offset, register) in [(0, r12), (0, rcx), (16, r11)] {
            g.cmp(qword_ptr(rsp + offset), register)?;
            unless_equal(g)?;
        }
        g.cmp(qword_ptr(rsp + 8), i32::from(selector::USER_CODE64))?;
        unless_equal(g)?;
        g.inc(dword_ptr(COUNT))?;
        end_of_interrupt(g)?;
        g.iretq()?;
        g.set_label(&mut over)?;
        g.user(0, |g| {
            let (mut again, mut after) = (g.create_label(), g.create_label());
            g.lea(r12, ptr(after))?;
            g.mov(ebx, ROUNDS)?;
            g.set_label(&mut again)?;
            g.syscall()?;
            g.set_label(&mut after)?;
            g.dec(ebx)?;
            g.jne(again)
        })?;
        g.part(64, ENTRY, ENTRY, |g| {
            let mut quiet = g.create_label();
            // Every other time: to itself, while IF is clear.
            g.test(bl, 1)?;
            g.je(quiet)?;
            g.lapic_write(0x300, 0x4_4000 | u32::from(PING))?;
            g.set_label(&mut quiet)?;
            g.or(r11, 0x200)?;
            g.db(&[0x48, 0x0f, 0x07])
        })?;
        g.mov(eax, dword_ptr(WRONG))?;
        g.report(0)?;
        g.mov(eax, dword_ptr(COUNT))?;
        g.report(ROUNDS / 2)
    })
}

pub(super) fn interrupts_in_strings() -> Payload {
    const ROUNDS: u32 = 200;
    Guest::long("interrupts in REP MOVS and REP STOS find RCX, RSI, RDI and RIP in step", |g| {
        g.second(copier)?;
        g.wait_for(READY, 1)?;
        g.xor(r10d, r10d)?;
        let mut next = g.create_label();
        g.set_label(&mut next)?;
        ping(g)?;
        g.cmp(r10d, ROUNDS as i32)?;
        g.jb(next)?;
        g.mov(dword_ptr(DONE), 1)?;
        g.wait_for(READY, 2)?;
        g.mov(eax, dword_ptr(WRONG))?;
        g.report(0)
    })
}

/// Copies and fills until it is told to stop. R12 is where RDI began, R13 the bytes, R14 and R15 the
/// addresses of the two instructions, RBX what RSI is ahead of RDI.
fn copier(g: &mut Guest) -> Assembled {
    const FROM: u64 = 0x20_0123;
    const TO: u64 = 0x28_0ff1;
    const BYTES: u32 = 0x5432;
    let (mut handler, mut over) = (g.create_label(), g.create_label());
    let (mut forever, mut moves, mut stores) =
        (g.create_label(), g.create_label(), g.create_label());
    g.set_gate(PING, handler)?;
    g.lapic_enable()?;
    g.lea(r14, ptr(moves))?;
    g.lea(r15, ptr(stores))?;
    g.jmp(over)?;
    g.set_label(&mut handler)?;
    g.push(rax)?;
    for instruction in [r14, r15] {
        let (mut elsewhere, mut behind) = (g.create_label(), g.create_label());
        g.mov(rax, qword_ptr(rsp + 8))?;
        g.sub(rax, instruction)?;
        g.cmp(rax, 2)?;
        g.je(behind)?;
        g.test(rax, rax)?;
        g.jne(elsewhere)?;
        g.lea(rax, ptr(rcx + rdi))?;
        g.sub(rax, r12)?;
        g.cmp(rax, r13)?;
        unless_equal(g)?;
        if instruction == r14 {
            g.lea(rax, ptr(rdi + rbx))?;
            g.cmp(rax, rsi)?;
            unless_equal(g)?;
        }
        g.jmp(elsewhere)?;
        g.set_label(&mut behind)?;
        g.test(rcx, rcx)?;
        unless_equal(g)?;
        g.set_label(&mut elsewhere)?;
    }
    end_of_interrupt(g)?;
    g.pop(rax)?;
    g.lock().inc(dword_ptr(COUNT))?;
    g.iretq()?;
    g.set_label(&mut over)?;
    g.mov(r13d, BYTES)?;
    g.mov(r12d, TO as u32)?;
    g.mov(ebx, (FROM as i32).wrapping_sub(TO as i32))?;
    g.movsxd(rbx, ebx)?;
    g.xor(ebp, ebp)?;
    g.sti()?;
    g.lock().inc(dword_ptr(READY))?;
    g.set_label(&mut forever)?;
    g.inc(ebp)?;
    // The last bytes differ each time.
    g.mov(dword_ptr(FROM + u64::from(BYTES) - 4), ebp)?;
    g.mov(rdi, r12)?;
    g.mov(esi, FROM as u32)?;
    g.mov(ecx, r13d)?;
    g.set_label(&mut moves)?;
    g.rep().movsb()?;
    g.cmp(dword_ptr(TO + u64::from(BYTES) - 4), ebp)?;
    unless_equal(g)?;
    g.mov(rdi, r12)?;
    g.mov(ecx, r13d)?;
    g.mov(eax, ebp)?;
    g.set_label(&mut stores)?;
    g.rep().stosb()?;
    g.cmp(byte_ptr(TO + u64::from(BYTES) - 1), al)?;
    unless_equal(g)?;
    g.cmp(dword_ptr(DONE), 0)?;
    g.je(forever)?;
    g.lock().inc(dword_ptr(READY))?;
    let mut end = g.create_label();
    g.set_label(&mut end)?;
    g.pause()?;
    g.jmp(end)
}

pub(super) fn invalidation_in_a_loop() -> Payload {
    const LINEAR: u64 = 0x5_0000;
    const FRAMES: [u64; 2] = [0x4_0000, 0x4_1000];
    const ROUNDS: u32 = 300;
    Guest::long("INVLPG in a loop makes each translation seen and keeps the flags", |g| {
        let entry = Guest::entry_of(LINEAR);
        g.place_u64(FRAMES[0], 3);
        g.place_u64(FRAMES[1], 5);
        g.xor(esi, esi)?;
        g.mov(ebx, ROUNDS)?;
        g.mov(edi, LINEAR as u32)?;
        let mut next = g.create_label();
        g.set_label(&mut next)?;
        for frame in FRAMES {
            g.mov(qword_ptr(entry), (frame | page::P | page::W) as i32)?;
            g.stc()?;
            g.invlpg(byte_ptr(rdi))?;
            // The carry counts one, too.
            g.adc(esi, dword_ptr(rdi))?;
            // The page that runs, and one that is not canonical, which does nothing.
            g.invlpg(byte_ptr(next))?;
            g.mov(rax, 1u64 << 62)?;
            g.invlpg(byte_ptr(rax))?;
        }
        g.dec(ebx)?;
        g.jne(next)?;
        g.mov(eax, esi)?;
        g.report(ROUNDS * (3 + 1 + 5 + 1))
    })
}

pub(super) fn one_page_with_two_neighbours() -> Payload {
    /// Where the pages appear: the first one twice, each time with another behind it.
    const PLACES: [u64; 2] = [0x5_0000, 0x5_4000];
    const FIRST: u64 = 0x4_0000;
    const NEIGHBOURS: [u64; 2] = [0x4_1000, 0x4_2000];
    /// In the first page, where it leads into the next one.
    const START: u64 = 0xff0;
    Guest::long("code of one page at two addresses goes on in the page behind each", |g| {
        let map = |g: &mut Guest, linear, frame| {
            g.place_u64(Guest::entry_of(linear), frame | page::P | page::W);
        };
        g.place(FIRST + START, &[0x90; 16]);
        for (number, (place, neighbour)) in PLACES.into_iter().zip(NEIGHBOURS).enumerate() {
            map(g, place, FIRST);
            map(g, place + 0x1000, neighbour);
            // ADD EBX, 1 or ADD EBX, 256; RET
            g.place(neighbour, &[0x81, 0xc3, u8::from(number == 0), number as u8, 0, 0, 0xc3]);
        }
        g.xor(ebx, ebx)?;
        for calls in [[50, 0], [0, 50], [1, 1], [1, 1]] {
            for (place, count) in PLACES.into_iter().zip(calls).filter(|(_, count)| *count > 0) {
                let mut again = g.create_label();
                g.mov(esi, count)?;
                g.mov(edi, (place + START) as u32)?;
                g.set_label(&mut again)?;
                g.call(rdi)?;
                g.dec(esi)?;
                g.jne(again)?;
            }
        }
        g.mov(eax, ebx)?;
        g.report(52 * 0x101)
    })
}
