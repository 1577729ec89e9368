//! Real mode: vector table, far transfers, the way into protected mode.

use x86::{Cr0, Flags, TableRegister};

use crate::cpu::{Mode, Stop};
use crate::exec::system::tests::{gp, protected};
use crate::testing::{CODE, STACK, real, run, step};

#[test]
fn interrupt_and_return() {
    let mut cpu = real(&[0xcd, 0x10]);
    cpu.bus.poke(0x10 * 4, 0x0100_0020u32);
    cpu.bus.poke(0x1020, 0xcfu8);
    cpu.state.rflags |= (Flags::IF | Flags::TF).bits();
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.segment(1).base, cpu.rip()), (0x1000, 0x20));
    assert_eq!(cpu.rflags(), 2);
    let frame: [u16; 3] = core::array::from_fn(|i| cpu.bus.peek(STACK - 6 + 2 * i as u64));
    assert_eq!(frame, [CODE as u16 + 2, 0, 0x302]);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.segment(1).base, cpu.rip(), cpu.regs[4]), (0, CODE + 2, STACK));
    assert_eq!(cpu.rflags(), 0x302);
}

#[test]
fn vectors_beyond_the_limit() {
    let mut cpu = real(&[0xcd, 0x10]);
    cpu.state.idtr = TableRegister { base: 0, limit: 0x10 * 4 + 2 };
    assert_eq!(step(&mut cpu), gp(0x10 * 8 + 2));
    cpu.state.idtr.limit = 0;
    let exception = x86::Exception::gp(0);
    assert!(cpu.deliver_exception(exception).is_err());
    assert!(matches!(cpu.stop, Stop::TripleFault(_)));
}

#[test]
fn far_call_and_return() {
    let mut cpu = real(&[0x9a, 0x10, 0x00, 0x00, 0x02]);
    cpu.bus.poke(0x2010, 0xcbu8);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.segment(1).base, cpu.rip()), (0x2000, 0x10));
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.segment(1).base, cpu.rip(), cpu.regs[4]), (0, CODE + 5, STACK));
}

#[test]
fn unreal_mode_keeps_limits() {
    let mut cpu = real(&[0x8e, 0xd8]);
    cpu.state.segments[3].limit = u32::MAX;
    cpu.regs[0] = 0x1234;
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.segment(3).base, cpu.segment(3).limit), (0x1_2340, u32::MAX));
}

#[test]
fn into_protected_mode_and_long_jump() {
    // LGDT [0x1800]; MOV EAX, CR0; OR AL, 1; MOV CR0, EAX; JMP 8:0xc000
    let code = [
        0x0f, 0x01, 0x16, 0x00, 0x18, 0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0, 0xea, 0x00,
        0xc0, 0x08, 0x00,
    ];
    let tables = protected(0, &[]);
    let mut cpu = real(&code);
    let gdt: u64 = 0x2000;
    for index in 0..18 {
        let descriptor: u64 = tables.bus.peek(gdt + 8 * index);
        cpu.bus.poke(gdt + 8 * index, descriptor);
    }
    cpu.bus.poke(0x1800, 0x8fu16);
    cpu.bus.poke(0x1802, gdt as u32 | 0x5500_0000);
    assert_eq!(run(&mut cpu, 4), Stop::None);
    assert_eq!(cpu.state.gdtr, TableRegister { base: gdt, limit: 0x8f }, "24 bits of base");
    assert_eq!((cpu.mode, cpu.cpl), (Mode::Protected16, 0));
    assert!(cpu.has_cr0(Cr0::PE));
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.mode, cpu.rip()), (Mode::Protected32, 0xc000));
}

#[test]
fn descriptor_instructions_are_undefined() {
    for code in [[0x0f, 0x00, 0xc0], [0x0f, 0x00, 0xd0], [0x0f, 0x02, 0xc0], [0x0f, 0x00, 0xe0]] {
        let mut cpu = real(&code);
        assert_eq!(step(&mut cpu), Stop::Fault(x86::Exception::UD));
    }
}
