//! The fixed-layout tables: FADT, FACS, MADT, MCFG, WAET, XSDT (ACPI 6.5, 5.2; MCFG: PCI Firmware
//! Specification 3.3, 4.1.2; WAET: Windows ACPI Emulated Devices Table).
//!
//! Invariant: `finish` is the only way out, so length and checksum are always right.

use x86::GuestPhys;

use super::{PlatformTables, PmRegisters};
use crate::bytes::{checksum, put, put_u16, put_u32, put_u64};

pub(super) const OEM_ID: &[u8; 6] = b"ONROOF";
const OEM_TABLE_ID: &[u8; 8] = b"ONEROOF ";
const CREATOR_ID: &[u8; 4] = b"ONRF";
const HEADER: usize = 36;

/// A table header with zeroed length and checksum (5.2.6).
pub(super) fn header(signature: &[u8; 4], revision: u8) -> Vec<u8> {
    let mut table = Vec::with_capacity(512);
    table.extend_from_slice(signature);
    table.extend_from_slice(&[0; 4]);
    table.extend_from_slice(&[revision, 0]);
    table.extend_from_slice(OEM_ID);
    table.extend_from_slice(OEM_TABLE_ID);
    table.extend_from_slice(&1u32.to_le_bytes());
    table.extend_from_slice(CREATOR_ID);
    table.extend_from_slice(&1u32.to_le_bytes());
    assert_eq!(table.len(), HEADER);
    table
}

/// Fills in length and checksum.
pub(super) fn finish(mut table: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(table.len()).expect("tables are a few KiB");
    put_u32(&mut table, 4, length);
    table[9] = checksum(&table);
    table
}

pub(super) fn xsdt(entries: &[GuestPhys]) -> Vec<u8> {
    let mut table = header(b"XSDT", 1);
    for entry in entries {
        table.extend_from_slice(&entry.0.to_le_bytes());
    }
    finish(table)
}

/// Firmware ACPI Control Structure (5.2.10): no header, no checksum.
pub(super) fn facs() -> Vec<u8> {
    let mut facs = vec![0; 64];
    put(&mut facs, 0, b"FACS");
    put_u32(&mut facs, 4, 64);
    facs[32] = 2;
    facs
}

/// FADT flags (table 5.10).
mod fadt_flags {
    pub(super) const WBINVD: u32 = 1 << 0;
    pub(super) const PROC_C1: u32 = 1 << 2;
    /// Set: the sleep button is not fixed hardware. The power button's bit 4 stays clear: it is.
    pub(super) const SLP_BUTTON: u32 = 1 << 5;
    pub(super) const TMR_VAL_EXT: u32 = 1 << 8;
    pub(super) const RESET_REG_SUP: u32 = 1 << 10;
}

/// IA-PC boot architecture flags (table 5.11).
mod boot_arch {
    pub(super) const LEGACY_DEVICES: u16 = 1 << 0;
    pub(super) const I8042: u16 = 1 << 1;
    pub(super) const VGA_NOT_PRESENT: u16 = 1 << 2;
    pub(super) const NO_ASPM: u16 = 1 << 4;
    pub(super) const CMOS_RTC_NOT_PRESENT: u16 = 1 << 5;
}

/// Generic Address Structure in I/O space (5.2.3.2).
fn io_address(port: u16, bytes: u8) -> [u8; 12] {
    let access = bytes.trailing_zeros() as u8 + 1;
    let mut address = [1, bytes * 8, 0, access, 0, 0, 0, 0, 0, 0, 0, 0];
    put_u64(&mut address, 4, port.into());
    address
}

