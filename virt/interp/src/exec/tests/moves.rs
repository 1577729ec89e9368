//! Moves, addresses, conversions.

use x86::{Exception, Vector};

use super::*;
use crate::testing::{CODE, DATA, machine, real, step};

const OLD: u64 = 0xa5a5_a5a5_a5a5_a5a5;
const NEW: u64 = 0x8182_8384_8586_8788;

#[test]
fn mov_in_every_width() {
    for bits in [8, 16, 32, 64] {
        let mut register = Bench::new(&encode(bits, &[], &[0x88], 0xd1, &[])); // rcx, rdx
        let mut store = Bench::new(&encode(bits, &[], &[0x88], 0x17, &[])); // [rdi], rdx
        let mut load = Bench::new(&encode(bits, &[], &[0x8a], 0x17, &[]));
        register.cpu.regs[1] = OLD;
        register.cpu.regs[2] = NEW;
        assert_eq!(register.run(ALL), ALL);
        assert_eq!(register.cpu.regs[1], written(OLD, NEW, bits));
        store.cpu.regs[7] = DATA;
        store.cpu.regs[2] = NEW;
        store.cpu.bus.poke(DATA, OLD);
        store.run(0);
        let mask = u64::MAX >> (64 - bits);
        assert_eq!(store.cpu.bus.peek::<u64>(DATA), OLD & !mask | NEW & mask);
        load.cpu.regs[7] = DATA;
        load.cpu.regs[2] = OLD;
        load.cpu.bus.poke(DATA, NEW);
        load.run(0);
        assert_eq!(load.cpu.regs[2], written(OLD, NEW, bits));
    }
}

#[test]
fn mov_immediates() {
    let cases: [(&[u8], u64); 6] = [
        (&[0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 0x88], 0x8807_0605_0403_0201),
        (&[0xb8, 1, 2, 3, 0x84], 0x8403_0201),
        (&[0x48, 0xc7, 0xc0, 1, 2, 3, 0x84], 0xffff_ffff_8403_0201),
        (&[0x66, 0xb8, 1, 0x82], OLD & !0xffff | 0x8201),
        (&[0xb4, 0x81], OLD & !0xff00 | 0x8100),
        (&[0xc6, 0xc0, 0x81], OLD & !0xff | 0x81),
    ];
    for (bytes, expected) in cases {
        let mut bench = Bench::new(bytes);
        bench.cpu.regs[0] = OLD;
        bench.run(0);
        assert_eq!(bench.cpu.regs[0], expected, "{bytes:x?}");
    }
    let mut bench = Bench::new(&[0x48, 0xc7, 0x07, 0xfe, 0xff, 0xff, 0xff]); // [rdi], -2
    bench.cpu.regs[7] = DATA;
    bench.run(0);
    assert_eq!(bench.cpu.bus.peek::<u64>(DATA), u64::MAX - 1);
}

