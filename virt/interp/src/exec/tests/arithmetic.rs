//! Binary and unary arithmetic, products, quotients.

use x86::Vector;

use super::*;
use crate::testing::DATA;

/// Result and flags of an ALU operation by number (the ModRM extension of opcode 80), with full
/// integers instead of carry vectors; TEST is 8.
fn reference(operation: u8, a: u64, b: u64, carry: bool, bits: u32) -> (u64, u64) {
    let mask = u128::from(u64::MAX >> (64 - bits));
    let c = u128::from(carry && matches!(operation, 2 | 3));
    let (sa, sb) = (i128::from(signed(a, bits)), i128::from(signed(b, bits)));
    let (low_a, low_b) = (a & 15, b & 15);
    let (wide, exact, adjust) = match operation {
        0 | 2 => {
            let wide = u128::from(a) + u128::from(b) + c;
            (wide, Some(sa + sb + c as i128), low_a + low_b + c as u64 > 15)
        }
        3 | 5 | 7 => {
            let wide = u128::from(a).wrapping_sub(u128::from(b)).wrapping_sub(c);
            (wide, Some(sa - sb - c as i128), low_a < low_b + c as u64)
        }
        1 => (u128::from(a | b), None, false),
        6 => (u128::from(a ^ b), None, false),
        _ => (u128::from(a & b), None, false),
    };
    let result = (wide & mask) as u64;
    let carry = exact.is_some() && wide & !mask != 0;
    let overflow = exact.is_some_and(|e| e != i128::from(signed(result, bits)));
    let flags = result_flags(result, bits) | flag(carry, CF) | flag(overflow, OF);
    (result, flags | flag(adjust, AF))
}

const HIGH: u64 = 0xa5a5_5a5a_c3c3_3c3c;

#[test]
fn binary_operations_in_every_form_and_width() {
    for operation in 0..9u8 {
        let opcode = if operation == 8 { 0x84 } else { operation << 3 };
        for bits in [8, 16, 32, 64] {
            let stores = operation < 7;
            // rm = rcx, reg = rdx; then rm = [rdi], reg = rdx; with LOCK where legal.
            let mut registers = Bench::new(&encode(bits, &[], &[opcode], 0xd1, &[]));
            let mut memory = Bench::new(&encode(bits, &[], &[opcode], 0x17, &[]));
            let lock: &[u8] = if stores { &[0xf0] } else { &[] };
            let mut locked = Bench::new(&encode(bits, lock, &[opcode], 0x17, &[]));
            let mut loading =
                (operation < 8).then(|| Bench::new(&encode(bits, &[], &[opcode + 2], 0x17, &[])));
            for (a, b) in pairs(bits) {
                for carry in [false, true] {
                    let before = flag(carry, CF) | OF | AF;
                    let (result, flags) = reference(operation, a, b, carry, bits);
                    let after = if stores { result } else { a };
                    let context = (operation, bits, a, b, carry);
                    registers.cpu.regs[1] = written(HIGH, a, bits);
                    registers.cpu.regs[2] = written(HIGH, b, bits);
                    assert_eq!(registers.run(before), flags, "{context:x?}");
                    let old = written(HIGH, a, bits);
                    let expected = if stores { written(old, after, bits) } else { old };
                    assert_eq!(registers.cpu.regs[1], expected, "{context:x?}");
                    for bench in [&mut memory, &mut locked] {
                        bench.cpu.regs[7] = DATA;
                        bench.cpu.regs[2] = written(HIGH, b, bits);
                        bench.cpu.bus.poke(DATA, merged(HIGH, a, bits));
                        assert_eq!(bench.run(before), flags, "{context:x?}");
                        let stored = merged(HIGH, after, bits);
                        assert_eq!(bench.cpu.bus.peek::<u64>(DATA), stored, "{context:x?}");
                    }
                    if let Some(bench) = &mut loading {
                        bench.cpu.regs[7] = DATA;
                        bench.cpu.regs[2] = written(HIGH, a, bits);
                        bench.cpu.bus.poke(DATA, merged(HIGH, b, bits));
                        assert_eq!(bench.run(before), flags, "{context:x?}");
                        let expected = if stores { written(old, after, bits) } else { old };
                        assert_eq!(bench.cpu.regs[2], expected, "{context:x?}");
                    }
                }
            }
            assert_eq!(locked.cpu.bus.atomics != 0, stores, "LOCK is atomic");
        }
    }
}

