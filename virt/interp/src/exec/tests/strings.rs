//! String instructions: whole runs and single elements, directions, faults, interruption.

use x86::{Exception, Flags};

use super::*;
use crate::testing::{DATA, real, step};

const FROM: u64 = 0x2_0ff0;
const TO: u64 = 0x3_0ff8;

fn pattern(bench: &mut Bench, at: u64, length: u64) {
    for index in 0..length {
        bench.cpu.bus.poke(at + index, (index * 7 + 3) as u8);
    }
}

#[test]
fn rep_movs_in_every_width_and_way() {
    for bits in [8, 16, 32, 64] {
        for run_limit in [0, 13, 4096] {
            for down in [false, true] {
                let bytes = encode_string(bits, 0xa4, 0xf3);
                let mut bench = Bench::new(&bytes);
                bench.cpu.bus.run_limit = run_limit;
                let (size, count) = (u64::from(bits / 8), 700);
                pattern(&mut bench, FROM - 8, size * count + 16);
                let length = size * count;
                let first = if down { length - size } else { 0 };
                bench.cpu.regs[6] = FROM + first;
                bench.cpu.regs[7] = TO + first;
                bench.cpu.regs[1] = count;
                if down {
                    bench.cpu.state.rflags |= Flags::DF.bits();
                }
                assert_eq!(bench.run(ALL), ALL);
                let (from, to) = (FROM as usize, TO as usize);
                let memory = &bench.cpu.bus.memory;
                assert!(memory[from..from + length as usize] == memory[to..to + length as usize]);
                assert_eq!(memory[to - 1], 0);
                assert_eq!(memory[to + length as usize], 0);
                let moved = if down { 0u64.wrapping_sub(size) } else { length };
                assert_eq!(bench.cpu.regs[6], FROM.wrapping_add(moved));
                assert_eq!(bench.cpu.regs[7], TO.wrapping_add(moved));
                assert_eq!(bench.cpu.regs[1], 0);
            }
        }
    }
}

fn encode_string(bits: u32, opcode: u8, prefix: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    if prefix != 0 {
        bytes.push(prefix);
    }
    match bits {
        16 => bytes.push(0x66),
        64 => bytes.push(0x48),
        _ => {}
    }
    bytes.push(if bits == 8 { opcode } else { opcode + 1 });
    bytes
}

#[test]
fn overlapping_rep_movs_repeats_the_pattern() {
    let mut bench = Bench::new(&[0xf3, 0xa4]);
    bench.cpu.bus.poke_bytes(DATA, b"abc");
    bench.cpu.regs[6] = DATA;
    bench.cpu.regs[7] = DATA + 3;
    bench.cpu.regs[1] = 9;
    bench.run(0);
    assert_eq!(&bench.cpu.bus.memory[DATA as usize..][..12], b"abcabcabcabc");
}

#[test]
fn rep_stos_and_lods() {
    for bits in [8, 16, 32, 64] {
        let size = u64::from(bits / 8);
        let mut stos = Bench::new(&encode_string(bits, 0xaa, 0xf3));
        stos.cpu.regs[0] = 0x1122_3344_5566_7788;
        stos.cpu.regs[7] = TO;
        stos.cpu.regs[1] = 100;
        stos.run(0);
        for index in 0..100 {
            let found = stos.cpu.bus.peek::<u64>(TO + index * size) << (64 - bits);
            assert_eq!(found, 0x1122_3344_5566_7788 << (64 - bits));
        }
        assert_eq!(stos.cpu.bus.memory[(TO + 100 * size) as usize], 0);
        assert_eq!((stos.cpu.regs[7], stos.cpu.regs[1]), (TO + 100 * size, 0));
        let mut lods = Bench::new(&encode_string(bits, 0xac, 0xf3));
        pattern(&mut lods, FROM, 64);
        lods.cpu.regs[6] = FROM;
        lods.cpu.regs[0] = u64::MAX;
        lods.cpu.regs[1] = 3;
        lods.run(0);
        let last = lods.cpu.bus.peek::<u64>(FROM + 2 * size);
        assert_eq!(lods.cpu.regs[0], written(u64::MAX, last, bits));
        assert_eq!((lods.cpu.regs[6], lods.cpu.regs[1]), (FROM + 3 * size, 0));
    }
}

