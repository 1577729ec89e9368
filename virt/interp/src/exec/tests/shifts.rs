//! Shifts and rotates, one bit at a time after the manual's loops.

use super::*;
use crate::testing::DATA;

/// One step of a shift or rotate by ModRM extension: value, CF.
fn one_step(extension: u8, value: u64, carry: bool, bits: u32) -> (u64, bool) {
    let mask = u64::MAX >> (64 - bits);
    let (top, low) = (value >> (bits - 1) & 1, value & 1);
    let c = u64::from(carry);
    match extension {
        0 => ((value << 1 | top) & mask, top != 0),
        1 => (value >> 1 | low << (bits - 1), low != 0),
        2 => ((value << 1 | c) & mask, top != 0),
        3 => (value >> 1 | c << (bits - 1), low != 0),
        4 | 6 => (value << 1 & mask, top != 0),
        5 => (value >> 1, low != 0),
        _ => (value >> 1 | top << (bits - 1), low != 0),
    }
}

/// Result, flags, and which flags are defined.
fn reference(extension: u8, a: u64, count: u8, before: u64, bits: u32) -> (u64, u64, u64) {
    let count = u32::from(count) & if bits == 64 { 63 } else { 31 };
    let (mut value, mut carry) = (a, before & CF != 0);
    for _ in 0..count {
        (value, carry) = one_step(extension, value, carry, bits);
    }
    if count == 0 {
        return (a, before, ALL);
    }
    let top = |v: u64| v >> (bits - 1) & 1 != 0;
    let overflow = match extension {
        0 | 2 | 4 | 6 => top(value) != carry,
        1 | 3 => top(value) != top(value << 1),
        5 => top(a),
        _ => false,
    };
    let of = if count == 1 { OF } else { 0 };
    if extension < 4 {
        let flags = before & !(CF | OF) | flag(carry, CF) | flag(overflow, OF);
        // A rotate through carry by a multiple of bits + 1 changes nothing at all.
        let none = extension > 1 && count % (bits + 1) == 0;
        return (value, if none { before } else { flags }, ALL & !OF | of);
    }
    let flags = result_flags(value, bits) | flag(carry, CF) | flag(overflow, OF);
    let cf = if count <= bits || extension == 7 { CF } else { 0 };
    (value, flags, SF | ZF | PF | of | cf)
}

#[test]
fn shifts_and_rotates_by_every_count() {
    for extension in [0u8, 1, 2, 3, 4, 5, 6, 7] {
        for bits in [8, 16, 32, 64] {
            let modrm = 0xc2 | extension << 3; // rdx
            let mut by_cl = Bench::new(&encode(bits, &[], &[0xd2], modrm, &[]));
            let mut memory = Bench::new(&encode(bits, &[], &[0xd2], 0x07 | extension << 3, &[]));
            for count in 0..=255u8 {
                let mut by_immediate = Bench::new(&encode(bits, &[], &[0xc0], modrm, &[count]));
                for a in values(bits) {
                    for before in [0, ALL] {
                        let (result, flags, defined) = reference(extension, a, count, before, bits);
                        let context = (extension, bits, a, count, before);
                        for bench in [&mut by_cl, &mut by_immediate] {
                            bench.cpu.regs[1] = 0xff00 | u64::from(count);
                            bench.cpu.regs[2] = a;
                            let after = bench.run(before);
                            assert_eq!(after & defined, flags & defined, "{context:x?}");
                            assert_eq!(bench.cpu.regs[2], result, "{context:x?}");
                        }
                        memory.cpu.regs[7] = DATA;
                        memory.cpu.regs[1] = u64::from(count);
                        memory.cpu.bus.poke(DATA, a);
                        let after = memory.run(before);
                        assert_eq!(after & defined, flags & defined, "{context:x?}");
                        assert_eq!(memory.cpu.bus.peek::<u64>(DATA), result, "{context:x?}");
                    }
                }
            }
            let mut by_one = Bench::new(&encode(bits, &[], &[0xd0], modrm, &[]));
            by_one.cpu.regs[2] = 0x81;
            let (result, flags, defined) = reference(extension, 0x81, 1, CF, bits);
            assert_eq!(by_one.run(CF) & defined, flags & defined);
            assert_eq!(by_one.cpu.regs[2], result);
        }
    }
}

