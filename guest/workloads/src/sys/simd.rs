//! 256-bit vectors: fused multiply-add on floats, shuffles and products on integers (AVX2, FMA).

use std::arch::x86_64::*;

/// Whether this CPU, and the system, have AVX2 and FMA.
pub(crate) fn supported() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Applies a polynomial that stays within [0, 2] to each; a checksum of the bits.
pub(crate) fn polynomial(values: &mut [f32]) -> u32 {
    assert!(supported(), "callers ask first");
    // SAFETY: the features are there.
    unsafe { polynomial_256(values) }
}

/// Scrambles each number with its neighbours; a checksum.
pub(crate) fn mix(values: &mut [u32]) -> u32 {
    assert!(supported(), "callers ask first");
    // SAFETY: the features are there.
    unsafe { mix_256(values) }
}

#[target_feature(enable = "avx2,fma")]
fn polynomial_256(values: &mut [f32]) -> u32 {
    // x -> x^3 / 4 - x^2 * 3 / 4 + 1.5: maps [0, 2] into [0.5, 1.5].
    let (cubic, square, constant) =
        (_mm256_set1_ps(0.25), _mm256_set1_ps(-0.75), _mm256_set1_ps(1.5));
    let mut sum = _mm256_setzero_si256();
    for chunk in values.chunks_exact_mut(8) {
        // SAFETY: the chunk is eight floats long; unaligned loads and stores have no other need.
        unsafe {
            let x = _mm256_loadu_ps(chunk.as_ptr());
            let slope = _mm256_fmadd_ps(cubic, x, square);
            let y = _mm256_fmadd_ps(slope, _mm256_mul_ps(x, x), constant);
            _mm256_storeu_ps(chunk.as_mut_ptr(), y);
            sum = _mm256_add_epi32(sum, _mm256_castps_si256(y));
        }
    }
    horizontal(sum)
}

#[target_feature(enable = "avx2")]
fn mix_256(values: &mut [u32]) -> u32 {
    let rotate = _mm256_setr_epi8(
        1, 2, 3, 0, 5, 6, 7, 4, 9, 10, 11, 8, 13, 14, 15, 12, 1, 2, 3, 0, 5, 6, 7, 4, 9, 10, 11, 8,
        13, 14, 15, 12,
    );
    let factor = _mm256_set1_epi32(0x01e3_5a7b);
    let mut sum = _mm256_set1_epi32(1);
    for chunk in values.chunks_exact_mut(8) {
        let at = chunk.as_mut_ptr().cast::<__m256i>();
        // SAFETY: the chunk is 32 bytes long; unaligned loads and stores have no other need.
        unsafe {
            let x = _mm256_shuffle_epi8(_mm256_loadu_si256(at), rotate);
            let y = _mm256_mullo_epi32(_mm256_xor_si256(x, sum), factor);
            let z = _mm256_add_epi32(y, _mm256_permute4x64_epi64::<0b01_00_11_10>(x));
            sum = _mm256_xor_si256(_mm256_srli_epi32::<7>(z), sum);
            _mm256_storeu_si256(at, z);
        }
    }
    horizontal(sum)
}

#[target_feature(enable = "avx2")]
fn horizontal(sum: __m256i) -> u32 {
    let mut lanes = [0u32; 8];
    // SAFETY: eight lanes are 32 bytes; the store needs no alignment.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sum) };
    lanes.iter().fold(0, |sum, lane| sum.rotate_left(3) ^ lane)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_polynomial_is_the_scalar_one() {
        if !supported() {
            return eprintln!("skipped: no AVX2 here");
        }
        let mut values: Vec<f32> = (0..16).map(|index| index as f32 / 8.0).collect();
        let expected: Vec<f32> =
            values.iter().map(|x| 0.25f32.mul_add(*x, -0.75).mul_add(x * x, 1.5)).collect();
        polynomial(&mut values);
        assert_eq!(values, expected);
    }
}
