//! Numbers that look random and are the same everywhere (xorshift64*, Marsaglia 2003, Vigna 2016).

/// A generator; equal seeds give equal sequences.
pub(crate) struct Random(u64);

impl Random {
    /// Starts from a seed; 0 is taken as another.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1 << 63)
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`, which is not 0.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (u128::from(self.next()) * u128::from(limit) >> 64) as u64
    }
}

/// Folds a value into a checksum (FNV-1a over whole words).
pub(crate) fn fold(sum: u64, value: u64) -> u64 {
    (sum ^ value).wrapping_mul(0x0100_0000_01b3).rotate_left(29)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_below_the_limit_and_reaches_all() {
        let mut random = Random::new(7);
        let mut seen = [false; 5];
        (0..200).for_each(|_| seen[random.below(5) as usize] = true);
        assert_eq!(seen, [true; 5]);
    }
}