#[test]
fn without_a_prefix_one_element() {
    let mut bench = Bench::new(&[0x48, 0xa5]);
    pattern(&mut bench, FROM, 8);
    bench.cpu.regs[6] = FROM;
    bench.cpu.regs[7] = TO;
    bench.cpu.regs[1] = 77;
    bench.run(0);
    assert_eq!(bench.cpu.bus.peek::<u64>(TO), bench.cpu.bus.peek::<u64>(FROM));
    let regs = &bench.cpu.regs;
    assert_eq!((regs[6], regs[7], regs[1]), (FROM + 8, TO + 8, 77));
}

#[test]
fn scas_and_cmps_stop_on_zf() {
    let text = b"hello, world\0";
    // repne scasb finds the end.
    let mut bench = Bench::new(&[0xf2, 0xae]);
    bench.cpu.bus.poke_bytes(DATA, text);
    bench.cpu.regs[7] = DATA;
    bench.cpu.regs[1] = u64::MAX;
    let flags = bench.run(0);
    assert_eq!(flags & ZF, ZF);
    assert_eq!(bench.cpu.regs[7], DATA + 13);
    assert_eq!(bench.cpu.regs[1], u64::MAX - 13);
    // repe cmpsb stops behind the first difference, with its flags.
    let mut bench = Bench::new(&[0xf3, 0xa6]);
    bench.cpu.bus.poke_bytes(DATA, text);
    bench.cpu.bus.poke_bytes(TO, b"hello, World");
    bench.cpu.regs[6] = DATA;
    bench.cpu.regs[7] = TO;
    bench.cpu.regs[1] = 12;
    let flags = bench.run(0);
    let difference = crate::flags::LazyFlags::sub(b'w', b'W', b'w' - b'W').bits();
    assert_eq!(flags, difference);
    let regs = &bench.cpu.regs;
    assert_eq!((regs[6], regs[7], regs[1]), (DATA + 8, TO + 8, 4));
    // A count of 0 changes nothing, flags included.
    bench.cpu.regs[1] = 0;
    let before = bench.cpu.regs;
    assert_eq!(bench.run(ALL), ALL);
    assert_eq!(bench.cpu.regs[..16], before[..16]);
}

#[test]
fn a_fault_in_the_middle_leaves_exact_registers() {
    for run_limit in [0, 4096] {
        let mut bench = Bench::new(&[0xf3, 0xa4]);
        bench.cpu.bus.run_limit = run_limit;
        bench.cpu.regs[6] = FROM;
        bench.cpu.regs[7] = 0x3_0800;
        bench.cpu.regs[1] = 0x1000;
        bench.cpu.bus.read_only.insert(0x31);
        let stop = bench.try_run(0);
        assert_eq!(stop, Stop::Fault(Exception::page_fault(0x3_1000, 3)));
        let regs = &bench.cpu.regs;
        assert_eq!((regs[6], regs[7], regs[1]), (FROM + 0x800, 0x3_1000, 0x800));
        // Going on after the handler made the page writable.
        bench.cpu.bus.read_only.clear();
        bench.run(0);
        assert_eq!((bench.cpu.regs[7], bench.cpu.regs[1]), (0x3_1800, 0));
    }
}

#[test]
fn a_fault_while_scanning_keeps_the_flags_from_before() {
    let mut bench = Bench::new(&[0xf2, 0xae]);
    bench.cpu.regs[7] = DATA + 0xffe;
    bench.cpu.regs[0] = 0xff;
    bench.cpu.regs[1] = 5;
    bench.cpu.bus.absent.insert((DATA >> 12) + 1);
    let stop = bench.try_run(ZF | OF);
    assert_eq!(stop, Stop::Fault(Exception::page_fault(DATA + 0x1000, 0)));
    assert_eq!(bench.cpu.flags.bits(), ZF | OF);
    assert_eq!((bench.cpu.regs[7], bench.cpu.regs[1]), (DATA + 0x1000, 3));
}

