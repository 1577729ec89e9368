//! The machine's two clocks: monotonic nanoseconds since it was built, and the host's wall clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now() }
    }

    /// Monotonic nanoseconds since the machine was built.
    pub(crate) fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// How long until the monotonic clock shows `deadline_ns`.
    pub(crate) fn until(&self, deadline_ns: u64) -> Duration {
        Duration::from_nanos(deadline_ns.saturating_sub(self.now_ns()))
    }

    /// Unix time in nanoseconds; the host may set it at any time.
    pub(crate) fn wall_ns(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
    }
}
