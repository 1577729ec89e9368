//! Segment loads, gates, far transfers and IRET in 32-bit protected mode.

use x86::{Flags, Vector, segment::attr};

use super::{
    DATA, GDT, LDT, STACK_0, STACK_1, TSS, dpl, fault, flat, gate, gp, handler, protected, put_gdt,
    sel, set_gate, stack32,
};
use crate::cpu::{Cpu, Mode, Stop};
use crate::testing::{CODE, FlatBus, STACK, step};

/// MOV sreg, AX at a level.
fn load(level: u16, modrm: u8, selector: u16) -> (Cpu<FlatBus>, Stop) {
    let mut cpu = protected(level, &[0x8e, modrm]);
    cpu.regs[0] = u64::from(selector);
    let stop = step(&mut cpu);
    (cpu, stop)
}

const MOV_ES: u8 = 0xc0;
const MOV_SS: u8 = 0xd0;
const MOV_FS: u8 = 0xe0;

#[test]
fn loading_data_segments() {
    let (cpu, stop) = load(0, MOV_ES, sel::DATA_3 | 3);
    assert_eq!(stop, Stop::None);
    assert_eq!(cpu.segment(0).selector, sel::DATA_3 | 3);
    assert!(cpu.segment(0).attributes & attr::ACCESSED != 0);
    let access: u8 = cpu.bus.peek(GDT + u64::from(sel::DATA_3) + 5);
    assert_eq!(access & 1, 1, "accessed in the table");
    let (cpu, stop) = load(3, MOV_FS, 2);
    assert_eq!((stop, cpu.segment(4).selector), (Stop::None, 2));
    assert!(!cpu.segment(4).is_present());
    for (level, selector, expected) in [
        (3, sel::DATA_0, gp(u32::from(sel::DATA_0))),
        (0, sel::DATA_0 | 3, gp(u32::from(sel::DATA_0))),
        (0, sel::ABSENT, fault(Vector::SegmentNotPresent, u32::from(sel::ABSENT))),
        (0, sel::TSS, gp(u32::from(sel::TSS))),
        (0, 0x98, gp(0x98)),
        (0, 0x0c, gp(0x0c)),
        (3, sel::CONFORMING | 3, Stop::None),
    ] {
        assert_eq!(load(level, MOV_ES, selector).1, expected, "{level} {selector:#x}");
    }
    assert_eq!(load(0, 0xc8, sel::CODE_0).1, Stop::Fault(x86::Exception::UD), "MOV CS");
}

#[test]
fn loading_stack_segments() {
    let (cpu, stop) = load(0, MOV_SS, sel::STACK_16);
    assert_eq!(stop, Stop::None);
    assert!(cpu.state.mov_ss_shadow);
    assert_eq!(cpu.stack_bits(), 16);
    for (level, selector, expected) in [
        (0, 0, gp(0)),
        (0, sel::DATA_3 | 3, gp(u32::from(sel::DATA_3))),
        (0, sel::DATA_3, gp(u32::from(sel::DATA_3))),
        (3, sel::READ_ONLY | 3, gp(u32::from(sel::READ_ONLY))),
        (3, sel::ABSENT | 3, fault(Vector::StackFault, u32::from(sel::ABSENT))),
        (0, sel::CODE_0, gp(u32::from(sel::CODE_0))),
    ] {
        assert_eq!(load(level, MOV_SS, selector).1, expected, "{level} {selector:#x}");
    }
}

#[test]
fn ldt_descriptors_need_an_ldt() {
    // LLDT AX; MOV ES, CX.
    let mut cpu = protected(0, &[0x0f, 0x00, 0xd0, 0x8e, 0xc1]);
    cpu.bus.poke(LDT + 8, flat(DATA | dpl(3)));
    cpu.regs[0] = u64::from(sel::LDT);
    cpu.regs[1] = 0x0c;
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.state.ldtr.base, LDT);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.segment(0).selector, 0x0c);
    let mut cpu = protected(0, &[0x0f, 0x00, 0xd0]);
    cpu.regs[0] = u64::from(sel::TSS_2);
    assert_eq!(step(&mut cpu), gp(u32::from(sel::TSS_2)), "LLDT of a TSS");
}

#[test]
fn push_and_pop_of_segments() {
    // PUSH ES; POP FS; PUSH SS (16-bit); POP SS (16-bit).
    let mut cpu = protected(0, &[0x06, 0x0f, 0xa1, 0x66, 0x16, 0x66, 0x17]);
    cpu.bus.poke(STACK - 4, 0xdead_beefu32);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.regs[4], STACK - 4);
    assert_eq!(stack32::<1>(&cpu), [0xdead_0010], "two bytes are written");
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.segment(4).selector, cpu.regs[4]), (0x10, STACK));
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.regs[4], STACK - 2);
    assert_eq!(step(&mut cpu), Stop::None);
    assert!(cpu.state.mov_ss_shadow);
}

