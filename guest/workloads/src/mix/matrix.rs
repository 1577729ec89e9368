//! Small matrices of 16-bit integers: products and bit extraction.

use std::hint::black_box;

const SIDE: usize = 12;

/// Multiplies two matrices made from the seed; a checksum.
pub(super) fn run(seed: u16) -> u16 {
    let value = |row: usize, column: usize| {
        seed.wrapping_add((row * SIDE + column) as u16).wrapping_mul(31) as i16
    };
    let matrix = |element: &dyn Fn(usize, usize) -> i16| -> [[i16; SIDE]; SIDE] {
        std::array::from_fn(|row| std::array::from_fn(|column| element(row, column)))
    };
    let left = matrix(&|row, column| value(row, column) & 0x3ff);
    let right = matrix(&|row, column| value(column, row) >> 3 & 0x1ff);
    let (left, right) = (black_box(left), black_box(right));
    let mut sum = 0u16;
    for row in &left {
        for column in 0..SIDE {
            let pairs = row.iter().zip(right.iter().map(|line| line[column]));
            let product = pairs
                .map(|(factor, other)| i32::from(*factor) * i32::from(other))
                .fold(0, i32::wrapping_add);
            let bits = (product >> 2 & 15) * (product >> 5 & 127);
            sum = sum.rotate_left(1).wrapping_add(bits as u16);
        }
    }
    sum
}
