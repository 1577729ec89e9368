//! The DSDT: what can't be found by probing (ACPI 6.5, 5.2.11.1; PCI Firmware Specification 3.3, 4).
//!
//! ```text
//!  \_S5            power off
//!  \_SB.PCI0       PNP0A08: bus, I/O and memory windows, interrupt routing
//!  \_SB.MBRD       PNP0C02: ECAM and PM ports, so that nobody else takes them
//!  \_SB.COMn KBD MOU RTC PIC PIT PEVT
//! ```
//!
//! Invariant: every name is four characters of the AML name set, every window non-empty.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, Memory32Fixed, Name, Package, PackageBuilder,
    Scope, ZERO,
};

use super::aml::{Irq, crs, hid, ports};
use super::tables::{finish, header};
use super::{PlatformTables, Window, intx_gsi};

pub(super) fn dsdt(platform: &PlatformTables) -> Vec<u8> {
    let mut table = header(b"DSDT", 2);
    let s5 = platform.pm.s5_type;
    Name::new("_S5_".into(), &Package::new(vec![&s5, &s5, &ZERO, &ZERO])).to_aml_bytes(&mut table);
    let mut devices = Devices(Vec::new());
    devices.pci_root(platform);
    devices.motherboard(platform);
    devices.legacy(platform);
    table.extend_from_slice(&Scope::raw("_SB_".into(), devices.0));
    finish(table)
}

/// AML of the devices in `\_SB`.
struct Devices(Vec<u8>);

impl Devices {
    fn add(&mut self, name: &str, children: Vec<&dyn Aml>) {
        Device::new(name.into(), children).to_aml_bytes(&mut self.0);
    }

    fn pci_root(&mut self, platform: &PlatformTables) {
        let buses = AddressSpace::new_bus_number(0u16, platform.ecam.last_bus.into());
        let config = ports(0xcf8, 8);
        let low_ports = AddressSpace::new_io(0u16, 0xcf7, None);
        let high_ports = AddressSpace::new_io(0xd00u16, 0xffff, None);
        let window32 = AddressSpace::new_memory(
            AddressSpaceCacheable::NotCacheable,
            true,
            platform.mmio32.first.0 as u32,
            platform.mmio32.last.0 as u32,
            None,
        );
        let window64 = platform.mmio64.map(|Window { first, last }| {
            AddressSpace::new_memory(
                AddressSpaceCacheable::NotCacheable,
                true,
                first.0,
                last.0,
                None,
            )
        });
        let mut resources: Vec<&dyn Aml> =
            vec![&buses, &config, &low_ports, &high_ports, &window32];
        if let Some(window64) = &window64 {
            resources.push(window64);
        }
        self.add(
            "PCI0",
            vec![
                &hid("PNP0A08"),
                &Name::new("_CID".into(), &acpi_tables::aml::EISAName::new("PNP0A03")),
                &Name::new("_UID".into(), &ZERO),
                &Name::new("_SEG".into(), &ZERO),
                &Name::new("_BBN".into(), &ZERO),
                // Accesses are coherent: the host bridge does no DMA of its own.
                &Name::new("_CCA".into(), &acpi_tables::aml::ONE),
                &crs(resources),
                &routing(),
            ],
        );
    }

    /// Ranges that drivers must find claimed: Linux uses ECAM only if some device reserves it.
    fn motherboard(&mut self, platform: &PlatformTables) {
        let ecam = platform.ecam;
        let last = ecam.base.0 + ecam.size() - 1;
        let ecam: Box<dyn Aml> = match u32::try_from(last) {
            Ok(_) => Box::new(Memory32Fixed::new(true, ecam.base.0 as u32, ecam.size() as u32)),
            Err(_) => Box::new(AddressSpace::new_memory(
                AddressSpaceCacheable::NotCacheable,
                true,
                ecam.base.0,
                last,
                None,
            )),
        };
        let pm = platform.pm;
        self.add(
            "MBRD",
            vec![
                &hid("PNP0C02"),
                &Name::new("_UID".into(), &ZERO),
                &crs(vec![
                    ecam.as_ref(),
                    &ports(pm.pm1_event, 4),
                    &ports(pm.pm1_control, 2),
                    &ports(pm.timer, 4),
                ]),
            ],
        );
    }

    fn legacy(&mut self, platform: &PlatformTables) {
        let pic = crs(vec![&ports(0x20, 2), &ports(0xa0, 2), &Irq(2)]);
        self.add("PIC_", vec![&hid("PNP0000"), &pic]);
        self.add("PIT_", vec![&hid("PNP0100"), &crs(vec![&ports(0x40, 4), &Irq(0)])]);
        if platform.rtc {
            self.add("RTC_", vec![&hid("PNP0B00"), &crs(vec![&ports(0x70, 2), &Irq(8)])]);
        }
        if platform.i8042 {
            let keyboard = crs(vec![&ports(0x60, 1), &ports(0x64, 1), &Irq(1)]);
            self.add("KBD_", vec![&hid("PNP0303"), &keyboard]);
            self.add("MOU_", vec![&hid("PNP0F13"), &crs(vec![&Irq(12)])]);
        }
        for (number, (port, irq)) in (1u8..).zip(platform.serial.iter().take(4)) {
            let uid = Name::new("_UID".into(), &number);
            let resources = crs(vec![&ports(*port, 8), &Irq(*irq)]);
            self.add(&format!("COM{number}"), vec![&hid("PNP0501"), &uid, &resources]);
        }
        if let Some(port) = platform.pvpanic {
            let id = Name::new("_HID".into(), &"QEMU0001");
            // Present, enabled, not shown, functioning.
            let status = Name::new("_STA".into(), &0x0bu8);
            self.add("PEVT", vec![&id, &status, &crs(vec![&ports(port, 1)])]);
        }
    }
}

/// `_PRT` (6.2.13): INTA-INTD of 32 slots, hard-wired to GSIs.
fn routing() -> Name {
    let mut table = PackageBuilder::new();
    for slot in 0..32u8 {
        for pin in 0..4u8 {
            let address = u32::from(slot) << 16 | 0xffff;
            let gsi = intx_gsi(slot, pin);
            table.add_element(&Package::new(vec![&address, &pin, &ZERO, &gsi]));
        }
    }
    Name::new("_PRT".into(), &table)
}