#[test]
fn absolute_offsets() {
    // mov rax, [moffs64]; with a 64-bit address that is not canonical; mov [moffs32], eax; FS.
    let mut bytes = [0x48, 0xa1, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes[2..].copy_from_slice(&DATA.to_le_bytes());
    let mut bench = Bench::new(&bytes);
    bench.cpu.bus.poke(DATA, NEW);
    bench.run(0);
    assert_eq!(bench.cpu.regs[0], NEW);
    bytes[9] = 0x12;
    assert_eq!(Bench::new(&bytes).try_run(0), Stop::Fault(Exception::GP0));
    let mut bench = Bench::sized(CodeSize::Bits32, &[0xa3, 0, 0, 1, 0]);
    bench.cpu.regs[0] = NEW;
    bench.run(0);
    assert_eq!(bench.cpu.bus.peek::<u64>(DATA), 0x8586_8788);
    let mut bench = Bench::new(&[0x64, 0xa0, 8, 0, 0, 0, 0, 0, 0, 0]);
    bench.cpu.state.segments[4].base = DATA;
    bench.cpu.bus.poke(DATA + 8, 0x42_u8);
    bench.run(0);
    assert_eq!(bench.cpu.regs[0], 0x42);
}

#[test]
fn extensions() {
    let cases: [(&[u8], u64); 8] = [
        (&[0x0f, 0xb6, 0xc1], 0x88),
        (&[0x66, 0x0f, 0xb6, 0xc1], OLD & !0xffff | 0x88),
        (&[0x0f, 0xb7, 0xc1], 0x8788),
        (&[0x0f, 0xbe, 0xc1], 0xffff_ff88),
        (&[0x48, 0x0f, 0xbe, 0xc1], 0xffff_ffff_ffff_ff88),
        (&[0x48, 0x0f, 0xbf, 0xc1], 0xffff_ffff_ffff_8788),
        (&[0x48, 0x63, 0xc1], 0xffff_ffff_8586_8788),
        (&[0x0f, 0xb6, 0xc5], 0x87), // ch
    ];
    for (bytes, expected) in cases {
        let mut bench = Bench::new(bytes);
        bench.cpu.regs[0] = OLD;
        bench.cpu.regs[1] = NEW;
        assert_eq!(bench.run(ALL), ALL);
        assert_eq!(bench.cpu.regs[0], expected, "{bytes:x?}");
    }
    let mut bench = Bench::new(&[0x48, 0x0f, 0xbe, 0x07]); // movsx rax, byte [rdi]
    bench.cpu.regs[7] = DATA;
    bench.cpu.bus.poke(DATA, 0x80_u8);
    bench.run(0);
    assert_eq!(bench.cpu.regs[0], 0xffff_ffff_ffff_ff80);
}

#[test]
fn accumulator_conversions() {
    let value = 0x1111_1111_8000_8080_u64;
    let cases: [(&[u8], u64, u64); 6] = [
        (&[0x66, 0x98], 0x1111_1111_8000_ff80, OLD),
        (&[0x98], 0xffff_8080, OLD),
        (&[0x48, 0x98], 0xffff_ffff_8000_8080, OLD),
        (&[0x66, 0x99], value, OLD | 0xffff),
        (&[0x99], value, 0xffff_ffff),
        (&[0x48, 0x99], value, 0),
    ];
    for (bytes, rax, rdx) in cases {
        let mut bench = Bench::new(bytes);
        bench.cpu.regs[0] = value;
        bench.cpu.regs[2] = OLD;
        bench.run(0);
        assert_eq!((bench.cpu.regs[0], bench.cpu.regs[2]), (rax, rdx), "{bytes:x?}");
    }
}

#[test]
fn byte_orders() {
    let cases: [(&[u8], u64); 3] = [
        (&[0x0f, 0xc8], 0x8887_8685),
        (&[0x48, 0x0f, 0xc8], NEW.swap_bytes()),
        (&[0x66, 0x0f, 0xc8], NEW & !0xffff),
    ];
    for (bytes, expected) in cases {
        let mut bench = Bench::new(bytes);
        bench.cpu.regs[0] = NEW;
        bench.run(0);
        assert_eq!(bench.cpu.regs[0], expected);
    }
    for bits in [16, 32, 64] {
        let mut load = Bench::new(&encode_word(bits, &[], &[0x0f, 0x38, 0xf0], 0x0f, &[]));
        load.cpu.regs[7] = DATA;
        load.cpu.regs[1] = OLD;
        load.cpu.bus.poke(DATA, NEW);
        load.run(0);
        let swapped = (NEW << (64 - bits)).swap_bytes();
        assert_eq!(load.cpu.regs[1], written(OLD, swapped, bits));
        let mut store = Bench::new(&encode_word(bits, &[], &[0x0f, 0x38, 0xf1], 0x0f, &[]));
        store.cpu.regs[7] = DATA;
        store.cpu.regs[1] = NEW;
        store.run(0);
        assert_eq!(store.cpu.bus.peek::<u64>(DATA), swapped);
    }
}

#[test]
fn effective_addresses() {
    let cases: [(&[u8], u64); 9] = [
        (&[0x48, 0x8d, 0x44, 0x8b, 0xf0], 0x1_0000_1000),
        (&[0x8d, 0x44, 0x8b, 0xf0], 0x1000),
        (&[0x67, 0x48, 0x8d, 0x44, 0x8b, 0xf0], 0x1000),
        (&[0x66, 0x8d, 0x44, 0x8b, 0xf0], OLD & !0xffff | 0x1000),
        (&[0x48, 0x8d, 0x05, 0xf0, 0xff, 0xff, 0xff], CODE + 7 - 16),
        (&[0x67, 0x48, 0x8d, 0x05, 0xf0, 0xff, 0xff, 0xff], CODE + 8 - 16),
        (&[0x48, 0x8d, 0x04, 0x25, 0, 0, 0, 0x80], 0xffff_ffff_8000_0000),
        (&[0x67, 0x48, 0x8d, 0x04, 0x25, 0, 0, 0, 0x80], 0x8000_0000),
        (&[0x4a, 0x8d, 0x04, 0x65, 1, 0, 0, 0], 0x21), // [r12 * 2 + 1]
    ];
    for (bytes, expected) in cases {
        let mut bench = Bench::new(bytes);
        bench.cpu.regs[0] = OLD;
        bench.cpu.regs[3] = 0xffff_ffff_0000_1000;
        bench.cpu.regs[1] = 0x8000_0004;
        bench.cpu.regs[12] = 0x10;
        bench.run(0);
        assert_eq!(bench.cpu.regs[0], expected, "{bytes:x?}");
    }
    // 16-bit: lea ax, [bx + si + 0x7f] wraps within 64 KiB.
    let mut bench = Bench::sized(CodeSize::Bits16, &[0x8d, 0x40, 0x7f]);
    bench.cpu.regs[3] = 0x1_f000;
    bench.cpu.regs[6] = 0x1000;
    bench.run(0);
    assert_eq!(bench.cpu.regs[0], 0x7f);
}

#[test]
fn xlat_adds_al_within_the_address_size() {
    let mut bench = Bench::new(&[0xd7]);
    bench.cpu.regs[3] = DATA;
    bench.cpu.regs[0] = 0xff80;
    bench.cpu.bus.poke(DATA + 0x80, 0x42_u8);
    bench.run(0);
    assert_eq!(bench.cpu.regs[0], 0xff42);
    let mut cpu = real(&[0xd7]);
    cpu.regs[3] = 0xfff0;
    cpu.regs[0] = 0x20;
    cpu.bus.poke(0x10, 0x24_u8);
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.regs[0], 0x24);
}

