//! Locked operations of two processors on the same memory, with exact totals (SDM vol. 3, 8.1).

use iced_x86::code_asm::*;

use crate::kit::{Assembled, Guest};
use crate::layout;
use crate::payload::Payload;

const GATE: u64 = layout::DATA;
const DONE: u64 = layout::DATA + 0x40;
const SHARED: u64 = layout::DATA + 0x80;
const LOCK: u64 = layout::DATA + 0xc0;
const SUMS: u64 = layout::DATA + 0x100;
const ROUNDS: u32 = 20_000;

/// Runs the same rounds on both processors at once. ECX counts, RSI and RDI are the body's.
fn contend(g: &mut Guest, body: impl Fn(&mut Guest) -> Assembled) -> Assembled {
    let rounds = |g: &mut Guest| -> Assembled {
        g.xor(esi, esi)?;
        g.xor(edi, edi)?;
        g.lock().inc(dword_ptr(GATE))?;
        g.wait_for(GATE, 2)?;
        let mut again = g.create_label();
        g.mov(r8d, ROUNDS)?;
        g.set_label(&mut again)?;
        g.nop()?;
        body(g)?;
        g.dec(r8d)?;
        g.jne(again)?;
        g.lock().add(qword_ptr(SUMS), rsi)?;
        g.lock().add(qword_ptr(SUMS + 8), rdi)?;
        g.lock().inc(dword_ptr(DONE))
    };
    g.second(rounds)?;
    rounds(g)?;
    g.wait_for(DONE, 2)?;
    g.xor(esi, esi)?;
    g.xor(edi, edi)
}

fn report_total(g: &mut Guest, address: u64, total: u64) -> Assembled {
    g.mov(rbx, qword_ptr(address))?;
    g.report64(rbx, total)
}

pub(super) fn increment() -> Payload {
    Guest::long("LOCK INC, ADD, SUB, XOR of 1, 2, 4 and 8 bytes", |g| {
        contend(g, |g| {
            g.lock().inc(qword_ptr(SHARED))?;
            g.lock().add(word_ptr(SHARED + 8), 3)?;
            g.lock().sub(dword_ptr(SHARED + 12), 5)?;
            g.lock().xor(byte_ptr(SHARED + 16), 0x5a)?;
            g.lock().dec(byte_ptr(SHARED + 17))?;
            g.lock().neg(dword_ptr(SHARED + 20))?;
            g.lock().not(dword_ptr(SHARED + 24))
        })?;
        let total = 2 * u64::from(ROUNDS);
        report_total(g, SHARED, total)?;
        let words = total * 3 & 0xffff | (0u32.wrapping_sub(total as u32 * 5) as u64) << 32;
        report_total(g, SHARED + 8, words)?;
        report_total(g, SHARED + 16, (0u8.wrapping_sub(total as u8) as u64) << 8)?;
        report_total(g, SHARED + 24, 0)
    })
}

pub(super) fn exchange_add() -> Payload {
    Guest::long("LOCK XADD hands every number out once", |g| {
        contend(g, |g| {
            g.mov(eax, 1)?;
            g.lock().xadd(qword_ptr(SHARED), rax)?;
            g.add(rsi, rax)?;
            g.mov(eax, 1)?;
            g.lock().xadd(dword_ptr(SHARED + 8), eax)?;
            g.add(rdi, rax)
        })?;
        let total = 2 * u64::from(ROUNDS);
        report_total(g, SHARED, total)?;
        report_total(g, SUMS, total * (total - 1) / 2)?;
        report_total(g, SUMS + 8, total * (total - 1) / 2)
    })
}

