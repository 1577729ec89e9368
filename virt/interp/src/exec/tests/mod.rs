//! The general-purpose instructions against expectations computed another way, mostly bit by bit
//! after the manual's pseudocode.

extern crate std;

mod arithmetic;
mod atomic;
mod bits;
mod decimal;
mod flow;
mod moves;
mod other;
mod shifts;
mod stack;
mod strings;
mod vendor;

use std::vec::Vec;

use x86::Flags;

use crate::cpu::{Cpu, Stop};
use crate::flags::LazyFlags;
use crate::lower::CodeSize;
use crate::op::Op;
use crate::testing::{self, FlatBus};

pub(super) const CF: u64 = 1;
pub(super) const PF: u64 = 1 << 2;
pub(super) const AF: u64 = 1 << 4;
pub(super) const ZF: u64 = 1 << 6;
pub(super) const SF: u64 = 1 << 7;
pub(super) const OF: u64 = 1 << 11;
pub(super) const ALL: u64 = Flags::STATUS.bits();

/// Values near every edge of a width.
pub(super) fn values(bits: u32) -> Vec<u64> {
    let mask = u64::MAX >> (64 - bits);
    let top = 1u64 << (bits - 1);
    let mut list = std::vec![
        0,
        1,
        2,
        7,
        8,
        9,
        0xf,
        0x10,
        0x55,
        0x7f,
        0x80,
        0xff,
        top - 1,
        top,
        top + 1,
        mask - 1,
        mask,
    ];
    list.extend([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210, 0xdead_beef_cafe_f00d]);
    for value in &mut list {
        *value &= mask;
    }
    list
}

/// A 64-bit processor and one decoded instruction to run on it many times.
pub(super) struct Bench {
    pub(super) cpu: Cpu<FlatBus>,
    pub(super) op: Op<FlatBus>,
}

impl Bench {
    /// For raw bytes.
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self::sized(CodeSize::Bits64, bytes)
    }

    /// In a given code size.
    pub(super) fn sized(size: CodeSize, bytes: &[u8]) -> Self {
        Self { cpu: testing::machine(size, bytes), op: testing::decoded(size, bytes) }
    }

    /// Runs with these status flags; gives those after.
    pub(super) fn run(&mut self, flags: u64) -> u64 {
        assert_eq!(self.try_run(flags), Stop::None);
        self.cpu.flags.bits()
    }

    /// Runs and gives why it stopped.
    pub(super) fn try_run(&mut self, flags: u64) -> Stop {
        self.cpu.flags = LazyFlags::from_bits(flags);
        self.cpu.stop = Stop::None;
        self.cpu.set_rip(testing::CODE + u64::from(self.op.len));
        let op = self.op;
        assert_eq!((op.run)(&mut self.cpu, &op).is_err(), self.cpu.stop != Stop::None);
        self.cpu.stop
    }
}

/// A register's value after writing `value` of a width over `old`.
pub(super) fn written(old: u64, value: u64, bits: u32) -> u64 {
    match bits {
        64 => value,
        32 => value & 0xffff_ffff,
        16 => old & !0xffff | value & 0xffff,
        _ => old & !0xff | value & 0xff,
    }
}

/// Sign-extends.
pub(super) fn signed(value: u64, bits: u32) -> i64 {
    (value << (64 - bits)) as i64 >> (64 - bits)
}

/// SF, ZF and PF of a result.
pub(super) fn result_flags(result: u64, bits: u32) -> u64 {
    let result = result & u64::MAX >> (64 - bits);
    let zero = if result == 0 { ZF } else { 0 };
    let sign = if result >> (bits - 1) != 0 { SF } else { 0 };
    let parity = if (result as u8).count_ones().is_multiple_of(2) { PF } else { 0 };
    zero | sign | parity
}

pub(super) fn flag(condition: bool, bit: u64) -> u64 {
    if condition { bit } else { 0 }
}

/// Prefixes and opcode of a group whose byte form is `opcode` and whose other forms are
/// `opcode + 1`, with ModRM for a register form (`rm`, `reg`) and an optional immediate.
pub(super) fn encode(bits: u32, prefix: &[u8], opcode: &[u8], modrm: u8, tail: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    if bits == 16 {
        bytes.push(0x66);
    }
    bytes.extend_from_slice(prefix);
    if bits == 64 {
        bytes.push(0x48);
    }
    let (last, head) = opcode.split_last().expect("an opcode");
    bytes.extend_from_slice(head);
    bytes.push(if bits == 8 { *last } else { last + 1 });
    bytes.push(modrm);
    bytes.extend_from_slice(tail);
    bytes
}

/// [`encode`] for opcodes without a byte form.
pub(super) fn encode_word(
    bits: u32,
    prefix: &[u8],
    opcode: &[u8],
    modrm: u8,
    tail: &[u8],
) -> Vec<u8> {
    let (last, head) = opcode.split_last().expect("an opcode");
    let mut shifted = head.to_vec();
    shifted.push(last - 1);
    encode(bits, prefix, &shifted, modrm, tail)
}
