//! ACPI tables of the PC (ACPI 6.5): RSDP, XSDT, FADT, FACS, MADT, MCFG, WAET and DSDT.
//!
//! The machine owns its memory map and says it in [`PlatformTables`]; the tables only repeat it.
//! Invariants: the RSDP is the blob's first byte, so a scan of the BIOS area finds it; every
//! checksum is right; no table refers outside of the blob.

mod aml;
mod dsdt;
mod tables;

use x86::GuestPhys;

use crate::bytes::{checksum, put, put_u32, put_u64};

/// Everything the tables say about the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformTables {
    /// Local APIC IDs of the processors, the boot processor's first. Above 254: x2APIC entries.
    pub apic_ids: Vec<u32>,
    /// Local APICs' address.
    pub lapic_address: u32,
    /// The IOAPIC, whose pins are GSIs 0 and up.
    pub ioapic: IoApic,
    /// The PCI host's memory-mapped configuration space.
    pub ecam: Ecam,
    /// 32-bit memory window of the PCI root bus.
    pub mmio32: Window,
    /// 64-bit memory window of the PCI root bus.
    pub mmio64: Option<Window>,
    /// Power management registers.
    pub pm: PmRegisters,
    /// I/O port and value that reset the machine.
    pub reset: (u16, u8),
    /// Serial ports, COM1 first: base port and ISA IRQ.
    pub serial: Vec<(u16, u8)>,
    /// Whether there is an i8042 with keyboard and mouse.
    pub i8042: bool,
    /// Whether there is an MC146818 at ports 0x70 and 0x71, IRQ 8.
    pub rtc: bool,
    /// Whether VGA-compatible registers may be probed.
    pub vga: bool,
    /// pvpanic's I/O port.
    pub pvpanic: Option<u16>,
}

/// The IOAPIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Its APIC ID.
    pub id: u8,
    /// Its register window.
    pub address: u32,
}

/// ECAM: 1 MiB of configuration space per bus, one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ecam {
    /// Address of bus 0's space.
    pub base: GuestPhys,
    /// Number of the last bus; the first is 0.
    pub last_bus: u8,
}

impl Ecam {
    /// Bytes of the window.
    pub fn size(&self) -> u64 {
        (u64::from(self.last_bus) + 1) << 20
    }
}

/// An address window, both ends in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First address.
    pub first: GuestPhys,
    /// Last address.
    pub last: GuestPhys,
}

/// PM register blocks in I/O space (ACPI 4.8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PmRegisters {
    /// PM1a status and enable, 4 bytes.
    pub pm1_event: u16,
    /// PM1a control, 2 bytes.
    pub pm1_control: u16,
    /// The 3.579545 MHz timer, 4 bytes.
    pub timer: u16,
    /// Whether the timer counts 32 bits, not 24.
    pub timer_32bit: bool,
    /// The interrupt, as ISA IRQ and GSI; level, active high.
    pub sci: u8,
    /// SLP_TYP value that powers the machine off.
    pub s5_type: u8,
}

impl Default for PlatformTables {
    /// The PC as Oneroof lays it out: one processor, 3 GiB PCI hole, ports as below.
    fn default() -> Self {
        Self {
            apic_ids: vec![0],
            lapic_address: 0xfee0_0000,
            ioapic: IoApic { id: 0, address: 0xfec0_0000 },
            ecam: Ecam { base: GuestPhys(0xe000_0000), last_bus: 255 },
            mmio32: Window { first: GuestPhys(0xc000_0000), last: GuestPhys(0xdfff_ffff) },
            mmio64: None,
            pm: PmRegisters {
                pm1_event: 0x600,
                pm1_control: 0x604,
                timer: 0x608,
                timer_32bit: false,
                sci: 9,
                s5_type: 5,
            },
            reset: (0xcf9, 6),
            serial: vec![(0x3f8, 4)],
            i8042: true,
            rtc: true,
            vga: false,
            pvpanic: Some(0x505),
        }
    }
}

/// First GSI of the PCI interrupt lines.
pub const PCI_GSI_BASE: u32 = 16;

/// The GSI that a slot's interrupt pin (0 = INTA .. 3 = INTD) is wired to on bus 0: 16-23, turned by
/// one per slot. Level-triggered.
pub const fn intx_gsi(slot: u8, pin: u8) -> u32 {
    PCI_GSI_BASE + ((slot as u32 + pin as u32) & 7)
}

/// Tables ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcpiTables {
    /// Where they belong: the address of the RSDP.
    pub rsdp: GuestPhys,
    /// The RSDP and all tables behind it.
    pub bytes: Vec<u8>,
}

impl AcpiTables {
    /// Builds the tables for an address.
    ///
    /// # Panics
    /// If `base` is not 64-byte aligned, or the blob would not lie below 4 GiB: the FADT's and
    /// FACS's places are ours to choose.
    pub fn build(platform: &PlatformTables, base: GuestPhys) -> Self {
        assert!(base.0.is_multiple_of(64), "the FACS must be 64-byte aligned");
        assert!(base.0 < 0xff00_0000, "32-bit table pointers must reach");
        let mut blob = Blob { base, bytes: vec![0; 64] };
        let facs = blob.push(&tables::facs());
        let dsdt = blob.push(&dsdt::dsdt(platform));
        let mut entries = vec![blob.push(&tables::fadt(platform, facs, dsdt))];
        for table in [tables::madt(platform), tables::mcfg(platform), tables::waet()] {
            entries.push(blob.push(&table));
        }
        let xsdt = blob.push(&tables::xsdt(&entries));
        put(&mut blob.bytes, 0, &rsdp(xsdt));
        Self { rsdp: base, bytes: blob.bytes }
    }
}

struct Blob {
    base: GuestPhys,
    bytes: Vec<u8>,
}

impl Blob {
    /// Appends a table at a 64-byte boundary; returns its address.
    fn push(&mut self, table: &[u8]) -> GuestPhys {
        self.bytes.resize(self.bytes.len().next_multiple_of(64), 0);
        let address = self.base + self.bytes.len() as u64;
        self.bytes.extend_from_slice(table);
        address
    }
}

/// Root System Description Pointer, revision 2 (5.2.5.3): one checksum over the ACPI 1.0 part, one
/// over all.
fn rsdp(xsdt: GuestPhys) -> [u8; 36] {
    let mut rsdp = [0; 36];
    put(&mut rsdp, 0, b"RSD PTR ");
    put(&mut rsdp, 9, tables::OEM_ID);
    rsdp[15] = 2;
    put_u32(&mut rsdp, 20, 36);
    put_u64(&mut rsdp, 24, xsdt.0);
    rsdp[8] = checksum(&rsdp[..20]);
    rsdp[32] = checksum(&rsdp);
    rsdp
}

#[cfg(test)]
mod tests;
