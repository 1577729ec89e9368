//! Bit tests, scans, counts, BMI, CRC32.

use super::*;
use crate::testing::DATA;

#[test]
fn bit_strings_reach_beyond_the_operand() {
    for (opcode, operation) in [(0xa3, 0), (0xab, 1), (0xb3, 2), (0xbb, 3)] {
        for bits in [16, 32, 64] {
            let mut bench = Bench::new(&encode_word(bits, &[], &[0x0f, opcode], 0x0f, &[])); // [rdi], rcx
            for index in [0i64, 1, 15, 31, 63, 64, 129, 1000, -1, -2, -64, -65, -1000] {
                for fill in [0u8, 0xff] {
                    bench.cpu.bus.memory[DATA as usize - 256..DATA as usize + 256].fill(fill);
                    bench.cpu.regs[7] = DATA;
                    bench.cpu.regs[1] = index as u64;
                    let before = ALL & !CF;
                    let after = bench.run(before);
                    assert_eq!(after, before | flag(fill != 0, CF), "{bits} {index}");
                    let byte = (DATA as i64 + index.div_euclid(8)) as usize;
                    let bit = 1u8 << index.rem_euclid(8);
                    let expected = match operation {
                        0 => fill,
                        1 => fill | bit,
                        2 => fill & !bit,
                        _ => fill ^ bit,
                    };
                    assert_eq!(bench.cpu.bus.memory[byte], expected, "{operation} {bits} {index}");
                }
            }
        }
    }
}

#[test]
fn bits_of_registers_and_by_immediates_wrap() {
    // bts ecx, eax; btr rcx, 65; btc [rdi], 33 (32-bit)
    let mut bench = Bench::new(&[0x0f, 0xab, 0xc1]);
    bench.cpu.regs[0] = 33;
    bench.cpu.regs[1] = 0xffff_ffff_0000_0000;
    assert_eq!(bench.run(0), 0);
    assert_eq!(bench.cpu.regs[1], 2);
    let mut bench = Bench::new(&[0x48, 0x0f, 0xba, 0xf1, 65]);
    bench.cpu.regs[1] = 3;
    assert_eq!(bench.run(0), CF);
    assert_eq!(bench.cpu.regs[1], 1);
    let mut bench = Bench::new(&[0xf0, 0x0f, 0xba, 0x3f, 33]);
    bench.cpu.regs[7] = DATA;
    assert_eq!(bench.run(CF), 0);
    assert_eq!(bench.cpu.bus.peek::<u64>(DATA), 2);
    assert_eq!(bench.cpu.bus.atomics, 1);
}

#[test]
fn scans_and_counts() {
    for bits in [16, 32, 64] {
        let make = |prefix: &[u8], opcode: u8| {
            Bench::new(&encode_word(bits, prefix, &[0x0f, opcode], 0xca, &[])) // rcx, rdx
        };
        let (mut bsf, mut bsr) = (make(&[], 0xbc), make(&[], 0xbd));
        let (mut tzcnt, mut lzcnt) = (make(&[0xf3], 0xbc), make(&[0xf3], 0xbd));
        let mut popcnt = make(&[0xf3], 0xb8);
        for a in values(bits) {
            let lowest = (0..bits).find(|&b| a >> b & 1 != 0);
            let highest = (0..bits).rev().find(|&b| a >> b & 1 != 0);
            for (bench, found) in [(&mut bsf, lowest), (&mut bsr, highest)] {
                bench.cpu.regs[1] = u64::MAX;
                bench.cpu.regs[2] = a;
                assert_eq!(bench.run(CF | PF) & ZF, flag(a == 0, ZF));
                let expected = found.map_or(u64::MAX, |f| written(u64::MAX, u64::from(f), bits));
                assert_eq!(bench.cpu.regs[1], expected, "{bits} {a:x}");
            }
            let trailing = u64::from(lowest.unwrap_or(bits));
            let leading = u64::from(highest.map_or(bits, |h| bits - 1 - h));
            for (bench, count) in [(&mut tzcnt, trailing), (&mut lzcnt, leading)] {
                bench.cpu.regs[1] = u64::MAX;
                bench.cpu.regs[2] = a;
                let flags = bench.run(0) & (CF | ZF);
                assert_eq!(flags, flag(a == 0, CF) | flag(count == 0, ZF), "{bits} {a:x}");
                assert_eq!(bench.cpu.regs[1], written(u64::MAX, count, bits));
            }
            popcnt.cpu.regs[1] = u64::MAX;
            popcnt.cpu.regs[2] = a;
            assert_eq!(popcnt.run(ALL), flag(a == 0, ZF));
            let ones = (0..bits).filter(|&b| a >> b & 1 != 0).count() as u64;
            assert_eq!(popcnt.cpu.regs[1], written(u64::MAX, ones, bits));
        }
    }
}

#[test]
fn tzcnt_is_bsf_where_it_is_not_announced() {
    let mut bus = crate::testing::FlatBus::default();
    bus.cpuid.retain(|entry| entry.leaf != 7);
    let bytes = [0xf3, 0x0f, 0xbc, 0xca];
    let op = crate::lower::decode(&bytes, CodeSize::Bits64, &mut bus).expect("whole");
    let mut bench = Bench::new(&bytes);
    bench.op = op;
    bench.cpu.regs[1] = 0x1234;
    assert_eq!(bench.run(0), ZF, "BSF of 0");
    assert_eq!(bench.cpu.regs[1], 0x1234);
}

