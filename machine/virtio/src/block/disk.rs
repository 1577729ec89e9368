//! The seam to whatever holds a disk's bytes: a file, an image format, memory.

use std::fmt::Debug;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use memory::{GuestMemory, RamOffset};
use thiserror::Error;

use crate::device::Alarm;

/// A disk could not do what was asked; the guest gets VIRTIO_BLK_S_IOERR. Why is for whoever runs
/// the machine: the disk tells them itself.
#[derive(Debug, Error)]
#[error("the disk failed")]
pub struct DiskError(#[from] pub Box<dyn std::error::Error + Send + Sync>);

/// A disk. Offsets and lengths are bytes, multiples of 512, within [`Disk::capacity`]: the caller
/// has seen to it. May be called from several threads at once, and may wait.
pub trait Disk: Send + Sync + Debug {
    /// Its size; does not change.
    fn capacity(&self) -> u64;

    /// Whether it refuses to change.
    fn read_only(&self) -> bool;

    /// Fills `into`.
    ///
    /// # Errors
    /// [`DiskError`], with `into` in any state.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError>;

    /// Writes all of `from`; it survives this process, and after a [`Disk::flush`] the host.
    ///
    /// # Errors
    /// [`DiskError`], with any part written.
    fn write_at(&self, offset: u64, from: &[u8]) -> Result<(), DiskError>;

    /// Makes everything that was written survive a crash of the host.
    ///
    /// # Errors
    /// [`DiskError`].
    fn flush(&self) -> Result<(), DiskError>;

    /// The bytes are not needed any more: what they read as afterwards is the disk's choice.
    ///
    /// # Errors
    /// [`DiskError`]; a disk that cannot give room back does nothing and succeeds.
    fn discard(&self, offset: u64, length: u64) -> Result<(), DiskError>;

    /// The bytes read as zero from now on; `may_unmap`: their room may be given back.
    ///
    /// # Errors
    /// [`DiskError`].
    fn write_zeroes(&self, offset: u64, length: u64, may_unmap: bool) -> Result<(), DiskError>;

    /// A way to read, write and flush many things at once, straight from and to guest memory;
    /// `None`: there is none, and what there is to do is done one by one. While the eventfd `bell` is not
    /// zero, nothing is waited for in [`Lane::reap`]; the caller alone reads it.
    fn lane(
        self: Arc<Self>,
        _memory: &Arc<GuestMemory>,
        _bell: Option<Arc<OwnedFd>>,
    ) -> Option<Box<dyn Lane>> {
        None
    }
}

/// Pieces of guest memory, in order.
pub type Pieces = Vec<(RamOffset, u32)>;

/// Reads, writes and flushes that go on at the same time, in any order. Each has a tag of the
/// caller's, under which its end is told. Ranges are as for [`Disk`]. Who drops it waits until the
/// host has let go of all pieces.
pub trait Lane: Send {
    /// Begins to fill pieces from the disk; their pages are marked as written when that is done.
    fn read(&mut self, tag: u32, offset: u64, pieces: Pieces);

    /// Begins to write pieces to the disk.
    fn write(&mut self, tag: u32, offset: u64, pieces: Pieces);

    /// Begins to make survive what was written, as far as its end was told before.
    fn flush(&mut self, tag: u32);

    /// Tells of what has ended, after a wait for the first if need be and `wait`; perhaps of
    /// nothing, as when the alarm rang or the bell.
    fn reap(&mut self, wait: bool, told: &mut dyn FnMut(u32, Result<(), DiskError>));

    /// Ends a wait in [`Lane::reap`], the current or the next one.
    fn alarm(&self) -> Alarm;
}
