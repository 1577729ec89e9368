//! Register models of the PC's legacy devices, one file each.
//!
//! Invariant: a model is a pure register machine. It holds no lock, thread, clock or bus: accesses
//! and the time come in as arguments, interrupt levels, bytes, events and deadlines go out as
//! values. Whatever a guest writes is either meant by the datasheet or ignored, never a panic.
//! Saved state is a versioned struct of its own; restoring constructs the device.
#![forbid(unsafe_code)]

pub mod acpi_pm;
pub mod debug;
pub mod fake;
pub mod fw_cfg;
pub mod i8042;
pub mod pci;
pub mod pvpanic;
pub mod reset;
pub mod rtc;
pub mod test_device;
pub mod uart;
