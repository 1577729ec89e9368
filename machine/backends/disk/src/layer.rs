//! One image of a chain: raw or qcow2.

use std::io;
use std::os::fd::BorrowedFd;

use crate::error::DiskError;
use crate::format::Format;
use crate::host::HostFile;
use crate::qcow2::Qcow2;
use crate::raw::Raw;

/// Moves bytes between a file of the host, from an offset on, and what the caller has in mind; gives how many.
pub(crate) type Move<'a> = &'a mut dyn FnMut(BorrowedFd<'_>, u64, u64) -> io::Result<usize>;

/// What a [`Move`] came to: all that it was asked for, or nothing that counts. It is done again in steps
/// then, which say what is wrong.
pub(crate) fn all_or_none(moved: io::Result<usize>, length: u64) -> u64 {
    moved.ok().filter(|count| *count as u64 == length).map_or(0, |_| length)
}

/// An image with what lies behind it.
#[derive(Debug)]
pub(crate) enum Layer {
    Raw(Raw),
    Qcow2(Box<Qcow2>),
}

impl Layer {
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Raw(_) => Format::Raw,
            Self::Qcow2(_) => Format::Qcow2,
        }
    }

    pub(crate) fn file(&self) -> &HostFile {
        match self {
            Self::Raw(raw) => raw.file(),
            Self::Qcow2(qcow2) => qcow2.file(),
        }
    }

    /// Bytes of the disk, a multiple of 512.
    pub(crate) fn capacity(&self) -> u64 {
        match self {
            Self::Raw(raw) => raw.capacity(),
            Self::Qcow2(qcow2) => qcow2.capacity(),
        }
    }

    /// Reads inside the capacity.
    pub(crate) fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        match self {
            Self::Raw(raw) => raw.read_at(offset, into),
            Self::Qcow2(qcow2) => qcow2.read_at(offset, into),
        }
    }

    /// Has read what lies in a file as it is from `offset` on, inside the capacity; how much of `length` that
    /// was, 0 if it begins with something else.
    pub(crate) fn read_straight(
        &self,
        offset: u64,
        length: u64,
        read: Move<'_>,
    ) -> Result<u64, DiskError> {
        match self {
            Self::Raw(raw) => Ok(raw.read_straight(offset, length, read)),
            Self::Qcow2(qcow2) => qcow2.read_straight(offset, length, read),
        }
    }

    /// Has written what is in place from `offset` on; how much of `length` that was.
    pub(crate) fn write_straight(
        &self,
        offset: u64,
        length: u64,
        write: Move<'_>,
    ) -> Result<u64, DiskError> {
        match self {
            Self::Raw(raw) => Ok(raw.write_straight(offset, length, write)),
            Self::Qcow2(qcow2) => qcow2.write_straight(offset, length, write),
        }
    }

    /// Reads a backing image, which may be shorter than what is before it: zeros follow.
    pub(crate) fn read_padded(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let inside = self.capacity().saturating_sub(offset).min(into.len() as u64) as usize;
        let (data, rest) = into.split_at_mut(inside);
        rest.fill(0);
        if data.is_empty() { Ok(()) } else { self.read_at(offset, data) }
    }

    pub(crate) fn write_at(&self, offset: u64, from: &[u8]) -> Result<(), DiskError> {
        match self {
            Self::Raw(raw) => raw.write_at(offset, from),
            Self::Qcow2(qcow2) => qcow2.write_at(offset, from),
        }
    }

    pub(crate) fn flush(&self) -> Result<(), DiskError> {
        match self {
            Self::Raw(raw) => raw.file().sync(),
            Self::Qcow2(qcow2) => qcow2.flush(),
        }
    }

    pub(crate) fn discard(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        match self {
            Self::Raw(raw) => raw.discard(offset, length),
            Self::Qcow2(qcow2) => qcow2.discard(offset, length),
        }
    }

    pub(crate) fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        match self {
            Self::Raw(raw) => raw.write_zeroes(offset, length),
            Self::Qcow2(qcow2) => qcow2.write_zeroes(offset, length),
        }
    }

    /// How many bytes from `offset` on are known to be zeros without reading them.
    pub(crate) fn zeros(&self, offset: u64, length: u64) -> Result<u64, DiskError> {
        match self {
            Self::Raw(raw) => Ok(raw.zeros(offset, length)),
            Self::Qcow2(qcow2) => qcow2.zeros(offset, length),
        }
    }
}
