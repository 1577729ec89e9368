//! AES-128 in counter mode on the CPU's AES instructions (FIPS 197, SP 800-38A), eight blocks in
//! flight.

use std::arch::x86_64::*;

/// Whether this CPU has the AES instructions.
pub(crate) fn supported() -> bool {
    is_x86_feature_detected!("aes") && is_x86_feature_detected!("sse4.1")
}

/// Encrypts so many counters under the key; the exclusive or of all blocks, folded to 64 bits.
///
/// `blocks` is rounded down to a multiple of eight.
pub(crate) fn counter_mode(key: &[u8; 16], blocks: u64) -> u64 {
    assert!(supported(), "callers ask first");
    // SAFETY: the features are there.
    unsafe { counters(&schedule(key), blocks) }
}

#[target_feature(enable = "aes,sse4.1")]
fn schedule(key: &[u8; 16]) -> [__m128i; 11] {
    // SAFETY: the key is 16 bytes; the load needs no alignment.
    let mut round = unsafe { _mm_loadu_si128(key.as_ptr().cast()) };
    let mut keys = [round; 11];
    macro_rules! expand {
        ($($index:literal $constant:literal),*) => {$(
            let assist = _mm_aeskeygenassist_si128::<$constant>(round);
            round = _mm_xor_si128(round, _mm_slli_si128::<4>(round));
            round = _mm_xor_si128(round, _mm_slli_si128::<8>(round));
            round = _mm_xor_si128(round, _mm_shuffle_epi32::<0xff>(assist));
            keys[$index] = round;
        )*};
    }
    expand!(1 1, 2 2, 3 4, 4 8, 5 16, 6 32, 7 64, 8 128, 9 27, 10 54);
    keys
}

#[target_feature(enable = "aes,sse4.1")]
fn counters(keys: &[__m128i; 11], blocks: u64) -> u64 {
    let mut sum = _mm_setzero_si128();
    for first in (0..blocks / 8).map(|group| group as i64 * 8) {
        let mut state = [keys[0]; 8];
        for (index, block) in state.iter_mut().enumerate() {
            *block = _mm_xor_si128(*block, _mm_set_epi64x(0, first + index as i64));
        }
        for key in &keys[1..10] {
            for block in &mut state {
                *block = _mm_aesenc_si128(*block, *key);
            }
        }
        for block in state {
            sum = _mm_xor_si128(sum, _mm_aesenclast_si128(block, keys[10]));
        }
    }
    (_mm_extract_epi64::<0>(sum) ^ _mm_extract_epi64::<1>(sum)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 197, appendix A.1: the last word of the example's key schedule.
    #[test]
    fn the_key_schedule_is_the_standard_s() {
        if !supported() {
            return eprintln!("skipped: no AES here");
        }
        let key = 0x2b7e_1516_28ae_d2a6_abf7_1588_09cf_4f3c_u128.to_be_bytes();
        let mut last = [0u8; 16];
        // SAFETY: supported was asked; the store is into 16 bytes.
        unsafe { _mm_storeu_si128(last.as_mut_ptr().cast(), schedule(&key)[10]) };
        assert_eq!(u128::from_be_bytes(last), 0xd014_f9a8_c9ee_2589_e13f_0cc8_b663_0ca6);
    }
}
