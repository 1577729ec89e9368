//! Flag instructions, no-operations, cache lines, random numbers, BOUND, undefined encodings.

use x86::{Exception, Flags, Vector};

use super::*;
use crate::testing::{DATA, MEMORY};

#[test]
fn flag_instructions() {
    for before in [0, CF, ALL, ALL & !CF] {
        assert_eq!(Bench::new(&[0xf8]).run(before), before & !CF);
        assert_eq!(Bench::new(&[0xf9]).run(before), before | CF);
        assert_eq!(Bench::new(&[0xf5]).run(before), before ^ CF);
        let mut lahf = Bench::new(&[0x9f]);
        lahf.cpu.regs[0] = 0x1234;
        lahf.run(before);
        assert_eq!(lahf.cpu.regs[0], (before & 0xff | 2) << 8 | 0x34);
        for ah in [0u64, 0xff, 0x41, 0x2a] {
            let mut sahf = Bench::new(&[0x9e]);
            sahf.cpu.regs[0] = ah << 8;
            assert_eq!(sahf.run(before), before & OF | ah & (ALL & 0xff));
        }
    }
    let mut direction = Bench::new(&[0xfd]);
    direction.run(0);
    assert!(direction.cpu.has_flag(Flags::DF));
    direction.op = testing::decoded(CodeSize::Bits64, &[0xfc]);
    direction.run(0);
    assert!(!direction.cpu.has_flag(Flags::DF));
}

#[test]
fn salc() {
    for (flags, al) in [(CF, 0xff), (0, 0)] {
        let mut bench = Bench::sized(CodeSize::Bits32, &[0xd6]);
        bench.cpu.regs[0] = 0x1277;
        bench.run(flags);
        assert_eq!(bench.cpu.regs[0], 0x1200 | al);
    }
}

#[test]
fn hints_do_nothing() {
    for bytes in [
        &[0x90][..],
        &[0x66, 0x90],
        &[0xf3, 0x90],
        &[0x0f, 0x1f, 0x44, 0x00, 0x00],
        &[0x66, 0x2e, 0x0f, 0x1f, 0x84, 0x00, 0, 0, 0, 0],
        &[0xf3, 0x0f, 0x1e, 0xfa],       // endbr64
        &[0xf3, 0x48, 0x0f, 0x1e, 0xc8], // rdsspq rax
        &[0x0f, 0x0d, 0x0f],             // prefetchw
        &[0x0f, 0x18, 0x0f],             // prefetcht0
        &[0x0f, 0x1a, 0x0f],
        &[0x0f, 0x1c, 0x07], // cldemote
        &[0x0f, 0xae, 0xe8], // lfence
        &[0x0f, 0xae, 0xf0], // mfence
        &[0x0f, 0xae, 0xf8], // sfence
    ] {
        let mut bench = Bench::new(bytes);
        assert_eq!(usize::from(bench.op.len), bytes.len());
        for register in 0..16 {
            bench.cpu.regs[register] = 1 << 62 | register as u64; // no memory is touched
        }
        let before = bench.cpu.regs;
        assert_eq!(bench.run(ALL), ALL, "{bytes:x?}");
        assert_eq!(bench.cpu.regs[..16], before[..16], "{bytes:x?}");
    }
}

#[test]
fn cache_line_writes_need_a_readable_byte() {
    for bytes in [&[0x0f, 0xae, 0x3f][..], &[0x66, 0x0f, 0xae, 0x3f], &[0x66, 0x0f, 0xae, 0x37]] {
        let mut bench = Bench::new(bytes);
        bench.cpu.regs[7] = DATA;
        bench.cpu.bus.read_only.insert(DATA >> 12);
        bench.run(0);
        bench.cpu.regs[7] = MEMORY as u64;
        let fault = Exception::page_fault(MEMORY as u64, 0);
        assert_eq!(bench.try_run(0), Stop::Fault(fault), "{bytes:x?}");
    }
}

#[test]
fn random_numbers_always_come() {
    for modrm in [0xf1, 0xf9] {
        for bits in [16, 32, 64] {
            let mut bench = Bench::new(&encode_word(bits, &[], &[0x0f, 0xc7], modrm, &[]));
            bench.cpu.regs[1] = u64::MAX;
            assert_eq!(bench.run(ALL), CF);
            assert_eq!(bench.cpu.regs[1], written(u64::MAX, 0x0123_4567_89ab_cdef, bits));
        }
    }
}

#[test]
fn bound_checks_signed() {
    let br = Stop::Fault(Exception::new(Vector::BoundRange));
    for (index, stop) in [(-5i32, Stop::None), (-6, br), (7, Stop::None), (8, br), (0, Stop::None)]
    {
        let mut bench = Bench::sized(CodeSize::Bits32, &[0x62, 0x0f]); // ecx, [edi]
        bench.cpu.regs[7] = DATA;
        bench.cpu.bus.poke(DATA, (-5i32) as u32);
        bench.cpu.bus.poke(DATA + 4, 7_u32);
        bench.cpu.regs[1] = u64::from(index as u32);
        assert_eq!(bench.try_run(0), stop, "{index}");
    }
}

#[test]
fn undefined_and_unannounced_instructions() {
    let ud = Stop::Fault(Exception::UD);
    for bytes in
        [&[0x0f, 0x0b][..], &[0x0f, 0xb9, 0xc0], &[0x0f, 0xff, 0xc0], &[0x06, 0], &[0x0f, 0x04]]
    {
        let bytes = [bytes, &[0; 8]].concat();
        assert_eq!(Bench::new(&bytes).try_run(0), ud, "{bytes:x?}");
    }
    let adcx = [0x66, 0x0f, 0x38, 0xf6, 0xca];
    let mut bench = Bench::new(&adcx);
    assert_eq!(bench.try_run(0), Stop::None);
    let mut bare = FlatBus::default();
    bare.cpuid.clear();
    bench.op = crate::lower::decode(&adcx, CodeSize::Bits64, &mut bare).expect("whole");
    assert_eq!(bench.try_run(0), ud);
}

#[test]
fn lengths_and_windows() {
    // Fifteen prefixes are #GP(0); a short window asks for more.
    assert_eq!(Bench::new(&[0x66; 15]).try_run(0), Stop::Fault(Exception::GP0));
    let mut bus = FlatBus::default();
    assert!(crate::lower::decode(&[0x48, 0xb8, 1], CodeSize::Bits64, &mut bus).is_err());
}
