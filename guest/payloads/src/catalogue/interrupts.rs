//! External interrupts, NMI, shadows, HLT (SDM vol. 3, 6.3, 6.7, 6.8, 10.5, 10.8).

use iced_x86::code_asm::*;

use crate::feature;
use crate::kit::{Assembled, Guest, lapic, vector};
use crate::layout::{self, selector};
use crate::payload::{Action, End, Fact, Payload};

const VECTOR: u8 = vector::REPORTED + 1;
const HIGH: u8 = 0x52;
const TPR: u32 = 0x80;
const APIC_BASE: u32 = 0x1b;

fn msi(vector: u8) -> Action {
    Action::Msi { address: 0xfee0_0000, data: vector.into() }
}

fn msi_later(vector: u8) -> Action {
    Action::MsiLater { address: 0xfee0_0000, data: vector.into() }
}

fn expect_interrupt(g: &mut Guest, vector: u8) {
    g.expect(Guest::INTERRUPT | u32::from(vector));
}

pub(super) fn message_signalled() -> Payload {
    Guest::long("an MSI with interrupts on, and one that waits for STI", |g| {
        g.lapic_enable()?;
        g.sti()?;
        g.action(msi(VECTOR))?;
        expect_interrupt(g, VECTOR);
        g.nop()?;
        g.cli()?;
        g.action(msi(VECTOR))?;
        g.mov(eax, 1)?;
        g.report(1)?;
        g.sti()?;
        expect_interrupt(g, VECTOR);
        g.nop()?;
        g.cli()?;
        g.mov(eax, 2)?;
        g.report(2)?;
        // An edge that is pending already is one interrupt.
        g.action(msi(VECTOR))?;
        g.action(msi(VECTOR))?;
        g.sti()?;
        expect_interrupt(g, VECTOR);
        g.nop()?;
        g.nop()?;
        g.cli()?;
        // To nobody.
        g.action(Action::Msi { address: 0xfee7_f000, data: VECTOR.into() })?;
        g.sti()?;
        g.nop()?;
        g.cli()
    })
}

pub(super) fn halt_and_wake() -> Payload {
    Guest::long("HLT ends by an interrupt from outside; RIP is behind it", |g| {
        g.lapic_enable()?;
        for _ in 0..3 {
            g.action(msi_later(VECTOR))?;
            expect_interrupt(g, VECTOR);
            g.sti()?;
            g.hlt()?;
            g.cli()?;
            g.mov(eax, 0x77)?;
            g.report(0x77)?;
        }
        // One that is there already: HLT does not wait.
        g.action(msi(VECTOR))?;
        expect_interrupt(g, VECTOR);
        g.sti()?;
        g.hlt()?;
        g.cli()
    })
}

pub(super) fn interrupts_a_loop() -> Payload {
    Guest::long("an interrupt from outside ends an endless loop without exits", |g| {
        g.lapic_enable()?;
        g.action(msi_later(vector::COUNTED))?;
        g.sti()?;
        let mut again = g.create_label();
        g.set_label(&mut again)?;
        g.cmp(dword_ptr(Guest::count_of(vector::COUNTED)), 0)?;
        g.je(again)?;
        g.cli()?;
        g.mov(eax, dword_ptr(Guest::count_of(vector::COUNTED)))?;
        g.report(1)
    })
}

/// Points `VECTOR` at a handler that reports how far RIP is from R14.
fn report_rip(g: &mut Guest) -> Assembled {
    let (mut handler, mut over) = (g.create_label(), g.create_label());
    g.set_gate(VECTOR, handler)?;
    g.jmp(over)?;
    g.set_label(&mut handler)?;
    g.mov(rax, qword_ptr(rsp))?;
    g.sub(rax, r14)?;
    g.out(i32::from(crate::ports::REPORT), eax)?;
    g.mov(eax, 0xfee0_00b0u32)?;
    g.mov(dword_ptr(rax), 0)?;
    g.iretq()?;
    g.set_label(&mut over)?;
    g.nop()
}

pub(super) fn shadows() -> Payload {
    Guest::long("STI and MOV SS hold interrupts back for one instruction", |g| {
        g.lapic_enable()?;
        report_rip(g)?;
        g.xor(ecx, ecx)?;
        // STI; INC: taken behind the INC.
        let mut here = g.create_label();
        g.action(msi(VECTOR))?;
        g.lea(r14, ptr(here))?;
        g.sti()?;
        g.set_label(&mut here)?;
        g.expect(2);
        g.inc(ecx)?;
        g.nop()?;
        g.cli()?;
        // STI; CLI: not taken at all.
        g.action(msi(VECTOR))?;
        g.sti()?;
        g.cli()?;
        g.mov(eax, ecx)?;
        g.report(1)?;
        // POPF; MOV SS; INC: taken behind the POPF, whatever follows. (Of STI; MOV SS only the
        // first is guaranteed to hold interrupts back: SDM vol. 2, STI.)
        let mut here = g.create_label();
        g.mov(edx, i32::from(selector::DATA))?;
        g.lea(r14, ptr(here))?;
        g.push(0x202)?;
        g.popfq()?;
        g.set_label(&mut here)?;
        g.expect(0);
        g.mov(ss, edx)?;
        g.inc(ecx)?;
        g.cli()?;
        // POPF casts no shadow.
        let mut here = g.create_label();
        g.action(msi(VECTOR))?;
        g.lea(r14, ptr(here))?;
        g.push(0x202)?;
        g.popfq()?;
        g.set_label(&mut here)?;
        g.expect(0);
        g.inc(ecx)?;
        g.cli()?;
        g.mov(eax, ecx)?;
        g.report(3)
    })
}