#[test]
fn long_runs_give_way() {
    let mut bench = Bench::new(&[0xf3, 0xaa]);
    bench.cpu.bus.attention_after = Some(1);
    bench.cpu.regs[7] = DATA;
    bench.cpu.regs[1] = 0x8000;
    assert_eq!(bench.try_run(0), Stop::Repeat);
    let (at, left) = (bench.cpu.regs[7], bench.cpu.regs[1]);
    assert!(left > 0 && left < 0x8000);
    assert_eq!(at + left, DATA + 0x8000);
    bench.cpu.bus.attention_after = None;
    bench.run(0);
    assert_eq!((bench.cpu.regs[7], bench.cpu.regs[1]), (DATA + 0x8000, 0));
}

#[test]
fn single_stepping_sees_every_repetition() {
    let mut bench = Bench::new(&[0xf3, 0xaa]);
    bench.cpu.state.rflags |= Flags::TF.bits();
    bench.cpu.regs[7] = DATA;
    bench.cpu.regs[1] = 2;
    assert_eq!(bench.try_run(0), Stop::Repeat);
    assert_eq!((bench.cpu.regs[7], bench.cpu.regs[1]), (DATA + 1, 1));
    assert_eq!(bench.try_run(0), Stop::None);
}

#[test]
fn address_sizes_and_segments() {
    // 67 in 64-bit mode: ESI, EDI, ECX, zero-extended when written.
    let mut bench = Bench::new(&[0x67, 0xf3, 0xa4]);
    bench.cpu.bus.poke(FROM, 0x42_u8);
    bench.cpu.regs[6] = 0xffff_ffff_0000_0000 | FROM;
    bench.cpu.regs[7] = 0xffff_ffff_0000_0000 | TO;
    bench.cpu.regs[1] = 0xffff_ffff_0000_0001;
    bench.run(0);
    assert_eq!(bench.cpu.bus.peek::<u8>(TO), 0x42);
    let regs = &bench.cpu.regs;
    assert_eq!((regs[6], regs[7], regs[1]), (FROM + 1, TO + 1, 0));
    // FS overrides the source, never the destination.
    let mut bench = Bench::new(&[0x64, 0xa4]);
    bench.cpu.state.segments[4].base = 0x100;
    bench.cpu.bus.poke(FROM + 0x100, 0x43_u8);
    bench.cpu.regs[6] = FROM;
    bench.cpu.regs[7] = TO;
    bench.run(0);
    assert_eq!(bench.cpu.bus.peek::<u8>(TO), 0x43);
    // Real mode: SI wraps at 64 KiB, ES has its own base.
    let mut cpu = real(&[0xf3, 0xa4]);
    cpu.state.segments[0].base = 0x5_0000;
    cpu.bus.poke(0xffff, 0x11_u8);
    cpu.bus.poke(0, 0x22_u8);
    cpu.regs[6] = 0x1_ffff;
    cpu.regs[7] = 0;
    cpu.regs[1] = 0x7_0002;
    assert_eq!(step(&mut cpu), Stop::None);
    assert_eq!(cpu.bus.peek::<u16>(0x5_0000), 0x2211);
    assert_eq!((cpu.regs[6], cpu.regs[7], cpu.regs[1]), (0x1_0001, 2, 0x7_0000));
    // A run that would leave its segment goes element by element up to the limit.
    let mut bench = Bench::sized(CodeSize::Bits32, &[0xf3, 0xaa]);
    bench.cpu.state.segments[0].limit = DATA as u32 + 4;
    bench.cpu.regs[7] = DATA;
    bench.cpu.regs[1] = 10;
    assert_eq!(bench.try_run(0), Stop::Fault(Exception::GP0));
    assert_eq!((bench.cpu.regs[7], bench.cpu.regs[1]), (DATA + 5, 5));
}
