//! 64-bit and compatibility mode: gates, IST, IRETQ, call gates, SYSCALL, SYSENTER.

use x86::{Dr6, Efer, Exception, Flags, Vector, segment::attr};

use super::{
    CODE as CODE_RIGHTS, IDT, IST_1, STACK_0, TSS, dpl, fault, flat, gate, gp, handler, long,
    put_gdt, sel64, stack64,
};
use crate::cpu::{Cpu, Mode, Stop};
use crate::testing::{CODE, FlatBus, STACK, step};

const NON_CANONICAL: u64 = 0x8000_0000_0000;

#[test]
fn interrupt_from_ring_3_aligns_nulls_ss_and_iretq_returns() {
    let mut cpu = long(3, &[]);
    cpu.bus.poke(TSS + 4, STACK_0 - 3);
    cpu.state.rflags |= Flags::IF.bits();
    cpu.deliver_interrupt(0x30).expect("handled");
    assert_eq!((cpu.rip(), cpu.cpl, cpu.regs[4]), (handler(0x30), 0, STACK_0 - 16 - 40));
    assert_eq!(stack64(&cpu), [CODE, 0x2b, 0x202, STACK, 0x23]);
    assert_eq!((cpu.segment(2).selector, cpu.segment(2).is_present()), (0, false));
    cpu.bus.poke_bytes(handler(0x30), &[0x48, 0xcf]);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.rip(), cpu.cpl, cpu.regs[4]), (CODE, 3, STACK));
    assert_eq!((cpu.segment(1).selector, cpu.segment(2).selector), (0x2b, 0x23));
    assert_eq!(cpu.rflags(), 0x202);
}

#[test]
fn same_level_events_keep_ss_and_align() {
    let mut cpu = long(0, &[]);
    cpu.regs[4] = STACK + 9;
    cpu.deliver_exception(x86::Exception::gp(0x18)).expect("handled");
    assert_eq!(cpu.regs[4], STACK - 48);
    let [code, rip, cs, flags, rsp, ss] = stack64(&cpu);
    assert_eq!((code, rip, cs, rsp, ss), (0x18, CODE, 8, STACK + 9, 0x10));
    assert_eq!(flags & Flags::RF.bits(), Flags::RF.bits());
    assert_eq!(cpu.segment(2).selector, 0x10);
}

#[test]
fn interrupt_stack_table() {
    let mut cpu = long(0, &[]);
    cpu.bus.poke(IDT + 2 * 16 + 4, 1u8);
    cpu.deliver_nmi().expect("handled");
    assert_eq!(cpu.regs[4], (IST_1 & !15) - 40);
    let mut cpu = long(3, &[]);
    cpu.bus.poke(IDT + 2 * 16 + 4, 1u8);
    cpu.bus.poke(TSS + 0x24, NON_CANONICAL);
    cpu.deliver_nmi().expect("#SS is handled on RSP0");
    assert_eq!(cpu.rip(), handler(12));
    assert_eq!(stack64::<1>(&cpu), [1]);
}

#[test]
fn gate_checks() {
    let run = |low: u64| {
        let mut cpu = long(0, &[0xcd, 0x80]);
        cpu.bus.poke(IDT + 16 * 0x80, low);
        step(&mut cpu)
    };
    let code = 0x80 * 8 + 2;
    assert_eq!(run(gate(sel64::CODE_0, 0, 0x86, 0)), gp(code), "a 16-bit gate");
    assert_eq!(run(gate(sel64::CODE_0, 0, 0x0e, 0)), fault(Vector::SegmentNotPresent, code));
    assert_eq!(run(gate(sel64::COMPAT_3, 0, 0x8e, 0)), gp(u32::from(sel64::COMPAT_3)));
    let mut cpu = long(0, &[0xcd, 0x80]);
    cpu.bus.poke(IDT + 16 * 0x80 + 8, 0x8000u64);
    assert_eq!(step(&mut cpu), gp(0), "a target that is not canonical");
    let mut cpu = long(0, &[0xcd, 0x80]);
    put_gdt(&mut cpu, sel64::CODE_0, flat(CODE_RIGHTS | attr::LONG | attr::DB));
    assert_eq!(step(&mut cpu), gp(8), "L and D");
}

/// IRETQ with a frame.
fn iretq(level: u16, frame: [u64; 5]) -> (Cpu<FlatBus>, Stop) {
    let mut cpu = long(level, &[0x48, 0xcf]);
    for (index, value) in frame.into_iter().enumerate() {
        cpu.bus.poke(STACK + 8 * index as u64, value);
    }
    let stop = step(&mut cpu);
    (cpu, stop)
}

