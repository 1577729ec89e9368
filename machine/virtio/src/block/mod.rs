//! The block device (virtio 1.2, 5.2) over a [`Disk`].
//!
//! Sectors are 512 bytes whatever the disk's own blocks are. Invariants: no request reaches past the
//! disk's capacity; every request gets a status, unless it has no room for one; a driver that did
//! not negotiate FLUSH has its writes on the disk before it hears of them.

mod disk;
mod request;

use std::sync::Arc;

use crate::device::{Device, Handler, Kind, Queues, read_image};
use crate::queue::Broken;
use crate::worker::Waker;
pub use disk::{Disk, DiskError};
use request::Requests;

/// Bytes of a sector.
pub const SECTOR: u64 = 512;

const SEG_MAX: u64 = 1 << 2;
const READ_ONLY: u64 = 1 << 5;
const BLK_SIZE: u64 = 1 << 6;
const FLUSH: u64 = 1 << 9;
const DISCARD: u64 = 1 << 13;
const WRITE_ZEROES: u64 = 1 << 14;

const QUEUE: u16 = 256;
/// Bytes of the configuration space (5.2.4).
const CONFIG_BYTES: usize = 60;
/// Sectors that one discard or write-zeroes segment covers at most: 1 GiB.
const MOST_RANGE_SECTORS: u32 = 1 << 21;
/// Segments of one discard or write-zeroes request.
const MOST_RANGES: u32 = 32;

/// A disk as the guest sees it.
#[derive(Clone, Debug)]
pub struct Block {
    disk: Arc<dyn Disk>,
    id: [u8; 20],
}

impl Block {
    /// `id` is its serial number, of which the guest sees the first 20 bytes.
    pub fn new(disk: Arc<dyn Disk>, id: &str) -> Self {
        let mut bytes = [0; 20];
        for (to, from) in bytes.iter_mut().zip(id.bytes()) {
            *to = from;
        }
        Self { disk, id: bytes }
    }

    fn config(&self) -> [u8; CONFIG_BYTES] {
        let mut config = [0; CONFIG_BYTES];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(self.disk.capacity() / SECTOR).to_le_bytes());
        put(12, &u32::from(QUEUE - 2).to_le_bytes()); // seg_max: header and status apart
        put(20, &(SECTOR as u32).to_le_bytes());
        put(34, &1_u16.to_le_bytes()); // queues
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
        &[QUEUE]
    }

    fn features(&self) -> u64 {
        let common = SEG_MAX | BLK_SIZE | FLUSH;
        common | if self.disk.read_only() { READ_ONLY } else { DISCARD | WRITE_ZEROES }
    }

    fn config_read(&self, offset: u64, data: &mut [u8]) {
        read_image(&self.config(), offset, data);
    }

    fn activate(&mut self, features: u64, _waker: Waker) -> Box<dyn Handler> {
        let write_through = features & FLUSH == 0;
        Box::new(BlockHandler(Requests::new(self.disk.clone(), self.id, write_through)))
    }
}

struct BlockHandler(Requests);

impl Handler for BlockHandler {
    fn process(&mut self, queues: &mut Queues) -> Result<(), Broken> {
        queues.serve(0, |chain| self.0.serve(chain))
    }
}

#[cfg(test)]
mod tests;
