//! Reading.

use std::os::fd::AsFd;
use std::sync::Arc;

use crate::bytes::{lock, read};
use crate::error::DiskError;
use crate::layer::{Move, all_or_none};

use super::compressed::decompress;
use super::image::Qcow2;
use super::meta::Extent;

impl Qcow2 {
    pub(crate) fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let _users = read(&self.users);
        self.read_held(offset, into)
    }

    /// As [`crate::disk::Disk::read_straight`].
    pub(crate) fn read_straight(
        &self,
        offset: u64,
        length: u64,
        read_some: Move<'_>,
    ) -> Result<u64, DiskError> {
        let _users = read(&self.users);
        let mut meta = lock(&self.meta);
        let (extent, length) = meta.map(offset, length)?;
        let end = meta.end;
        drop(meta);
        match (extent, &self.backing) {
            (Extent::Data(host), _) => {
                self.check_there(host, length, end)?;
                Ok(all_or_none(read_some(self.file.file().as_fd(), host, length), length))
            }
            (Extent::Backing, Some(backing)) if offset + length <= backing.capacity() => {
                backing.read_straight(offset, length, read_some).map_err(|at| self.behind(at))
            }
            _ => Ok(0),
        }
    }

    /// Reads while somebody keeps clusters from moving.
    pub(super) fn read_held(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let (mut at, mut rest) = (offset, into);
        while !rest.is_empty() {
            let mut meta = lock(&self.meta);
            let (extent, length) = meta.map(at, rest.len() as u64)?;
            let end = meta.end;
            drop(meta);
            let (piece, behind) = rest.split_at_mut(length as usize);
            self.read_extent(extent, end, at, piece)?;
            at += length;
            rest = behind;
        }
        Ok(())
    }

    /// Reads what was mapped; `file_end` is where the file ends.
    pub(super) fn read_extent(
        &self,
        extent: Extent,
        file_end: u64,
        at: u64,
        piece: &mut [u8],
    ) -> Result<(), DiskError> {
        match extent {
            Extent::Zero => piece.fill(0),
            Extent::Backing => match &self.backing {
                None => piece.fill(0),
                Some(backing) => {
                    backing.read_padded(at, piece).map_err(|source| self.behind(source))?;
                }
            },
            Extent::Data(host) => {
                self.check_there(host, piece.len() as u64, file_end)?;
                let done = self.file.read_some(host, piece)?;
                piece[done..].fill(0);
            }
            Extent::Compressed(host, most) => {
                let cluster = self.inflate(host, most)?;
                let start = (at % self.cluster) as usize;
                piece.copy_from_slice(&cluster[start..start + piece.len()]);
            }
        }
        Ok(())
    }

    /// The last cluster of a file may end early; one that is not there at all is lost.
    fn check_there(&self, host: u64, length: u64, file_end: u64) -> Result<(), DiskError> {
        let last = (host + length - 1) / self.cluster * self.cluster;
        if last >= file_end {
            return Err(self.file.truncated("data", last));
        }
        Ok(())
    }

    /// An error of what is behind this image.
    fn behind(&self, source: DiskError) -> DiskError {
        let image = self.file.path().to_path_buf();
        DiskError::Backing { image, source: Box::new(source) }
    }

    fn inflate(&self, host: u64, most: u64) -> Result<Arc<Vec<u8>>, DiskError> {
        if let Some((place, cluster)) = &*lock(&self.inflated)
            && *place == host
        {
            return Ok(Arc::clone(cluster));
        }
        let mut packed = vec![0; most as usize];
        let count = self.file.read_some(host, &mut packed)?;
        if count == 0 {
            return Err(self.file.truncated("compressed data", host));
        }
        let mut cluster = vec![0; self.cluster as usize];
        decompress(self.compression, &packed[..count], &mut cluster).ok_or_else(|| {
            self.file.corrupt(format!("the compressed cluster at byte {host} is not one"))
        })?;
        let cluster = Arc::new(cluster);
        *lock(&self.inflated) = Some((host, Arc::clone(&cluster)));
        Ok(cluster)
    }

    /// How many bytes from `offset` on are known to be zeros without reading them.
    pub(crate) fn zeros(&self, offset: u64, length: u64) -> Result<u64, DiskError> {
        let _users = read(&self.users);
        let mut at = offset;
        while at < offset + length {
            let (extent, count) = lock(&self.meta).map(at, offset + length - at)?;
            let known = match (extent, &self.backing) {
                (Extent::Zero, _) | (Extent::Backing, None) => count,
                (Extent::Backing, Some(backing)) if at >= backing.capacity() => count,
                (Extent::Backing, Some(backing)) => {
                    backing.zeros(at, count.min(backing.capacity() - at))?
                }
                _ => 0,
            };
            if known == 0 {
                break;
            }
            at += known;
        }
        Ok(at - offset)
    }
}
