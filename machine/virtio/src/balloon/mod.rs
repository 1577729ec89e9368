//! The memory balloon (virtio 1.2, 5.5): memory that the guest does not use goes back to the host.
//!
//! ```text
//! reporting  guest: "these free pages hold nothing" -> released, then the chain is used (5.5.6.7)
//! inflate    host: a target; guest: page numbers it gave up -> released        (5.5.6, 5.5.6.1)
//! deflate    guest: page numbers it takes back; the next touch gives it zeros
//! statistics the driver's buffer waits here until the host asks                (5.5.6.3)
//! ```
//!
//! Invariants: pages are released only while the driver waits for the chain that names them; what is
//! not RAM is ignored; a chain names at most [`MOST_PAGES`] pages by number.

mod saved;
mod statistics;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use memory::{GuestMemory, PAGE_SIZE};
use x86::GuestPhys;

use crate::device::{Device, Handler, Kind, Queues, read_image};
use crate::queue::{Broken, Chain};
use crate::state::{ModelV1, StateError};
use crate::worker::Waker;
pub use saved::BalloonV1;
pub use statistics::GuestStatistics;

const STATS: u64 = 1 << 1;
const DEFLATE_ON_OOM: u64 = 1 << 2;
const REPORTING: u64 = 1 << 5;

const INFLATE_QUEUE: usize = 0;
const DEFLATE_QUEUE: usize = 1;
/// The queues in the specification's order. Drivers count only those of negotiated features, so
/// that reporting's place depends on them (see [`Layout`]).
const QUEUES: [u16; 5] = [128, 128, 4, 32, 32];
/// Pages that one chain may name by number: 64 MiB of them. Linux names 256.
const MOST_PAGES: u32 = 1 << 14;

/// What the host's side and the device share.
#[derive(Debug, Default)]
struct Shared {
    /// Pages that the guest shall give up, and has.
    target_pages: AtomicU32,
    actual_pages: AtomicU32,
    released_bytes: AtomicU64,
    statistics_wanted: AtomicBool,
    statistics: Mutex<Option<GuestStatistics>>,
    waker: Mutex<Option<Waker>>,
}

impl Shared {
    fn wake(&self, how: fn(&Waker)) {
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(waker) = waker {
            how(&waker);
        }
    }

    fn config(&self) -> [u8; 8] {
        let words = [&self.target_pages, &self.actual_pages];
        let words = words.map(|word| word.load(Ordering::Relaxed).to_le_bytes());
        words.concat().try_into().expect("twice four")
    }
}

/// The device.
#[derive(Debug)]
pub struct Balloon {
    memory: Arc<GuestMemory>,
    shared: Arc<Shared>,
}

/// The host's hand on a balloon; works, and does nothing, while no driver has it.
#[derive(Clone, Debug)]
pub struct BalloonControl(Arc<Shared>);

impl Balloon {
    /// A balloon in this memory, empty.
    pub fn new(memory: Arc<GuestMemory>) -> Self {
        Self { memory, shared: Arc::default() }
    }

    /// The way to steer it.
    pub fn control(&self) -> BalloonControl {
        BalloonControl(self.shared.clone())
    }
}

impl Balloon {
    fn handler(&self, features: u64, waker: Waker) -> Box<dyn Handler> {
        *self.shared.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker);
        Box::new(BalloonHandler {
            memory: self.memory.clone(),
            shared: self.shared.clone(),
            layout: Layout::new(features),
            statistics_buffer: None,
        })
    }
}

impl BalloonControl {
    /// Asks the guest to give up this much memory in all; it does so as far as it can.
    pub fn set_target_bytes(&self, bytes: u64) {
        let pages = u32::try_from(bytes / PAGE_SIZE).unwrap_or(u32::MAX);
        self.0.target_pages.store(pages, Ordering::Relaxed);
        self.0.wake(Waker::config_changed);
    }

    /// What it says to have given up.
    pub fn actual_bytes(&self) -> u64 {
        u64::from(self.0.actual_pages.load(Ordering::Relaxed)) * PAGE_SIZE
    }

    /// What went back to the host so far, by either way.
    pub fn released_bytes(&self) -> u64 {
        self.0.released_bytes.load(Ordering::Relaxed)
    }

    /// Asks the guest for new statistics.
    pub fn request_statistics(&self) {
        self.0.statistics_wanted.store(true, Ordering::Relaxed);
        self.0.wake(Waker::wake);
    }

