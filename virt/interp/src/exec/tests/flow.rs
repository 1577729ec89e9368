//! Near branches: conditions, targets, faults.

use x86::Exception;

use super::*;
use crate::testing::{CODE, DATA, STACK, machine, real, step};

/// What a condition code means, from flags.
fn holds(code: u8, flags: u64) -> bool {
    let f = |bit| flags & bit != 0;
    let plain = match code / 2 {
        0 => f(OF),
        1 => f(CF),
        2 => f(ZF),
        3 => f(CF) || f(ZF),
        4 => f(SF),
        5 => f(PF),
        6 => f(SF) != f(OF),
        _ => f(ZF) || f(SF) != f(OF),
    };
    plain != (code % 2 == 1)
}

/// Every combination of the flags conditions look at.
fn combinations() -> impl Iterator<Item = u64> {
    (0..64u64).map(|n| {
        flag(n & 1 != 0, CF)
            | flag(n & 2 != 0, PF)
            | flag(n & 4 != 0, ZF)
            | flag(n & 8 != 0, SF)
            | flag(n & 16 != 0, OF)
            | flag(n & 32 != 0, AF)
    })
}

#[test]
fn conditional_jumps_moves_and_sets() {
    for code in 0..16u8 {
        let mut short = Bench::new(&[0x70 | code, 0xf0]);
        let mut near = Bench::new(&[0x0f, 0x80 | code, 0, 1, 0, 0]);
        let mut cmov = Bench::new(&[0x0f, 0x40 | code, 0xc1]); // eax, ecx
        let mut load = Bench::new(&[0x66, 0x0f, 0x40 | code, 0x07]); // ax, [rdi]
        let mut set = Bench::new(&[0x0f, 0x90 | code, 0xc4]); // ah
        let mut store = Bench::new(&[0x0f, 0x90 | code, 0x07]); // [rdi]
        let mut protected = Bench::sized(CodeSize::Bits32, &[0x70 | code, 0x10]);
        for flags in combinations() {
            let taken = holds(code, flags);
            assert_eq!(short.run(flags), flags);
            assert_eq!(short.cpu.rip(), CODE + 2 - if taken { 0x10 } else { 0 });
            near.run(flags);
            assert_eq!(near.cpu.rip(), CODE + 6 + if taken { 0x100 } else { 0 });
            protected.run(flags);
            assert_eq!(protected.cpu.rip(), CODE + 2 + if taken { 0x10 } else { 0 });
            cmov.cpu.regs[0] = u64::MAX;
            cmov.cpu.regs[1] = 0x5555_5555_1234_5678;
            assert_eq!(cmov.run(flags), flags);
            let expected = if taken { 0x1234_5678 } else { 0xffff_ffff };
            assert_eq!(cmov.cpu.regs[0], expected, "zero-extended in any case");
            load.cpu.regs[7] = DATA;
            load.cpu.regs[0] = u64::MAX;
            load.cpu.bus.poke(DATA, 0x1234_u16);
            load.run(flags);
            assert_eq!(load.cpu.regs[0] & 0xffff, if taken { 0x1234 } else { 0xffff });
            set.cpu.regs[0] = 0x7777;
            set.run(flags);
            assert_eq!(set.cpu.regs[0], 0x77 | u64::from(taken) << 8);
            store.cpu.regs[7] = DATA;
            store.run(flags);
            assert_eq!(store.cpu.bus.peek::<u8>(DATA), u8::from(taken));
        }
        load.cpu.regs[7] = crate::testing::MEMORY as u64;
        assert!(matches!(load.try_run(0), Stop::Fault(_)), "memory is read in any case");
    }
}

#[test]
fn calls_and_returns() {
    let mut call = Bench::new(&[0xe8, 0x10, 0, 0, 0]);
    call.run(0);
    assert_eq!(call.cpu.rip(), CODE + 0x15);
    assert_eq!(call.cpu.regs[4], STACK - 8);
    assert_eq!(call.cpu.bus.peek::<u64>(STACK - 8), CODE + 5);
    let mut ret = Bench::new(&[0xc2, 0x20, 0]);
    ret.cpu.bus.poke(STACK, 0x1234_u64);
    ret.run(0);
    assert_eq!((ret.cpu.rip(), ret.cpu.regs[4]), (0x1234, STACK + 8 + 0x20));
    // call [rsp + 8]: the address is made before the push
    let mut call = Bench::new(&[0xff, 0x54, 0x24, 8]);
    call.cpu.bus.poke(STACK + 8, 0x4321_u64);
    call.run(0);
    assert_eq!((call.cpu.rip(), call.cpu.regs[4]), (0x4321, STACK - 8));
    // call rsp: the target is the pointer before the push
    let mut call = Bench::new(&[0xff, 0xd4]);
    call.run(0);
    assert_eq!(call.cpu.rip(), STACK);
    // 32-bit code, 16-bit operand size: target truncated, two bytes pushed.
    let mut call = Bench::sized(CodeSize::Bits32, &[0x66, 0xe8, 0xf0, 0xff]);
    call.run(0);
    assert_eq!((call.cpu.rip(), call.cpu.regs[4]), (CODE + 4 - 0x10, STACK - 2));
    assert_eq!(call.cpu.bus.peek::<u16>(STACK - 2), CODE as u16 + 4);
    let mut ret = Bench::sized(CodeSize::Bits32, &[0x66, 0xc3]);
    ret.cpu.bus.poke(STACK, 0xabcd_1234_u32);
    ret.run(0);
    assert_eq!((ret.cpu.rip(), ret.cpu.regs[4]), (0x1234, STACK + 2));
}

