//! The physical memory map a PC's firmware reports (ACPI 6.5, chapter 15, table 15.4).
//!
//! Invariant: entries are sorted, do not overlap and are not empty; RAM entries never cover the
//! EBDA, the video hole or the BIOS area.

use x86::GuestPhys;

use crate::layout::{EBDA, FOUR_GIB, HIGH_MEMORY, MemoryLayout};

/// Kind of an entry, with the number the memory map encodes it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MemoryKind {
    /// Usable RAM.
    Ram = 1,
    /// Never to be used.
    Reserved = 2,
}

/// One range of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// First byte.
    pub start: GuestPhys,
    /// Length in bytes, not 0.
    pub size: u64,
    /// What it is.
    pub kind: MemoryKind,
}

impl MemoryRange {
    /// The address past the last byte.
    pub fn end(&self) -> GuestPhys {
        GuestPhys(self.start.0.saturating_add(self.size))
    }
}

/// The map of a machine: low RAM, EBDA and BIOS reserved, RAM to the PCI hole, reserved ranges,
/// RAM above 4 GiB.
pub fn memory_map(layout: &MemoryLayout) -> Vec<MemoryRange> {
    let mut map = Vec::with_capacity(layout.reserved.len() + 4);
    let mut push = |start: GuestPhys, end: u64, kind| {
        if end > start.0 {
            map.push(MemoryRange { start, size: end - start.0, kind });
        }
    };
    push(GuestPhys(0), layout.ram_below_4g.min(EBDA.0), MemoryKind::Ram);
    push(EBDA, HIGH_MEMORY.0, MemoryKind::Reserved);
    push(HIGH_MEMORY, layout.ram_below_4g, MemoryKind::Ram);
    push(FOUR_GIB, FOUR_GIB.0 + layout.ram_above_4g, MemoryKind::Ram);
    for range in &layout.reserved {
        push(range.start, range.start.0.saturating_add(range.size), MemoryKind::Reserved);
    }
    map.sort_by_key(|range| range.start);
    for pair in map.windows(2) {
        assert!(pair[0].end() <= pair[1].start, "the machine's memory layout overlaps itself");
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::ReservedRange;

    const ECAM: ReservedRange = ReservedRange { start: GuestPhys(0xe000_0000), size: 256 << 20 };

    #[test]
    fn small_machine_has_low_ram_hole_and_high_ram() {
        let map = memory_map(&MemoryLayout::new(512 << 20, GuestPhys(0xc000_0000), ECAM));
        let shape: Vec<_> = map.iter().map(|r| (r.start.0, r.end().0, r.kind)).collect();
        assert_eq!(
            shape,
            [
                (0, 0x9fc00, MemoryKind::Ram),
                (0x9fc00, 0x10_0000, MemoryKind::Reserved),
                (0x10_0000, 512 << 20, MemoryKind::Ram),
                (0xe000_0000, 0xf000_0000, MemoryKind::Reserved),
            ]
        );
    }

    #[test]
    fn big_machine_continues_above_4_gib() {
        let layout = MemoryLayout::new(8 << 30, GuestPhys(0xc000_0000), ECAM);
        let map = memory_map(&layout);
        let ram: u64 = map.iter().filter(|r| r.kind == MemoryKind::Ram).map(|r| r.size).sum();
        assert_eq!(ram, (8 << 30) - (0x10_0000 - 0x9fc00));
        assert_eq!(map.last().expect("not empty").end().0, (4 << 30) + (5 << 30));
        assert_eq!(layout.ram(), 8 << 30);
    }

    #[test]
    fn a_machine_smaller_than_a_mebibyte_has_no_high_ram() {
        let map = memory_map(&MemoryLayout::new(0x8_0000, GuestPhys(0xc000_0000), ECAM));
        assert_eq!(map[0].end(), GuestPhys(0x8_0000));
        assert!(map.iter().all(|r| r.kind != MemoryKind::Ram || r.end() <= EBDA));
    }
}
