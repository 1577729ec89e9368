//! The machine's two clocks: monotonic nanoseconds since it was built, and the wall clock. Both are
//! the host's, or virtual time.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use engine::VirtualTime;

/// Both clocks.
#[derive(Clone, Debug)]
pub(crate) enum Clock {
    Host { start: Instant },
    Virtual(Arc<VirtualTime>),
}

impl Clock {
    /// The clocks of a machine; the host's unless there is virtual time.
    pub(crate) fn new(virtual_time: Option<Arc<VirtualTime>>) -> Self {
        virtual_time.map_or_else(|| Self::Host { start: Instant::now() }, Self::Virtual)
    }

    /// Monotonic nanoseconds since the machine was built.
    pub(crate) fn now_ns(&self) -> u64 {
        match self {
            Self::Host { start } => start.elapsed().as_nanos() as u64,
            Self::Virtual(time) => time.now_ns(),
        }
    }

    /// How long until the monotonic clock shows `deadline_ns`.
    pub(crate) fn until(&self, deadline_ns: u64) -> Duration {
        Duration::from_nanos(deadline_ns.saturating_sub(self.now_ns()))
    }

    /// Unix time in nanoseconds; the host may set its own at any time.
    pub(crate) fn wall_ns(&self) -> u64 {
        match self {
            Self::Host { .. } => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH);
                since.map_or(0, |since| since.as_nanos() as u64)
            }
            Self::Virtual(time) => time.wall_ns(),
        }
    }

    /// Virtual time, if that is what it shows.
    pub(crate) fn virtual_time(&self) -> Option<&Arc<VirtualTime>> {
        match self {
            Self::Host { .. } => None,
            Self::Virtual(time) => Some(time),
        }
    }
}
