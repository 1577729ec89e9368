//! Memory: dependent loads all over 16 MiB, and copies of many sizes.

use std::hint::black_box;

use crate::catalogue::Failure;
use crate::random::{Random, fold};

/// A cache line that names the next.
#[repr(align(64))]
#[derive(Clone, Copy, Default)]
struct Line {
    next: u32,
}

const LINES: u32 = 1 << 18;

/// Follows a random cycle through 2^18 cache lines for `amount` x 100,000 steps.
pub(crate) fn chase(amount: u64) -> Result<u64, Failure> {
    let lines = cycle(LINES);
    let mut at = 0;
    let mut sum = 0;
    for _ in 0..amount {
        for _ in 0..100_000 {
            at = lines[at as usize].next;
        }
        sum = fold(sum, u64::from(at));
    }
    Ok(sum)
}

/// One cycle through all lines (Sattolo 1986).
fn cycle(count: u32) -> Vec<Line> {
    let mut order: Vec<u32> = (0..count).collect();
    let mut random = Random::new(3);
    for end in (1..count as usize).rev() {
        order.swap(end, random.below(end as u64) as usize);
    }
    let mut lines = vec![Line::default(); count as usize];
    for (index, line) in order.iter().enumerate() {
        lines[*line as usize].next = order[(index + 1) % order.len()];
    }
    lines
}

/// Copies `amount` MiB in pieces of 16 bytes to 64 KiB.
pub(crate) fn copy(amount: u64) -> Result<u64, Failure> {
    const SIZE: usize = 1 << 22;
    let from: Vec<u8> = (0..SIZE).map(|index| (index * 31 >> 3) as u8).collect();
    let mut to = vec![0u8; SIZE];
    let mut random = Random::new(11);
    let mut left = amount << 20;
    let mut sum = 0;
    while left > 0 {
        let length = (16u64 << random.below(13)).min(left);
        let start = random.below(SIZE as u64 - length) as usize;
        let target = random.below(SIZE as u64 - length) as usize;
        let length = length as usize;
        black_box(&mut to)[target..target + length].copy_from_slice(&from[start..start + length]);
        sum = fold(sum, u64::from(to[target + length / 2]));
        left -= length as u64;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cycle_visits_every_line_once() {
        let lines = cycle(1000);
        let mut at = 0;
        for step in 1..=1000 {
            at = lines[at as usize].next;
            assert_eq!(at == 0, step == 1000, "step {step}");
        }
    }
}
