//! Where things are: guest-physical memory and ports of the PC.
//!
//! ```text
//! 0           RAM, with the legacy hole (0xa0000..0x100000) as RAM too
//! 0xc0000000  PCI memory window          0xfec00000  IOAPIC
//! 0xe0000000  ECAM, 256 buses            0xfee00000  local APICs and MSIs (the engine's)
//! 0x100000000 RAM above 4 GiB            0xff000000  test device
//! ```
//!
//! Invariant: RAM and device windows never overlap, whatever the size of RAM.

use firmware::layout::{MemoryLayout, ReservedRange};
use x86::GuestPhys;
use x86::addr::PAGE_SIZE;

/// Most processors: xAPIC ids 0-254.
pub const MAX_CPUS: u32 = 255;
/// RAM below 4 GiB ends here at the latest.
pub const PCI_HOLE: GuestPhys = GuestPhys(0xc000_0000);
pub(crate) const PCI_WINDOW_SIZE: u64 = 0x2000_0000;
pub(crate) const ECAM: GuestPhys = GuestPhys(0xe000_0000);
pub(crate) const ECAM_SIZE: u64 = 256 << 20;
pub(crate) const IOAPIC: GuestPhys = GuestPhys(0xfec0_0000);
pub(crate) const IOAPIC_SIZE: u64 = 0x1000;
pub(crate) const LAPIC: GuestPhys = GuestPhys(0xfee0_0000);
pub(crate) const TEST_MEMORY: GuestPhys = GuestPhys(0xff00_0000);
const FOUR_GIB: GuestPhys = GuestPhys(1 << 32);

/// First port of the ACPI PM blocks.
pub(crate) const PM_BASE: u16 = 0x600;
pub(crate) const PVPANIC: u16 = 0x505;
pub(crate) const RESET_CONTROL: u16 = 0xcf9;

/// ISA interrupts.
pub(crate) mod isa_irq {
    pub(crate) const PIT: u8 = 0;
    pub(crate) const KEYBOARD: u8 = 1;
    pub(crate) const RTC: u8 = 8;
    pub(crate) const SCI: u8 = 9;
    pub(crate) const MOUSE: u8 = 12;
}

/// The runs of RAM of a machine with this much, for `GuestMemory::new`. Sizes are cut to whole
/// pages; there is always at least one.
pub fn layout(memory_bytes: u64) -> Vec<(GuestPhys, u64)> {
    let bytes = (memory_bytes & !(PAGE_SIZE - 1)).max(PAGE_SIZE);
    let low = bytes.min(PCI_HOLE.0);
    let mut runs = vec![(GuestPhys(0), low)];
    if bytes > low {
        runs.push((FOUR_GIB, bytes - low));
    }
    runs
}

/// The same as firmware wants it, with the windows an OS must leave alone.
pub fn memory_layout(memory_bytes: u64) -> MemoryLayout {
    let ram = layout(memory_bytes).iter().map(|&(_, size)| size).sum();
    MemoryLayout::new(ram, PCI_HOLE, ReservedRange { start: ECAM, size: ECAM_SIZE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_goes_around_the_hole() {
        assert_eq!(layout(1 << 30), [(GuestPhys(0), 1 << 30)]);
        assert_eq!(layout(3 << 30), [(GuestPhys(0), 3 << 30)]);
        assert_eq!(layout(8 << 30), [(GuestPhys(0), 3 << 30), (GuestPhys(1 << 32), 5 << 30)]);
        assert_eq!(layout(0), [(GuestPhys(0), 4096)]);
        assert_eq!(layout(0x1_2345), [(GuestPhys(0), 0x1_2000)]);
        assert_eq!(memory_layout(8 << 30).ram(), 8 << 30);
    }
}
