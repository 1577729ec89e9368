//! The block device (virtio 1.2, 5.2) over a [`Disk`].
//!
//! Sectors are 512 bytes whatever the disk's own blocks are. Invariants: no request reaches past the
//! disk's capacity; every request gets a status, unless it has no room for one; a driver that did
//! not negotiate FLUSH has its writes on the disk before it hears of them.

mod disk;
mod handler;
mod request;
mod saved;

use std::sync::Arc;

use crate::device::{Device, Handler, Kind, read_image};
use crate::faults::Late;
use crate::state::ModelV1;
use crate::worker::Waker;
pub use disk::{Disk, DiskError, Lane, Pieces};
use handler::BlockHandler;
use request::Requests;
pub use saved::BlockV1;

/// Bytes of a sector.
pub const SECTOR: u64 = 512;

const SEG_MAX: u64 = 1 << 2;
const READ_ONLY: u64 = 1 << 5;
const BLK_SIZE: u64 = 1 << 6;
const FLUSH: u64 = 1 << 9;
const MULTI_QUEUE: u64 = 1 << 12;
const DISCARD: u64 = 1 << 13;
const WRITE_ZEROES: u64 = 1 << 14;

const QUEUE: u16 = 256;
/// Bytes of the configuration space (5.2.4).
const CONFIG_BYTES: usize = 60;
/// Sectors that one discard or write-zeroes segment covers at most: 1 GiB.
const MOST_RANGE_SECTORS: u32 = 1 << 21;
/// Segments of one discard or write-zeroes request.
const MOST_RANGES: u32 = 32;

/// More queues than that help nobody: one thread serves them.
const MOST_QUEUES: u32 = 16;

/// A disk as the guest sees it.
#[derive(Clone, Debug)]
pub struct Block {
    disk: Arc<dyn Disk>,
    id: [u8; 20],
    queues: Vec<u16>,
}

impl Block {
    /// `id` is its serial number, of which the guest sees the first 20 bytes. It has a queue for
    /// each of `cpus`, up to a bound.
    pub fn new(disk: Arc<dyn Disk>, id: &str, cpus: u32) -> Self {
        let mut bytes = [0; 20];
        for (to, from) in bytes.iter_mut().zip(id.bytes()) {
            *to = from;
        }
        let queues = vec![QUEUE; cpus.clamp(1, MOST_QUEUES) as usize];
        Self { disk, id: bytes, queues }
    }

    fn config(&self) -> [u8; CONFIG_BYTES] {
        let mut config = [0; CONFIG_BYTES];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(self.disk.capacity() / SECTOR).to_le_bytes());
        put(12, &u32::from(QUEUE - 2).to_le_bytes()); // seg_max: header and status apart
        put(20, &(SECTOR as u32).to_le_bytes());
        put(34, &(self.queues.len() as u16).to_le_bytes());
        put(36, &MOST_RANGE_SECTORS.to_le_bytes());
        put(40, &MOST_RANGES.to_le_bytes());
        put(44, &(4096 / SECTOR as u32).to_le_bytes()); // discard alignment
        put(48, &MOST_RANGE_SECTORS.to_le_bytes());
        put(52, &MOST_RANGES.to_le_bytes());
        put(56, &[1]); // write zeroes may unmap
        config
    }
}

impl Device for Block {
    fn kind(&self) -> Kind {
        Kind::Block
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queues
    }

    fn features(&self) -> u64 {
        let queues = if self.queues.len() > 1 { MULTI_QUEUE } else { 0 };
        let common = SEG_MAX | BLK_SIZE | FLUSH | queues;
        common | if self.disk.read_only() { READ_ONLY } else { DISCARD | WRITE_ZEROES }
    }

    fn config_read(&self, offset: u64, data: &mut [u8]) {
        read_image(&self.config(), offset, data);
    }

    fn activate(&mut self, features: u64, waker: Waker) -> Box<dyn Handler> {
        let write_through = features & FLUSH == 0;
        let faults = waker.faults();
        let requests = Requests::new(self.disk.clone(), self.id, write_through, faults.counter());
        // A write-through driver has no flush in flight to wait for, and inline nothing may be.
        let one_by_one = write_through || waker.is_inline();
        let late = Late::new(faults, &waker);
        Box::new(BlockHandler::new(requests, self.queues.len(), one_by_one, late, waker.bell()))
    }

    fn save(&self) -> ModelV1 {
        ModelV1::Block(self.saved())
    }
}

#[cfg(test)]
mod tests;
