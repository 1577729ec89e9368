//! Where firmware puts things in the first MiB, and the shape of RAM it is told about.
//!
//! ```text
//!  0x00000 interrupt vectors, BIOS data area    0x20000..0x30000 command line
//!  0x00500 GDT                                  0x30000..0x40000 module list, memory map
//!  0x07000 boot_params / hvm_start_info /       0x9fc00 extended BIOS data area (reserved)
//!          multiboot_info                       0xa0000 legacy video hole
//!  0x08000..0x09000 stack of the entry          0xe0000 ACPI tables (RSDP first)
//!  0x09000..0x0f000 identity page tables        0xf0000 SMBIOS entry point and tables
//! ```
//!
//! Invariant: one owner per range; everything from 0x9fc00 to 1 MiB is reserved in the memory map.

use x86::GuestPhys;

/// The BIOS data area's word with the segment of the extended BIOS data area.
pub const BDA_EBDA_SEGMENT: GuestPhys = GuestPhys(0x40e);
/// The GDT an entry in protected or long mode uses.
pub const GDT: GuestPhys = GuestPhys(0x500);
/// Zero page, `hvm_start_info` or `multiboot_info`.
pub const BOOT_INFO: GuestPhys = GuestPhys(0x7000);
/// First byte above the entry's stack.
pub const STACK_TOP: GuestPhys = GuestPhys(0x8ff0);
/// PML4, PDPT and four page directories.
pub const PAGE_TABLES: GuestPhys = GuestPhys(0x9000);
/// The command line, NUL-terminated.
pub const COMMAND_LINE: GuestPhys = GuestPhys(0x2_0000);
/// Bytes there, the NUL included.
pub const COMMAND_LINE_SIZE: u64 = 0x1_0000;
/// Module lists and memory maps of PVH and multiboot.
pub const BOOT_LISTS: GuestPhys = GuestPhys(0x3_0000);
/// Bytes there.
pub const BOOT_LISTS_SIZE: u64 = 0x1_0000;
/// Extended BIOS data area; usable RAM below 1 MiB ends here.
pub const EBDA: GuestPhys = GuestPhys(0x9_fc00);
/// ACPI tables; the RSDP is the first thing there, so a scan of the BIOS area finds it.
pub const ACPI_TABLES: GuestPhys = GuestPhys(0xe_0000);
/// Bytes there.
pub const ACPI_TABLES_SIZE: u64 = 0x1_0000;
/// SMBIOS 3 entry point; the structures follow.
pub const SMBIOS: GuestPhys = GuestPhys(0xf_0000);
/// Bytes there.
pub const SMBIOS_SIZE: u64 = 0x1_0000;
/// RAM goes on here after the legacy hole.
pub const HIGH_MEMORY: GuestPhys = GuestPhys(0x10_0000);
/// 4 GiB: RAM that the PCI hole pushed up starts here.
pub const FOUR_GIB: GuestPhys = GuestPhys(1 << 32);

/// The shape of guest-physical memory, as the machine decided it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLayout {
    /// RAM from address 0, in bytes: ends at or below the 32-bit PCI hole.
    pub ram_below_4g: u64,
    /// RAM from 4 GiB up, in bytes.
    pub ram_above_4g: u64,
    /// Ranges outside of RAM that an OS must not give to devices: the ECAM window above all.
    pub reserved: Vec<ReservedRange>,
}

/// A range no one may allocate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReservedRange {
    /// First byte.
    pub start: GuestPhys,
    /// Length in bytes.
    pub size: u64,
}

impl MemoryLayout {
    /// `ram` bytes, of which at most `hole` (the address where the PCI hole starts) lie below
    /// 4 GiB, with one reserved range for an ECAM window of `ecam.size` bytes.
    pub fn new(ram: u64, hole: GuestPhys, ecam: ReservedRange) -> Self {
        let ram_below_4g = ram.min(hole.0);
        Self { ram_below_4g, ram_above_4g: ram - ram_below_4g, reserved: vec![ecam] }
    }

    /// Bytes of RAM in all.
    pub fn ram(&self) -> u64 {
        self.ram_below_4g + self.ram_above_4g
    }
}