/// Memory keeps its other bytes, unlike a 32-bit register.
fn merged(old: u64, value: u64, bits: u32) -> u64 {
    let mask = u64::MAX >> (64 - bits);
    old & !mask | value & mask
}

fn pairs(bits: u32) -> Vec<(u64, u64)> {
    let list = values(bits);
    list.iter().flat_map(|&a| list.iter().map(move |&b| (a, b))).collect()
}

#[test]
fn immediates_are_sign_extended() {
    for operation in 0..8u8 {
        for bits in [16, 32, 64] {
            // 83 /n ib with -3 on rcx.
            let modrm = 0xc1 | operation << 3;
            let mut bench = Bench::new(&encode(bits, &[], &[0x82], modrm, &[0xfd]));
            for a in values(bits) {
                bench.cpu.regs[1] = a;
                let b = 0xffff_ffff_ffff_fffd & u64::MAX >> (64 - bits);
                let (result, flags) = reference(operation, a, b, true, bits);
                assert_eq!(bench.run(CF), flags, "{operation} {bits} {a:x}");
                let expected = if operation < 7 { written(a, result, bits) } else { a };
                assert_eq!(bench.cpu.regs[1], expected);
            }
        }
    }
}

#[test]
fn high_byte_registers() {
    // add ah, bl; mov dh, ch
    let mut bench = Bench::new(&[0x00, 0xdc]);
    bench.cpu.regs[0] = 0x1234_5678;
    bench.cpu.regs[3] = 0xffaa;
    assert_eq!(bench.run(0), reference(0, 0x56, 0xaa, false, 8).1);
    assert_eq!(bench.cpu.regs[0], 0x1234_0078);
    let mut bench = Bench::new(&[0x88, 0xee]);
    bench.cpu.regs[1] = 0x1122_3344;
    bench.cpu.regs[2] = u64::MAX;
    bench.run(0);
    assert_eq!(bench.cpu.regs[2], 0xffff_ffff_ffff_33ff);
    // With REX the same numbers are SPL and BPL.
    let mut bench = Bench::new(&[0x40, 0x88, 0xee]);
    bench.cpu.regs[5] = 0x77;
    bench.cpu.regs[6] = 0;
    bench.run(0);
    assert_eq!(bench.cpu.regs[6], 0x77);
}

#[test]
fn unary_operations() {
    for bits in [8, 16, 32, 64] {
        for (operation, opcode, extension) in
            [("inc", 0xfe, 0), ("dec", 0xfe, 1), ("not", 0xf6, 2), ("neg", 0xf6, 3)]
        {
            let modrm = extension << 3 | 1;
            let mut register = Bench::new(&encode(bits, &[], &[opcode], 0xc0 | modrm, &[]));
            let mut memory = Bench::new(&encode(bits, &[0xf0], &[opcode], modrm, &[]));
            for a in values(bits) {
                for before in [0, ALL] {
                    let kept = before & CF;
                    let (result, flags) = match operation {
                        "inc" => {
                            (a.wrapping_add(1), reference(0, a, 1, false, bits).1 & !CF | kept)
                        }
                        "dec" => {
                            (a.wrapping_sub(1), reference(5, a, 1, false, bits).1 & !CF | kept)
                        }
                        "not" => (!a, before),
                        _ => (a.wrapping_neg(), reference(5, 0, a, false, bits).1),
                    };
                    register.cpu.regs[1] = written(HIGH, a, bits);
                    assert_eq!(register.run(before), flags, "{operation} {bits} {a:x}");
                    let old = written(HIGH, a, bits);
                    assert_eq!(register.cpu.regs[1], written(old, result, bits));
                    memory.cpu.regs[1] = DATA;
                    memory.cpu.bus.poke(DATA, merged(HIGH, a, bits));
                    assert_eq!(memory.run(before), flags);
                    assert_eq!(memory.cpu.bus.peek::<u64>(DATA), merged(HIGH, result, bits));
                }
            }
        }
    }
}

