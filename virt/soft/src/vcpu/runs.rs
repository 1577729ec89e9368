//! How often code was interpreted since somebody looked for its translation: small counters by
//! linear address, which strangers may share, so they are hints.

/// Times code is interpreted before it is translated.
const HOT: u8 = 4;
/// log2 of the counters.
const BITS: u32 = 18;

/// What to do with code whose address leads nowhere yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heat {
    /// Not met lately: it may have been translated before.
    New,
    /// To be interpreted some more.
    Cold,
    /// To be translated.
    Hot,
}

/// The counters.
pub(super) struct Runs(Box<[u8]>);

impl Runs {
    pub(super) fn new() -> Self {
        Self(vec![0; 1 << BITS].into())
    }

    fn at(&mut self, linear: u64) -> &mut u8 {
        let mixed = linear.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &mut self.0[(mixed >> (64 - BITS)) as usize]
    }

    /// Counts a run of code that is not translated.
    #[inline]
    pub(super) fn note(&mut self, linear: u64) {
        let runs = self.at(linear);
        *runs = HOT.min(*runs + 1);
    }

    /// How warm code is.
    #[inline]
    pub(super) fn heat(&mut self, linear: u64) -> Heat {
        match *self.at(linear) {
            0 => Heat::New,
            HOT => Heat::Hot,
            _ => Heat::Cold,
        }
    }

    /// It is translated now: whoever loses its place looks for it first.
    pub(super) fn forget(&mut self, linear: u64) {
        *self.at(linear) = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_warms_up_once_per_look() {
        let mut runs = Runs::new();
        let place = 0x40_1234;
        assert_eq!(runs.heat(place), Heat::New);
        for _ in 1..HOT {
            runs.note(place);
            assert_eq!(runs.heat(place), Heat::Cold);
        }
        for _ in 0..300 {
            runs.note(place);
            assert_eq!(runs.heat(place), Heat::Hot);
        }
        assert_eq!(runs.heat(place + 1), Heat::New);
        runs.forget(place);
        assert_eq!(runs.heat(place), Heat::New);
    }
}
