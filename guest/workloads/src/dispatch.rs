//! An interpreter of a small byte code that calls each operation through a table: indirect calls
//! whose targets repeat, but not simply.

use std::hint::black_box;

use crate::catalogue::Failure;
use crate::random::{Random, fold};

struct Machine {
    accumulator: u64,
    registers: [u64; 8],
}

type Operation = fn(&mut Machine, usize);

fn add(machine: &mut Machine, index: usize) {
    machine.accumulator = machine.accumulator.wrapping_add(machine.registers[index]);
}
fn subtract(machine: &mut Machine, index: usize) {
    machine.accumulator = machine.accumulator.wrapping_sub(machine.registers[index]);
}
fn exclusive_or(machine: &mut Machine, index: usize) {
    machine.accumulator ^= machine.registers[index];
}
fn rotate(machine: &mut Machine, index: usize) {
    machine.accumulator = machine.accumulator.rotate_left(index as u32 + 1);
}
fn store(machine: &mut Machine, index: usize) {
    machine.registers[index] = machine.accumulator;
}
fn multiply(machine: &mut Machine, index: usize) {
    machine.accumulator = machine.accumulator.wrapping_mul(machine.registers[index] | 1);
}
fn exchange(machine: &mut Machine, index: usize) {
    std::mem::swap(&mut machine.accumulator, &mut machine.registers[index]);
}
fn maximum(machine: &mut Machine, index: usize) {
    machine.accumulator = machine.accumulator.max(machine.registers[index]);
}

const OPERATIONS: [Operation; 8] =
    [add, subtract, exclusive_or, rotate, store, multiply, exchange, maximum];

/// Interprets `amount` million instructions of a program 1000 long.
pub(crate) fn run(amount: u64) -> Result<u64, Failure> {
    let mut random = Random::new(5);
    let program: Vec<u8> = (0..1000).map(|_| random.next() as u8).collect();
    let table = black_box(OPERATIONS);
    let mut machine = Machine { accumulator: 1, registers: [2, 3, 5, 7, 11, 13, 17, 19] };
    for _ in 0..amount * 1000 {
        for code in &program {
            table[usize::from(code & 7)](&mut machine, usize::from(code >> 3 & 7));
        }
    }
    Ok(machine.registers.iter().fold(machine.accumulator, |sum, value| fold(sum, *value)))
}