pub(super) fn priorities() -> Payload {
    Guest::long("the higher vector first; TPR and CR8 hold the lower back", |g| {
        g.lapic_enable()?;
        g.action(msi(VECTOR))?;
        g.action(msi(HIGH))?;
        expect_interrupt(g, HIGH);
        expect_interrupt(g, VECTOR);
        g.sti()?;
        g.nop()?;
        g.nop()?;
        g.lapic_write(TPR, 0x50)?;
        g.mov(rax, cr8)?;
        g.report(5)?;
        g.action(msi(VECTOR))?;
        g.action(msi(HIGH))?;
        // 0x52 is of priority class 5 as well: neither comes.
        g.nop()?;
        g.mov(eax, 0x11)?;
        g.report(0x11)?;
        expect_interrupt(g, HIGH);
        g.mov(eax, 4)?;
        g.mov(cr8, rax)?;
        g.nop()?;
        g.mov(eax, 0x12)?;
        g.report(0x12)?;
        expect_interrupt(g, VECTOR);
        g.lapic_write(TPR, 0)?;
        g.nop()?;
        g.mov(eax, 0x13)?;
        g.report(0x13)?;
        g.cli()?;
        g.mov(eax, 0x10)?;
        g.fault(vector::GP, 0, |g| g.mov(cr8, rax))
    })
}

pub(super) fn nesting() -> Payload {
    Guest::long("a handler that opens interrupts is interrupted by higher vectors only", |g| {
        let (mut handler, mut over) = (g.create_label(), g.create_label());
        let middle = HIGH - 0x10;
        g.lapic_enable()?;
        g.set_gate(middle, handler)?;
        g.jmp(over)?;
        g.set_label(&mut over)?;
        g.sti()?;
        g.action(msi(middle))?;
        let mut after = g.create_label();
        g.nop()?;
        g.jmp(after)?;
        g.set_label(&mut handler)?;
        g.mov(eax, 0xaa)?;
        g.report(0xaa)?;
        g.sti()?;
        g.action(msi(VECTOR))?;
        g.nop()?;
        g.action(msi(HIGH))?;
        expect_interrupt(g, HIGH);
        g.nop()?;
        g.cli()?;
        g.mov(eax, 0xbb)?;
        g.report(0xbb)?;
        g.mov(eax, 0xfee0_00b0u32)?;
        g.mov(dword_ptr(rax), 0)?;
        g.iretq()?;
        g.set_label(&mut after)?;
        expect_interrupt(g, VECTOR);
        g.cli()
    })
}

pub(super) fn self_ipi() -> Payload {
    Guest::long("an IPI to oneself by shorthand and by destination", |g| {
        g.lapic_enable()?;
        g.sti()?;
        expect_interrupt(g, VECTOR);
        g.lapic_write(lapic::ICR_LOW, 0x4_0000 | u32::from(VECTOR))?;
        g.nop()?;
        expect_interrupt(g, HIGH);
        g.ipi(0, HIGH.into())?;
        g.nop()?;
        // All including self; all but self reaches nobody here.
        expect_interrupt(g, VECTOR);
        g.lapic_write(lapic::ICR_LOW, 0x8_0000 | u32::from(VECTOR))?;
        g.nop()?;
        g.lapic_write(lapic::ICR_LOW, 0xc_0000 | u32::from(VECTOR))?;
        g.nop()?;
        g.cli()?;
        // It is pending in IRR while IF = 0.
        g.lapic_write(lapic::ICR_LOW, 0x4_0000 | u32::from(VECTOR))?;
        g.lapic_read(0x200 + 0x10)?;
        g.report(1 << (VECTOR & 31))?;
        expect_interrupt(g, VECTOR);
        g.sti()?;
        g.nop()?;
        g.cli()?;
        g.lapic_read(0x200 + 0x10)?;
        g.report(0)
    })
}