/// VEX.LZ.pp.0F38.W1: third byte for vvvv and pp.
fn vex(vvvv: u8, pp: u8) -> u8 {
    0x80 | (!vvvv & 15) << 3 | pp
}

#[test]
fn bmi1() {
    const DEFINED: u64 = CF | ZF | SF | OF;
    for a in values(64) {
        for (extension, result, carry) in [
            (1u8, a & a.wrapping_sub(1), a == 0),
            (2, a ^ a.wrapping_sub(1), a == 0),
            (3, a & a.wrapping_neg(), a != 0),
        ] {
            let mut bench = Bench::new(&[0xc4, 0xe2, vex(0, 0), 0xf3, 0xc1 | extension << 3]);
            bench.cpu.regs[1] = a;
            let flags = bench.run(ALL) & DEFINED;
            assert_eq!(bench.cpu.regs[0], result, "{extension} {a:x}");
            assert_eq!(flags, result_flags(result, 64) & !PF | flag(carry, CF));
        }
        for b in values(64) {
            let mut andn = Bench::new(&[0xc4, 0xe2, vex(1, 0), 0xf2, 0xc2]); // rax, rcx, rdx
            andn.cpu.regs[1] = a;
            andn.cpu.regs[2] = b;
            let flags = andn.run(ALL) & DEFINED;
            assert_eq!(andn.cpu.regs[0], !a & b);
            assert_eq!(flags, result_flags(!a & b, 64) & !PF);
        }
    }
    for start in [0u64, 3, 63, 64, 255] {
        for length in [0u64, 1, 16, 63, 64, 200] {
            let a = 0xfedc_ba98_7654_3210_u64;
            let mut bextr = Bench::new(&[0xc4, 0xe2, vex(2, 0), 0xf7, 0xc1]); // rax, rcx, rdx
            bextr.cpu.regs[1] = a;
            bextr.cpu.regs[2] = 0xffff_0000 | length << 8 | start;
            let flags = bextr.run(ALL);
            let expected: u64 = (0..length.min(64))
                .filter(|n| start + n < 64 && a >> (start + n) & 1 != 0)
                .map(|n| 1 << n)
                .sum();
            assert_eq!(bextr.cpu.regs[0], expected, "{start} {length}");
            assert_eq!(flags & (CF | OF | ZF), flag(expected == 0, ZF));
        }
    }
}

#[test]
fn bmi2() {
    let (a, mask) = (0x0123_4567_89ab_cdef_u64, 0xf0f0_1248_8000_0ff1_u64);
    let mut gathered = 0;
    let mut scattered = 0;
    let mut place = 0;
    for bit in 0..64 {
        if mask >> bit & 1 != 0 {
            gathered |= (a >> bit & 1) << place;
            scattered |= (a >> place & 1) << bit;
            place += 1;
        }
    }
    for (pp, expected) in [(2, gathered), (3, scattered)] {
        let mut bench = Bench::new(&[0xc4, 0xe2, vex(1, pp), 0xf5, 0xc2]); // rax, rcx, rdx
        bench.cpu.regs[1] = a;
        bench.cpu.regs[2] = mask;
        assert_eq!(bench.run(CF | ZF), CF | ZF);
        assert_eq!(bench.cpu.regs[0], expected);
    }
    for index in [0u64, 1, 8, 63, 64, 255, 256 + 5] {
        let mut bzhi = Bench::new(&[0xc4, 0xe2, vex(2, 0), 0xf5, 0xc1]); // rax, rcx, rdx
        bzhi.cpu.regs[1] = a;
        bzhi.cpu.regs[2] = index;
        let flags = bzhi.run(0);
        let kept = index & 0xff;
        let expected = if kept < 64 { a & ((1 << kept) - 1) } else { a };
        assert_eq!(bzhi.cpu.regs[0], expected);
        assert_eq!(flags & (CF | ZF), flag(kept > 63, CF) | flag(expected == 0, ZF));
    }
}

#[test]
fn vex_is_undefined_in_real_mode() {
    let mut cpu = testing::real(&[0xc4, 0xe2, 0x70, 0xf2, 0xc2]);
    assert_eq!(testing::step(&mut cpu), Stop::Fault(x86::Exception::UD));
}

#[test]
fn crc32c_of_the_check_string() {
    // "123456789" gives e3069283 (complemented before and after).
    let mut bench = Bench::new(&[0xf2, 0x0f, 0x38, 0xf0, 0xc1]); // crc32 eax, cl
    bench.cpu.regs[0] = 0xffff_ffff;
    for byte in b"123456789" {
        bench.cpu.regs[1] = u64::from(*byte);
        bench.run(ALL);
    }
    assert_eq!(!(bench.cpu.regs[0] as u32), 0xe306_9283);
    // Eight bytes at once, from memory, then the last.
    let mut wide = Bench::new(&[0xf2, 0x48, 0x0f, 0x38, 0xf1, 0x07]); // crc32 rax, [rdi]
    wide.cpu.regs[0] = 0xffff_ffff;
    wide.cpu.regs[7] = DATA;
    wide.cpu.bus.poke_bytes(DATA, b"12345678");
    wide.run(0);
    bench.cpu.regs[0] = wide.cpu.regs[0];
    bench.cpu.regs[1] = u64::from(b'9');
    bench.run(0);
    assert_eq!(!(bench.cpu.regs[0] as u32), 0xe306_9283);
}
