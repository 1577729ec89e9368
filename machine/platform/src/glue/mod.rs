//! Devices on the buses: each file owns one model's lock, clock and lines.
//!
//! Invariant: a line is driven under its device's lock, so levels reach it in order.

pub(crate) mod acpi;
pub(crate) mod i8042;
pub(crate) mod pci;
pub(crate) mod pit;
pub(crate) mod rtc;
pub(crate) mod small;
pub(crate) mod test_device;
pub(crate) mod virtio;
