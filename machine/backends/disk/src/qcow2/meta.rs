//! All metadata of an open image, and the order in which it reaches the medium.
//!
//! Invariant: changes are made in memory and reach the file in [`Meta::flush`] alone (and where a
//! table moves, in an order of its own): refcount blocks, refcount table, L2 tables, L1 table,
//! with a sync between what names and what is named. What is freed is noted and given free only
//! after that.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use crate::bytes::{entries, get64, put64};
use crate::error::DiskError;
use crate::host::HostFile;

use super::entry::{COPIED, Cluster, OFFSET, decode};
use super::header::Header;
use super::snapshots;
use super::tables::Tables;

/// Memory for cached L2 tables and refcount blocks.
const L2_BYTES: u64 = 8 << 20;
const REFBLOCK_BYTES: u64 = 2 << 20;
/// Freed runs that wait for a flush.
const PENDING: usize = 1024;

/// Where bytes of the disk are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// In the file at this offset.
    Data(u64),
    Zero,
    /// In the backing file, at the same place; zeros if there is none.
    Backing,
    /// In a compressed cluster: its place in the file, and the most it can be long.
    Compressed(u64, u64),
}

/// An L2 table in memory.
struct L2<'a> {
    bytes: &'a [u8],
    offset: u64,
    file: &'a HostFile,
    header: &'a Header,
}

impl L2<'_> {
    /// What entry `index` means.
    fn cluster(&self, index: usize) -> Result<Cluster, DiskError> {
        let entry = get64(self.bytes, index);
        decode(entry, self.header.version, self.header.cluster_bits).ok_or_else(|| {
            let table = self.offset;
            self.file
                .corrupt(format!("entry {index} of the L2 table at byte {table} is {entry:#x}"))
        })
    }
}

/// The tables of an open image.
#[derive(Debug)]
pub(crate) struct Meta {
    pub(crate) file: Arc<HostFile>,
    pub(crate) header: Header,
    pub(crate) l1: Vec<u64>,
    pub(crate) reftable: Vec<u64>,
    pub(crate) refblocks: Tables,
    pub(crate) reftable_changes: BTreeSet<usize>,
    /// Clusters of the file that hold metadata: no data may be written there.
    pub(crate) metadata: HashSet<u64>,
    /// No free cluster is before.
    pub(crate) free_hint: u64,
    /// Bytes of the file once all that is allocated is written.
    pub(crate) end: u64,
    l2: Tables,
    l1_changes: BTreeSet<usize>,
    /// First cluster and number of what is free after the next flush.
    pub(crate) pending: Vec<(u64, u64)>,
    /// Whether order on the medium matters: not for what vanishes with the process.
    pub(crate) syncs: bool,
    /// A sync failed: what the medium holds is not known any more.
    sync_failed: bool,
}

impl Meta {
    pub(crate) fn load(file: Arc<HostFile>, header: Header) -> Result<Self, DiskError> {
        let mut l1 = vec![0; header.l1_entries as usize * 8];
        file.read_all(header.l1_offset, &mut l1, "the L1 table")?;
        let mut reftable = vec![0; header.reftable_clusters as usize * header.cluster() as usize];
        file.read_all(header.reftable_offset, &mut reftable, "the refcount table")?;
        let cluster = header.cluster();
        let mut meta = Self {
            l1: entries(&l1),
            reftable: entries(&reftable),
            refblocks: Tables::new(REFBLOCK_BYTES, cluster),
            reftable_changes: BTreeSet::new(),
            metadata: HashSet::new(),
            free_hint: 0,
            end: file.size()?,
            l2: Tables::new(L2_BYTES, cluster),
            l1_changes: BTreeSet::new(),
            pending: Vec::new(),
            syncs: true,
            sync_failed: false,
            file,
            header,
        };
        meta.note_metadata()?;
        Ok(meta)
    }

    fn note_metadata(&mut self) -> Result<(), DiskError> {
        let bits = self.header.cluster_bits;
        let l1_bytes = u64::from(self.header.l1_entries) * 8;
        let reftable_bytes = u64::from(self.header.reftable_clusters) << bits;
        let mut runs = vec![
            (0, 1),
            (self.header.l1_offset, l1_bytes),
            (self.header.reftable_offset, reftable_bytes),
        ];
        let (snapshots, table_bytes) = snapshots::snapshots(&self.file, &self.header)?;
        runs.push((self.header.snapshots_offset, table_bytes));
        runs.extend(snapshots.iter().map(|one| (one.l1_offset, u64::from(one.l1_entries) * 8)));
        for (offset, bytes) in runs {
            let clusters = bytes.div_ceil(self.header.cluster());
            self.metadata.extend((offset >> bits)..(offset >> bits) + clusters);
        }
        let tables = self.l1.iter().chain(&self.reftable).map(|entry| entry & OFFSET);
        self.metadata.extend(tables.filter(|offset| *offset != 0).map(|offset| offset >> bits));
        Ok(())
    }