/// Fixed ACPI Description Table (5.2.9). No SMI command port: the machine is always in ACPI mode.
pub(super) fn fadt(platform: &PlatformTables, facs: GuestPhys, dsdt: GuestPhys) -> Vec<u8> {
    let PmRegisters { pm1_event, pm1_control, timer, timer_32bit, sci, .. } = platform.pm;
    let mut table = header(b"FACP", 6);
    table.resize(276, 0);
    put_u32(&mut table, 36, facs.0 as u32);
    put_u32(&mut table, 40, dsdt.0 as u32);
    table[45] = 1; // preferred profile: desktop
    put_u16(&mut table, 46, sci.into());
    put_u32(&mut table, 56, pm1_event.into());
    put_u32(&mut table, 64, pm1_control.into());
    put_u32(&mut table, 76, timer.into());
    table[88] = 4;
    table[89] = 2;
    table[91] = 4;
    put_u16(&mut table, 96, 0xffff); // no C2
    put_u16(&mut table, 98, 0xffff); // no C3
    table[108] = 0x32; // RTC century byte in CMOS
    put_u16(&mut table, 109, boot_architecture(platform));
    let extended = if timer_32bit { fadt_flags::TMR_VAL_EXT } else { 0 };
    let flags = fadt_flags::WBINVD
        | fadt_flags::PROC_C1
        | fadt_flags::SLP_BUTTON
        | fadt_flags::RESET_REG_SUP
        | extended;
    put_u32(&mut table, 112, flags);
    put(&mut table, 116, &io_address(platform.reset.0, 1));
    table[128] = platform.reset.1;
    table[131] = 5; // minor version: 6.5
    // X_FIRMWARE_CTRL stays 0, as FIRMWARE_CTRL is used; X_DSDT is the one that counts.
    put_u64(&mut table, 140, dsdt.0);
    put(&mut table, 148, &io_address(pm1_event, 4));
    put(&mut table, 172, &io_address(pm1_control, 2));
    put(&mut table, 208, &io_address(timer, 4));
    put(&mut table, 268, b"ONEROOF\0");
    finish(table)
}

fn boot_architecture(platform: &PlatformTables) -> u16 {
    let mut flags = boot_arch::NO_ASPM;
    for (condition, flag) in [
        (!platform.serial.is_empty() || platform.i8042, boot_arch::LEGACY_DEVICES),
        (platform.i8042, boot_arch::I8042),
        (!platform.vga, boot_arch::VGA_NOT_PRESENT),
        (!platform.rtc, boot_arch::CMOS_RTC_NOT_PRESENT),
    ] {
        if condition {
            flags |= flag;
        }
    }
    flags
}

/// Multiple APIC Description Table (5.2.12).
pub(super) fn madt(platform: &PlatformTables) -> Vec<u8> {
    const PCAT_COMPAT: u32 = 1;
    let mut table = header(b"APIC", 5);
    table.extend_from_slice(&platform.lapic_address.to_le_bytes());
    table.extend_from_slice(&PCAT_COMPAT.to_le_bytes());
    let mut x2apic = false;
    for (uid, apic_id) in (0u32..).zip(&platform.apic_ids) {
        match u8::try_from(*apic_id) {
            Ok(id @ 0..=254) if uid < 255 => {
                table.extend_from_slice(&[0, 8, uid as u8, id, 1, 0, 0, 0]);
            }
            _ => {
                x2apic = true;
                table.extend_from_slice(&[9, 16, 0, 0]);
                table.extend_from_slice(&apic_id.to_le_bytes());
                table.extend_from_slice(&1u32.to_le_bytes());
                table.extend_from_slice(&uid.to_le_bytes());
            }
        }
    }
    table.extend_from_slice(&[1, 12, platform.ioapic.id, 0]);
    table.extend_from_slice(&platform.ioapic.address.to_le_bytes());
    table.extend_from_slice(&0u32.to_le_bytes());
    // The PIT's IRQ 0 arrives at pin 2; the SCI is level-triggered, active high.
    interrupt_override(&mut table, 0, 2, 0);
    interrupt_override(&mut table, platform.pm.sci, platform.pm.sci.into(), 0b1101);
    // NMI at LINT1 of every processor, edge, active high as the bus has it.
    table.extend_from_slice(&[4, 6, 0xff, 0, 0, 1]);
    if x2apic {
        table.extend_from_slice(&[0xa, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
    }
    finish(table)
}

fn interrupt_override(table: &mut Vec<u8>, irq: u8, gsi: u32, flags: u16) {
    table.extend_from_slice(&[2, 10, 0, irq]);
    table.extend_from_slice(&gsi.to_le_bytes());
    table.extend_from_slice(&flags.to_le_bytes());
}

pub(super) fn mcfg(platform: &PlatformTables) -> Vec<u8> {
    let mut table = header(b"MCFG", 1);
    table.extend_from_slice(&[0; 8]);
    table.extend_from_slice(&platform.ecam.base.0.to_le_bytes());
    table.extend_from_slice(&[0, 0, 0, platform.ecam.last_bus, 0, 0, 0, 0]);
    finish(table)
}

/// The RTC needs no re-reads, the PM timer reads right the first time.
pub(super) fn waet() -> Vec<u8> {
    let mut table = header(b"WAET", 1);
    table.extend_from_slice(&0b11u32.to_le_bytes());
    finish(table)
}
