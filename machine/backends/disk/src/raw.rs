//! Raw images: the file's bytes are the disk's, the rest of the last sector is zero.
//!
//! Invariant: where nobody said that an image is raw, its first sector never comes to look like
//! another format. Whoever opens it next would believe it, and a guest could so name files of
//! the host. QEMU refuses such writes by the bytes written; here the sector counts as it would be
//! then, so that no two writes make together what one may not.

use std::os::fd::AsFd;
use std::sync::Mutex;

use crate::bytes::lock;
use crate::error::DiskError;
use crate::format::{HEAD, probe};
use crate::host::HostFile;
use crate::layer::{Move, all_or_none};

/// A raw image.
#[derive(Debug)]
pub(crate) struct Raw {
    file: HostFile,
    /// What the file held when it was opened, in bytes.
    length: u64,
    capacity: u64,
    /// Held over changes of the first sector, if that is watched.
    head: Option<Mutex<()>>,
}

impl Raw {
    /// `probed`: nobody said that it is raw.
    pub(crate) fn new(file: HostFile, probed: bool) -> Result<Self, DiskError> {
        let length = file.size()?;
        let capacity = length.checked_next_multiple_of(512).filter(|size| *size < 1 << 63);
        let Some(capacity) = capacity else {
            let path = file.path().to_path_buf();
            return Err(DiskError::BadSize { path, size: length, why: "that is past any disk" });
        };
        Ok(Self { file, length, capacity, head: probed.then(|| Mutex::new(())) })
    }

    pub(crate) fn file(&self) -> &HostFile {
        &self.file
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Whether all of a range lay in the file when it was opened.
    pub(crate) fn is_inside(&self, offset: u64, length: u64) -> bool {
        offset.checked_add(length).is_some_and(|end| end <= self.length)
    }

    /// Whether a change from `offset` on is to be looked at first.
    pub(crate) fn is_watched(&self, offset: u64) -> bool {
        self.head.is_some() && offset < HEAD as u64
    }

    pub(crate) fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let done = self.file.read_some(offset, into)?;
        let at = offset + done as u64;
        if done < into.len() && at < self.length {
            return Err(self.file.truncated("data", at));
        }
        into[done..].fill(0);
        Ok(())
    }

    pub(crate) fn read_straight(&self, offset: u64, length: u64, read: Move<'_>) -> u64 {
        if !self.is_inside(offset, length) {
            return 0;
        }
        all_or_none(read(self.file.file().as_fd(), offset, length), length)
    }

    pub(crate) fn write_straight(&self, offset: u64, length: u64, write: Move<'_>) -> u64 {
        if !self.is_inside(offset, length) || self.is_watched(offset) {
            return 0;
        }
        all_or_none(write(self.file.file().as_fd(), offset, length), length)
    }

    pub(crate) fn write_at(&self, offset: u64, from: &[u8]) -> Result<(), DiskError> {
        let _watch = self.watch(offset, from.len() as u64, Some(from))?;
        self.file.write_all(offset, from)
    }

    pub(crate) fn discard(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        let _watch = self.watch(offset, length, None)?;
        self.file.punch(offset, length).map(drop)
    }

    pub(crate) fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        let _watch = self.watch(offset, length, None)?;
        self.file.zero(offset, length.min(self.length.max(offset) - offset))?;
        // Past the file's old end there may be what was written since.
        let tail = self.length.max(offset);
        let end = offset + length;
        if tail < end {
            self.file.write_all(tail, &vec![0; (end - tail) as usize])?;
        }
        Ok(())
    }

    /// Whether all of a range is known to read as zeros without reading it, and how much of it.
    pub(crate) fn zeros(&self, offset: u64, length: u64) -> u64 {
        let end = self.file.hole_end(offset, self.length).unwrap_or(offset);
        (end - offset).min(length)
    }

    /// Looks at what the first sector would become; held until it has.
    fn watch(
        &self,
        offset: u64,
        length: u64,
        from: Option<&[u8]>,
    ) -> Result<Option<std::sync::MutexGuard<'_, ()>>, DiskError> {
        let Some(head) = self.head.as_ref().filter(|_| offset < HEAD as u64) else {
            return Ok(None);
        };
        let guard = lock(head);
        let mut sector = [0; HEAD];
        self.file.read_some(0, &mut sector)?;
        let start = offset as usize;
        let end = (offset + length).min(HEAD as u64) as usize;
        match from {
            Some(from) => sector[start..end].copy_from_slice(&from[..end - start]),
            None => sector[start..end].fill(0),
        }
        match probe(&sector).signature() {
            None => Ok(Some(guard)),
            Some(format) => {
                Err(DiskError::ForeignHeader { path: self.file.path().to_path_buf(), format })
            }
        }
    }
}