#[test]
fn bad_targets_fault_before_anything_changes() {
    let gp = Stop::Fault(Exception::GP0);
    let mut jump = Bench::new(&[0xff, 0xe0]); // jmp rax
    jump.cpu.regs[0] = 0x8000_0000_0000;
    assert_eq!(jump.try_run(0), gp);
    let mut call = Bench::new(&[0xff, 0xd0]); // call rax
    call.cpu.regs[0] = 1 << 63;
    assert_eq!(call.try_run(0), gp);
    assert_eq!(call.cpu.regs[4], STACK);
    assert_eq!(call.cpu.bus.peek::<u64>(STACK - 8), 0, "nothing was pushed");
    let mut ret = Bench::new(&[0xc3]);
    ret.cpu.bus.poke(STACK, 1_u64 << 50);
    assert_eq!(ret.try_run(0), gp);
    assert_eq!(ret.cpu.regs[4], STACK);
    let mut looping = Bench::sized(CodeSize::Bits32, &[0xe2, 0x7f]);
    looping.cpu.state.segments[1].limit = CODE as u32 + 4;
    looping.cpu.regs[1] = 5;
    assert_eq!(looping.try_run(0), gp);
    assert_eq!(looping.cpu.regs[1], 5);
    // Real mode: a 32-bit displacement leaves the 64 KiB.
    let mut cpu = real(&[0x66, 0xe9, 0, 0, 1, 0]);
    assert_eq!(step(&mut cpu), gp);
    let mut cpu = real(&[0xe9, 0xfd, 0xef]);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.rip(), 0, "16-bit targets wrap");
    // A stack that is not canonical raises #SS.
    let mut call = Bench::new(&[0xe8, 0, 0, 0, 0]);
    call.cpu.regs[4] = 1 << 60;
    assert_eq!(call.try_run(0), Stop::Fault(Exception::SS0));
}

#[test]
fn loops_and_count_jumps_use_the_address_size() {
    let cases: [(&[u8], u64, u64, bool); 9] = [
        (&[0xe2, 0x10], 2, 1, true),
        (&[0xe2, 0x10], 1, 0, false),
        (&[0xe2, 0x10], 0, u64::MAX, true),
        (&[0x67, 0xe2, 0x10], 0xffff_ffff_0000_0001, 0, false),
        (&[0x67, 0xe2, 0x10], 0xffff_ffff_0000_0000, 0xffff_ffff, true),
        (&[0xe3, 0x10], 0, 0, true),
        (&[0xe3, 0x10], 1 << 32, 1 << 32, false),
        (&[0x67, 0xe3, 0x10], 1 << 32, 1 << 32, true),
        (&[0x67, 0xe3, 0x10], 1, 1, false),
    ];
    for (bytes, before, after, taken) in cases {
        let mut bench = Bench::new(bytes);
        bench.cpu.regs[1] = before;
        assert_eq!(bench.run(ALL), ALL);
        let next = CODE + bytes.len() as u64;
        assert_eq!(bench.cpu.rip(), next + if taken { 0x10 } else { 0 }, "{bytes:x?} {before:x}");
        assert_eq!(bench.cpu.regs[1], after, "{bytes:x?} {before:x}");
    }
    for (opcode, flags, taken) in
        [(0xe1, ZF, true), (0xe1, 0, false), (0xe0, ZF, false), (0xe0, 0, true)]
    {
        let mut bench = Bench::new(&[opcode, 0x10]);
        bench.cpu.regs[1] = 2;
        bench.run(flags);
        assert_eq!(bench.cpu.rip(), CODE + 2 + if taken { 0x10 } else { 0 });
        assert_eq!(bench.cpu.regs[1], 1);
    }
    // 16-bit code counts in CX.
    let mut cpu = machine(CodeSize::Bits16, &[0xe2, 0xfe]);
    cpu.regs[1] = 0x1_0000;
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.regs[1], cpu.rip()), (0x1_ffff, CODE));
}

#[test]
fn branches_end_their_block() {
    for bytes in
        [&[0x70, 0][..], &[0xeb, 0], &[0xe8, 0, 0, 0, 0], &[0xc3], &[0xff, 0xe0], &[0xe2, 0]]
    {
        let op = testing::decoded(CodeSize::Bits64, bytes);
        assert!(op.flags.contains(crate::op::OpFlags::ENDS_BLOCK), "{bytes:x?}");
    }
    let op = testing::decoded(CodeSize::Bits64, &[0x01, 0xc8]);
    assert!(!op.flags.contains(crate::op::OpFlags::ENDS_BLOCK));
}