#[test]
fn interrupt_from_ring_3_and_iret_back() {
    let mut cpu = protected(3, &[0xcd, 0x80]);
    set_gate(&mut cpu, 0x80, sel::CODE_0, 0xee);
    cpu.state.rflags |= Flags::IF.bits();
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.rip(), cpu.cpl, cpu.regs[4]), (handler(0x80), 0, STACK_0 - 20));
    let frame: [u32; 5] = stack32(&cpu);
    assert_eq!(frame, [0x1002, 0x1b, 0x202, STACK as u32, 0x23]);
    assert!(!cpu.bus.context.user);
    // DS of ring 0 must not leak into ring 3.
    cpu.state.segments[3] = *cpu.segment(2);
    cpu.bus.poke(handler(0x80), 0xcfu8);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.rip(), cpu.cpl, cpu.regs[4]), (0x1002, 3, STACK));
    assert_eq!(cpu.rflags(), 0x202);
    assert_eq!(cpu.segment(3).selector, 0, "DS of DPL 0 is nulled");
    assert_eq!(cpu.segment(0).selector, sel::DATA_3 | 3, "ES of DPL 3 stays");
    assert!(cpu.bus.context.user);
}

#[test]
fn int_n_checks_the_gate() {
    let run = |entry: u64| {
        let mut cpu = protected(3, &[0xcd, 0x80]);
        cpu.bus.poke(super::IDT + 8 * 0x80, entry);
        step(&mut cpu)
    };
    let code = 0x80 * 8 + 2;
    assert_eq!(run(gate(sel::CODE_0, 0, 0x8e, 0)), gp(code), "DPL 0");
    assert_eq!(run(gate(sel::CODE_0, 0, 0x6e, 0)), fault(Vector::SegmentNotPresent, code));
    assert_eq!(run(gate(sel::CODE_0, 0, 0xec, 0)), gp(code), "a call gate");
    assert_eq!(run(gate(0, 0, 0xee, 0)), gp(0));
    assert_eq!(run(gate(sel::DATA_0, 0, 0xee, 0)), gp(u32::from(sel::DATA_0)));
    assert_eq!(run(gate(0x98, 0, 0xee, 0)), gp(0x98));
    let mut cpu = protected(3, &[0xcd, 0x80]);
    cpu.state.idtr.limit = 0x80 * 8 + 6;
    assert_eq!(step(&mut cpu), gp(code), "beyond the limit");
    let mut cpu = protected(3, &[0xcc]);
    assert_eq!(step(&mut cpu), gp(3 * 8 + 2), "INT3 checks DPL");
    let mut cpu = protected(3, &[0xf1]);
    assert_eq!(step(&mut cpu), Stop::None, "INT1 does not");
    assert_eq!(cpu.rip(), handler(1));
}

#[test]
fn inner_stack_faults() {
    let run = |change: fn(&mut Cpu<FlatBus>)| {
        let mut cpu = protected(3, &[0xcd, 0x80]);
        set_gate(&mut cpu, 0x80, sel::CODE_0, 0xee);
        change(&mut cpu);
        step(&mut cpu)
    };
    let ts = |code| fault(Vector::InvalidTss, code);
    assert_eq!(run(|cpu| cpu.bus.poke(TSS + 8, 0u16)), ts(0));
    let wrong = u32::from(sel::DATA_3);
    assert_eq!(run(|cpu| cpu.bus.poke(TSS + 8, sel::DATA_3)), ts(wrong));
    assert_eq!(run(|cpu| cpu.state.tr.limit = 8), ts(u32::from(sel::TSS)));
    let absent = |cpu: &mut Cpu<FlatBus>| {
        put_gdt(cpu, sel::DATA_0, flat((DATA | attr::DB) & !attr::PRESENT));
    };
    assert_eq!(run(absent), fault(Vector::StackFault, u32::from(sel::DATA_0)));
    let small = |cpu: &mut Cpu<FlatBus>| {
        put_gdt(cpu, sel::DATA_0, x86::Descriptor::new(0, 0xfff, DATA | attr::DB).0);
    };
    assert_eq!(run(small), fault(Vector::StackFault, u32::from(sel::DATA_0)));
}

