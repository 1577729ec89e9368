//! Writing, discarding and zeroing.
//!
//! Invariant: a cluster that is new to the disk is written whole before an L2 entry names it; a
//! write that fails leaves the entry as it was.

use std::os::fd::AsFd;

use crate::bytes::{lock, read, write};
use crate::error::DiskError;
use crate::layer::{Move, all_or_none};

use super::entry::{COPIED, Cluster, ZERO};
use super::image::Qcow2;
use super::meta::Meta;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clear {
    Discard,
    Zero,
}

/// A cluster about to be the disk's.
struct NewCluster {
    host: u64,
    /// It lies past everything that the file held.
    fresh: bool,
    /// What was in its place.
    old: Cluster,
}

impl Qcow2 {
    pub(crate) fn write_at(&self, offset: u64, from: &[u8]) -> Result<(), DiskError> {
        let (mut at, mut rest) = (offset, from);
        while !rest.is_empty() {
            let users = read(&self.users);
            let place = lock(&self.meta).in_place(at, rest.len() as u64)?;
            let count = if let Some((host, length)) = place {
                self.file.write_all(host, &rest[..length as usize])?;
                drop(users);
                length
            } else {
                drop(users);
                let length = (rest.len() as u64).min(self.cluster - at % self.cluster);
                let _alone = write(&self.users);
                self.write_new(at, &rest[..length as usize])?;
                length
            };
            at += count;
            rest = &rest[count as usize..];
        }
        Ok(())
    }

    /// As [`crate::disk::Disk::write_straight`].
    pub(crate) fn write_straight(
        &self,
        offset: u64,
        length: u64,
        write_some: Move<'_>,
    ) -> Result<u64, DiskError> {
        let _users = read(&self.users);
        let place = lock(&self.meta).in_place(offset, length)?;
        let Some((host, length)) = place else { return Ok(0) };
        Ok(all_or_none(write_some(self.file.file().as_fd(), host, length), length))
    }

    /// Writes inside one cluster that may have no place of its own yet; the caller is alone.
    fn write_new(&self, offset: u64, from: &[u8]) -> Result<(), DiskError> {
        let mut meta = lock(&self.meta);
        if let Some((host, _)) = meta.in_place(offset, from.len() as u64)? {
            return self.file.write_all(host, from);
        }
        let l1_index = (offset / meta.header.l2_reach()) as usize;
        let table = meta.own_l2(l1_index)?;
        let index = index(&meta, offset);
        let old = meta.cluster(table, index)?;
        let kept = match old {
            Cluster::Zero { host: Some(host), copied: true } => Some(host),
            _ => None,
        };
        meta.check_release(old)?;
        let end = meta.end;
        let host = match kept {
            Some(host) => host,
            None => meta.allocate()?,
        };
        let fresh = kept.is_none() && host >= end && !self.file.is_device();
        let new = NewCluster { host, fresh, old };
        let done = self.fill(&mut meta, new, offset, from);
        if let Err(error) = done {
            if kept.is_none() {
                meta.unallocate(host)?;
            }
            return Err(error);
        }
        meta.set_entry(table, index, host | COPIED)?;
        if kept.is_none()
            && let Some((old_host, count)) = old.uses(meta.header.cluster_bits)
        {
            meta.release(old_host, count);
        }
        meta.flush_if_full()
    }

    /// Writes a new cluster: what is new, and around it what was there.
    fn fill(
        &self,
        meta: &mut Meta,
        new: NewCluster,
        offset: u64,
        from: &[u8],
    ) -> Result<(), DiskError> {
        let NewCluster { host, fresh, old } = new;
        let start = offset % self.cluster;
        let blank = match old {
            Cluster::Unallocated => !self.has_backing(),
            Cluster::Zero { .. } => true,
            _ => false,
        };
        if blank && fresh {
            // Past the file's end there are zeros already.
            if self.file.size()? < host + self.cluster {
                self.file.set_len(host + self.cluster)?;
            }
            return self.file.write_all(host + start, from);
        }
        let mut whole = Vec::new();
        let bytes = if from.len() as u64 == self.cluster {
            from
        } else {
            whole.resize(self.cluster as usize, 0);
            if !blank {
                self.read_old(meta, offset - start, &mut whole)?;
            }
            whole[start as usize..start as usize + from.len()].copy_from_slice(from);
            &whole
        };
        self.file.write_all(host, bytes)
    }

