//! AML resource descriptors that the `acpi_tables` crate lacks, and short names for what it has
//! (ACPI 6.5, 6.4.2.1; 20.2).

use acpi_tables::aml::{EISAName, IO, Name, ResourceTemplate};
use acpi_tables::{Aml, AmlSink};

/// IRQ descriptor without flags: edge-triggered, active high, as ISA interrupts are.
pub(super) struct Irq(pub(super) u8);

impl Aml for Irq {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.byte(0x22);
        sink.word(1 << self.0);
    }
}

/// `Name(_HID, EISAID(id))`.
pub(super) fn hid(id: &str) -> Name {
    Name::new("_HID".into(), &EISAName::new(id))
}

/// `Name(_CRS, ResourceTemplate { .. })`.
pub(super) fn crs(resources: Vec<&dyn Aml>) -> Name {
    Name::new("_CRS".into(), &ResourceTemplate::new(resources))
}

/// `count` ports from `port`, fixed there.
pub(super) fn ports(port: u16, count: u8) -> IO {
    IO::new(port, port, 1, count)
}