#[test]
fn adcx_and_adox_use_their_own_chain() {
    for (prefix, chain) in [(0x66, CF), (0xf3, OF)] {
        for (a, b, wide) in pairs(64)
            .into_iter()
            .map(|(a, b)| (a, b, true))
            .chain(pairs(32).into_iter().map(|(a, b)| (a, b, false)))
        {
            let rex = if wide { 0x48 } else { 0x40 };
            let mut bench = Bench::new(&[prefix, rex, 0x0f, 0x38, 0xf6, 0xca]); // rcx, rdx
            for before in [0, chain, ALL & !chain, ALL] {
                bench.cpu.regs[1] = a;
                bench.cpu.regs[2] = b;
                let sum = u128::from(a) + u128::from(b) + u128::from(before & chain != 0);
                let bits = if wide { 64 } else { 32 };
                let expected = before & !chain | flag(sum >> bits != 0, chain);
                assert_eq!(bench.run(before), expected);
                assert_eq!(bench.cpu.regs[1], written(a, sum as u64, bits));
            }
        }
    }
}

#[test]
fn products() {
    for bits in [8, 16, 32, 64] {
        for is_signed in [false, true] {
            let modrm = if is_signed { 0xe9 } else { 0xe1 }; // rcx
            let mut bench = Bench::new(&encode(bits, &[], &[0xf6], modrm, &[]));
            for (a, b) in pairs(bits) {
                let wide = if is_signed {
                    (i128::from(signed(a, bits)) * i128::from(signed(b, bits))) as u128
                } else {
                    u128::from(a) * u128::from(b)
                };
                let low = (wide as u64) & u64::MAX >> (64 - bits);
                let high = (wide >> bits) as u64;
                let exceeds = if is_signed {
                    i128::from(signed(low, bits)) != wide as i128
                } else {
                    u128::from(low) != wide
                };
                bench.cpu.regs[0] = written(HIGH, a, bits);
                bench.cpu.regs[1] = b;
                bench.cpu.regs[2] = HIGH;
                assert_eq!(bench.run(0) & (CF | OF), flag(exceeds, CF | OF));
                if bits == 8 {
                    assert_eq!(bench.cpu.regs[0], written(HIGH, wide as u64, 16));
                    assert_eq!(bench.cpu.regs[2], HIGH);
                } else {
                    assert_eq!(bench.cpu.regs[0], written(HIGH, low, bits));
                    assert_eq!(bench.cpu.regs[2], written(HIGH, high, bits));
                }
            }
        }
    }
}

#[test]
fn signed_products_of_two_and_three_operands() {
    for bits in [16, 32, 64] {
        let mut two = Bench::new(&encode_word(bits, &[], &[0x0f, 0xaf], 0xca, &[])); // rcx, rdx
        let mut three = Bench::new(&encode_word(bits, &[], &[0x6b], 0xca, &[0x85]));
        let mut memory = Bench::new(&encode_word(bits, &[], &[0x6b], 0x0f, &[0x85]));
        for (a, b) in pairs(bits) {
            let check = |bench: &mut Bench, b: i64, a: i64| {
                let wide = i128::from(a) * i128::from(b);
                let flags = bench.run(0) & (CF | OF);
                let exceeds = i128::from(signed(wide as u64, bits)) != wide;
                assert_eq!(flags, flag(exceeds, CF | OF), "{bits} {a:x} {b:x}");
                assert_eq!(bench.cpu.regs[1] << (64 - bits), (wide as u64) << (64 - bits));
            };
            two.cpu.regs[1] = a;
            two.cpu.regs[2] = b;
            check(&mut two, signed(b, bits), signed(a, bits));
            three.cpu.regs[2] = b;
            check(&mut three, signed(b, bits), -0x7b);
            memory.cpu.regs[7] = DATA;
            memory.cpu.bus.poke(DATA, b);
            check(&mut memory, signed(b, bits), -0x7b);
        }
    }
}

