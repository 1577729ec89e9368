//! Workloads of one instruction set each, over the loops of `sys`: x87, AVX2 with FMA, AES.

use crate::catalogue::Failure;
use crate::random::{Random, fold};
use crate::sys::{aes as aes_ni, simd, x87 as fpu};

/// Chains of x87 additions, products and roundings, with a root and a quotient now and then:
/// `amount` x 100,000 steps.
pub(crate) fn x87(amount: u64) -> Result<u64, Failure> {
    let mut value = 0.3;
    let mut sum = 0;
    for _ in 0..amount * 100 {
        let other;
        (value, other) = fpu::chain(value, 1000);
        sum = fold(sum, value.to_bits() ^ other.to_bits());
    }
    Ok(sum)
}

/// Polynomials of 4096 floats and hashes of 4096 integers in 256-bit registers, `amount` x 100.
pub(crate) fn avx2(amount: u64) -> Result<u64, Failure> {
    if !simd::supported() {
        return Err(Failure::Unsupported("AVX2 with FMA"));
    }
    let mut random = Random::new(21);
    let mut floats: Vec<f32> = (0..4096).map(|_| random.below(1000) as f32 / 500.0).collect();
    let mut integers: Vec<u32> = (0..4096).map(|_| random.next() as u32).collect();
    let mut sum = 0;
    for _ in 0..amount * 100 {
        sum = fold(sum, simd::polynomial(&mut floats).into());
        sum = fold(sum, simd::mix(&mut integers).into());
    }
    Ok(sum)
}

/// AES-128 of `amount` MiB in counter mode, eight blocks at a time.
pub(crate) fn aes(amount: u64) -> Result<u64, Failure> {
    if !aes_ni::supported() {
        return Err(Failure::Unsupported("AES"));
    }
    let key = *b"benchmark guests";
    Ok(aes_ni::counter_mode(&key, amount << 16))
}
