//! Which clusters of the file are used (section "Host cluster management").
//!
//! Invariant: refcount blocks are made before a cluster of theirs is given out, so that counts and
//! places never depend on one another.

use crate::error::DiskError;

use super::entry::OFFSET;
use super::header::{OFFSET_LIMIT, REFTABLE_BYTES};
use super::meta::Meta;

/// The refcount `index` of a block with counts of 2^`order` bits.
pub(crate) fn get(block: &[u8], index: usize, order: u32) -> u64 {
    if order < 3 {
        let per_byte = 8 >> order;
        let shift = (index % per_byte) << order;
        return u64::from(block[index / per_byte] >> shift) & ((1 << (1 << order)) - 1);
    }
    let bytes = 1 << (order - 3);
    block[index * bytes..(index + 1) * bytes]
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Sets a refcount; `false` if it does not fit.
#[must_use]
pub(crate) fn set(block: &mut [u8], index: usize, order: u32, value: u64) -> bool {
    let bits = 1_u32 << order;
    if bits < 64 && value >> bits != 0 {
        return false;
    }
    if order < 3 {
        let per_byte = 8 >> order;
        let shift = (index % per_byte) << order;
        let mask = ((1_u16 << bits) - 1) as u8;
        let byte = &mut block[index / per_byte];
        *byte = *byte & !(mask << shift) | (value as u8) << shift;
        return true;
    }
    let bytes = 1 << (order - 3);
    let value = value.to_be_bytes();
    block[index * bytes..(index + 1) * bytes].copy_from_slice(&value[8 - bytes..]);
    true
}

impl Meta {
    /// How often a cluster of the file is used.
    pub(crate) fn refcount(&mut self, cluster: u64) -> Result<u64, DiskError> {
        let bits = self.header.refblock_bits();
        let Some(block) = self.refblock((cluster >> bits) as usize)? else { return Ok(0) };
        let bytes = self.refblocks.get(block).expect("just loaded");
        Ok(get(bytes, (cluster & ((1 << bits) - 1)) as usize, self.header.refcount_order))
    }

    /// Sets the count of a cluster whose block is there.
    pub(crate) fn set_refcount(&mut self, cluster: u64, value: u64) -> Result<(), DiskError> {
        let bits = self.header.refblock_bits();
        let block = self.refblock((cluster >> bits) as usize)?.expect("the caller made it");
        let bytes = self.refblocks.change(block).expect("just loaded");
        let index = (cluster & ((1 << bits) - 1)) as usize;
        assert!(
            set(bytes, index, self.header.refcount_order, value),
            "counts only go down to 0 or up to 1"
        );
        Ok(())
    }

    /// Loads the block of an area; its place in the file.
    fn refblock(&mut self, area: usize) -> Result<Option<u64>, DiskError> {
        let entry = self.reftable.get(area).copied().unwrap_or(0) & OFFSET;
        if entry == 0 {
            return Ok(None);
        }
        if !entry.is_multiple_of(self.header.cluster()) {
            return Err(self
                .file
                .corrupt(format!("entry {area} of the refcount table is not aligned")));
        }
        if self.refblocks.get(entry).is_none() {
            self.refblock_room()?;
            let mut bytes = vec![0; self.header.cluster() as usize];
            self.file.read_all(entry, &mut bytes, "a refcount block")?;
            self.refblocks.insert(entry, bytes, false);
        }
        Ok(Some(entry))
    }

    /// Refcount blocks may be written at any time: a count that is too high is a leak. One that
    /// is too low never stands in them before its cluster is free on the medium.
    fn refblock_room(&mut self) -> Result<(), DiskError> {
        if !self.refblocks.make_room() {
            let file = std::sync::Arc::clone(&self.file);
            self.refblocks.write_back(|offset, bytes| file.write_all(offset, bytes))?;
            assert!(self.refblocks.make_room(), "no block differs from the file");
        }
        Ok(())
    }

    /// A cluster for new data or a new table; its offset.
    pub(crate) fn allocate(&mut self) -> Result<u64, DiskError> {
        let bits = self.header.cluster_bits;
        let mut cluster = self.free_hint;
        loop {
            if cluster >= OFFSET_LIMIT >> bits {
                return Err(self.file.corrupt("no cluster is free up to the format's limit"));
            }
            let area = (cluster >> self.header.refblock_bits()) as usize;
            if self.reftable.get(area).copied().unwrap_or(0) & OFFSET == 0 {
                self.add_refblock(area)?;
            }
            if self.refcount(cluster)? == 0 {
                break;
            }
            cluster += 1;
        }
        if self.metadata.contains(&cluster) {
            let at = cluster << bits;
            return Err(self.file.corrupt(format!("the table at byte {at} counts as free")));
        }
        self.set_refcount(cluster, 1)?;
        self.free_hint = cluster + 1;
        self.end = self.end.max((cluster + 1) << bits);
        Ok(cluster << bits)
    }

    /// Gives a cluster back that nothing came to name.
    pub(crate) fn unallocate(&mut self, offset: u64) -> Result<(), DiskError> {
        let cluster = offset >> self.header.cluster_bits;
        self.free_hint = self.free_hint.min(cluster);
        self.set_refcount(cluster, 0)
    }

    /// Makes the block of an area that has none, inside that area.
    fn add_refblock(&mut self, area: usize) -> Result<(), DiskError> {
        if area >= self.reftable.len() {
            self.grow_reftable(area as u64 + 1)?;
            if self.reftable[area] & OFFSET != 0 {
                return Ok(());
            }
        }
        let bits = self.header.refblock_bits();
        let first = (area as u64) << bits;
        let cluster = (first..first + (1 << bits)).find(|one| !self.metadata.contains(one));
        let cluster =
            cluster.ok_or_else(|| self.file.corrupt("tables where nothing is counted"))?;
        self.insert_refblock(area, cluster)?;
        self.set_refcount(cluster, 1)
    }

    fn insert_refblock(&mut self, area: usize, cluster: u64) -> Result<(), DiskError> {
        self.refblock_room()?;
        let offset = cluster << self.header.cluster_bits;
        self.refblocks.insert(offset, vec![0; self.header.cluster() as usize], true);
        self.reftable[area] = offset;
        self.reftable_changes.insert(area);
        self.metadata.insert(cluster);
        Ok(())
    }

    /// `count` clusters in a row, behind everything else; the first one's offset.
    pub(crate) fn allocate_run(&mut self, count: u64) -> Result<u64, DiskError> {
        let bits = self.header.refblock_bits();
        let mut first = self.end.div_ceil(self.header.cluster()).max(self.free_hint);
        loop {
            // The blocks that are missing come behind the run, which may make more missing.
            let areas = |all: u64| (first >> bits)..((first + all - 1) >> bits) + 1;
            let missing = |meta: &Self, all: u64| -> Vec<u64> {
                let has = |area: u64| meta.reftable.get(area as usize).copied().unwrap_or(0);
                areas(all).filter(|area| has(*area) & OFFSET == 0).collect()
            };
            let mut blocks = Vec::new();
            loop {
                let needed = missing(self, count + blocks.len() as u64);
                if needed.len() == blocks.len() {
                    break;
                }
                blocks = needed;
            }
            let all = count + blocks.len() as u64;
            let last_area = (first + all - 1) >> bits;
            if last_area >= self.reftable.len() as u64 {
                self.grow_reftable(last_area + 1)?;
                first = first.max(self.end.div_ceil(self.header.cluster()));
                continue;
            }
            let mut taken = None;
            for cluster in first..first + all {
                if self.refcount(cluster)? != 0 {
                    taken = Some(cluster);
                }
            }
            if let Some(taken) = taken {
                first = taken + 1;
                continue;
            }
            for (area, cluster) in blocks.iter().zip(first + count..) {
                self.insert_refblock(*area as usize, cluster)?;
            }
            for cluster in first..first + all {
                self.set_refcount(cluster, 1)?;
            }
            self.end = self.end.max((first + all) << self.header.cluster_bits);
            return Ok(first << self.header.cluster_bits);
        }
    }

    /// A larger refcount table, behind everything and in areas that it is the first to count:
    /// written whole before the header names it.
    fn grow_reftable(&mut self, least: u64) -> Result<(), DiskError> {
        self.flush()?;
        let cluster = self.header.cluster();
        let bits = self.header.refblock_bits();
        let covered = (self.reftable.len() as u64) << bits;
        let first = self.end.div_ceil(cluster).max(covered);
        let (mut entries, mut blocks) = (least.max(self.reftable.len() as u64 * 3 / 2), 1);
        let clusters = loop {
            let clusters = (entries * 8).div_ceil(cluster);
            let last_area = (first + clusters + blocks - 1) >> bits;
            let needed = last_area - (first >> bits) + 1;
            if needed <= blocks && last_area < clusters * cluster / 8 {
                break clusters;
            }
            blocks = blocks.max(needed);
            entries = entries.max(last_area + 1);
        };
        if clusters * cluster > REFTABLE_BYTES {
            let path = self.file.path().to_path_buf();
            let why = "its refcount table would be too large; convert it to larger clusters";
            return Err(DiskError::BadSize { path, size: self.end, why });
        }
        let mut table = self.reftable.clone();
        table.resize((clusters * cluster / 8) as usize, 0);
        for number in 0..blocks {
            let area = (first >> bits) + number;
            let at = first + clusters + number;
            let mut block = vec![0; cluster as usize];
            for used in first.max(area << bits)..(first + clusters + blocks).min((area + 1) << bits)
            {
                let index = (used & ((1 << bits) - 1)) as usize;
                assert!(set(&mut block, index, self.header.refcount_order, 1), "1 always fits");
            }
            self.file.write_all(at * cluster, &block)?;
            table[area as usize] = at * cluster;
        }
        let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        self.file.write_all(first * cluster, &bytes)?;
        self.sync()?;
        let (old, old_clusters) = (self.header.reftable_offset, self.header.reftable_clusters);
        let file = std::sync::Arc::clone(&self.file);
        self.header.set_reftable(&file, first * cluster, clusters as u32)?;
        self.reftable = table;
        self.forget_metadata(old, u64::from(old_clusters));
        self.metadata.extend(first..first + clusters + blocks);
        self.end = self.end.max((first + clusters + blocks) * cluster);
        self.release(old, u64::from(old_clusters));
        Ok(())
    }

    /// Takes one use from all that waits; what nobody uses then goes back to the host.
    pub(crate) fn free_pending(&mut self) -> Result<(), DiskError> {
        while let Some((first, count)) = self.pending.pop() {
            for cluster in first..first + count {
                let uses = self.refcount(cluster)?;
                if uses == 0 {
                    // The image counts wrongly; the cluster counts as free already.
                    continue;
                }
                self.set_refcount(cluster, uses - 1)?;
                if uses == 1 {
                    self.free_hint = self.free_hint.min(cluster);
                    let offset = cluster << self.header.cluster_bits;
                    self.forget_table(offset);
                    self.metadata.remove(&cluster);
                    self.file.punch(offset, self.header.cluster())?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_every_width_stay_apart() {
        for order in 0..=6 {
            let mut block = vec![0; 512];
            let most = if order == 6 { u64::MAX } else { (1 << (1 << order)) - 1 };
            let count = 512 * 8 >> order;
            for index in 0..count {
                let value = index as u64 * 7 & most;
                assert!(set(&mut block, index, order, value));
            }
            for index in 0..count {
                assert_eq!(get(&block, index, order), index as u64 * 7 & most, "2^{order} bits");
            }
            assert!(order == 6 || !set(&mut block, 0, order, most + 1));
        }
    }
}
