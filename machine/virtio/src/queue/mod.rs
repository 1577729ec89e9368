//! A split virtqueue (virtio 1.2, 2.7), the device's side.
//!
//! ```text
//! descriptors  16 bytes * size      { address u64, length u32, flags u16, next u16 }
//! available    flags u16, index u16, ring u16 * size, used_event u16       (the driver writes)
//! used         flags u16, index u16, ring { id u32, length u32 } * size, avail_event u16
//! ```
//!
//! Invariants: the three areas lie in RAM and are aligned, checked once; an index read from the ring
//! is believed only after it was compared with the queue's size; what a chain names lies in RAM.

mod chain;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use memory::{GuestMemory, PAGE_SIZE, RamOffset};
use thiserror::Error;
use x86::GuestPhys;

pub use chain::Chain;

use crate::features;
use crate::state::RingsV1;

/// The largest queue (2.7: at most 32768; drivers ask for less).
pub(crate) const MOST_DESCRIPTORS: u16 = 1024;

/// Available ring flag: the driver wants no interrupts.
const NO_INTERRUPT: u16 = 1;
/// Used ring flag: the device wants no doorbell.
const NO_NOTIFY: u16 = 1;

/// The guest broke a rule of the ring; the device needs a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Broken {
    /// The queue's size is none.
    #[error("a queue of {0} descriptors")]
    Size(u16),
    /// A part of the queue is misaligned or not RAM.
    #[error("a part of the queue at {0:?} is misaligned or not RAM")]
    Area(GuestPhys),
    /// More entries became available than the queue has.
    #[error("{0} entries available at once")]
    Available(u16),
    /// A descriptor's number is beyond its table.
    #[error("descriptor {0} does not exist")]
    Descriptor(u16),
    /// A chain has a loop, or is longer than the queue.
    #[error("a chain longer than its queue")]
    Endless,
    /// A chain's buffers add up to more than 32 bits can say.
    #[error("a chain of more than 4 GiB")]
    TooLarge,
    /// A buffer of no bytes.
    #[error("a buffer of no bytes at {0:?}")]
    Empty(GuestPhys),
    /// A buffer is not RAM.
    #[error("a buffer at {0:?} is not RAM")]
    Buffer(GuestPhys),
    /// A buffer to read follows one to write.
    #[error("a readable buffer after a writable one")]
    Order,
    /// An indirect table that is nested, chained on, not negotiated, of a wrong size or not RAM.
    #[error("an indirect table at {0:?} breaks the rules")]
    Indirect(GuestPhys),
    /// The device's own protocol was broken in a way it cannot answer.
    #[error("{0}")]
    Protocol(&'static str),
}

/// Where a queue is and how large, as the driver said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueLayout {
    /// Descriptors, a power of two.
    pub size: u16,
    /// The descriptor table.
    pub descriptors: GuestPhys,
    /// The available ring.
    pub available: GuestPhys,
    /// The used ring.
    pub used: GuestPhys,
}

/// A queue that runs.
#[derive(Debug)]
pub struct Queue {
    memory: Arc<GuestMemory>,
    size: u16,
    descriptors: RamOffset,
    available: RamOffset,
    used: RamOffset,
    event_idx: bool,
    indirect: bool,
    /// The next available entry to take; free-running.
    next_available: u16,
    /// The next used entry to fill; free-running.
    next_used: u16,
    /// Where `next_used` was when the driver was last asked whether it wants an interrupt.
    signalled: u16,
    /// Chains that were taken and put back, by their heads.
    returned: VecDeque<u16>,
}

impl Queue {
    /// A queue at its start, under the negotiated features.
    ///
    /// # Errors
    /// [`Broken::Size`], [`Broken::Area`].
    pub fn new(
        memory: Arc<GuestMemory>,
        layout: QueueLayout,
        negotiated: u64,
    ) -> Result<Self, Broken> {
        let size = layout.size;
        if !size.is_power_of_two() || size > MOST_DESCRIPTORS {
            return Err(Broken::Size(size));
        }
        let area = |start: GuestPhys, align: u64, bytes: u64| match memory.locate(start) {
            Some((offset, follows)) if start.0.is_multiple_of(align) && follows >= bytes => {
                Ok(offset)
            }
            _ => Err(Broken::Area(start)),
        };
        let entries = u64::from(size);
        let descriptors = area(layout.descriptors, 16, 16 * entries)?;
        let available = area(layout.available, 2, 6 + 2 * entries)?;
        let used = area(layout.used, 4, 6 + 8 * entries)?;
        Ok(Self {
            size,
            descriptors,
            available,
            used,
            event_idx: negotiated & features::EVENT_IDX != 0,
            indirect: negotiated & features::INDIRECT_DESC != 0,
            next_available: 0,
            next_used: 0,
            signalled: 0,
            returned: VecDeque::new(),
            memory,
        })
    }

    /// A queue in the middle of its rings.
    ///
    /// # Errors
    /// As [`Queue::new`]; chains that it has and does not have, or that cannot be.
    pub(crate) fn resume(
        memory: Arc<GuestMemory>,
        layout: QueueLayout,
        negotiated: u64,
        rings: &RingsV1,
    ) -> Result<Self, Broken> {
        let fresh = Self::new(memory, layout, negotiated)?;
        let outstanding = rings.next_available.wrapping_sub(rings.next_used);
        if usize::from(outstanding) != rings.returned.len() || outstanding > fresh.size {
            return Err(Broken::Available(outstanding));
        }
        if let Some(head) = rings.returned.iter().find(|head| **head >= fresh.size) {
            return Err(Broken::Descriptor(*head));
        }
        Ok(Self {
            next_available: rings.next_available,
            next_used: rings.next_used,
            signalled: rings.signalled,
            returned: rings.returned.iter().copied().collect(),
            ..fresh
        })
    }

