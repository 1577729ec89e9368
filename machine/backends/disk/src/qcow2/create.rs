//! Empty images of version 3.
//!
//! ```text
//! header | refcount table | refcount blocks | L1 table
//! ```

use crate::error::DiskError;
use crate::host::HostFile;

use super::header::{Backing, fresh};
use super::refcounts::set;

/// What an empty image is like.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Bytes of the disk.
    pub(crate) size: u64,
    pub(crate) cluster_bits: u32,
    pub(crate) backing: Option<Backing>,
}

/// Writes an empty image into an empty file.
pub(crate) fn write_empty(file: &HostFile, layout: &Layout) -> Result<(), DiskError> {
    let bits = layout.cluster_bits;
    let cluster = 1_u64 << bits;
    let l1_entries = layout.size.div_ceil(cluster * cluster / 8);
    if l1_entries > 4 << 20 {
        let path = file.path().to_path_buf();
        let why = "an image of qcow2 has 2 PiB at most";
        return Err(DiskError::BadSize { path, size: layout.size, why });
    }
    let l1_clusters = (l1_entries * 8).div_ceil(cluster).max(1);
    let per_block = cluster / 2;
    // A table with room for the whole disk, so that it seldom has to move.
    let whole = layout.size.div_ceil(cluster) + l1_entries + l1_clusters;
    let entries = (whole + whole / per_block).div_ceil(per_block) + 2;
    let table_clusters = (entries * 8).div_ceil(cluster).clamp(1, (1 << 20) / cluster + 1);
    let mut blocks = 1;
    while (1 + table_clusters + blocks + l1_clusters).div_ceil(per_block) > blocks {
        blocks += 1;
    }
    let used = 1 + table_clusters + blocks + l1_clusters;
    let l1_offset = (1 + table_clusters + blocks) * cluster;
    let mut table = Vec::new();
    for number in 0..blocks {
        let mut block = vec![0; cluster as usize];
        for index in 0..per_block.min(used - number * per_block) {
            assert!(set(&mut block, index as usize, 4, 1), "1 fits into 16 bits");
        }
        let offset = (1 + table_clusters + number) * cluster;
        file.write_all(offset, &block)?;
        table.extend(offset.to_be_bytes());
    }
    file.write_all(cluster, &table)?;
    file.set_len(used * cluster)?;
    let l1 = (l1_offset, l1_entries as u32);
    let reftable = (cluster, table_clusters as u32);
    let header = fresh(bits, layout.size, l1, reftable, layout.backing.as_ref());
    if header.len() as u64 > cluster {
        let path = file.path().to_path_buf();
        let why = "the backing file's name does not fit into its first cluster";
        return Err(DiskError::BadSize { path, size: layout.size, why });
    }
    file.write_all(0, &header)
}