    /// The place of an L2 table in the file, `None` if there is none.
    pub(crate) fn l2_offset(&self, l1_index: usize) -> Result<Option<u64>, DiskError> {
        let offset = self.l1.get(l1_index).copied().unwrap_or(0) & OFFSET;
        if !offset.is_multiple_of(self.header.cluster()) {
            return Err(self.file.corrupt(format!("L1 entry {l1_index} is not aligned")));
        }
        Ok((offset != 0).then_some(offset))
    }

    fn load_l2(&mut self, offset: u64) -> Result<(), DiskError> {
        if self.l2.get(offset).is_none() {
            self.l2_room()?;
            let mut bytes = vec![0; self.header.cluster() as usize];
            self.file.read_all(offset, &mut bytes, "an L2 table")?;
            self.l2.insert(offset, bytes, false);
        }
        Ok(())
    }

    fn l2_room(&mut self) -> Result<(), DiskError> {
        if !self.l2.make_room() {
            self.flush()?;
            assert!(self.l2.make_room(), "after a flush no table differs from the file");
        }
        Ok(())
    }

    /// Entry `index` of the L2 table at `offset`, and its meaning.
    pub(crate) fn cluster(&mut self, offset: u64, index: usize) -> Result<Cluster, DiskError> {
        self.table(offset)?.cluster(index)
    }

