//! Which flushes are done by the thread that would otherwise wait for them.
//!
//! Another thread costs two switches, which on a busy host take far longer than a flush of a fast disk; on a slow
//! one other requests must not wait. So it goes by how long the last one took that was done at once. Invariant:
//! at most one flush in [`TRY`] holds others up for more than [`SHORT`], but for one that is unlike the last.

use std::time::{Duration, Instant};

/// A flush that others may wait for.
const SHORT: Duration = Duration::from_micros(300);
/// Each so-many-th flush is done at once whatever the last took: to learn what they take now.
const TRY: u32 = 64;

/// What flushes took lately.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    last: Duration,
    /// Flushes since the last that was done at once.
    since: u32,
}

impl Pace {
    /// Whether the next flush is to be done at once.
    pub(crate) fn at_once(&mut self) -> bool {
        self.since += 1;
        self.last < SHORT || self.since >= TRY
    }

    /// Does one at once.
    pub(crate) fn time<T>(&mut self, flush: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let done = flush();
        (self.last, self.since) = (begun.elapsed(), 0);
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_flushes_are_tried_seldom_and_fast_ones_always() {
        let mut pace = Pace::default();
        let count = |pace: &mut Pace, took: Duration| {
            (0..2 * TRY)
                .filter(|_| {
                    let at_once = pace.at_once();
                    if at_once {
                        pace.time(|| std::thread::sleep(took));
                    }
                    at_once
                })
                .count()
        };
        assert_eq!(count(&mut pace, 2 * SHORT), 2, "the first, and one in so many");
        pace.last = Duration::ZERO;
        for _ in 0..2 * TRY {
            assert!(pace.at_once());
        }
    }
}