#[test]
fn quotients_and_divide_errors() {
    for bits in [8, 16, 32, 64] {
        let mask = u128::from(u64::MAX >> (64 - bits));
        for is_signed in [false, true] {
            let modrm = if is_signed { 0xf9 } else { 0xf1 }; // rcx
            let mut bench = Bench::new(&encode(bits, &[], &[0xf6], modrm, &[]));
            let mut list = values(bits);
            list.extend([3, 5]);
            for &high in &list {
                for &low in &list {
                    for &divisor in &list {
                        let dividend = u128::from(high) << bits | u128::from(low);
                        let expected = quotient(dividend, divisor, bits, is_signed);
                        if bits == 8 {
                            bench.cpu.regs[0] = high << 8 | low;
                        } else {
                            bench.cpu.regs[0] = low;
                            bench.cpu.regs[2] = high;
                        }
                        bench.cpu.regs[1] = divisor;
                        let before = bench.cpu.regs;
                        let stop = bench.try_run(ALL);
                        let context = (bits, is_signed, high, low, divisor);
                        let Some((q, r)) = expected else {
                            let error = x86::Exception::new(Vector::DivideError);
                            assert_eq!(stop, Stop::Fault(error), "{context:x?}");
                            assert_eq!(bench.cpu.regs[..16], before[..16]);
                            continue;
                        };
                        assert_eq!(stop, Stop::None, "{context:x?}");
                        let (q, r) = ((q & mask) as u64, (r & mask) as u64);
                        let (found_q, found_r) = if bits == 8 {
                            (bench.cpu.regs[0] & 0xff, bench.cpu.regs[0] >> 8)
                        } else {
                            (bench.cpu.regs[0], bench.cpu.regs[2])
                        };
                        assert_eq!((found_q, found_r), (q, r), "{context:x?}");
                    }
                }
            }
        }
    }
}

fn quotient(dividend: u128, divisor: u64, bits: u32, is_signed: bool) -> Option<(u128, u128)> {
    if divisor == 0 {
        return None;
    }
    if !is_signed {
        let q = dividend / u128::from(divisor);
        return (q >> bits == 0).then(|| (q, dividend % u128::from(divisor)));
    }
    let shift = 128 - 2 * bits;
    let dividend = (dividend << shift) as i128 >> shift;
    let divisor = i128::from(signed(divisor, bits));
    let q = dividend.checked_div(divisor)?;
    let fits = q >= -(1i128 << (bits - 1)) && q < 1i128 << (bits - 1);
    fits.then(|| (q as u128, (dividend % divisor) as u128))
}

#[test]
fn mulx_gives_both_halves_and_no_flags() {
    // mulx rax, rbx, rcx; mulx rax, rax, rcx
    let mut bench = Bench::new(&[0xc4, 0xe2, 0xe3, 0xf6, 0xc1]);
    bench.cpu.regs[2] = u64::MAX;
    bench.cpu.regs[1] = 0x1234_5678_9abc_def0;
    assert_eq!(bench.run(CF | ZF), CF | ZF);
    let product = u128::from(u64::MAX) * 0x1234_5678_9abc_def0;
    assert_eq!(bench.cpu.regs[0], (product >> 64) as u64);
    assert_eq!(bench.cpu.regs[3], product as u64);
    let mut bench = Bench::new(&[0xc4, 0xe2, 0xfb, 0xf6, 0xc1]);
    bench.cpu.regs[2] = u64::MAX;
    bench.cpu.regs[1] = 0x1234_5678_9abc_def0;
    bench.run(0);
    assert_eq!(bench.cpu.regs[0], (product >> 64) as u64);
}