#[test]
fn sixteen_bit_gates_push_words() {
    let mut cpu = protected(0, &[0xcd, 0x80]);
    set_gate(&mut cpu, 0x80, sel::CODE_0, 0x86);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.regs[4], STACK - 6);
    assert_eq!(cpu.bus.peek::<u16>(cpu.regs[4]), 0x1002);
    cpu.bus.poke_bytes(handler(0x80), &[0x66, 0xcf]);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.rip(), cpu.regs[4]), (0x1002, STACK));
}

fn far_jump(selector: u16) -> [u8; 7] {
    let [low, high] = selector.to_le_bytes();
    [0xea, 0x00, 0xc0, 0, 0, low, high]
}

fn far_call(selector: u16) -> [u8; 7] {
    let mut code = far_jump(selector);
    code[0] = 0x9a;
    code
}

#[test]
fn far_jumps() {
    let mut cpu = protected(0, &far_jump(sel::CODE_16));
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.mode, cpu.rip()), (Mode::Protected16, 0xc000));
    let mut cpu = protected(3, &far_jump(sel::CONFORMING));
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.cpl, cpu.segment(1).selector), (3, sel::CONFORMING | 3));
    for (level, selector, expected) in [
        (3, sel::CODE_0, gp(u32::from(sel::CODE_0))),
        (0, sel::CODE_3, gp(u32::from(sel::CODE_3))),
        (0, sel::CODE_0 | 1, gp(u32::from(sel::CODE_0))),
        (0, sel::DATA_0, gp(u32::from(sel::DATA_0))),
        (0, 0, gp(0)),
        (3, sel::CALL_GATE, gp(u32::from(sel::CODE_0))),
    ] {
        let mut cpu = protected(level, &far_jump(selector));
        assert_eq!(step(&mut cpu), expected, "{level} {selector:#x}");
    }
    let mut cpu = protected(0, &far_jump(sel::CODE_0));
    put_gdt(&mut cpu, sel::CODE_0, x86::Descriptor::new(0, 0xbfff, super::CODE | attr::DB).0);
    assert_eq!(step(&mut cpu), gp(0), "beyond the limit");
}

#[test]
fn far_call_and_return_at_one_level() {
    let mut cpu = protected(0, &far_call(sel::CODE_0));
    cpu.bus.poke_bytes(0xc000, &[0xca, 8, 0]);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(stack32::<2>(&cpu), [0x1007, 8]);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.rip(), cpu.regs[4]), (0x1007, STACK + 8));
}

#[test]
fn call_gate_to_ring_0_copies_parameters_and_retf_goes_back() {
    let mut cpu = protected(3, &far_call(sel::CALL_GATE));
    put_gdt(&mut cpu, sel::CALL_GATE, gate(sel::CODE_0, 0xb000, 0xec, 2));
    cpu.bus.poke(STACK, 0x11u32);
    cpu.bus.poke(STACK + 4, 0x22u32);
    cpu.bus.poke_bytes(0xb000, &[0xca, 8, 0]);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.rip(), cpu.cpl, cpu.regs[4]), (0xb000, 0, STACK_0 - 24));
    assert_eq!(stack32::<6>(&cpu), [0x1007, 0x1b, 0x11, 0x22, STACK as u32, 0x23]);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.rip(), cpu.cpl, cpu.regs[4]), (0x1007, 3, STACK + 8));
}

#[test]
fn call_gate_to_ring_1() {
    let mut cpu = protected(3, &far_call(sel::CALL_GATE));
    put_gdt(&mut cpu, sel::CALL_GATE, gate(sel::CODE_1, 0xb000, 0xec, 0));
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.cpl, cpu.regs[4]), (1, STACK_1 - 16));
    assert_eq!(cpu.segment(1).selector, sel::CODE_1 | 1);
    let mut cpu = protected(3, &far_call(sel::CALL_GATE));
    put_gdt(&mut cpu, sel::CALL_GATE, gate(sel::CODE_1, 0xb000, 0x8c, 0));
    assert_eq!(step(&mut cpu), gp(u32::from(sel::CALL_GATE)), "the gate's DPL");
}

#[test]
fn iret_checks() {
    let run = |level: u16, frame: &[u32]| {
        let mut cpu = protected(level, &[0xcf]);
        for (index, value) in frame.iter().enumerate() {
            cpu.bus.poke(STACK + 4 * index as u64, *value);
        }
        let stop = step(&mut cpu);
        (cpu, stop)
    };
    assert_eq!(run(0, &[0, 0, 2]).1, gp(0), "null CS");
    assert_eq!(run(3, &[0, 8, 2]).1, gp(8), "inwards");
    assert_eq!(run(0, &[0, 0x10, 2]).1, gp(0x10), "data");
    assert_eq!(run(0, &[0, 0x1b, 2, 0, 0]).1, gp(0), "null SS");
    assert_eq!(run(0, &[0, 0x1b, 2, 0, 0x10]).1, gp(0x10), "SS of ring 0");
    // At CPL 3 with IOPL 0 neither IF nor IOPL change.
    let (cpu, stop) = run(3, &[0x40, 0x1b, 0x3202]);
    assert_eq!((stop, cpu.rflags()), (Stop::None, 2));
    let (cpu, _) = run(0, &[0x40, 8, 0x21_3202]);
    assert_eq!(cpu.rflags(), 0x21_3202);
}