    /// Where it is in its rings; all chains that were taken were given or put back.
    pub(crate) fn save(&self) -> RingsV1 {
        let outstanding = self.next_available.wrapping_sub(self.next_used);
        assert!(usize::from(outstanding) == self.returned.len(), "a quiet device holds no chain");
        RingsV1 {
            next_available: self.next_available,
            next_used: self.next_used,
            signalled: self.signalled,
            returned: self.returned.iter().copied().collect(),
        }
    }

    /// Descriptors.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Takes the next chain, if there is one.
    ///
    /// # Errors
    /// The ring or the chain breaks a rule; the queue is not to be used any more.
    pub fn pop(&mut self) -> Result<Option<Chain>, Broken> {
        if let Some(&head) = self.returned.front() {
            let chain = Chain::walk(self, head)?;
            self.returned.pop_front();
            return Ok(Some(chain));
        }
        let index: u16 = self.memory.load(at(self.available, 2));
        let waiting = index.wrapping_sub(self.next_available);
        if waiting == 0 {
            return Ok(None);
        }
        if waiting > self.size {
            return Err(Broken::Available(waiting));
        }
        let entry = u64::from(self.next_available % self.size);
        let head: u16 = self.memory.load(at(self.available, 4 + 2 * entry));
        let chain = Chain::walk(self, head)?;
        self.next_available = self.next_available.wrapping_add(1);
        Ok(Some(chain))
    }

    /// Puts a chain back that nothing was done with: it is taken again, after others that were put back
    /// before and before all that were not taken yet.
    pub(crate) fn put_back(&mut self, chain: Chain) {
        self.returned.push_back(chain.head());
    }

    /// Gives a chain back, with as many bytes written as its `write` wrote.
    pub fn push(&mut self, chain: Chain) {
        self.push_all([chain]);
    }

    /// Gives chains back in this order, which the driver sees all at once: it may take the first for
    /// a promise that the others are there.
    pub fn push_all(&mut self, chains: impl IntoIterator<Item = Chain>) {
        for chain in chains {
            self.put(chain);
        }
        self.publish();
    }

    /// Fills the next used entry with a chain; the driver sees it after [`Queue::publish`].
    pub fn put(&mut self, chain: Chain) {
        let entry = 4 + 8 * u64::from(self.next_used % self.size);
        self.memory.store(at(self.used, entry), u32::from(chain.head()));
        self.memory.store(at(self.used, entry + 4), chain.written());
        self.note(entry);
        if (self.used.0 + entry + 4).is_multiple_of(PAGE_SIZE) {
            self.note(entry + 4);
        }
        self.next_used = self.next_used.wrapping_add(1);
    }

    /// Shows the driver all used entries that were filled.
    pub fn publish(&mut self) {
        // Stores are seen in order (x86), so the entries are there before the index.
        self.memory.store(at(self.used, 2), self.next_used);
        self.note(2);
    }

    /// The memory that the queue and its buffers lie in.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Whether the driver wants an interrupt for what was pushed since this was last asked
    /// (2.7.7, 2.7.10).
    pub fn wants_interrupt(&mut self) -> bool {
        let before = std::mem::replace(&mut self.signalled, self.next_used);
        if before == self.next_used {
            return false;
        }
        // The driver writes its wish, then looks at the index; we do it the other way round.
        fence(Ordering::SeqCst);
        if !self.event_idx {
            return self.memory.load::<u16>(self.available) & NO_INTERRUPT == 0;
        }
        let event: u16 = self.memory.load(at(self.available, 4 + 2 * u64::from(self.size)));
        let passed = self.next_used.wrapping_sub(event).wrapping_sub(1);
        passed < self.next_used.wrapping_sub(before)
    }

    /// Says that the doorbell is not needed while the device looks at the ring anyway. With
    /// EVENT_IDX that is so without a word.
    pub fn silence_doorbell(&mut self) {
        if !self.event_idx {
            self.memory.store(self.used, NO_NOTIFY);
            self.note(0);
        }
    }

    /// Asks for the doorbell at the next available entry; true: there is one already.
    pub fn arm_doorbell(&mut self) -> bool {
        let (place, value) = match self.event_idx {
            true => (4 + 8 * u64::from(self.size), self.next_available),
            false => (0, 0),
        };
        self.memory.store(at(self.used, place), value);
        self.note(place);
        // The driver writes its index, then looks at our wish; we do it the other way round.
        fence(Ordering::SeqCst);
        let index: u16 = self.memory.load(at(self.available, 2));
        index != self.next_available || !self.returned.is_empty()
    }

    /// Marks what was written of the used ring.
    fn note(&self, place: u64) {
        self.memory.note_written((self.used.0 + place) / PAGE_SIZE);
    }
}

/// A place in an area that was checked to lie in RAM.
fn at(area: RamOffset, place: u64) -> RamOffset {
    RamOffset(area.0 + place)
}

#[cfg(test)]
mod tests;
