//! PUSH, POP, PUSHA, POPA, ENTER, LEAVE.

use x86::Exception;

use super::*;
use crate::testing::{DATA, MEMORY, STACK, real, step};

#[test]
fn pushes() {
    let cases: [(&[u8], u64, u64); 8] = [
        (&[0x50], 0x1122_3344_5566_7788, 8),
        (&[0x66, 0x50], 0x7788, 2),
        (&[0x54], STACK, 8), // push rsp
        (&[0x6a, 0xfe], u64::MAX - 1, 8),
        (&[0x68, 0, 0, 0, 0x80], 0xffff_ffff_8000_0000, 8),
        (&[0x66, 0x6a, 0xfe], 0xfffe, 2),
        (&[0xff, 0x37], 0x99aa_bbcc_ddee_ff00, 8), // push [rdi]
        (&[0x66, 0xff, 0x37], 0xff00, 2),
    ];
    for (bytes, value, size) in cases {
        let mut bench = Bench::new(bytes);
        bench.cpu.regs[0] = 0x1122_3344_5566_7788;
        bench.cpu.regs[7] = DATA;
        bench.cpu.bus.poke(DATA, 0x99aa_bbcc_ddee_ff00_u64);
        bench.run(0);
        assert_eq!(bench.cpu.regs[4], STACK - size, "{bytes:x?}");
        assert_eq!(bench.cpu.bus.peek::<u64>(STACK - size), value, "{bytes:x?}");
    }
    let mut bench = Bench::sized(CodeSize::Bits32, &[0x68, 0, 0, 0, 0x80]);
    bench.run(0);
    assert_eq!((bench.cpu.regs[4], bench.cpu.bus.peek::<u32>(STACK - 4)), (STACK - 4, 0x8000_0000));
}

#[test]
fn pops() {
    let image = 0x1122_3344_5566_7788_u64;
    for (bytes, register, value, pointer) in [
        (&[0x58][..], 0, image, STACK + 8),
        (&[0x66, 0x58][..], 0, !0xffff | 0x7788, STACK + 2),
        (&[0x5c][..], 4, image, image),
        (&[0x8f, 0xc0][..], 0, image, STACK + 8),
    ] {
        let mut bench = Bench::new(bytes);
        bench.cpu.regs[0] = u64::MAX;
        bench.cpu.bus.poke(STACK, image);
        bench.run(0);
        assert_eq!((bench.cpu.regs[register], bench.cpu.regs[4]), (value, pointer), "{bytes:x?}");
    }
    // pop [rsp + 8]: the address uses the incremented pointer.
    let mut bench = Bench::new(&[0x8f, 0x44, 0x24, 8]);
    bench.cpu.bus.poke(STACK, image);
    bench.run(0);
    assert_eq!(bench.cpu.bus.peek::<u64>(STACK + 16), image);
    assert_eq!(bench.cpu.regs[4], STACK + 8);
    // A fault of the store leaves the pointer.
    let mut bench = Bench::new(&[0x8f, 0x07]);
    bench.cpu.regs[7] = MEMORY as u64;
    assert!(matches!(bench.try_run(0), Stop::Fault(_)));
    assert_eq!(bench.cpu.regs[4], STACK);
}

#[test]
fn stack_faults() {
    let mut push = Bench::new(&[0x50]);
    push.cpu.regs[4] = 0x8000_0000_0000;
    let last = Exception::page_fault(0x7fff_ffff_fff8, 2);
    assert_eq!(push.try_run(0), Stop::Fault(last), "the last canonical bytes");
    push.cpu.regs[4] = 0x8000_0000_0008;
    assert_eq!(push.try_run(0), Stop::Fault(Exception::SS0));
    let mut push = Bench::sized(CodeSize::Bits32, &[0x50]);
    push.cpu.state.segments[2].limit = STACK as u32 - 2;
    assert_eq!(push.try_run(0), Stop::Fault(Exception::SS0));
    assert_eq!(push.cpu.regs[4], STACK);
    let mut push = Bench::new(&[0x50]);
    push.cpu.bus.absent.insert((STACK - 1) >> 12);
    let fault = Exception::page_fault(STACK - 8, 2);
    assert_eq!(push.try_run(0), Stop::Fault(fault));
}

