//! The local APIC's timer (SDM vol. 3, 10.5.4).

use iced_x86::code_asm::*;

use crate::feature;
use crate::kit::{Assembled, Guest, vector};
use crate::payload::Payload;

const LVT_TIMER: u32 = 0x320;
const INITIAL: u32 = 0x380;
const CURRENT: u32 = 0x390;
const DIVIDE: u32 = 0x3e0;
const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;
const DEADLINE: u32 = 2 << 17;
const VECTOR: u8 = vector::REPORTED + 4;
const TSC_DEADLINE: u32 = 0x6e0;
/// Short against the test, long against an exit.
const COUNT: u32 = 1_000_000;

/// By one.
fn start(g: &mut Guest) -> Assembled {
    g.lapic_enable()?;
    g.lapic_write(DIVIDE, 0b1011)
}

pub(super) fn one_shot() -> Payload {
    Guest::long("one-shot: one interrupt, then the count stays 0", |g| {
        start(g)?;
        for _ in 0..2 {
            g.lapic_write(LVT_TIMER, VECTOR.into())?;
            g.lapic_write(INITIAL, COUNT)?;
            g.expect(Guest::INTERRUPT | u32::from(VECTOR));
            g.sti()?;
            g.hlt()?;
            g.cli()?;
            g.lapic_read(CURRENT)?;
            g.report(0)?;
            g.lapic_read(INITIAL)?;
            g.report(COUNT)?;
        }
        Ok(())
    })
}

pub(super) fn counts_down() -> Payload {
    Guest::long("the current count falls; a masked timer counts and stays silent", |g| {
        start(g)?;
        g.lapic_write(LVT_TIMER, MASKED | u32::from(VECTOR))?;
        g.lapic_write(INITIAL, 0xffff_ffff)?;
        g.lapic_read(CURRENT)?;
        g.mov(ebx, eax)?;
        g.mov(ecx, 10_000)?;
        let mut spin = g.create_label();
        g.set_label(&mut spin)?;
        g.dec(ecx)?;
        g.jne(spin)?;
        g.lapic_read(CURRENT)?;
        g.cmp(eax, ebx)?;
        g.report_if(|a| a.setb(al))?;
        g.xor(ebx, ebx)?;
        g.lapic_write(INITIAL, COUNT)?;
        let mut wait = g.create_label();
        g.sti()?;
        g.set_label(&mut wait)?;
        g.lapic_read(CURRENT)?;
        g.test(eax, eax)?;
        g.jne(wait)?;
        g.cli()?;
        g.report(0)?;
        // Writing 0 stops it.
        g.lapic_write(INITIAL, 0xffff_ffff)?;
        g.lapic_write(INITIAL, 0)?;
        g.lapic_read(CURRENT)?;
        g.report(0)
    })
}

pub(super) fn periodic() -> Payload {
    Guest::long("periodic: comes again and again until stopped", |g| {
        let counted = vector::COUNTED;
        start(g)?;
        g.lapic_write(LVT_TIMER, PERIODIC | u32::from(counted))?;
        g.lapic_write(INITIAL, COUNT)?;
        let (mut again, mut done) = (g.create_label(), g.create_label());
        g.set_label(&mut again)?;
        g.cmp(dword_ptr(Guest::count_of(counted)), 3)?;
        g.jae(done)?;
        g.sti()?;
        g.hlt()?;
        g.cli()?;
        g.jmp(again)?;
        g.set_label(&mut done)?;
        g.nop()?;
        g.lapic_write(INITIAL, 0)?;
        // What came meanwhile is taken, so that nothing is pending at the end.
        g.sti()?;
        g.nop()?;
        g.nop()?;
        g.cli()?;
        g.mov(eax, 1)?;
        g.report(1)
    })
}

/// Writes TSC + a distance to the deadline MSR.
fn arm(g: &mut Guest, ticks: i32) -> Assembled {
    g.rdtsc()?;
    g.shl(rdx, 32)?;
    g.or(rax, rdx)?;
    g.add(rax, ticks)?;
    g.mov(rdx, rax)?;
    g.shr(rdx, 32)?;
    g.mov(ecx, TSC_DEADLINE)?;
    g.wrmsr()
}

pub(super) fn deadline() -> Payload {
    Guest::long(
        "TSC deadline: in the future, in the past, disarmed by 0, reads 0 afterwards",
        |g| {
            g.needs(feature::TSC_DEADLINE);
            start(g)?;
            g.lapic_write(LVT_TIMER, DEADLINE | u32::from(VECTOR))?;
            g.mfence()?;
            for ticks in [5_000_000, -1000] {
                arm(g, ticks)?;
                g.expect(Guest::INTERRUPT | u32::from(VECTOR));
                g.sti()?;
                g.hlt()?;
                g.cli()?;
                g.rdmsr()?;
                g.or(eax, edx)?;
                g.report(0)?;
            }
            arm(g, 0x7000_0000)?;
            g.rdmsr()?;
            g.or(eax, edx)?;
            g.setne(al)?;
            g.movzx(eax, al)?;
            g.report(1)?;
            g.xor(eax, eax)?;
            g.xor(edx, edx)?;
            g.wrmsr()?;
            g.rdmsr()?;
            g.or(eax, edx)?;
            g.report(0)?;
            // In this mode the count registers do nothing.
            g.lapic_write(INITIAL, 100)?;
            g.lapic_read(CURRENT)?;
            g.report(0)
        },
    )
}

pub(super) fn time_stamps() -> Payload {
    Guest::long("TSC: monotonic, IA32_TSC_ADJUST moves it, CR4.TSD hides it", |g| {
        let stamp = |g: &mut Guest, to: AsmRegister64| -> Assembled {
            g.rdtsc()?;
            g.shl(rdx, 32)?;
            g.or(rax, rdx)?;
            g.mov(to, rax)
        };
        stamp(g, rbx)?;
        stamp(g, rsi)?;
        g.cmp(rsi, rbx)?;
        g.report_if(|a| a.setae(al))?;
        g.mov(ecx, 0x10)?;
        g.rdmsr()?;
        g.shl(rdx, 32)?;
        g.or(rax, rdx)?;
        g.cmp(rax, rsi)?;
        g.report_if(|a| a.setae(al))?;
        // 2^50 ticks ahead.
        g.mov(ecx, 0x3b)?;
        g.xor(eax, eax)?;
        g.mov(edx, 1 << 18)?;
        g.wrmsr()?;
        stamp(g, rdi)?;
        g.sub(rdi, rsi)?;
        g.shr(rdi, 50)?;
        g.mov(eax, edi)?;
        g.report(1)?;
        g.xor(eax, eax)?;
        g.xor(edx, edx)?;
        g.wrmsr()?;
        g.mov(rax, cr4)?;
        g.bts(rax, 2)?;
        g.mov(cr4, rax)?;
        g.rdtsc()?;
        g.user(0, |g| g.fault(vector::GP, 0, |g| g.rdtsc()))?;
        g.xor(edx, edx)?;
        g.xor(esi, esi)?;
        g.xor(ebx, ebx)?;
        g.mov(edi, 0)
    })
}