pub(super) fn x2apic() -> Payload {
    Guest::long("x2APIC: registers as MSRs, self IPI, what is refused", |g| {
        g.needs(feature::X2APIC);
        let (mut handler, mut over) = (g.create_label(), g.create_label());
        g.set_gate(VECTOR, handler)?;
        g.jmp(over)?;
        g.set_label(&mut handler)?;
        g.inc(ebx)?;
        g.mov(ecx, 0x80b)?;
        g.xor(eax, eax)?;
        g.xor(edx, edx)?;
        g.wrmsr()?;
        g.iretq()?;
        g.set_label(&mut over)?;
        g.lapic_enable()?;
        g.xor(ebx, ebx)?;
        // Not before it is enabled.
        g.mov(ecx, 0x802)?;
        g.fault(vector::GP, 0, |g| g.rdmsr())?;
        g.mov(ecx, APIC_BASE)?;
        g.rdmsr()?;
        g.or(eax, 0x400)?;
        g.wrmsr()?;
        g.mov(ecx, 0x802)?;
        g.rdmsr()?;
        g.report(0)?;
        g.mov(ecx, 0x80f)?;
        g.rdmsr()?;
        g.report(0x1ff)?;
        g.sti()?;
        g.mov(ecx, 0x83f)?;
        g.mov(eax, u32::from(VECTOR))?;
        g.xor(edx, edx)?;
        g.wrmsr()?;
        g.nop()?;
        g.mov(eax, ebx)?;
        g.report(1)?;
        // ICR in one 64-bit write.
        g.mov(ecx, 0x830)?;
        g.mov(eax, 0x4_0000 | u32::from(VECTOR))?;
        g.xor(edx, edx)?;
        g.wrmsr()?;
        g.nop()?;
        g.mov(eax, ebx)?;
        g.report(2)?;
        g.cli()?;
        // Self IPI can't be read, the id can't be written.
        g.mov(ecx, 0x83f)?;
        g.fault(vector::GP, 0, |g| g.rdmsr())?;
        g.mov(ecx, 0x802)?;
        g.fault(vector::GP, 0, |g| g.wrmsr())?;
        // Back to xAPIC only through disabled.
        g.mov(ecx, APIC_BASE)?;
        g.rdmsr()?;
        g.and(eax, !0x400)?;
        g.fault(vector::GP, 0, |g| g.wrmsr())?;
        g.mov(rax, cr8)?;
        g.report(0)?;
        // An EOI that is not zero is refused.
        g.mov(ecx, 0x80b)?;
        g.mov(eax, 1)?;
        g.xor(edx, edx)?;
        g.fault(vector::GP, 0, |g| g.wrmsr())
    })
}

pub(super) fn nmi() -> Payload {
    Guest::long("NMI: taken with IF = 0, blocked until IRET, the next one pending meanwhile", |g| {
        let (mut handler, mut second) = (g.create_label(), g.create_label());
        let mut after = g.create_label();
        g.set_gate(vector::NMI, handler)?;
        g.xor(ebx, ebx)?;
        g.action(Action::Nmi { cpu: 0 })?;
        g.nop()?;
        g.jmp(after)?;
        g.set_label(&mut handler)?;
        g.inc(ebx)?;
        g.cmp(ebx, 1)?;
        g.jne(second)?;
        g.mov(eax, ebx)?;
        g.report(1)?;
        g.action(Action::Nmi { cpu: 0 })?;
        g.nop()?;
        g.mov(eax, 0x55)?;
        g.report(0x55)?;
        g.iretq()?;
        g.set_label(&mut second)?;
        g.mov(eax, ebx)?;
        g.report(2)?;
        g.iretq()?;
        g.set_label(&mut after)?;
        g.mov(eax, ebx)?;
        g.report(2)
    })
}

pub(super) fn nmi_wakes() -> Payload {
    Guest::long("NMI ends HLT; NMI as a message and as an IPI", |g| {
        let (mut handler, mut over) = (g.create_label(), g.create_label());
        g.lapic_enable()?;
        g.set_gate(vector::NMI, handler)?;
        g.jmp(over)?;
        g.set_label(&mut handler)?;
        g.mov(eax, 0x2222)?;
        g.out(i32::from(crate::ports::REPORT), eax)?;
        g.iretq()?;
        g.set_label(&mut over)?;
        g.action(Action::NmiLater { cpu: 0 })?;
        g.expect(0x2222);
        g.sti()?;
        g.hlt()?;
        g.cli()?;
        g.mov(eax, 1)?;
        g.report(1)?;
        // An NMI as a message and as an IPI to oneself.
        g.action(Action::Msi { address: 0xfee0_0000, data: 0x400 })?;
        g.expect(0x2222);
        g.nop()?;
        g.expect(0x2222);
        g.ipi(0, 0x4400)?;
        g.nop()?;
        g.mov(eax, 2)?;
        g.report(2)
    })
}

pub(super) fn halted_for_good() -> Payload {
    Guest::long("HLT with interrupts off ends the run", |g| {
        g.ends(End::Halted);
        g.mov(ebx, 0x1234)?;
        g.mov(rcx, u64::MAX)?;
        g.fact(Fact::Register { number: 3, value: 0x1234 });
        g.fact(Fact::Register { number: 1, value: u64::MAX });
        g.mov(dword_ptr(layout::DATA), 0x77)?;
        g.fact(Fact::Memory { address: layout::DATA, value: 0x77 });
        Ok(())
    })
}
