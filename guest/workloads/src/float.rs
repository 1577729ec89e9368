//! Floating point as compilers make it: a matrix product and the C library's functions.
//!
//! The functions' last bits may depend on the variant that libm picks for a CPU, so their sum is
//! taken to seven digits.

use std::hint::black_box;

use crate::catalogue::Failure;
use crate::random::{Random, fold};

const SIDE: usize = 160;

/// Multiplies two matrices of 160 x 160 doubles, `amount` x 10 times.
pub(crate) fn matrix_product(amount: u64) -> Result<u64, Failure> {
    let mut random = Random::new(8);
    let mut matrix = || (0..SIDE * SIDE).map(|_| random.below(1000) as f64 / 999.0).collect();
    let (left, right): (Vec<f64>, Vec<f64>) = (matrix(), matrix());
    let mut sum = 0;
    for _ in 0..amount * 10 {
        let mut product = vec![0.0; SIDE * SIDE];
        multiply(black_box(&left), black_box(&right), &mut product);
        sum = fold(sum, product[SIDE * 7 + 9].to_bits() ^ product[SIDE * SIDE - 1].to_bits());
    }
    Ok(sum)
}

fn multiply(left: &[f64], right: &[f64], product: &mut [f64]) {
    for (row, out) in left.chunks_exact(SIDE).zip(product.chunks_exact_mut(SIDE)) {
        for (factor, line) in row.iter().zip(right.chunks_exact(SIDE)) {
            for (value, other) in out.iter_mut().zip(line) {
                *value += factor * other;
            }
        }
    }
}

/// Six functions of the C library at `amount` x 100,000 points.
pub(crate) fn functions(amount: u64) -> Result<u64, Failure> {
    let mut sum = 0.0;
    for index in 0..amount * 100_000 {
        let x = black_box((index % 10_000) as f64 * 0.003 + 0.1);
        sum += x.sin() * x.cos() + (x * 0.1).exp().ln_1p() + x.powf(1.3).sqrt() + x.atan2(2.0);
    }
    Ok((sum * 1e7 / (amount.max(1) * 100_000) as f64).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_with_one_on_the_diagonal() {
        let one: Vec<f64> = (0..SIDE * SIDE).map(|at| f64::from(at / SIDE == at % SIDE)).collect();
        let any: Vec<f64> = (0..SIDE * SIDE).map(|at| at as f64).collect();
        let mut product = vec![0.0; SIDE * SIDE];
        multiply(&one, &any, &mut product);
        assert_eq!(product, any);
    }
}