    /// The last statistics that came.
    pub fn statistics(&self) -> Option<GuestStatistics> {
        *self.0.statistics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for Balloon {
    fn kind(&self) -> Kind {
        Kind::Balloon
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUES
    }

    fn features(&self) -> u64 {
        STATS | DEFLATE_ON_OOM | REPORTING
    }

    fn config_read(&self, offset: u64, data: &mut [u8]) {
        read_image(&self.shared.config(), offset, data);
    }

    fn config_write(&mut self, offset: u64, data: &[u8]) {
        if let (4, Ok(bytes)) = (offset, data.try_into()) {
            self.shared.actual_pages.store(u32::from_le_bytes(bytes), Ordering::Relaxed);
        }
    }

    fn activate(&mut self, features: u64, waker: Waker) -> Box<dyn Handler> {
        self.shared.actual_pages.store(0, Ordering::Relaxed);
        self.handler(features, waker)
    }

    fn resume(&mut self, features: u64, waker: Waker) -> Result<Box<dyn Handler>, StateError> {
        Ok(self.handler(features, waker))
    }

    fn save(&self) -> ModelV1 {
        ModelV1::Balloon(self.saved())
    }
}

/// Which queue is what, under the negotiated features.
#[derive(Clone, Copy, Debug)]
struct Layout {
    statistics: Option<usize>,
    /// Linux gives each negotiated feature's queue the next number; 5.5.2 gives reporting 4. Free
    /// page hints are never offered, so nothing else can be there.
    reporting: [Option<usize>; 2],
}

impl Layout {
    fn new(features: u64) -> Self {
        let statistics = (features & STATS != 0).then_some(2);
        let reporting = (features & REPORTING != 0).then_some(());
        let next = statistics.map_or(2, |_| 3);
        Self { statistics, reporting: [next, 4].map(|queue| reporting.map(|()| queue)) }
    }
}

struct BalloonHandler {
    memory: Arc<GuestMemory>,
    shared: Arc<Shared>,
    layout: Layout,
    /// The driver's buffer, until new statistics are wanted.
    statistics_buffer: Option<Chain>,
}

impl Handler for BalloonHandler {
    fn process(&mut self, queues: &mut Queues) -> Result<(), Broken> {
        queues.serve(INFLATE_QUEUE, |chain| self.inflate(chain))?;
        queues.serve(DEFLATE_QUEUE, |_| Ok(()))?;
        for queue in self.layout.reporting.into_iter().flatten() {
            queues.serve(queue, |chain| {
                while let Some((start, length)) = chain.next_writable() {
                    self.release(start, length);
                }
                Ok(())
            })?;
        }
        match self.layout.statistics {
            Some(queue) => self.exchange_statistics(queue, queues),
            None => Ok(()),
        }
    }

    /// The buffer for statistics was read and not written: it is read again.
    fn quiesce(&mut self, queues: &mut Queues) {
        if let Some(index) = self.layout.statistics
            && let Some(queue) = queues.get(index)
            && let Some(chain) = self.statistics_buffer.take()
        {
            queue.put_back(chain);
        }
    }
}

impl BalloonHandler {
    /// Gives memory back that lies within a region of RAM; a host that keeps it is no worse off.
    fn release(&self, start: GuestPhys, length: u64) {
        let Some((offset, follows)) = self.memory.locate(start) else { return };
        let released = self.memory.release(offset, length.min(follows)).unwrap_or(0);
        self.shared.released_bytes.fetch_add(released, Ordering::Relaxed);
    }

    /// Page numbers of 32 bits each, of 4 KiB whatever the guest's pages are (5.5.6).
    fn inflate(&self, chain: &mut Chain) -> Result<(), Broken> {
        if chain.readable() / 4 > MOST_PAGES {
            return Err(Broken::Protocol("more pages inflate at once than a balloon takes"));
        }
        let mut bytes = vec![0; chain.readable() as usize];
        chain.read(&mut bytes);
        let (words, _) = bytes.as_chunks::<4>();
        let mut pages: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        pages.sort_unstable();
        pages.dedup();
        for run in pages.chunk_by(|page, next| page.checked_add(1) == Some(*next)) {
            self.release(GuestPhys(u64::from(run[0]) * PAGE_SIZE), run.len() as u64 * PAGE_SIZE);
        }
        Ok(())
    }

    /// Takes what the driver brought, and asks for more by giving its buffer back.
    fn exchange_statistics(&mut self, queue: usize, queues: &mut Queues) -> Result<(), Broken> {
        let buffer = &mut self.statistics_buffer;
        queues.take(queue, |mut chain| {
            let mut bytes = [0; statistics::MOST_BYTES];
            let count = chain.read(&mut bytes);
            let read = GuestStatistics::decode(&bytes[..count]);
            *self.shared.statistics.lock().unwrap_or_else(PoisonError::into_inner) = Some(read);
            Ok(buffer.replace(chain)) // a driver that has two of them gets one back
        })?;
        if self.shared.statistics_wanted.load(Ordering::Relaxed)
            && let Some(chain) = buffer.take()
            && let Some(ring) = queues.get(queue)
        {
            self.shared.statistics_wanted.store(false, Ordering::Relaxed);
            ring.push(chain);
            queues.signal(queue);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