#[test]
fn iretq_variants() {
    let (cpu, stop) = iretq(0, [0x5000, 8, 2, 0x6000, 0]);
    assert_eq!((stop, cpu.regs[4]), (Stop::None, 0x6000), "null SS at ring 0");
    let (cpu, stop) = iretq(0, [0x5000, 0x1b, 2, 0x1_0000_6000, 0x23]);
    assert_eq!((stop, cpu.mode), (Stop::None, Mode::Protected32));
    assert_eq!((cpu.regs[4], cpu.cpl), (0x6000, 3));
    assert_eq!(iretq(0, [0x5000, 0x2b, 2, 0, 0]).1, gp(0), "null SS at ring 3");
    assert_eq!(iretq(0, [NON_CANONICAL, 8, 2, 0, 0]).1, gp(0));
    assert_eq!(iretq(3, [0, 8, 2, 0, 0]).1, gp(8));
    let mut cpu = long(0, &[0x48, 0xcf]);
    cpu.state.rflags |= Flags::NT.bits();
    assert_eq!(step(&mut cpu), gp(0), "NT");
}

#[test]
fn returning_to_user_keeps_the_bases_of_nulled_segments() {
    let mut cpu = long(0, &[0x48, 0xcf]);
    cpu.state.segments[4].base = 0x8765_4321;
    cpu.state.segments[5] = x86::Segment { base: 0x1234_5678, ..x86::Segment::default() };
    for (index, value) in [0x5000, 0x2b, 2, STACK, 0x23].into_iter().enumerate() {
        cpu.bus.poke(STACK + 8 * index as u64, value);
    }
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.segment(4).selector, cpu.segment(4).base), (0, 0x8765_4321));
    assert_eq!((cpu.segment(5).selector, cpu.segment(5).base), (0, 0x1234_5678));
}

#[test]
fn call_gate_to_ring_0() {
    // CALL FAR [0x1800]
    let code = [0xff, 0x1c, 0x25, 0x00, 0x18, 0x00, 0x00];
    let mut cpu = long(3, &code);
    cpu.bus.poke(0x1804, sel64::CALL_GATE);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.rip(), cpu.cpl), (0xb000, 0));
    assert_eq!(stack64(&cpu), [CODE + 7, 0x2b, STACK, 0x23]);
    // RETFQ
    cpu.bus.poke_bytes(0xb000, &[0x48, 0xcb]);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.rip(), cpu.cpl, cpu.regs[4]), (CODE + 7, 3, STACK));
    let mut cpu = long(3, &code);
    cpu.bus.poke(0x1804, sel64::CALL_GATE);
    put_gdt(&mut cpu, sel64::CODE_0, flat(CODE_RIGHTS | attr::DB | dpl(0)));
    assert_eq!(step(&mut cpu), gp(8), "the target must be 64-bit");
    let mut cpu = long(0, &code);
    cpu.bus.poke(0x1804, sel64::TSS);
    assert_eq!(step(&mut cpu), gp(u32::from(sel64::TSS)), "no tasks in IA-32e mode");
}

/// STAR for the test tables: SYSCALL to CODE_0, SYSRET to COMPAT_3, DATA_3, CODE_3.
const STAR: u64 = 0x0018_0008 << 32;

#[test]
fn syscall_and_sysret() {
    let mut cpu = long(3, &[0x0f, 0x05]);
    cpu.state.msrs.star = STAR;
    cpu.state.msrs.lstar = 0xe000;
    cpu.state.msrs.sfmask = (Flags::IF | Flags::TF | Flags::DF).bits();
    cpu.state.rflags |= (Flags::IF | Flags::DF).bits();
    cpu.bus.poke_bytes(0xe000, &[0x48, 0x0f, 0x07]);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.rip(), cpu.cpl, cpu.regs[1], cpu.regs[11]), (0xe000, 0, CODE + 2, 0x602));
    assert_eq!((cpu.segment(1).selector, cpu.segment(2).selector), (8, 0x10));
    assert_eq!(cpu.rflags(), 2);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.rip(), cpu.cpl, cpu.rflags()), (CODE + 2, 3, 0x602));
    assert_eq!((cpu.segment(1).selector, cpu.segment(2).selector), (0x2b, 0x23));
    assert!(cpu.is_long());
    let mut cpu = long(0, &[0x0f, 0x07]);
    cpu.state.msrs.star = STAR;
    cpu.regs[1] = 0xffff_ffff_0000_1234;
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.mode, cpu.rip()), (Mode::Protected32, 0x1234));
}

