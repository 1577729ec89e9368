//! Two processors: start-up, IPIs, TLB shootdown (SDM vol. 3, 8.4, 10.6).

use iced_x86::code_asm::*;

use crate::kit::{Guest, page, vector};
use crate::layout;
use crate::payload::{Action, Payload};

const READY: u64 = layout::DATA;
const VALUE: u64 = layout::DATA + 0x40;
const PING: u8 = vector::COUNTED + 1;
const PONG: u8 = vector::COUNTED + 2;

pub(super) fn start_up() -> Payload {
    Guest::long("INIT and SIPI start the second processor; its APIC id; INIT again stops it", |g| {
        g.second(|g| {
            g.lapic_read(0x20)?;
            g.shr(eax, 24)?;
            g.report(1)?;
            g.mov(eax, 1)?;
            g.xor(ecx, ecx)?;
            g.cpuid()?;
            g.shr(ebx, 24)?;
            g.mov(eax, ebx)?;
            g.report(1)?;
            g.mov(ecx, 0x1b)?;
            g.rdmsr()?;
            // Not the bootstrap processor.
            g.and(eax, 0x100)?;
            g.report(0)?;
            g.lock().inc(dword_ptr(READY))?;
            let mut forever = g.create_label();
            g.set_label(&mut forever)?;
            g.pause()?;
            g.jmp(forever)
        })?;
        g.wait_for(READY, 1)?;
        // Again from the start: the second run reports the same.
        g.repeat_trace(1);
        g.start_second()?;
        g.wait_for(READY, 2)?;
        // A SIPI to a running processor is ignored.
        g.ipi(1, 0x4607)?;
        g.mov(eax, dword_ptr(READY))?;
        g.report(2)
    })
}

pub(super) fn ping_pong() -> Payload {
    Guest::long("IPIs there and back, each ending the other's HLT", |g| {
        const ROUNDS: u32 = 50;
        g.second(|g| {
            g.lapic_enable()?;
            g.mov(ebx, 0)?;
            g.lock().inc(dword_ptr(READY))?;
            let (mut wait, mut got, mut next) =
                (g.create_label(), g.create_label(), g.create_label());
            g.set_label(&mut next)?;
            g.inc(ebx)?;
            g.set_label(&mut wait)?;
            g.cmp(dword_ptr(Guest::count_of(PING)), ebx)?;
            g.je(got)?;
            g.sti()?;
            g.hlt()?;
            g.cli()?;
            g.jmp(wait)?;
            g.set_label(&mut got)?;
            g.nop()?;
            g.ipi(0, PONG.into())?;
            g.cmp(ebx, ROUNDS as i32)?;
            g.jne(next)
        })?;
        g.wait_for(READY, 1)?;
        g.mov(ebx, 0)?;
        let (mut wait, mut got, mut next) = (g.create_label(), g.create_label(), g.create_label());
        g.set_label(&mut next)?;
        g.inc(ebx)?;
        g.ipi(1, PING.into())?;
        g.set_label(&mut wait)?;
        g.cmp(dword_ptr(Guest::count_of(PONG)), ebx)?;
        g.je(got)?;
        g.sti()?;
        g.hlt()?;
        g.cli()?;
        g.jmp(wait)?;
        g.set_label(&mut got)?;
        g.cmp(ebx, ROUNDS as i32)?;
        g.jne(next)?;
        g.mov(eax, dword_ptr(Guest::count_of(PING)))?;
        g.report(ROUNDS)?;
        g.mov(eax, dword_ptr(Guest::count_of(PONG)))?;
        g.report(ROUNDS)
    })
}

pub(super) fn messages_to_the_second() -> Payload {
    Guest::long("an MSI and an NMI from the host to the second processor, which sleeps", |g| {
        g.second(|g| {
            let (mut handler, mut over) = (g.create_label(), g.create_label());
            g.set_gate(vector::NMI, handler)?;
            g.lapic_enable()?;
            g.lock().inc(dword_ptr(READY))?;
            g.jmp(over)?;
            g.set_label(&mut handler)?;
            g.lock().inc(dword_ptr(VALUE))?;
            g.iretq()?;
            g.set_label(&mut over)?;
            g.sti()?;
            let mut forever = g.create_label();
            g.set_label(&mut forever)?;
            g.hlt()?;
            g.jmp(forever)
        })?;
        g.wait_for(READY, 1)?;
        g.action(Action::MsiLater { address: 0xfee0_1000, data: PING.into() })?;
        g.wait_for(Guest::count_of(PING), 1)?;
        g.action(Action::NmiLater { cpu: 1 })?;
        g.wait_for(VALUE, 1)?;
        g.ipi(1, 0x4400)?;
        g.wait_for(VALUE, 2)?;
        g.mov(eax, dword_ptr(VALUE))?;
        g.report(2)
    })
}

pub(super) fn shootdown() -> Payload {
    Guest::long("a changed translation reaches the other processor by IPI and INVLPG", |g| {
        const LINEAR: u64 = 0x5_0000;
        let entry = Guest::entry_of(LINEAR);
        let kernel = page::P | page::W;
        g.place_u64(0x4_0000, 0x1000);
        g.place_u64(0x4_1000, 0x2000);
        g.place_u64(entry, 0x4_0000 | kernel);
        g.second(|g| {
            let (mut handler, mut over) = (g.create_label(), g.create_label());
            g.set_gate(PING, handler)?;
            g.lapic_enable()?;
            g.jmp(over)?;
            g.set_label(&mut handler)?;
            g.push(rax)?;
            g.mov(eax, LINEAR as u32)?;
            g.invlpg(byte_ptr(rax))?;
            g.mov(eax, 0xfee0_00b0u32)?;
            g.mov(dword_ptr(rax), 0)?;
            g.lock().inc(dword_ptr(Guest::count_of(PING)))?;
            g.pop(rax)?;
            g.iretq()?;
            g.set_label(&mut over)?;
            g.sti()?;
            g.lock().inc(dword_ptr(READY))?;
            let mut forever = g.create_label();
            g.set_label(&mut forever)?;
            g.mov(eax, dword_ptr(LINEAR))?;
            g.mov(dword_ptr(VALUE), eax)?;
            g.jmp(forever)
        })?;
        g.wait_for(READY, 1)?;
        g.wait_for(VALUE, 0x1000)?;
        for (round, (frame, value)) in
            [(0x4_1000, 0x2000), (0x4_0000, 0x1000), (0x4_1000, 0x2000)].into_iter().enumerate()
        {
            g.mov(qword_ptr(entry), frame | kernel as i32)?;
            g.ipi(1, PING.into())?;
            g.wait_for(Guest::count_of(PING), round as u32 + 1)?;
            g.wait_for(VALUE, value)?;
        }
        g.mov(eax, dword_ptr(VALUE))?;
        g.report(0x2000)
    })
}