    /// The L2 table at `offset`.
    fn table(&mut self, offset: u64) -> Result<L2<'_>, DiskError> {
        self.load_l2(offset)?;
        let bytes = self.l2.get(offset).expect("just loaded");
        Ok(L2 { bytes, offset, file: &self.file, header: &self.header })
    }

    pub(crate) fn set_entry(
        &mut self,
        offset: u64,
        index: usize,
        entry: u64,
    ) -> Result<(), DiskError> {
        self.load_l2(offset)?;
        put64(self.l2.change(offset).expect("just loaded"), index, entry);
        Ok(())
    }

    /// The L2 table of `l1_index`, made or copied if it may not be changed where it is.
    pub(crate) fn own_l2(&mut self, l1_index: usize) -> Result<u64, DiskError> {
        let old = self.l2_offset(l1_index)?;
        if let Some(offset) = old
            && self.l1[l1_index] & COPIED != 0
        {
            return Ok(offset);
        }
        let bytes = match old {
            None => vec![0; self.header.cluster() as usize],
            Some(offset) => {
                self.load_l2(offset)?;
                self.l2.get(offset).expect("just loaded").to_vec()
            }
        };
        self.l2_room()?;
        let offset = self.allocate()?;
        self.metadata.insert(offset >> self.header.cluster_bits);
        self.l2.insert(offset, bytes, true);
        self.l1[l1_index] = offset | COPIED;
        self.l1_changes.insert(l1_index);
        if let Some(old) = old {
            // Its other users, snapshots, still have it.
            self.release(old, 1);
        }
        Ok(offset)
    }

    /// Where `offset` of the disk is, and how far that goes on, at most `length` bytes.
    pub(crate) fn map(&mut self, offset: u64, length: u64) -> Result<(Extent, u64), DiskError> {
        let bits = self.header.cluster_bits;
        let cluster = self.header.cluster();
        let l1_index = (offset / self.header.l2_reach()) as usize;
        let in_table = self.header.l2_reach() - offset % self.header.l2_reach();
        let length = length.min(in_table);
        let Some(table) = self.l2_offset(l1_index)? else { return Ok((Extent::Backing, length)) };
        let first = ((offset >> bits) & ((1 << self.header.l2_bits()) - 1)) as usize;
        let table = self.table(table)?;
        let extent = match table.cluster(first)? {
            Cluster::Unallocated => Extent::Backing,
            Cluster::Zero { .. } => Extent::Zero,
            Cluster::Data { host, .. } => Extent::Data(host + offset % cluster),
            Cluster::Compressed { host, length } => Extent::Compressed(host, length),
        };
        let mut reach = cluster - offset % cluster;
        let mut index = first + 1;
        while reach < length {
            let more = match (extent, table.cluster(index)?) {
                (Extent::Backing, Cluster::Unallocated) | (Extent::Zero, Cluster::Zero { .. }) => {
                    true
                }
                (Extent::Data(start), Cluster::Data { host, .. }) => host == start + reach,
                _ => false,
            };
            if !more {
                break;
            }
            reach += cluster;
            index += 1;
        }
        Ok((extent, reach.min(length)))
    }

    /// Where `offset` of the disk can be written as it is, and how far that goes.
    pub(crate) fn in_place(
        &mut self,
        offset: u64,
        length: u64,
    ) -> Result<Option<(u64, u64)>, DiskError> {
        let bits = self.header.cluster_bits;
        let cluster = self.header.cluster();
        let reach = self.header.l2_reach();
        let l1_index = (offset / reach) as usize;
        let Some(table) = self.l2_offset(l1_index)? else { return Ok(None) };
        if self.l1[l1_index] & COPIED == 0 {
            return Ok(None);
        }
        let length = length.min(reach - offset % reach);
        let first = ((offset >> bits) & ((1 << self.header.l2_bits()) - 1)) as usize;
        let table = self.table(table)?;
        let Cluster::Data { host, copied: true } = table.cluster(first)? else {
            return Ok(None);
        };
        let mut covered = cluster - offset % cluster;
        let mut index = first + 1;
        while covered < length {
            let next = host + ((index - first) as u64) * cluster;
            if table.cluster(index)? != (Cluster::Data { host: next, copied: true }) {
                break;
            }
            covered += cluster;
            index += 1;
        }
        for number in 0..(index - first) as u64 {
            self.check_data(host + number * cluster)?;
        }
        Ok(Some((host + offset % cluster, covered.min(length))))
    }

    /// A data cluster that lies in the file and on no metadata.
    pub(crate) fn check_data(&self, host: u64) -> Result<(), DiskError> {
        if self.metadata.contains(&(host >> self.header.cluster_bits)) {
            return Err(self.file.corrupt(format!("data at byte {host}, where a table is")));
        }
        if host >= self.end {
            return Err(self.file.truncated("data", host));
        }
        Ok(())
    }

    /// Notes that clusters are free once nothing on the medium names them.
    pub(crate) fn release(&mut self, offset: u64, clusters: u64) {
        self.pending.push((offset >> self.header.cluster_bits, clusters));
    }

    /// An error if what an entry names is not data's to free.
    pub(crate) fn check_release(&self, old: Cluster) -> Result<(), DiskError> {
        let bits = self.header.cluster_bits;
        let Some((host, count)) = old.uses(bits) else { return Ok(()) };
        for cluster in host >> bits..(host >> bits) + count {
            self.check_data(cluster << bits)?;
        }
        Ok(())
    }

    /// Flushes if much waits for it.
    pub(crate) fn flush_if_full(&mut self) -> Result<(), DiskError> {
        if self.pending.len() >= PENDING { self.flush() } else { Ok(()) }
    }

    /// Brings everything to the medium, in order, the data that was written included.
    pub(crate) fn flush(&mut self) -> Result<(), DiskError> {
        let file = Arc::clone(&self.file);
        let put = |offset: u64, bytes: &[u8]| file.write_all(offset, bytes);
        self.refblocks.write_back(put)?;
        if !self.reftable_changes.is_empty() {
            self.sync()?;
            while let Some(index) = self.reftable_changes.first().copied() {
                let at = self.header.reftable_offset + index as u64 * 8;
                file.write_all(at, &self.reftable[index].to_be_bytes())?;
                self.reftable_changes.remove(&index);
            }
        }
        self.sync()?;
        if !self.l2.is_dirty() && self.l1_changes.is_empty() && self.pending.is_empty() {
            return Ok(());
        }
        self.l2.write_back(put)?;
        if !self.l1_changes.is_empty() {
            self.sync()?;
            while let Some(index) = self.l1_changes.first().copied() {
                let at = self.header.l1_offset + index as u64 * 8;
                file.write_all(at, &self.l1[index].to_be_bytes())?;
                self.l1_changes.remove(&index);
            }
        }
        self.sync()?;
        self.free_pending()?;
        self.refblocks.write_back(put)
    }

    /// Syncs; after one that failed nothing is certain any more, so all later ones fail, too.
    pub(crate) fn sync(&mut self) -> Result<(), DiskError> {
        if !self.syncs {
            return Ok(());
        }
        if self.sync_failed {
            let error = std::io::Error::other("an earlier flush failed");
            return Err(DiskError::io(self.file.path(), "flush", 0, error));
        }
        self.file.sync().inspect_err(|_| self.sync_failed = true)
    }

    /// A table was replaced by one elsewhere.
    pub(crate) fn forget_metadata(&mut self, offset: u64, clusters: u64) {
        let first = offset >> self.header.cluster_bits;
        for cluster in first..first + clusters {
            self.metadata.remove(&cluster);
        }
    }

    /// A cluster is no L2 table any more.
    pub(crate) fn forget_table(&mut self, offset: u64) {
        self.l2.forget(offset);
    }
}
