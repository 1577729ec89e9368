//! Writes the default machine's ACPI tables as `NAME.dat`, for `iasl -d`: `acpi_dump DIRECTORY`.

use std::path::Path;

use firmware::acpi::{AcpiTables, PlatformTables, Window};
use firmware::layout;
use x86::GuestPhys;

fn main() -> std::io::Result<()> {
    let directory = std::env::args().nth(1).expect("usage: acpi_dump DIRECTORY");
    let platform = PlatformTables {
        apic_ids: vec![0, 1, 2, 300],
        mmio64: Some(Window { first: GuestPhys(1 << 36), last: GuestPhys((1 << 37) - 1) }),
        serial: vec![(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)],
        ..PlatformTables::default()
    };
    let acpi = AcpiTables::build(&platform, layout::ACPI_TABLES);
    std::fs::write(Path::new(&directory).join("RSDP.dat"), &acpi.bytes[..36])?;
    // Tables start at multiples of 64 and say their own length.
    for at in (64..acpi.bytes.len()).step_by(64) {
        let Some(header) = acpi.bytes.get(at..at + 10) else { continue };
        let known: [&[u8]; 7] = [b"FACS", b"DSDT", b"FACP", b"APIC", b"MCFG", b"WAET", b"XSDT"];
        if let Some(name) = known.iter().find(|name| header.starts_with(name)) {
            let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
            let path = Path::new(&directory).join(String::from_utf8_lossy(name).as_ref());
            std::fs::write(path.with_extension("dat"), &acpi.bytes[at..at + length])?;
        }
    }
    Ok(())
}
