//! A file or block device of the host whose bytes are the disk's.
//!
//! Invariant: while it is open for writing nobody else has it open through this type (flock(2): the
//! lock goes with the descriptor, so a killed process leaves none).

use std::fs::File;
use std::io::{Error, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::io::Errno;
use thiserror::Error;

use super::SECTOR;
use super::disk::{Disk, DiskError};

/// Zeroes that are written where the file system cannot make them.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// A file cannot be a disk.
#[derive(Debug, Error)]
pub enum RawError {
    /// It is not there.
    #[error("there is no disk image {0}; `truncate -s 1G {0}` makes an empty one of 1 GiB")]
    Missing(PathBuf),
    /// It may not be written.
    #[error("the disk image {0} cannot be written; attach it read-only with `-d {0},ro`")]
    NotWritable(PathBuf),
    /// Somebody has it.
    #[error(
        "the disk image {0} is in use by another VM; end that one, or give both `-d {0},ro` to share it"
    )]
    Locked(PathBuf),
    /// A directory, pipe or the like.
    #[error("{0} is neither a file nor a block device, so it cannot be a disk")]
    NotAFile(PathBuf),
    /// No whole number of sectors, or none.
    #[error(
        "the disk image {path} has {size} bytes, and a disk has a multiple of {SECTOR}, at least one; `truncate -s %{SECTOR} {path}` pads it, `truncate -s 1G {path}` makes it larger"
    )]
    Size {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        size: u64,
    },
    /// The host says so.
    #[error("cannot open the disk image {path}")]
    Host {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Error,
    },
}

/// A raw image.
#[derive(Debug)]
pub struct RawFile {
    file: File,
    capacity: u64,
    read_only: bool,
}

impl RawFile {
    /// Opens and locks an image.
    ///
    /// # Errors
    /// [`RawError`].
    pub fn open(path: &Path, read_only: bool) -> Result<Self, RawError> {
        let owned = || path.to_path_buf();
        let host = |source| RawError::Host { path: owned(), source };
        let status = std::fs::metadata(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => RawError::Missing(owned()),
            _ => host(error),
        })?;
        // Looked at first: to open a pipe would wait for its other end.
        if !status.is_file() && !status.file_type().is_block_device() {
            return Err(RawError::NotAFile(owned()));
        }
        let opened = File::options().read(true).write(!read_only).open(path);
        let mut file = opened.map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem if !read_only => {
                RawError::NotWritable(owned())
            }
            _ => host(error),
        })?;
        let wanted = match read_only {
            true => FlockOperation::NonBlockingLockShared,
            false => FlockOperation::NonBlockingLockExclusive,
        };
        flock(&file, wanted).map_err(|error| match error {
            Errno::WOULDBLOCK => RawError::Locked(owned()),
            _ => host(error.into()),
        })?;
        let capacity = file.seek(SeekFrom::End(0)).map_err(host)?;
        if capacity == 0 || !capacity.is_multiple_of(SECTOR) {
            return Err(RawError::Size { path: owned(), size: capacity });
        }
        Ok(Self { file, capacity, read_only })
    }

    fn writable(&self) -> Result<(), DiskError> {
        if self.read_only { Err(DiskError::ReadOnly) } else { Ok(()) }
    }

    /// Changes a range by fallocate(2); false: this file system cannot.
    fn range(&self, how: FallocateFlags, offset: u64, length: u64) -> Result<bool, Error> {
        match fallocate(&self.file, how | FallocateFlags::KEEP_SIZE, offset, length) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Disk for RawFile {
    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let read = self.file.read_exact_at(into, offset);
        read.map_err(|source| DiskError::Host { what: "read", offset, source })
    }

    fn write_at(&self, offset: u64, from: &[u8]) -> Result<(), DiskError> {
        self.writable()?;
        let written = self.file.write_all_at(from, offset);
        written.map_err(|source| DiskError::Host { what: "write", offset, source })
    }

    fn flush(&self) -> Result<(), DiskError> {
        let flushed = self.file.sync_data();
        flushed.map_err(|source| DiskError::Host { what: "flush", offset: 0, source })
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.writable()?;
        let done = self.range(FallocateFlags::PUNCH_HOLE, offset, length);
        done.map(drop).map_err(|source| DiskError::Host { what: "discard", offset, source })
    }

    fn write_zeroes(&self, offset: u64, length: u64, may_unmap: bool) -> Result<(), DiskError> {
        self.writable()?;
        let how = match may_unmap {
            true => FallocateFlags::PUNCH_HOLE,
            false => FallocateFlags::ZERO_RANGE,
        };
        let host = |source| DiskError::Host { what: "write zeroes", offset, source };
        if self.range(how, offset, length).map_err(host)? {
            return Ok(());
        }
        let mut done = 0;
        while done < length {
            let piece = &ZEROES[..ZEROES.len().min((length - done) as usize)];
            self.write_at(offset + done, piece)?;
            done += piece.len() as u64;
        }
        Ok(())
    }
}
