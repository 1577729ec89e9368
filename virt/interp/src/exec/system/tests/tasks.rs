//! Hardware task switches.

use x86::{Cr0, Dr6, Exception, Flags, Vector};

use super::{
    GDT, STACK_0, TSS, TSS_2, fault, gp, protected, put_gdt, sel, set_gate, stack32, system,
};
use crate::cpu::{Cpu, Mode, Stop};
use crate::testing::{FlatBus, STACK, step};

const ENTRY: u32 = 0xd000;

/// Ring 0 with a second task at `ENTRY`, its registers 1..8, about to run `code`.
fn two_tasks(level: u16, code: &[u8]) -> Cpu<FlatBus> {
    let mut cpu = protected(level, code);
    cpu.bus.poke(TSS_2 + 0x20, ENTRY);
    cpu.bus.poke(TSS_2 + 0x24, 2u32);
    for index in 0..8u32 {
        cpu.bus.poke(TSS_2 + 0x28 + 4 * u64::from(index), index + 1);
    }
    cpu.bus.poke(TSS_2 + 0x38, STACK_0 as u32);
    let selectors = [sel::DATA_0, sel::CODE_0, sel::DATA_0, sel::DATA_0, 0, sel::DATA_3];
    for (index, selector) in selectors.into_iter().enumerate() {
        cpu.bus.poke(TSS_2 + 0x48 + 4 * index as u64, selector);
    }
    cpu
}

fn far(opcode: u8, selector: u16) -> [u8; 7] {
    let [low, high] = selector.to_le_bytes();
    [opcode, 0, 0, 0, 0, low, high]
}

fn access(cpu: &Cpu<FlatBus>, selector: u16) -> u8 {
    cpu.bus.peek(GDT + u64::from(selector) + 5)
}

#[test]
fn jump_to_a_tss_switches_without_nesting() {
    let mut cpu = two_tasks(0, &far(0xea, sel::TSS_2));
    (cpu.regs[0], cpu.regs[7]) = (0xaa, 0x77);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.rip(), u64::from(ENTRY));
    assert_eq!(cpu.regs[..4], [1, 2, 3, 4]);
    assert_eq!((cpu.regs[4], cpu.regs[7]), (STACK_0, 8));
    assert_eq!((cpu.segment(4).selector, cpu.segment(5).selector), (0, sel::DATA_3));
    assert!(cpu.has_cr0(Cr0::TS) && !cpu.has_flag(Flags::NT));
    assert_eq!((access(&cpu, sel::TSS), access(&cpu, sel::TSS_2)), (0x89, 0x8b));
    assert_eq!(cpu.state.tr.selector, sel::TSS_2);
    assert_eq!(cpu.bus.peek::<u32>(TSS + 0x20), 0x1007, "EIP saved");
    assert_eq!(cpu.bus.peek::<u32>(TSS + 0x28), 0xaa);
    assert_eq!(cpu.bus.peek::<u32>(TSS + 0x38), STACK as u32);
    assert_eq!(cpu.bus.peek::<u16>(TSS + 0x4c), sel::CODE_0);
}

#[test]
fn call_nests_and_iret_returns() {
    for target in [sel::TSS_2, sel::TASK_GATE] {
        let mut cpu = two_tasks(0, &far(0x9a, target));
        cpu.bus.poke(u64::from(ENTRY), 0xcfu8);
        cpu.regs[3] = 0x33;
        assert_eq!(step(&mut cpu), Stop::None);
        assert!(cpu.has_flag(Flags::NT));
        assert_eq!(cpu.bus.peek::<u16>(TSS_2), sel::TSS, "back link");
        assert_eq!((access(&cpu, sel::TSS), access(&cpu, sel::TSS_2)), (0x8b, 0x8b));
        assert_eq!(step(&mut cpu), Stop::None);
        assert_eq!((cpu.rip(), cpu.regs[3], cpu.regs[4]), (0x1007, 0x33, STACK));
        assert!(!cpu.has_flag(Flags::NT));
        assert_eq!((access(&cpu, sel::TSS), access(&cpu, sel::TSS_2)), (0x8b, 0x89));
        assert_eq!(cpu.bus.peek::<u32>(TSS_2 + 0x24) & Flags::NT.bits() as u32, 0);
    }
}

#[test]
fn exception_through_a_task_gate_pushes_its_code() {
    let mut cpu = two_tasks(3, &[]);
    set_gate(&mut cpu, 13, sel::TSS_2, 0x85);
    cpu.deliver_exception(Exception::gp(0x48)).expect("a task handles it");
    assert_eq!((cpu.cpl, cpu.rip(), cpu.regs[4]), (0, u64::from(ENTRY), STACK_0 - 4));
    assert_eq!(stack32::<1>(&cpu), [0x48]);
    assert!(cpu.has_flag(Flags::NT));
}

