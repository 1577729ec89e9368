//! Random registers and memory, of the kinds that find bugs.

use crate::case::{CODE, IMAGE_SIZE, Machine, START, WINDOW, WINDOW_SIZE};
use crate::random::Random;

const STATUS: u64 = 0x8d5;
/// Exception masks of FCW and MXCSR.
const ALL_MASKED: u64 = 0x3f;

/// Registers and memory for a case of this code size.
pub(crate) fn random(random: &mut Random, bitness: u32) -> Machine {
    let mut machine = Machine {
        image: [0; IMAGE_SIZE],
        gpr: [0; 16],
        rflags: 0x202 | random.next() & STATUS,
        rip: CODE + START as u64,
        window: [0; WINDOW_SIZE],
    };
    for register in &mut machine.gpr {
        *register = random.integer();
        if bitness == 32 {
            *register &= 0xffff_ffff;
        }
    }
    machine.gpr[4] = WINDOW + 0x1000 + random.below(64) * 8 - 256;
    fill_window(random, &mut machine.window);
    x87(random, &mut machine.image);
    sse(random, &mut machine.image);
    machine
}

fn fill_window(random: &mut Random, window: &mut [u8; WINDOW_SIZE]) {
    random.fill(window);
    // Numbers that mean something to every kind of instruction, at every alignment of 8.
    for at in (0..WINDOW_SIZE).step_by(8) {
        match random.below(4) {
            0 => window[at..at + 8].copy_from_slice(&random.integer().to_le_bytes()),
            1 => window[at..at + 8].copy_from_slice(&element(random).to_le_bytes()),
            _ => {}
        }
    }
}

/// 64 bits of a vector: one double, two singles, or anything.
fn element(random: &mut Random) -> u64 {
    match random.below(4) {
        0 => double(random),
        1 => u64::from(single(random)) | u64::from(single(random)) << 32,
        2 => random.integer(),
        _ => random.next(),
    }
}

fn double(random: &mut Random) -> u64 {
    let sign = random.next() & 1 << 63;
    let near = 1023 + random.below(80) - 40;
    sign | match random.below(12) {
        0 => 0,
        1 => 0x7ff0_0000_0000_0000,
        2 => 0x7ff8_0000_0000_0000 | random.next() >> 13,
        3 => 0x7ff0_0000_0000_0001 | random.next() >> 13,
        4 => random.next() >> 12 >> random.below(52),
        5 => 1u64 << 52 | random.next() >> 12,
        6 => 0x7fef_ffff_ffff_ffff - random.below(4),
        7 => near << 52,
        8 => (near << 52) | 1 << random.below(52),
        _ => near << 52 | random.next() >> 12,
    }
}

fn single(random: &mut Random) -> u32 {
    let sign = (random.next() as u32) & 1 << 31;
    let near = 127 + random.below(48) as u32 - 24;
    let bits = random.next() as u32 >> 9;
    sign | match random.below(12) {
        0 => 0,
        1 => 0x7f80_0000,
        2 => 0x7fc0_0000 | bits,
        3 => 0x7f80_0001 | bits >> 1,
        4 => bits >> random.below(23),
        5 => 1 << 23 | bits,
        6 => 0x7f7f_ffff - (bits & 3),
        7 => near << 23,
        _ => near << 23 | bits,
    }
}

/// An 80-bit number: normal, special, unsupported, or an integer.
fn extended(random: &mut Random) -> [u8; 10] {
    let sign = (random.next() as u16) & 0x8000;
    let integer_bit = 1u64 << 63;
    let (exponent, significand) = match random.below(14) {
        0 => (0, 0),
        1 => (0x7fff, integer_bit),
        2 => (0x7fff, integer_bit | 1 << 62 | random.next() >> 2),
        3 => (0x7fff, integer_bit | 1 | random.next() >> 2),
        4 => (0, random.next() >> 1),
        5 => (0, integer_bit | random.next()),
        6 => (random.below(0x8000), random.next() >> 1),
        7 => (0x7ffe, u64::MAX - random.below(3)),
        8 => (1, integer_bit | random.below(3)),
        9 => (0x3fff + random.below(66), integer_bit),
        10 => (0x3fff + random.below(16), integer_bit | random.next() << 50),
        _ => (0x3fff + random.below(140) - 70, integer_bit | random.next()),
    };
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&significand.to_le_bytes());
    bytes[8..].copy_from_slice(&(exponent as u16 | sign).to_le_bytes());
    bytes
}

fn x87(random: &mut Random, image: &mut [u8; IMAGE_SIZE]) {
    let masks = if random.once_in(6) { random.next() & ALL_MASKED } else { ALL_MASKED };
    let precision = random.pick(&[0u64, 2, 3, 3, 3]);
    let fcw = 0x40 | masks | precision << 8 | random.below(4) << 10;
    let mut fsw = random.next() & 0x4700 | random.below(8) << 11;
    if random.once_in(3) {
        // Flags set before; now and then one that is pending.
        let flags = random.next() & 0x3f;
        fsw |= if random.once_in(10) { flags } else { flags & masks };
        fsw |= random.next() & 0x40;
        if fsw & !masks & 0x3f != 0 {
            fsw |= 0x8080;
        }
    }
    let tags = match random.below(4) {
        0 => 0,
        1 => random.next() as u8,
        _ => 0xff,
    };
    image[0..2].copy_from_slice(&(fcw as u16).to_le_bytes());
    image[2..4].copy_from_slice(&(fsw as u16).to_le_bytes());
    image[4] = tags;
    for register in 0..8 {
        let at = 32 + register * 16;
        let bytes = extended(random);
        image[at..at + 10].copy_from_slice(&bytes);
    }
}

fn sse(random: &mut Random, image: &mut [u8; IMAGE_SIZE]) {
    let masks = if random.once_in(6) { random.next() & ALL_MASKED } else { ALL_MASKED };
    let mut mxcsr = masks << 7 | random.below(4) << 13;
    for bit in [6, 15] {
        if random.once_in(4) {
            mxcsr |= 1 << bit;
        }
    }
    if random.once_in(3) {
        mxcsr |= random.next() & 0x3f;
    }
    image[24..28].copy_from_slice(&(mxcsr as u32).to_le_bytes());
    image[28..32].copy_from_slice(&0xffffu32.to_le_bytes());
    for start in (160..416).step_by(8).chain((576..832).step_by(8)) {
        image[start..start + 8].copy_from_slice(&element(random).to_le_bytes());
    }
}
