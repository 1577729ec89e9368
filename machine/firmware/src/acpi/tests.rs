//! Tables as an OS walks them: from the RSDP, checking every sum.

use super::*;
use crate::bytes::{u32_at, u64_at};

fn tables(acpi: &AcpiTables) -> Vec<(&[u8], &[u8])> {
    let at = |address: u64| {
        let offset = (address - acpi.rsdp.0) as usize;
        let length = u32_at(&acpi.bytes, offset + 4).expect("a table header") as usize;
        &acpi.bytes[offset..offset + length]
    };
    let xsdt = at(u64_at(&acpi.bytes, 24).expect("an RSDP"));
    let mut all = vec![(&xsdt[..4], xsdt)];
    for entry in xsdt[36..].chunks(8) {
        let table = at(u64_at(entry, 0).expect("an entry"));
        all.push((&table[..4], table));
        if table.starts_with(b"FACP") {
            let dsdt = at(u64_at(table, 140).expect("X_DSDT"));
            all.push((&dsdt[..4], dsdt));
        }
    }
    all
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn find<'a>(acpi: &'a AcpiTables, signature: &[u8; 4]) -> &'a [u8] {
    let all = tables(acpi);
    all.iter().find(|(name, _)| name == signature).expect("the table is there").1
}

#[test]
fn every_table_is_reachable_and_sums_to_zero() {
    let acpi = AcpiTables::build(&PlatformTables::default(), GuestPhys(0xe_0000));
    assert_eq!(&acpi.bytes[..8], b"RSD PTR ");
    assert_eq!((sum(&acpi.bytes[..20]), sum(&acpi.bytes[..36])), (0, 0));
    let names: Vec<_> = tables(&acpi).iter().map(|(name, _)| name.to_vec()).collect();
    assert_eq!(names, [b"XSDT", b"FACP", b"DSDT", b"APIC", b"MCFG", b"WAET"]);
    assert!(tables(&acpi).iter().all(|(_, table)| sum(table) == 0));
    assert!(acpi.bytes.len() < crate::layout::ACPI_TABLES_SIZE as usize);
}

#[test]
fn facs_is_aligned_and_found_through_the_fadt() {
    let acpi = AcpiTables::build(&PlatformTables::default(), GuestPhys(0xe_0000));
    let fadt = find(&acpi, b"FACP");
    let facs = u32_at(fadt, 36).expect("FIRMWARE_CTRL");
    assert_eq!(facs % 64, 0);
    assert_eq!(&acpi.bytes[(facs - 0xe_0000) as usize..][..4], b"FACS");
    assert_eq!(u32_at(fadt, 76), Some(0x608));
    assert_eq!((u64_at(fadt, 120), fadt[128]), (Some(0xcf9), 6));
    assert_eq!(u32_at(fadt, 112).expect("flags") & (1 << 4 | 1 << 20), 0, "fixed power button");
}

#[test]
fn many_processors_get_x2apic_entries_past_254() {
    let apic_ids: Vec<u32> = (0..300).collect();
    let platform = PlatformTables { apic_ids, ..PlatformTables::default() };
    let acpi = AcpiTables::build(&platform, GuestPhys(0xe_0000));
    let madt = find(&acpi, b"APIC");
    let (mut at, mut lapics, mut x2apics, mut overrides) = (44, 0, 0, Vec::new());
    while at < madt.len() {
        match madt[at] {
            0 => lapics += 1,
            9 => x2apics += 1,
            2 => overrides.push((madt[at + 3], madt[at + 4], madt[at + 8])),
            _ => {}
        }
        at += usize::from(madt[at + 1]);
    }
    assert_eq!(at, madt.len());
    assert_eq!((lapics, x2apics), (255, 45));
    assert_eq!(overrides, [(0, 2, 0), (9, 9, 0b1101)]);
}

#[test]
fn devices_that_are_not_there_are_not_in_the_dsdt() {
    let has = |platform: &PlatformTables, name: &[u8]| {
        let acpi = AcpiTables::build(platform, GuestPhys(0xe_0000));
        find(&acpi, b"DSDT").windows(name.len()).any(|window| window == name)
    };
    let full = PlatformTables {
        serial: vec![(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)],
        ..PlatformTables::default()
    };
    for name in [b"COM1", b"COM4", b"KBD_", b"RTC_", b"PEVT", b"_PRT"] {
        assert!(has(&full, name));
    }
    let bare = PlatformTables {
        serial: vec![],
        i8042: false,
        rtc: false,
        pvpanic: None,
        ..PlatformTables::default()
    };
    for name in [b"COM1", b"KBD_", b"MOU_", b"RTC_", b"PEVT"] {
        assert!(!has(&bare, name));
    }
}

#[test]
fn interrupt_pins_turn_with_the_slot() {
    assert_eq!([intx_gsi(0, 0), intx_gsi(1, 0), intx_gsi(1, 3), intx_gsi(31, 3)], [16, 17, 20, 18]);
}