#[test]
fn sysret_that_sets_tf_traps_at_once() {
    let mut cpu = long(0, &[0x48, 0x0f, 0x07]);
    cpu.state.msrs.star = STAR;
    cpu.state.msrs.efer |= Efer::SCE.bits();
    (cpu.regs[1], cpu.regs[11]) = (0x5000, Flags::TF.bits());
    assert_eq!(step(&mut cpu), Stop::TrapAfter(Exception::debug(Dr6::BS.bits())));
    assert_eq!((cpu.rip(), cpu.cpl), (0x5000, 3));
}

#[test]
fn syscall_and_sysret_checks() {
    let ud = Stop::Fault(x86::Exception::UD);
    let mut cpu = long(3, &[0x0f, 0x05]);
    cpu.state.msrs.efer &= !1;
    assert_eq!(step(&mut cpu), ud, "EFER.SCE");
    let mut cpu = long(0, &[0x48, 0x0f, 0x07]);
    cpu.regs[1] = NON_CANONICAL;
    assert_eq!(step(&mut cpu), gp(0));
    let mut cpu = long(3, &[0x48, 0x0f, 0x07]);
    assert_eq!(step(&mut cpu), gp(0));
    // From compatibility mode only on AMD.
    let compat = |vendor: [u8; 4]| {
        let mut cpu = long(3, &[0x0f, 0x05]);
        cpu.state.segments[1].attributes ^= attr::LONG | attr::DB;
        cpu.state.msrs.cstar = 0xe100;
        cpu.state.msrs.star = STAR;
        cpu.bus.cpuid[0].result.ebx = u32::from_le_bytes(vendor);
        cpu.refresh();
        (step(&mut cpu), cpu.rip())
    };
    assert_eq!(compat(*b"Genu"), (ud, CODE));
    assert_eq!(compat(*b"Auth"), (Stop::None, 0xe100));
}

#[test]
fn sysenter_and_sysexit() {
    let mut cpu = long(3, &[0x0f, 0x34]);
    cpu.state.msrs.sysenter_cs = 8;
    cpu.state.msrs.sysenter_eip = 0xe000;
    cpu.state.msrs.sysenter_esp = 0x6000;
    cpu.state.rflags |= Flags::IF.bits();
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.rip(), cpu.cpl, cpu.regs[4], cpu.rflags()), (0xe000, 0, 0x6000, 2));
    cpu.bus.poke_bytes(0xe000, &[0x48, 0x0f, 0x35]);
    (cpu.regs[1], cpu.regs[2]) = (0x5000, 0x4000);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.rip(), cpu.cpl, cpu.regs[4]), (0x4000, 3, 0x5000));
    assert_eq!((cpu.segment(1).selector, cpu.segment(2).selector), (43, 51));
    let mut cpu = long(3, &[0x0f, 0x34]);
    assert_eq!(step(&mut cpu), gp(0), "no SYSENTER_CS");
}

#[test]
fn null_ss_and_segment_bases() {
    // MOV SS, AX; MOV FS, AX
    let mut cpu = long(0, &[0x8e, 0xd0, 0x8e, 0xe0]);
    cpu.state.segments[4].base = 77;
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.cpl, cpu.segment(2).is_present()), (0, false));
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.segment(4).base, 0);
    let mut cpu = long(3, &[0x8e, 0xd0]);
    assert_eq!(step(&mut cpu), gp(0));
}

#[test]
fn sixteen_byte_system_descriptors() {
    let mut cpu = long(0, &[0x0f, 0x00, 0xd8]);
    cpu.regs[0] = u64::from(sel64::TSS);
    put_gdt(&mut cpu, sel64::TSS + 8, 0xffff_8880);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.state.tr.base, 0xffff_8880_0000_0000 | TSS);
    let mut cpu = long(0, &[0x0f, 0x00, 0xd8]);
    cpu.regs[0] = u64::from(sel64::TSS);
    put_gdt(&mut cpu, sel64::TSS + 8, 1 << 40);
    assert_eq!(step(&mut cpu), gp(u32::from(sel64::TSS)), "type bits of the upper half");
    let mut cpu = long(0, &[0x0f, 0x00, 0xd8]);
    cpu.regs[0] = u64::from(sel64::TSS);
    cpu.state.gdtr.limit = sel64::TSS + 7;
    assert_eq!(step(&mut cpu), gp(u32::from(sel64::TSS)), "the upper half is outside");
}