#[test]
fn faults_before_the_switch_stay_in_the_old_task() {
    let run = |target: u16, level: u16, change: fn(&mut Cpu<FlatBus>)| {
        let mut cpu = two_tasks(level, &far(0x9a, target));
        change(&mut cpu);
        let stop = step(&mut cpu);
        assert_eq!(cpu.state.tr.selector, sel::TSS);
        stop
    };
    let selector = u32::from(sel::TSS_2);
    assert_eq!(run(sel::TSS_2, 3, |_| {}), gp(selector), "DPL");
    assert_eq!(run(sel::TSS, 0, |_| {}), gp(u32::from(sel::TSS)), "busy");
    let small = |cpu: &mut Cpu<FlatBus>| put_gdt(cpu, sel::TSS_2, system(TSS_2, 0x66, 9));
    assert_eq!(run(sel::TSS_2, 0, small), fault(Vector::InvalidTss, selector));
    let absent =
        |cpu: &mut Cpu<FlatBus>| put_gdt(cpu, sel::TSS_2, system(TSS_2, 0x67, 9) & !(1 << 47));
    assert_eq!(run(sel::TSS_2, 0, absent), fault(Vector::SegmentNotPresent, selector));
    assert_eq!(run(sel::TASK_GATE, 0, absent), fault(Vector::SegmentNotPresent, selector));
}

#[test]
fn faults_after_the_switch_belong_to_the_new_task() {
    let run = |field: u64, value: u16| {
        let mut cpu = two_tasks(0, &far(0xea, sel::TSS_2));
        cpu.bus.poke(TSS_2 + field, value);
        let stop = step(&mut cpu);
        assert_eq!(cpu.state.tr.selector, sel::TSS_2);
        assert_eq!(cpu.rip(), u64::from(ENTRY), "RIP is the new task's");
        stop
    };
    let ts = |code| Stop::TrapAfter(Exception::with_code(Vector::InvalidTss, code));
    assert_eq!(run(0x60, sel::TSS), ts(u32::from(sel::TSS)), "LDT");
    assert_eq!(run(0x4c, 0), ts(0), "null CS");
    assert_eq!(run(0x4c, sel::DATA_0), ts(u32::from(sel::DATA_0)));
    assert_eq!(run(0x50, 0), ts(0), "null SS");
    assert_eq!(run(0x50, sel::DATA_3), ts(u32::from(sel::DATA_3)));
    assert_eq!(run(0x54, sel::TSS), ts(u32::from(sel::TSS)), "DS");
    let absent = Exception::with_code(Vector::SegmentNotPresent, u32::from(sel::ABSENT));
    assert_eq!(run(0x54, sel::ABSENT), Stop::TrapAfter(absent));
}

#[test]
fn the_t_bit_traps_in_the_new_task() {
    let mut cpu = two_tasks(0, &far(0xea, sel::TSS_2));
    cpu.bus.poke(TSS_2 + 0x64, 1u16);
    assert_eq!(step(&mut cpu), Stop::TrapAfter(Exception::debug(Dr6::BT.bits())));
    assert_eq!(cpu.rip(), u64::from(ENTRY));
}

#[test]
fn sixteen_bit_tasks() {
    let mut cpu = two_tasks(0, &far(0x9a, sel::TSS_16));
    cpu.bus.poke(TSS_2 + 0x0e, 0xd100u16);
    cpu.bus.poke(TSS_2 + 0x10, 2u16);
    for index in 0..8u16 {
        cpu.bus.poke(TSS_2 + 0x12 + 2 * u64::from(index), index + 1);
    }
    let selectors = [sel::DATA_0, sel::CODE_0, sel::DATA_0, sel::DATA_0, 0];
    for (index, selector) in selectors.into_iter().enumerate() {
        cpu.bus.poke(TSS_2 + 0x22 + 2 * index as u64, selector);
    }
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.rip(), cpu.regs[0], cpu.regs[7]), (0xd100, 1, 8));
    assert_eq!(cpu.segment(5).selector, 0, "no FS and GS in a 16-bit TSS");
    assert_eq!(access(&cpu, sel::TSS_16), 0x83);
    cpu.bus.poke(0xd100, 0xcfu8);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.rip(), 0x1007);
    assert_eq!(cpu.bus.peek::<u16>(TSS_2 + 0x0e), 0xd101);
}

#[test]
fn a_task_may_be_virtual_8086() {
    let mut cpu = two_tasks(0, &far(0xea, sel::TSS_2));
    cpu.bus.poke(TSS_2 + 0x24, 2 | Flags::VM.bits() as u32);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.mode, cpu.cpl), (Mode::Vm86, 3));
    assert_eq!(cpu.segment(1).base, u64::from(sel::CODE_0) << 4);
}
