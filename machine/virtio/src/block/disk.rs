//! The seam to whatever holds a disk's bytes: a file, an image format, memory.

use std::fmt::Debug;

use thiserror::Error;

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
}
