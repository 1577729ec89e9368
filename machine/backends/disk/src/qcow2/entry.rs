//! L2 table entries (section "Cluster mapping").
//!
//! ```text
//! standard:   63 COPIED | 62 = 0 | 61:56 0 | 55:9 host offset | 8:1 0 | 0 reads as zeros (v3)
//! compressed: 63 0      | 62 = 1 | 61:x sectors - 1 | x-1:0 host offset,  x = 62 - (cluster_bits - 8)
//! ```

/// This entry, or the L1 entry of its table, is the only one that names its cluster.
pub(crate) const COPIED: u64 = 1 << 63;
/// Reads as zeros.
pub(crate) const ZERO: u64 = 1;
/// The offset in L1, L2 and refcount table entries.
pub(crate) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

const COMPRESSED: u64 = 1 << 62;
const RESERVED: u64 = 0x3f00_0000_0000_01fe;

/// What an L2 entry says of its cluster of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cluster {
    /// Nothing: the backing file's, or zeros.
    Unallocated,
    /// Zeros; perhaps with a cluster of the file kept for it.
    Zero { host: Option<u64>, copied: bool },
    /// At this offset of the file.
    Data { host: u64, copied: bool },
    /// Compressed, in these bytes of the file at most.
    Compressed { host: u64, length: u64 },
}

/// Decodes an entry; `None` if it is none.
pub(crate) fn decode(entry: u64, version: u32, cluster_bits: u32) -> Option<Cluster> {
    if entry & COMPRESSED != 0 {
        let offset_bits = 62 - (cluster_bits - 8);
        let host = entry & ((1 << offset_bits) - 1) & (OFFSET | 0x1ff);
        let sectors = (entry & (COMPRESSED - 1)) >> offset_bits;
        return Some(Cluster::Compressed { host, length: (sectors + 1) * 512 - host % 512 });
    }
    let host = entry & OFFSET;
    let is_zero = entry & ZERO != 0;
    if entry & RESERVED != 0 || !host.is_multiple_of(1 << cluster_bits) || (is_zero && version < 3)
    {
        return None;
    }
    let copied = entry & COPIED != 0;
    Some(match (is_zero, host) {
        (true, 0) => Cluster::Zero { host: None, copied: false },
        (true, host) => Cluster::Zero { host: Some(host), copied },
        (false, 0) => Cluster::Unallocated,
        (false, host) => Cluster::Data { host, copied },
    })
}

impl Cluster {
    /// The clusters of the file that it uses: first offset and how many.
    pub(crate) fn uses(self, cluster_bits: u32) -> Option<(u64, u64)> {
        match self {
            Self::Unallocated | Self::Zero { host: None, .. } => None,
            Self::Zero { host: Some(host), .. } | Self::Data { host, .. } => Some((host, 1)),
            Self::Compressed { host, length } => {
                let first = host >> cluster_bits;
                let last = (host + length - 1) >> cluster_bits;
                Some((first << cluster_bits, last - first + 1))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_mean_what_the_specification_says() {
        let decode = |entry| decode(entry, 3, 16);
        assert_eq!(decode(0), Some(Cluster::Unallocated));
        assert_eq!(decode(COPIED | 0x50000), Some(Cluster::Data { host: 0x50000, copied: true }));
        assert_eq!(decode(1), Some(Cluster::Zero { host: None, copied: false }));
        assert_eq!(decode(0x50001), Some(Cluster::Zero { host: Some(0x50000), copied: false }));
        assert_eq!(decode(0x50200), None, "unaligned");
        assert_eq!(decode(0x50002), None, "reserved");
        assert_eq!(super::decode(1, 2, 16), None, "version 2 has no zero clusters");
        let compressed = decode(COMPRESSED | 2 << 54 | 0x5fe10).expect("one");
        assert_eq!(compressed, Cluster::Compressed { host: 0x5fe10, length: 3 * 512 - 16 });
        assert_eq!(compressed.uses(16), Some((0x50000, 2)));
    }
}