    /// A cluster as it is, up to the disk's end.
    fn read_old(&self, meta: &mut Meta, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let inside = (self.capacity - offset).min(self.cluster) as usize;
        let (mut at, mut rest) = (offset, &mut into[..inside]);
        while !rest.is_empty() {
            let (extent, length) = meta.map(at, rest.len() as u64)?;
            let (piece, behind) = rest.split_at_mut(length as usize);
            self.read_extent(extent, meta.end, at, piece)?;
            at += length;
            rest = behind;
        }
        Ok(())
    }

    pub(crate) fn discard(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.clear(offset, length, Clear::Discard)
    }

    pub(crate) fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.clear(offset, length, Clear::Zero)
    }

    fn clear(&self, offset: u64, length: u64, how: Clear) -> Result<(), DiskError> {
        let end = offset + length;
        let mut at = offset;
        while at < end {
            let cluster_end = ((at / self.cluster + 1) * self.cluster).min(self.capacity);
            if at.is_multiple_of(self.cluster) && cluster_end <= end {
                at = self.clear_clusters(at, end, how)?;
                continue;
            }
            let piece = cluster_end.min(end) - at;
            if how == Clear::Zero {
                self.zero_part(at, piece)?;
            }
            at += piece;
        }
        Ok(())
    }

    /// Zeros in a part of a cluster, unless it has nothing else.
    fn zero_part(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        if self.zeros(offset, length)? < length {
            self.write_at(offset, &vec![0; length as usize])?;
        }
        Ok(())
    }

    /// Clears whole clusters from `at` on, as far as one L2 table goes; gives where it stopped.
    fn clear_clusters(&self, at: u64, end: u64, how: Clear) -> Result<u64, DiskError> {
        let alone = write(&self.users);
        let mut meta = lock(&self.meta);
        let reach = meta.header.l2_reach();
        let stop = end.min((at / reach + 1) * reach);
        let l1_index = (at / reach) as usize;
        let nothing_there = meta.l2_offset(l1_index)?.is_none();
        if nothing_there && (how == Clear::Discard || !self.has_backing()) {
            return Ok(stop);
        }
        let version = meta.header.version;
        let mut at = at;
        while at < stop {
            let next = (at + self.cluster).min(self.capacity);
            if next > stop {
                break;
            }
            let index = index(&meta, at);
            let old = match meta.l2_offset(l1_index)? {
                Some(table) => meta.cluster(table, index)?,
                None => Cluster::Unallocated,
            };
            let new = match (old, how, self.has_backing(), version) {
                (Cluster::Unallocated, Clear::Discard, ..)
                | (Cluster::Unallocated, _, false, _)
                | (Cluster::Zero { host: None, .. }, ..)
                | (Cluster::Zero { .. }, Clear::Zero, ..) => None,
                // Without zero clusters the backing file would show through.
                (_, Clear::Discard, true, 2) => None,
                (_, Clear::Zero, true, 2) => {
                    drop(meta);
                    drop(alone);
                    self.write_at(at, &vec![0; (next - at) as usize])?;
                    return Ok(next);
                }
                (_, _, true, _) => Some(ZERO),
                (_, _, false, _) => Some(0),
            };
            if let Some(new) = new {
                meta.check_release(old)?;
                let table = meta.own_l2(l1_index)?;
                meta.set_entry(table, index, new)?;
                if let Some((host, count)) = old.uses(meta.header.cluster_bits) {
                    meta.release(host, count);
                    meta.flush_if_full()?;
                }
            }
            at = next;
        }
        Ok(at)
    }
}

fn index(meta: &Meta, offset: u64) -> usize {
    ((offset >> meta.header.cluster_bits) & ((1 << meta.header.l2_bits()) - 1)) as usize
}
