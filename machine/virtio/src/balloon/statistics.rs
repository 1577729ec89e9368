//! What a guest says of its memory (virtio 1.2, 5.5.6.4): entries of a tag and a value, unaligned.
//!
//! Invariant: unknown tags, and what follows [`MOST_BYTES`], are ignored.

const ENTRY_BYTES: usize = 10;
/// Room for four times the entries that there are tags.
pub(super) const MOST_BYTES: usize = 64 * ENTRY_BYTES;

/// A guest's memory by its own count, in bytes; `None`: it did not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestStatistics {
    /// Not used for anything.
    pub free: Option<u64>,
    /// All it has.
    pub total: Option<u64>,
    /// Could be had without swapping.
    pub available: Option<u64>,
    /// Could be taken from caches at once.
    pub caches: Option<u64>,
    /// Came from swap, and went there.
    pub swapped_in: Option<u64>,
    /// Went to swap.
    pub swapped_out: Option<u64>,
    /// Faults that read from a disk; a count.
    pub major_faults: Option<u64>,
    /// Faults that did not; a count.
    pub minor_faults: Option<u64>,
}

impl GuestStatistics {
    /// All, in the order in which they are saved.
    pub(super) fn fields(&mut self) -> [&mut Option<u64>; 8] {
        [
            &mut self.free,
            &mut self.total,
            &mut self.available,
            &mut self.caches,
            &mut self.swapped_in,
            &mut self.swapped_out,
            &mut self.major_faults,
            &mut self.minor_faults,
        ]
    }

    pub(super) fn decode(bytes: &[u8]) -> Self {
        let mut statistics = Self::default();
        let (entries, _) = bytes.as_chunks::<ENTRY_BYTES>();
        for entry in entries {
            let [a, b, value @ ..] = *entry;
            let field = match u16::from_le_bytes([a, b]) {
                0 => &mut statistics.swapped_in,
                1 => &mut statistics.swapped_out,
                2 => &mut statistics.major_faults,
                3 => &mut statistics.minor_faults,
                4 => &mut statistics.free,
                5 => &mut statistics.total,
                6 => &mut statistics.available,
                7 => &mut statistics.caches,
                _ => continue,
            };
            *field = Some(u64::from_le_bytes(value));
        }
        statistics
    }
}
