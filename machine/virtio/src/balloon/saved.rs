//! What a balloon saves: target, what the guest gave up, statistics. Pages that were given up are no part of
//! it: they are zeros of guest memory. The driver's buffer for statistics goes back to its queue, where it is
//! found, read and kept again.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use memory::GuestMemory;
use snapshot::{Decoder, Encoder, Kind, SnapshotError, State};

use super::{Balloon, GuestStatistics, Shared};

/// A balloon, first version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BalloonV1 {
    /// Pages of 4 KiB that the guest shall give up.
    pub target_pages: u32,
    /// Pages that it says to have given up.
    pub actual_pages: u32,
    /// Bytes that went back to the host.
    pub released_bytes: u64,
    /// New statistics were asked for.
    pub statistics_wanted: bool,
    /// The last that came.
    pub statistics: Option<GuestStatistics>,
}

impl Balloon {
    pub(super) fn saved(&self) -> BalloonV1 {
        let shared = &self.shared;
        BalloonV1 {
            target_pages: shared.target_pages.load(Ordering::Relaxed),
            actual_pages: shared.actual_pages.load(Ordering::Relaxed),
            released_bytes: shared.released_bytes.load(Ordering::Relaxed),
            statistics_wanted: shared.statistics_wanted.load(Ordering::Relaxed),
            statistics: *shared.statistics.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// The balloon in a saved state, in this memory.
    pub fn restore(memory: Arc<GuestMemory>, state: &BalloonV1) -> Self {
        let shared = Shared {
            target_pages: AtomicU32::new(state.target_pages),
            actual_pages: AtomicU32::new(state.actual_pages),
            released_bytes: AtomicU64::new(state.released_bytes),
            statistics_wanted: AtomicBool::new(state.statistics_wanted),
            statistics: Mutex::new(state.statistics),
            waker: Mutex::default(),
        };
        Self { memory, shared: Arc::new(shared) }
    }
}

impl State for BalloonV1 {
    const KIND: Kind = Kind(*b"vbal");
    const VERSION: u16 = 1;
    const MOST_BYTES: usize = 18 + 8 * 9;

    fn encode(&self, to: &mut Encoder) {
        to.u32(self.target_pages);
        to.u32(self.actual_pages);
        to.u64(self.released_bytes);
        to.bool(self.statistics_wanted);
        to.option(self.statistics.as_ref(), |to, statistics| {
            let mut copy = *statistics;
            for field in copy.fields() {
                to.option(field.as_ref(), |to, value| to.u64(*value));
            }
        });
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, SnapshotError> {
        Ok(Self {
            target_pages: from.u32()?,
            actual_pages: from.u32()?,
            released_bytes: from.u64()?,
            statistics_wanted: from.bool()?,
            statistics: from.option(|from| {
                let mut statistics = GuestStatistics::default();
                for field in statistics.fields() {
                    *field = from.option(Decoder::u64)?;
                }
                Ok(statistics)
            })?,
        })
    }
}
