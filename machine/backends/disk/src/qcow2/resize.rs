//! Another size for an image that nobody uses.
//!
//! Invariant: what a disk gains reads as zeros, whatever its backing file or last cluster has there.

use crate::bytes::lock;
use crate::error::DiskError;

use super::image::Qcow2;
use super::meta::Meta;

impl Qcow2 {
    /// Changes the disk's size; what a smaller one has no room for is lost.
    pub(crate) fn resize(self, size: u64) -> Result<Self, DiskError> {
        let (old, snapshots) = {
            let meta = lock(&self.meta);
            (meta.header.size, meta.header.snapshots)
        };
        if snapshots > 0 {
            return Err(DiskError::Unsupported {
                path: self.file.path().to_path_buf(),
                feature: "has internal snapshots, which are of its size".into(),
                fix: "delete them (qemu-img snapshot -d) or resize a converted copy".into(),
            });
        }
        if size < old {
            self.discard_end(size)?;
            self.flush()?;
        }
        lock(&self.meta).grow_l1(size)?;
        let mut this = self;
        this.capacity = size.next_multiple_of(512);
        if size > old {
            let backing = this.backing.as_ref().map_or(0, |backing| backing.capacity());
            let stale = old.next_multiple_of(this.cluster).max(backing).min(this.capacity);
            this.write_zeroes(old, stale.saturating_sub(old))?;
        }
        this.flush()?;
        let file = std::sync::Arc::clone(&this.file);
        lock(&this.meta).header.set_size(&file, size)?;
        Ok(this)
    }

    /// Frees what lies past a smaller size, and zeros the rest of the last cluster.
    fn discard_end(&self, size: u64) -> Result<(), DiskError> {
        let whole = size.next_multiple_of(self.cluster).min(self.capacity);
        self.write_zeroes(size, whole - size)?;
        self.discard(whole, self.capacity - whole)
    }
}

impl Meta {
    /// An L1 table for a larger disk: written whole before the header names it.
    fn grow_l1(&mut self, size: u64) -> Result<(), DiskError> {
        let entries = size.div_ceil(self.header.l2_reach());
        if entries <= self.l1.len() as u64 {
            return Ok(());
        }
        if entries > 4 << 20 {
            let path = self.file.path().to_path_buf();
            let why = "its L1 table would be too large; convert it to larger clusters";
            return Err(DiskError::BadSize { path, size, why });
        }
        let cluster = self.header.cluster();
        let clusters = (entries * 8).div_ceil(cluster);
        self.flush()?;
        let offset = self.allocate_run(clusters)?;
        let mut table = self.l1.clone();
        table.resize(entries as usize, 0);
        let mut bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        bytes.resize((clusters * cluster) as usize, 0);
        self.file.write_all(offset, &bytes)?;
        self.flush()?;
        let (old, old_entries) = (self.header.l1_offset, u64::from(self.header.l1_entries));
        let file = std::sync::Arc::clone(&self.file);
        self.header.set_l1(&file, offset, entries as u32)?;
        self.l1 = table;
        let first = offset >> self.header.cluster_bits;
        self.metadata.extend(first..first + clusters);
        let old_clusters = (old_entries * 8).div_ceil(cluster);
        if old_clusters > 0 {
            self.forget_metadata(old, old_clusters);
            self.release(old, old_clusters);
        }
        Ok(())
    }
}
