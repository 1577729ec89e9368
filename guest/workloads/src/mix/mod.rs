//! A mix like embedded programs: list work, small matrices, a state machine over text, checksums.
//! Each part feeds the next, so nothing can be left out.

mod crc;
mod list;
mod matrix;
mod state;

use std::hint::black_box;

use crate::catalogue::Failure;

/// `amount` x 10 rounds.
pub(crate) fn run(amount: u64) -> Result<u64, Failure> {
    let mut sum = 0x1d0f;
    for round in 0..amount * 10 {
        sum = black_box(one_round(round as u16, sum));
    }
    Ok(sum.into())
}

fn one_round(round: u16, seed: u16) -> u16 {
    let mut sum = crc::update(seed, round);
    sum = crc::update(sum, list::run(sum));
    sum = crc::update(sum, matrix::run(sum));
    crc::update(sum, state::run(sum))
}
