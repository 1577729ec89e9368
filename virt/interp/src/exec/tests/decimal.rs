//! Decimal adjustment, after the manual's pseudocode, exhaustively.

use x86::{Exception, Vector};

use super::*;

fn bench(bytes: &[u8]) -> Bench {
    Bench::sized(CodeSize::Bits32, bytes)
}

#[test]
fn daa_and_das() {
    for subtract in [false, true] {
        let mut bench = bench(&[if subtract { 0x2f } else { 0x27 }]);
        for old in 0..=255u8 {
            for before in [0, CF, AF, CF | AF] {
                let (old_carry, mut al, mut carry) = (before & CF != 0, old, false);
                let change = |al: u8, by: u8| {
                    if subtract { al.overflowing_sub(by) } else { al.overflowing_add(by) }
                };
                let adjust = old & 15 > 9 || before & AF != 0;
                if adjust {
                    let (changed, over) = change(al, 6);
                    al = changed;
                    carry = old_carry || over;
                }
                if old > 0x99 || old_carry {
                    al = change(al, 0x60).0;
                    carry = true;
                } else if !subtract {
                    carry = false;
                }
                bench.cpu.regs[0] = 0x1234_5600 | u64::from(old);
                let flags = bench.run(before) & !OF;
                let expected = result_flags(u64::from(al), 8) | flag(carry, CF) | flag(adjust, AF);
                assert_eq!(flags, expected, "{subtract} {old:x} {before:x}");
                assert_eq!(bench.cpu.regs[0], 0x1234_5600 | u64::from(al));
            }
        }
    }
}

#[test]
fn aaa_and_aas() {
    for subtract in [false, true] {
        let mut bench = bench(&[if subtract { 0x3f } else { 0x37 }]);
        for old in (0..=0xffffu16).step_by(7) {
            for before in [0, AF] {
                let adjust = old & 15 > 9 || before & AF != 0;
                let mut ax = old;
                if adjust && subtract {
                    ax = ax.wrapping_sub(6).wrapping_sub(0x100);
                } else if adjust {
                    ax = ax.wrapping_add(0x106);
                }
                bench.cpu.regs[0] = u64::from(old);
                let flags = bench.run(before) & (CF | AF);
                assert_eq!(flags, flag(adjust, CF | AF));
                assert_eq!(bench.cpu.regs[0], u64::from(ax & 0xff0f));
            }
        }
    }
}

#[test]
fn aam_and_aad() {
    let mut aam = bench(&[0xd4, 10]);
    let mut aad = bench(&[0xd5, 10]);
    for al in 0..=255u64 {
        aam.cpu.regs[0] = 0x7700 | al;
        let flags = aam.run(0) & (SF | ZF | PF);
        assert_eq!(aam.cpu.regs[0], ((al / 10) << 8) | (al % 10));
        assert_eq!(flags, result_flags(al % 10, 8));
        aad.cpu.regs[0] = ((al / 10) << 8) | (al % 10);
        let flags = aad.run(0) & (SF | ZF | PF);
        assert_eq!(aad.cpu.regs[0], al);
        assert_eq!(flags, result_flags(al, 8));
    }
    let error = Stop::Fault(Exception::new(Vector::DivideError));
    assert_eq!(bench(&[0xd4, 0]).try_run(0), error);
}

#[test]
fn decimal_adjustment_is_undefined_in_64_bit_mode() {
    for bytes in [[0x27, 0], [0x2f, 0], [0x37, 0], [0x3f, 0], [0xd4, 10], [0xd5, 10], [0xd6, 0]] {
        assert_eq!(Bench::new(&bytes).try_run(0), Stop::Fault(Exception::UD), "{bytes:x?}");
    }
}
