//! Exchanges, with and without LOCK.

use x86::Exception;

use super::*;
use crate::testing::DATA;

#[test]
fn xchg_with_memory_is_atomic_without_being_asked() {
    let mut bench = Bench::new(&[0x87, 0x0f]); // xchg [rdi], ecx
    bench.cpu.regs[7] = DATA;
    bench.cpu.regs[1] = 0xffff_ffff_1111_2222;
    bench.cpu.bus.poke(DATA, 0x3333_4444_5555_6666_u64);
    assert_eq!(bench.run(ALL), ALL);
    assert_eq!(bench.cpu.regs[1], 0x5555_6666);
    assert_eq!(bench.cpu.bus.peek::<u64>(DATA), 0x3333_4444_1111_2222);
    assert_eq!(bench.cpu.bus.atomics, 1);
}

#[test]
fn xchg_of_registers() {
    let mut bench = Bench::new(&[0x86, 0xe0]); // xchg al, ah
    bench.cpu.regs[0] = 0x00ff_1122;
    bench.run(0);
    assert_eq!(bench.cpu.regs[0], 0x00ff_2211);
    // 87 C0 is XCHG EAX, EAX, which zero-extends; 90 is not.
    for (bytes, expected) in [(&[0x87, 0xc0][..], 0xffff_ffff), (&[0x90][..], u64::MAX)] {
        let mut bench = Bench::new(bytes);
        bench.cpu.regs[0] = u64::MAX;
        bench.run(0);
        assert_eq!(bench.cpu.regs[0], expected);
    }
    let mut bench = Bench::new(&[0x49, 0x90]); // xchg r8, rax
    bench.cpu.regs[0] = 5;
    bench.cpu.regs[8] = 6;
    bench.run(0);
    assert_eq!((bench.cpu.regs[0], bench.cpu.regs[8]), (6, 5));
}

#[test]
fn xadd() {
    for prefix in [&[][..], &[0xf0]] {
        let mut bench = Bench::new(&[prefix, &[0x48, 0x0f, 0xc1, 0x0f]].concat()); // [rdi], rcx
        bench.cpu.regs[7] = DATA;
        bench.cpu.regs[1] = 1;
        bench.cpu.bus.poke(DATA, u64::MAX);
        assert_eq!(bench.run(0), CF | ZF | AF | PF);
        assert_eq!(bench.cpu.regs[1], u64::MAX);
        assert_eq!(bench.cpu.bus.peek::<u64>(DATA), 0);
    }
    let mut bench = Bench::new(&[0x48, 0x0f, 0xc1, 0xc9]); // xadd rcx, rcx
    bench.cpu.regs[1] = 21;
    bench.run(0);
    assert_eq!(bench.cpu.regs[1], 42, "the destination is written last");
}

#[test]
fn cmpxchg_writes_the_accumulator_only_when_they_differ() {
    for memory in [false, true] {
        for lock in [false, true] {
            if lock && !memory {
                continue;
            }
            let modrm = if memory { 0x0f } else { 0xcf }; // [rdi] or edi, ecx
            let prefix: &[u8] = if lock { &[0xf0] } else { &[] };
            for equal in [false, true] {
                let mut bench = Bench::new(&[prefix, &[0x0f, 0xb1, modrm]].concat());
                bench.cpu.regs[0] = 0xaaaa_aaaa_0000_0007;
                bench.cpu.regs[1] = 0x9999_9999;
                let found = if equal { 7 } else { 9_u32 };
                bench.cpu.regs[7] =
                    if memory { DATA } else { 0xbbbb_bbbb_0000_0000 | u64::from(found) };
                bench.cpu.bus.poke(DATA, found);
                let flags = bench.run(CF);
                assert_eq!(flags & ZF, flag(equal, ZF));
                assert_eq!(flags & CF, flag(!equal, CF), "7 - 9 borrows");
                let accumulator = if equal { 0xaaaa_aaaa_0000_0007 } else { 9 };
                assert_eq!(bench.cpu.regs[0], accumulator);
                let kept = if equal { 0x9999_9999 } else { u64::from(found) };
                if memory {
                    assert_eq!(u64::from(bench.cpu.bus.peek::<u32>(DATA)), kept);
                } else {
                    let kept = if equal { kept } else { 0xbbbb_bbbb_0000_0000 | kept };
                    assert_eq!(bench.cpu.regs[7], kept);
                }
            }
        }
    }
}

