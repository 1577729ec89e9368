//! The disk that a device model sees, and how it is opened.

use std::path::{Path, PathBuf};

use crate::chain;
use crate::error::DiskError;
use crate::format::Format;
use crate::layer::{Layer, Move};
use crate::raw::Raw;

/// How an image is opened.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Its format; detected by content if left out, raw only when nothing else matches.
    pub format: Option<Format>,
    /// Writes fail.
    pub read_only: bool,
    /// Writes go to a temporary file that vanishes; the image itself is only read.
    pub copy_on_write: bool,
    /// Backing files that may be opened wherever they are. Others only below the folder of the
    /// image that names them.
    pub backing: Vec<PathBuf>,
}

/// A disk image in use. All operations may be called from any thread; those that overlap in time
/// and place come in any order.
#[derive(Debug)]
pub struct Disk {
    layer: Layer,
    path: PathBuf,
    format: Format,
    block_size: u32,
    read_only: bool,
}

impl Disk {
    /// Opens an image with all that is behind it, and locks each file against use by others that
    /// would disturb.
    ///
    /// # Errors
    /// Every [`DiskError`] about files, formats, locks and backing files.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self, DiskError> {
        let layer = chain::open(path, options)?;
        if layer.capacity() == 0 {
            let why = "an empty file is no disk (roof disk create FILE SIZE makes one)";
            return Err(DiskError::BadSize { path: path.to_path_buf(), size: 0, why });
        }
        let (format, block_size) = (layer.format(), layer.file().block_size());
        let mut disk = Self {
            layer,
            path: path.to_path_buf(),
            format,
            block_size,
            read_only: options.read_only,
        };
        if options.copy_on_write {
            disk.layer = chain::overlay(disk.layer)?;
        }
        Ok(disk)
    }

    /// The image's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How the image holds its disk.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Bytes of the disk, a multiple of 512.
    pub fn capacity(&self) -> u64 {
        self.layer.capacity()
    }

    /// The logical block in bytes: 512, or a device's own. Requests need not keep to it.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Whether writes fail.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Fills a buffer from byte `offset` of the disk.
    ///
    /// # Errors
    /// Outside of the disk; a failing, damaged or truncated file.
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.range(offset, into.len() as u64)?;
        self.layer.read_at(offset, into)
    }

    /// Writes a buffer at byte `offset` of the disk. After an error any part of it may have been
    /// written; the rest of the disk is as it was.
    ///
    /// # Errors
    /// Read-only, outside of the disk, no room ([`DiskError::is_no_space`]), a failing or damaged
    /// file, a foreign header in a probed raw image.
    pub fn write_at(&self, offset: u64, from: &[u8]) -> Result<(), DiskError> {
        self.change(offset, from.len() as u64)?;
        self.layer.write_at(offset, from)
    }

    /// Has `read` fill what lies in a file as it is from byte `offset` on; how much of `length` that was, 0 if
    /// [`Self::read_at`] has to do it.
    pub(crate) fn read_straight(
        &self,
        offset: u64,
        length: u64,
        read: Move<'_>,
    ) -> Result<u64, DiskError> {
        self.range(offset, length)?;
        self.layer.read_straight(offset, length, read)
    }

    /// The same for [`Self::write_at`].
    pub(crate) fn write_straight(
        &self,
        offset: u64,
        length: u64,
        write: Move<'_>,
    ) -> Result<u64, DiskError> {
        self.change(offset, length)?;
        self.layer.write_straight(offset, length, write)
    }

    /// What was written before is on the medium when this returns.
    ///
    /// # Errors
    /// The host could not; then what was written since the last flush is in doubt.
    pub fn flush(&self) -> Result<(), DiskError> {
        if self.read_only { Ok(()) } else { self.layer.flush() }
    }

    /// The range's contents are not needed any more: each byte reads as before or as zero then.
    ///
    /// # Errors
    /// Read-only, outside of the disk, a failing or damaged file.
    pub fn discard(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.change(offset, length)?;
        self.layer.discard(offset, length)
    }

    /// The range reads as zeros then.
    ///
    /// # Errors
    /// As for [`Self::write_at`].
    pub fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.change(offset, length)?;
        self.layer.write_zeroes(offset, length)
    }

    /// The image itself if its file's bytes are the disk's.
    pub(crate) fn raw(&self) -> Option<&Raw> {
        match &self.layer {
            Layer::Raw(raw) => Some(raw),
            Layer::Qcow2(_) => None,
        }
    }

    /// How many bytes from `offset` on are known to be zeros without reading them.
    pub(crate) fn zeros(&self, offset: u64, length: u64) -> Result<u64, DiskError> {
        self.layer.zeros(offset, length)
    }

    fn range(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        let capacity = self.capacity();
        match offset.checked_add(length) {
            Some(end) if end <= capacity => Ok(()),
            _ => {
                let path = self.path.clone();
                Err(DiskError::OutOfRange { path, offset, length, capacity })
            }
        }
    }

    fn change(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        if self.read_only {
            return Err(DiskError::ReadOnly(self.path.clone()));
        }
        self.range(offset, length)
    }
}