#[test]
fn segments_bound_what_they_hold() {
    let gp = Stop::Fault(Exception::GP0);
    // mov eax, [edi]: beyond DS's limit; through SS it is #SS.
    for (bytes, segment, stop) in [
        (&[0x8b, 0x07][..], 3, gp),
        (&[0x36, 0x8b, 0x07][..], 2, Stop::Fault(Exception::SS0)),
        (&[0x8b, 0x45, 0x00][..], 2, Stop::Fault(Exception::SS0)), // [ebp]
    ] {
        let mut bench = Bench::sized(CodeSize::Bits32, bytes);
        bench.cpu.state.segments[segment].limit = DATA as u32 + 3;
        bench.cpu.regs[7] = DATA;
        bench.cpu.regs[5] = DATA;
        assert_eq!(bench.try_run(0), Stop::None);
        bench.cpu.regs[7] = DATA + 1;
        bench.cpu.regs[5] = DATA + 1;
        assert_eq!(bench.try_run(0), stop);
    }
    // A null selector, a write to read-only data, a write to code.
    let mut store = Bench::sized(CodeSize::Bits32, &[0x89, 0x07]);
    store.cpu.regs[7] = DATA;
    store.cpu.state.segments[3].attributes &= !x86::segment::attr::WRITE_READ;
    assert_eq!(store.try_run(0), gp);
    let mut store = Bench::sized(CodeSize::Bits32, &[0x2e, 0x89, 0x07]);
    store.cpu.regs[7] = DATA;
    assert_eq!(store.try_run(0), gp);
    let mut load = Bench::sized(CodeSize::Bits32, &[0x8b, 0x07]);
    load.cpu.state.segments[3].attributes = 0;
    assert_eq!(load.try_run(0), gp);
    // In 64-bit mode limits and bases of DS mean nothing.
    let mut load = Bench::new(&[0x8b, 0x07]);
    load.cpu.state.segments[3] = x86::Segment::default();
    load.cpu.regs[7] = DATA;
    assert_eq!(load.try_run(0), Stop::None);
}

#[test]
fn misaligned_data_at_cpl_3_with_ac() {
    let mut cpu = machine(CodeSize::Bits64, &[0x8b, 0x07]);
    cpu.bus.context.user = true;
    cpu.bus.context.align_check = true;
    cpu.regs[7] = DATA + 1;
    let stop = step(&mut cpu);
    assert_eq!(stop, Stop::Fault(Exception::with_code(Vector::AlignmentCheck, 0)));
}

#[test]
fn non_temporal_stores() {
    for bytes in [&[0x48, 0x0f, 0xc3, 0x0f][..], &[0x48, 0x0f, 0x38, 0xf9, 0x0f]] {
        let mut bench = Bench::new(bytes);
        bench.cpu.regs[7] = DATA;
        bench.cpu.regs[1] = NEW;
        bench.run(0);
        assert_eq!(bench.cpu.bus.peek::<u64>(DATA), NEW);
    }
}