pub(super) fn compare_exchange() -> Payload {
    Guest::long("LOCK CMPXCHG loops of 4 and 8 bytes lose nothing", |g| {
        contend(g, |g| {
            let mut retry = g.create_label();
            g.mov(rax, qword_ptr(SHARED))?;
            g.set_label(&mut retry)?;
            g.lea(rbx, ptr(rax + 7))?;
            g.lock().cmpxchg(qword_ptr(SHARED), rbx)?;
            g.jne(retry)?;
            let mut retry = g.create_label();
            g.mov(eax, dword_ptr(SHARED + 8))?;
            g.set_label(&mut retry)?;
            g.lea(ebx, ptr(rax + 1))?;
            g.lock().cmpxchg(dword_ptr(SHARED + 8), ebx)?;
            g.jne(retry)
        })?;
        report_total(g, SHARED, 14 * u64::from(ROUNDS))?;
        report_total(g, SHARED + 8, 2 * u64::from(ROUNDS))
    })
}

pub(super) fn compare_exchange_16() -> Payload {
    Guest::long("LOCK CMPXCHG16B moves both halves together", |g| {
        contend(g, |g| {
            let mut retry = g.create_label();
            g.mov(rax, qword_ptr(SHARED))?;
            g.mov(rdx, qword_ptr(SHARED + 8))?;
            g.set_label(&mut retry)?;
            g.lea(rbx, ptr(rax + 1))?;
            g.mov(rcx, rdx)?;
            g.sub(rcx, 3)?;
            g.lock().cmpxchg16b(xmmword_ptr(SHARED))?;
            g.jne(retry)
        })?;
        let total = 2 * u64::from(ROUNDS);
        report_total(g, SHARED, total)?;
        report_total(g, SHARED + 8, 0u64.wrapping_sub(3 * total))?;
        g.xor(edx, edx)?;
        g.xor(ecx, ecx)
    })
}

pub(super) fn compare_exchange_8() -> Payload {
    Guest::long("LOCK CMPXCHG8B", |g| {
        contend(g, |g| {
            let mut retry = g.create_label();
            g.mov(eax, dword_ptr(SHARED))?;
            g.mov(edx, dword_ptr(SHARED + 4))?;
            g.set_label(&mut retry)?;
            g.lea(ebx, ptr(rax + 2))?;
            g.lea(ecx, ptr(rdx + 5))?;
            g.lock().cmpxchg8b(qword_ptr(SHARED))?;
            g.jne(retry)
        })?;
        let total = 2 * u64::from(ROUNDS);
        report_total(g, SHARED, total * 2 | (total * 5) << 32)?;
        g.xor(edx, edx)?;
        g.xor(ecx, ecx)
    })
}

pub(super) fn spinlock() -> Payload {
    Guest::long("XCHG and BTS locks around plain increments; stores are seen in order", |g| {
        contend(g, |g| {
            let (mut spin, mut again) = (g.create_label(), g.create_label());
            g.set_label(&mut spin)?;
            g.mov(eax, 1)?;
            g.xchg(dword_ptr(LOCK), eax)?;
            g.test(eax, eax)?;
            g.jne(spin)?;
            g.inc(dword_ptr(SHARED))?;
            g.mov(dword_ptr(LOCK), 0)?;
            g.set_label(&mut again)?;
            g.lock().bts(dword_ptr(LOCK + 8), 5)?;
            g.jc(again)?;
            g.add(qword_ptr(SHARED + 8), 2)?;
            g.lock().btr(dword_ptr(LOCK + 8), 5)
        })?;
        report_total(g, SHARED, 2 * u64::from(ROUNDS))?;
        report_total(g, SHARED + 8, 4 * u64::from(ROUNDS))
    })
}

pub(super) fn split_locks() -> Payload {
    Guest::long("locked operations across a cache line and across pages", |g| {
        let line = layout::DATA + 0x200 + 62;
        let page = layout::DATA + 0x1000 - 3;
        contend(g, |g| {
            g.lock().inc(dword_ptr(line))?;
            g.lock().add(dword_ptr(page), 1)?;
            g.mov(eax, 1)?;
            g.lock().xadd(qword_ptr(page + 0x1000), rax)
        })?;
        let total = 2 * u64::from(ROUNDS);
        report_total(g, line, total)?;
        report_total(g, page, total)?;
        report_total(g, page + 0x1000, total)
    })
}