#[test]
fn sixteen_bit_stacks_wrap_and_keep_the_high_half() {
    let mut cpu = real(&[0x50, 0x66, 0x5b]); // push ax; pop ebx
    cpu.regs[4] = 0x1234_0000;
    cpu.regs[0] = 0xabcd;
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.regs[4], 0x1234_fffe);
    assert_eq!(cpu.bus.peek::<u16>(0xfffe), 0xabcd);
    cpu.regs[4] = 0x1234_fffc;
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!((cpu.regs[3], cpu.regs[4]), (0xabcd_0000, 0x1234_0000));
}

#[test]
fn pusha_and_popa() {
    let mut bench = Bench::sized(CodeSize::Bits32, &[0x60]);
    for register in [0, 1, 2, 3, 5, 6, 7] {
        bench.cpu.regs[register] = 0x1000 + register as u64;
    }
    bench.run(0);
    assert_eq!(bench.cpu.regs[4], STACK - 32);
    for register in 0..8u64 {
        let expected = if register == 4 { STACK } else { 0x1000 + register };
        let found = bench.cpu.bus.peek::<u32>(STACK - 4 - 4 * register);
        assert_eq!(u64::from(found), expected);
    }
    let before = bench.cpu.regs;
    bench.cpu.regs[..4].fill(0);
    bench.cpu.regs[5..8].fill(0);
    bench.op = testing::decoded(CodeSize::Bits32, &[0x61]);
    bench.run(0);
    assert_eq!(bench.cpu.regs[..4], before[..4]);
    assert_eq!(bench.cpu.regs[5..8], before[5..8]);
    assert_eq!(bench.cpu.regs[4], STACK);
    // A fault in the middle changes no register.
    let mut bench = Bench::sized(CodeSize::Bits32, &[0x60]);
    bench.cpu.regs[4] = 0x5010;
    bench.cpu.bus.absent.insert(4);
    assert!(matches!(bench.try_run(0), Stop::Fault(_)));
    assert_eq!(bench.cpu.regs[4], 0x5010);
}

#[test]
fn enter_and_leave() {
    let mut bench = Bench::new(&[0xc8, 0x20, 0, 0]);
    bench.cpu.regs[5] = 0x7777;
    bench.run(0);
    assert_eq!((bench.cpu.regs[5], bench.cpu.regs[4]), (STACK - 8, STACK - 8 - 0x20));
    assert_eq!(bench.cpu.bus.peek::<u64>(STACK - 8), 0x7777);
    bench.op = testing::decoded(CodeSize::Bits64, &[0xc9]);
    bench.run(0);
    assert_eq!((bench.cpu.regs[5], bench.cpu.regs[4]), (0x7777, STACK));
    // Three levels copy two outer frame pointers, then push the new one.
    let mut bench = Bench::new(&[0xc8, 0x10, 0, 3]);
    bench.cpu.regs[5] = DATA;
    bench.cpu.bus.poke(DATA - 8, 0x111_u64);
    bench.cpu.bus.poke(DATA - 16, 0x222_u64);
    bench.run(0);
    let frame: Vec<u64> = (1..=4).map(|n| bench.cpu.bus.peek(STACK - 8 * n)).collect();
    assert_eq!(frame, [DATA, 0x111, 0x222, STACK - 8]);
    assert_eq!((bench.cpu.regs[5], bench.cpu.regs[4]), (STACK - 8, STACK - 32 - 16));
    // 16-bit operand size on a 32-bit stack sets only BP.
    let mut bench = Bench::sized(CodeSize::Bits32, &[0x66, 0xc8, 4, 0, 0]);
    bench.cpu.regs[5] = 0x1234_5678;
    bench.run(0);
    assert_eq!((bench.cpu.regs[5], bench.cpu.regs[4]), (0x1234_0000 | (STACK - 2), STACK - 6));
    // The final top of stack must be writable.
    let mut bench = Bench::new(&[0xc8, 0, 0x20, 0]);
    bench.cpu.bus.absent.insert((STACK - 0x2008) >> 12);
    assert!(matches!(bench.try_run(0), Stop::Fault(_)));
    assert_eq!((bench.cpu.regs[5], bench.cpu.regs[4]), (0, STACK));
}
