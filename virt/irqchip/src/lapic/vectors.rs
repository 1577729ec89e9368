//! A set of 256 interrupt vectors: IRR, ISR and TMR (SDM vol. 3, 10.8.4).
//!
//! Invariant: vectors 0-15 are never in it, so 0 can stand for "none".

/// 256 bits, searched from the top.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct VectorSet([u64; 4]);

impl VectorSet {
    #[inline]
    pub(super) fn insert(&mut self, vector: u8) {
        self.0[usize::from(vector >> 6)] |= 1 << (vector & 63);
    }

    #[inline]
    pub(super) fn remove(&mut self, vector: u8) {
        self.0[usize::from(vector >> 6)] &= !(1 << (vector & 63));
    }

    #[inline]
    pub(super) fn contains(&self, vector: u8) -> bool {
        self.0[usize::from(vector >> 6)] & 1 << (vector & 63) != 0
    }

    /// The highest vector, 0 if empty.
    #[inline]
    pub(super) fn highest(&self) -> u8 {
        for word in (0..4).rev() {
            let bits = self.0[word];
            if bits != 0 {
                return (word as u8) << 6 | (63 - bits.leading_zeros() as u8);
            }
        }
        0
    }

    /// The 32-bit register `index` (0-7) of the register page.
    pub(super) fn word(&self, index: usize) -> u32 {
        (self.0[index / 2] >> (32 * (index % 2))) as u32
    }

    /// From eight registers; vectors 0-15 are dropped.
    pub(super) fn from_words(words: &[u32]) -> Self {
        let mut set = Self::default();
        for (index, &word) in words.iter().take(8).enumerate() {
            set.0[index / 2] |= u64::from(word) << (32 * (index % 2));
        }
        set.0[0] &= !0xffff;
        set
    }
}
