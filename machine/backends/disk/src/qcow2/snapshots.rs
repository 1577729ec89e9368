//! Internal snapshots (section "Snapshots"): known, counted and kept; neither made nor shown.

use crate::bytes::{array, be32, be64};
use crate::error::DiskError;
use crate::host::HostFile;

use super::header::{Header, OFFSET_LIMIT};

/// Bytes of the snapshot table, and of all snapshots' L1 tables, that are looked at.
const TABLE_BYTES: u64 = 64 << 20;
const L1_BYTES: u64 = 256 << 20;

/// One snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) seconds: u32,
    pub(crate) l1_offset: u64,
    pub(crate) l1_entries: u32,
}

/// All snapshots, and the bytes of their table.
pub(crate) fn snapshots(
    file: &HostFile,
    header: &Header,
) -> Result<(Vec<Snapshot>, u64), DiskError> {
    let mut all = Vec::new();
    let mut at = 0;
    let mut l1_bytes = 0;
    let length = file.size()?;
    for _ in 0..header.snapshots {
        let offset = header.snapshots_offset + at;
        let mut fixed = [0; 40];
        file.read_all(offset, &mut fixed, "the snapshot table")?;
        let (id, name) = (array::<2>(&fixed, 12), array::<2>(&fixed, 14));
        let (id, name) = (u16::from_be_bytes(id) as usize, u16::from_be_bytes(name) as usize);
        let extra = u64::from(be32(&fixed, 36));
        let one = Snapshot {
            id: text(file, offset + 40 + extra, id)?,
            name: text(file, offset + 40 + extra + id as u64, name)?,
            seconds: be32(&fixed, 16),
            l1_offset: be64(&fixed, 0),
            l1_entries: be32(&fixed, 8),
        };
        at = (at + 40 + extra + (id + name) as u64).next_multiple_of(8);
        let bytes = u64::from(one.l1_entries) * 8;
        l1_bytes += bytes;
        let aligned =
            one.l1_offset.is_multiple_of(header.cluster()) && one.l1_offset < OFFSET_LIMIT;
        if at > TABLE_BYTES || l1_bytes > L1_BYTES || !aligned {
            return Err(file.corrupt(format!("snapshot {:?}", one.name)));
        }
        if one.l1_offset + bytes > length {
            return Err(file.truncated("a snapshot's L1 table", one.l1_offset));
        }
        all.push(one);
    }
    Ok((all, at))
}

fn text(file: &HostFile, offset: u64, length: usize) -> Result<String, DiskError> {
    let mut bytes = vec![0; length];
    file.read_all(offset, &mut bytes, "the snapshot table")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
