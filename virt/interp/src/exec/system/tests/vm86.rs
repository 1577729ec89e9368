//! Virtual-8086 mode: entry by IRET, exits by gates, IOPL, VME.

use x86::{Cr4, Flags, Segment};

use super::{STACK_0, TSS, gp, handler, protected, sel, set_gate, stack32};
use crate::cpu::{Cpu, Mode, Stop};
use crate::exec::system::segments::VM86_ATTRIBUTES;
use crate::testing::{CODE, FlatBus, STACK, step};

/// A vm86 task about to run `code`, with IOPL and CR4.VME as given.
fn vm86(iopl: u64, vme: bool, code: &[u8]) -> Cpu<FlatBus> {
    let mut cpu = protected(0, code);
    cpu.state.segments = [Segment::real_mode(0, VM86_ATTRIBUTES); 6];
    cpu.state.segments[5] = Segment::real_mode(0x55, VM86_ATTRIBUTES);
    cpu.state.rflags = 2 | Flags::VM.bits() | iopl << 12;
    if vme {
        cpu.state.cr4 |= Cr4::VME.bits();
    }
    // I/O map at 0x88, so that the redirection map is at 0x68; nothing redirected to the IDT.
    cpu.refresh();
    assert_eq!((cpu.mode, cpu.cpl), (Mode::Vm86, 3));
    cpu
}

#[test]
fn iret_into_vm86_and_gate_out_of_it() {
    let mut cpu = protected(0, &[0xcf]);
    let vm = 2 | Flags::VM.bits() as u32 | 3 << 12;
    let frame = [0x1100, 0x20, vm, 0x4000, 0x30, 0x40, 0x50, 0x60, 0x70];
    for (index, value) in frame.into_iter().enumerate() {
        cpu.bus.poke(STACK + 4 * index as u64, value);
    }
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.mode, cpu.cpl, cpu.rip(), cpu.regs[4]), (Mode::Vm86, 3, 0x1100, 0x4000));
    let bases: [u64; 6] = core::array::from_fn(|i| cpu.segment(i as u8).base);
    assert_eq!(bases, [0x400, 0x200, 0x300, 0x500, 0x600, 0x700]);
    cpu.deliver_exception(x86::Exception::gp(0)).expect("handled");
    assert_eq!((cpu.mode, cpu.cpl, cpu.rip()), (Mode::Protected32, 0, handler(13)));
    assert_eq!(cpu.regs[4], STACK_0 - 40);
    let rf = vm | Flags::RF.bits() as u32;
    assert_eq!(stack32(&cpu), [0, 0x1100, 0x20, rf, 0x4000, 0x30, 0x40, 0x50, 0x60, 0x70]);
    assert!([0, 3, 4, 5].into_iter().all(|i| !cpu.segment(i).is_present()));
}

#[test]
fn sensitive_instructions_need_iopl_3() {
    for code in [&[0xfa][..], &[0xfb], &[0x9c], &[0x9d], &[0xcf], &[0xcd, 0x21]] {
        assert_eq!(step(&mut vm86(0, false, code)), gp(0), "{code:x?}");
    }
    let mut cpu = vm86(3, false, &[0xfb]);
    assert_eq!(step(&mut cpu), Stop::None);
    assert!(cpu.has_flag(Flags::IF));
    let mut cpu = vm86(0, false, &[0xf4]);
    assert_eq!(step(&mut cpu), gp(0), "HLT");
    let mut cpu = vm86(0, false, &[0xcc]);
    set_gate(&mut cpu, 3, sel::CODE_0, 0xee);
    assert_eq!(step(&mut cpu), Stop::None, "INT3 does not look at IOPL");
    assert_eq!(cpu.rip(), handler(3));
}

#[test]
fn int_n_with_iopl_3_uses_the_idt() {
    let mut cpu = vm86(3, false, &[0xcd, 0x21]);
    set_gate(&mut cpu, 0x21, sel::CODE_0, 0xee);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.mode, cpu.rip()), (Mode::Protected32, handler(0x21)));
    let mut cpu = vm86(3, false, &[0xcd, 0x21]);
    set_gate(&mut cpu, 0x21, sel::CONFORMING, 0xee);
    assert_eq!(step(&mut cpu), gp(u32::from(sel::CONFORMING)), "handlers run in ring 0");
}

#[test]
fn vme_redirects_interrupts_to_the_program() {
    let mut cpu = vm86(0, true, &[0xcd, 0x21]);
    cpu.bus.poke(0x21 * 4, 0x0100_0020u32);
    cpu.state.rflags |= Flags::VIF.bits();
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.mode, cpu.segment(1).base, cpu.rip()), (Mode::Vm86, 0x1000, 0x20));
    assert!(!cpu.has_flag(Flags::VIF));
    assert_eq!(cpu.bus.peek::<u16>(STACK - 2), 0x3202, "IF from VIF, IOPL 3");
    // IRET gives VIF back.
    cpu.bus.poke(0x1020, 0xcfu8);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.rip(), CODE + 2);
    assert!(cpu.has_flag(Flags::VIF) && cpu.iopl() == 0);
    // A set redirection bit at IOPL 0 is #GP.
    let mut cpu = vm86(0, true, &[0xcd, 0x21]);
    cpu.bus.poke(TSS + 0x68 + 4, 2u8);
    assert_eq!(step(&mut cpu), gp(0));
}

#[test]
fn vme_virtualises_the_interrupt_flag() {
    let mut cpu = vm86(0, true, &[0xfb, 0x9c, 0xfa, 0x9d]);
    assert_eq!(step(&mut cpu), Stop::None);
    assert!(cpu.has_flag(Flags::VIF) && !cpu.has_flag(Flags::IF));
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.bus.peek::<u16>(STACK - 2), 0x3202);
    assert_eq!(step(&mut cpu), Stop::None);
    assert!(!cpu.has_flag(Flags::VIF));
    assert_eq!(step(&mut cpu), Stop::None);
    assert!(cpu.has_flag(Flags::VIF) && cpu.iopl() == 0);
    let mut cpu = vm86(0, true, &[0xfb]);
    cpu.state.rflags |= Flags::VIP.bits();
    assert_eq!(step(&mut cpu), gp(0), "an interrupt is pending");
}

#[test]
fn ports_go_by_the_bitmap_whatever_iopl() {
    let mut cpu = vm86(3, false, &[0xe4, 0x60, 0xe4, 0x64]);
    cpu.bus.poke(TSS + 0x88 + 0x64 / 8, 1u8 << (0x64 % 8));
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(step(&mut cpu), gp(0));
    assert_eq!(cpu.bus.ins, [(0x60, 1)]);
}