#[test]
fn a_count_of_zero_still_zero_extends() {
    let mut bench = Bench::new(&[0xd3, 0xe2]); // shl edx, cl
    bench.cpu.regs[2] = u64::MAX;
    bench.cpu.regs[1] = 32;
    assert_eq!(bench.run(ALL), ALL);
    assert_eq!(bench.cpu.regs[2], 0xffff_ffff);
}

#[test]
fn double_shifts() {
    for left in [true, false] {
        for bits in [16, 32, 64] {
            let opcode = if left { 0xa5 } else { 0xad };
            let mut bench = Bench::new(&encode_word(bits, &[], &[0x0f, opcode], 0xda, &[])); // rdx, rbx
            let mut memory = Bench::new(&encode_word(bits, &[], &[0x0f, opcode], 0x1f, &[]));
            for a in values(bits) {
                for fill in values(bits) {
                    for count in 0..64u32 {
                        let masked = count & if bits == 64 { 63 } else { 31 };
                        if masked > bits {
                            continue; // undefined
                        }
                        let (mut value, mut rest, mut carry) = (a, fill, false);
                        for _ in 0..masked {
                            let (top, low) = (value >> (bits - 1) & 1, value & 1);
                            let (fill_top, fill_low) = (rest >> (bits - 1) & 1, rest & 1);
                            if left {
                                value = (value << 1 | fill_top) & u64::MAX >> (64 - bits);
                                rest = rest << 1 & u64::MAX >> (64 - bits);
                                carry = top != 0;
                            } else {
                                value = value >> 1 | fill_low << (bits - 1);
                                rest >>= 1;
                                carry = low != 0;
                            }
                        }
                        let changed = (value ^ a) >> (bits - 1) & 1 != 0;
                        let (flags, defined) = match masked {
                            0 => (ALL, ALL),
                            1 => (
                                result_flags(value, bits) | flag(carry, CF) | flag(changed, OF),
                                ALL & !AF,
                            ),
                            _ => (result_flags(value, bits) | flag(carry, CF), ALL & !AF & !OF),
                        };
                        bench.cpu.regs[1] = u64::from(count);
                        bench.cpu.regs[2] = a;
                        bench.cpu.regs[3] = fill;
                        let after = bench.run(ALL);
                        let context = (left, bits, a, fill, count);
                        assert_eq!(after & defined, flags & defined, "{context:x?}");
                        assert_eq!(bench.cpu.regs[2], value, "{context:x?}");
                        memory.cpu.regs[7] = DATA;
                        memory.cpu.regs[1] = u64::from(count);
                        memory.cpu.regs[3] = fill;
                        memory.cpu.bus.poke(DATA, a);
                        assert_eq!(memory.run(ALL) & defined, flags & defined);
                        assert_eq!(memory.cpu.bus.peek::<u64>(DATA), value);
                    }
                }
            }
        }
    }
}

#[test]
fn flagless_shifts_and_rorx() {
    // sarx, shlx, shrx rax, rcx, rbx: VEX.LZ.{F3,66,F2}.0F38.W1 F7; rorx rax, rcx, 9.
    let value = 0xf123_4567_89ab_cdef_u64;
    for (third, expected) in
        [(0xe2, ((value as i64) >> 7) as u64), (0xe1, value << 7), (0xe3, value >> 7)]
    {
        let mut bench = Bench::new(&[0xc4, 0xe2, third, 0xf7, 0xc1]);
        bench.cpu.regs[1] = value;
        bench.cpu.regs[3] = 64 + 7;
        assert_eq!(bench.run(ALL), ALL);
        assert_eq!(bench.cpu.regs[0], expected);
        let mut bench = Bench::new(&[0xc4, 0xe2, third, 0xf7, 0x07]); // rax, [rdi], rbx
        bench.cpu.regs[7] = DATA;
        bench.cpu.bus.poke(DATA, value);
        bench.cpu.regs[3] = 64 + 7;
        assert_eq!(bench.run(0), 0);
        assert_eq!(bench.cpu.regs[0], expected);
    }
    let mut bench = Bench::new(&[0xc4, 0xe3, 0xfb, 0xf0, 0xc1, 0x49]);
    bench.cpu.regs[1] = value;
    assert_eq!(bench.run(ALL), ALL);
    assert_eq!(bench.cpu.regs[0], value.rotate_right(9));
}