#[test]
fn iret_to_a_16_bit_stack_keeps_the_high_half_of_esp() {
    let mut cpu = protected(0, &[0xcf]);
    put_gdt(&mut cpu, sel::STACK_16, flat(DATA | dpl(3)));
    let ss = u32::from(sel::STACK_16 | 3);
    for (index, value) in [0x40, 0x1b, 2, 0x1234_5678, ss].into_iter().enumerate() {
        cpu.bus.poke(STACK + 4 * index as u64, value);
    }
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.regs[4], STACK & !0xffff | 0x5678);
}

#[test]
fn descriptor_queries() {
    let query = |opcode: &[u8], selector: u16| {
        let mut cpu = protected(3, opcode);
        cpu.regs[1] = u64::from(selector);
        cpu.regs[0] = 0x55;
        assert_eq!(step(&mut cpu), Stop::None);
        cpu.flags.zero().then_some(cpu.regs[0])
    };
    let (lar, lsl): (&[u8], &[u8]) = (&[0x0f, 0x02, 0xc1], &[0x0f, 0x03, 0xc1]);
    let (verr, verw): (&[u8], &[u8]) = (&[0x0f, 0x00, 0xe1], &[0x0f, 0x00, 0xe9]);
    assert_eq!(query(lar, sel::DATA_3 | 3), Some(0xcf_f200));
    assert_eq!(query(lar, sel::DATA_0), None);
    assert_eq!(query(lar, sel::CALL_GATE), Some(0xec00));
    assert_eq!(query(lar, 0), None);
    assert_eq!(query(lar, 0x98), None);
    assert_eq!(query(lsl, sel::DATA_3 | 3), Some(0xffff_ffff));
    assert_eq!(query(lsl, sel::CALL_GATE), None);
    assert!(query(verr, sel::READ_ONLY | 3).is_some() && query(verw, sel::READ_ONLY | 3).is_none());
    assert!(query(verw, sel::DATA_3 | 3).is_some() && query(verw, sel::CODE_3 | 3).is_none());
    assert!(query(verr, sel::CONFORMING).is_some() && query(verr, sel::CODE_0).is_none());
}

#[test]
fn arpl_raises_the_requested_level() {
    let mut cpu = protected(0, &[0x63, 0xc8, 0x63, 0xc8]);
    (cpu.regs[0], cpu.regs[1]) = (0x10, 3);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.regs[0], cpu.flags.zero()), (0x13, true));
    assert_eq!(step(&mut cpu), Stop::None);
    assert!(!cpu.flags.zero());
}

#[test]
fn arpl_that_changes_nothing_does_not_write() {
    // ARPL [DATA], CX in a read-only segment (found by test386.asm).
    let mut cpu = protected(0, &[0x63, 0x0d, 0, 0, 1, 0]);
    cpu.state.segments[3].attributes &= !attr::WRITE_READ;
    cpu.bus.poke(crate::testing::DATA, 0x13u16);
    cpu.regs[1] = 2;
    assert_eq!(step(&mut cpu), Stop::None);
    assert!(!cpu.flags.zero());
    cpu.bus.poke(crate::testing::DATA, 0x10u16);
    cpu.set_rip(CODE);
    assert_eq!(step(&mut cpu), gp(0));
}

#[test]
fn loading_the_task_register_marks_it_busy() {
    let mut cpu = protected(0, &[0x0f, 0x00, 0xd8, 0x0f, 0x00, 0xc8]);
    cpu.regs[0] = u64::from(sel::TSS_2);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.bus.peek::<u8>(GDT + u64::from(sel::TSS_2) + 5), 0x8b);
    assert_eq!(cpu.state.tr.kind(), 11);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.regs[0], u64::from(sel::TSS_2), "STR");
    let mut cpu = protected(0, &[0x0f, 0x00, 0xd8]);
    cpu.regs[0] = u64::from(sel::TSS);
    assert_eq!(step(&mut cpu), gp(u32::from(sel::TSS)), "already busy");
    let mut cpu = protected(3, &[0x0f, 0x00, 0xd8]);
    assert_eq!((step(&mut cpu), cpu.rip()), (gp(0), CODE));
}
