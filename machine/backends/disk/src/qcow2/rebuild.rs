//! Refcounts made anew from what names clusters, behind everything that the file holds.
//!
//! Invariant: the old structure stays in force until the new one is whole on the medium.

use std::collections::BTreeSet;

use crate::error::DiskError;
use crate::host::HostFile;

use super::check::References;
use super::header::{Header, REFTABLE_BYTES};
use super::refcounts::set;

/// Writes refcounts for what is named, and for themselves, and switches to them.
pub(crate) fn rebuild(
    file: &HostFile,
    header: &mut Header,
    named: &References,
) -> Result<(), DiskError> {
    let cluster = header.cluster();
    let bits = header.refblock_bits();
    let start = file.size()?.div_ceil(cluster);
    let used: BTreeSet<u64> = named.all().map(|(one, _)| one >> bits).collect();
    let (mut areas, mut table_clusters) = (used.clone(), 1);
    loop {
        let end = start + table_clusters + areas.len() as u64;
        let mut needed = used.clone();
        needed.extend(start >> bits..=(end - 1) >> bits);
        let last = needed.last().copied().unwrap_or(0);
        let clusters = ((last + 1) * 8).div_ceil(cluster);
        if needed.len() == areas.len() && clusters == table_clusters {
            areas = needed;
            break;
        }
        (areas, table_clusters) = (needed, clusters.max(table_clusters));
    }
    if table_clusters * cluster > REFTABLE_BYTES {
        let path = file.path().to_path_buf();
        let why = "its refcount table would be too large; convert it to larger clusters";
        return Err(DiskError::BadSize { path, size: start * cluster, why });
    }
    let end = start + table_clusters + areas.len() as u64;
    let mut table = vec![0; (table_clusters * cluster) as usize];
    for (number, area) in areas.iter().enumerate() {
        let place = (start + table_clusters + number as u64) * cluster;
        let mut block = vec![0; cluster as usize];
        for index in 0..1_u64 << bits {
            let one = (area << bits) + index;
            let count = u64::from(named.of(one)) + u64::from((start..end).contains(&one));
            if !set(&mut block, index as usize, header.refcount_order, count) {
                let what = format!("cluster {one} is used {count} times, too often to be counted");
                return Err(file.corrupt(what));
            }
        }
        file.write_all(place, &block)?;
        let at = *area as usize * 8;
        table[at..at + 8].copy_from_slice(&place.to_be_bytes());
    }
    file.write_all(start * cluster, &table)?;
    file.sync()?;
    header.set_reftable(file, start * cluster, table_clusters as u32)
}