#[test]
fn cmpxchg_needs_write_permission_even_when_they_differ() {
    for prefix in [&[][..], &[0xf0]] {
        let mut bench = Bench::new(&[prefix, &[0x0f, 0xb1, 0x0f]].concat());
        bench.cpu.regs[7] = DATA;
        bench.cpu.regs[0] = 1;
        bench.cpu.bus.read_only.insert(DATA >> 12);
        let stop = bench.try_run(ALL);
        assert_eq!(stop, Stop::Fault(Exception::page_fault(DATA, 3)));
        assert_eq!((bench.cpu.regs[0], bench.cpu.flags.bits()), (1, ALL));
    }
}

#[test]
fn cmpxchg8b_and_16b_change_only_zf() {
    for wide in [false, true] {
        for equal in [false, true] {
            let rex: &[u8] = if wide { &[0x48] } else { &[] };
            let mut bench = Bench::new(&[&[0xf0], rex, &[0x0f, 0xc7, 0x0f]].concat());
            bench.cpu.regs[7] = DATA;
            let (low, high) = if wide {
                (0x1111_2222_3333_4444, 0x5555_6666_7777_8888)
            } else {
                (0x1111_2222, 0x3333_4444)
            };
            if wide {
                bench.cpu.bus.poke(DATA, low);
                bench.cpu.bus.poke(DATA + 8, high);
            } else {
                bench.cpu.bus.poke(DATA, low as u32);
                bench.cpu.bus.poke(DATA + 4, high as u32);
            }
            let noise = if wide { 0 } else { 0xdead_0000_0000_0000 };
            bench.cpu.regs[0] = noise | if equal { low } else { low + 1 };
            bench.cpu.regs[2] = noise | high;
            bench.cpu.regs[3] = 0x77;
            bench.cpu.regs[1] = 0x88;
            assert_eq!(bench.run(ALL & !ZF), ALL & !ZF | flag(equal, ZF));
            let (after_low, after_high) = if equal { (0x77, 0x88) } else { (low, high) };
            let step = if wide { 8 } else { 4 };
            assert_eq!(bench.cpu.bus.peek::<u8>(DATA), after_low as u8);
            assert_eq!(bench.cpu.bus.peek::<u8>(DATA + step), after_high as u8);
            let kept = if equal { noise } else { 0 };
            assert_eq!((bench.cpu.regs[0], bench.cpu.regs[2]), (kept | low, kept | high));
        }
    }
    let mut bench = Bench::new(&[0x48, 0x0f, 0xc7, 0x0f]);
    bench.cpu.regs[7] = DATA + 8;
    assert_eq!(bench.try_run(0), Stop::Fault(Exception::GP0), "unaligned");
}

#[test]
fn lock_is_undefined_where_it_may_not_be() {
    for bytes in [
        &[0xf0, 0x01, 0xc8][..],   // lock add eax, ecx
        &[0xf0, 0x39, 0x0f],       // lock cmp [rdi], ecx
        &[0xf0, 0x8b, 0x0f],       // lock mov ecx, [rdi]
        &[0xf0, 0x0f, 0xa3, 0x0f], // lock bt [rdi], ecx
        &[0xf0, 0x03, 0x0f],       // lock add ecx, [rdi]
        &[0xf0, 0x90],
    ] {
        let mut bench = Bench::new(&[bytes, &[0; 8]].concat());
        bench.cpu.regs[7] = DATA;
        assert_eq!(bench.try_run(0), Stop::Fault(Exception::UD), "{bytes:x?}");
    }
}
