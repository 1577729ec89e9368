//! PCI: how a configuration access finds its function, what a function is, and the two functions
//! every PC has.
//!
//! Sources: PCI Local Bus 3.0, 3.2.2.3.2 (mechanism 1); PCI Express 4.0, 7.2.2 (ECAM). Invariant:
//! no bus is in here; the wiring owns the table of functions and the address windows.

mod address;
mod bridges;
mod config;

pub use address::{ConfigAddress, ConfigPort, ConfigPortV1, decode_ecam};
pub use bridges::{host_bridge, isa_bridge};
pub use config::{BARS, BarKind, BarWindow, CONFIG_BYTES, ConfigSpace, ConfigSpaceV1, Identity};

/// One function on the bus.
pub trait PciFunction: Send {
    /// Its configuration space.
    fn config(&self) -> &ConfigSpace;

    /// Reads configuration bytes, up to 4 within one dword.
    fn config_read(&mut self, offset: usize, data: &mut [u8]) {
        self.config().read(offset, data);
    }

    /// Writes configuration bytes, up to 4 within one dword.
    fn config_write(&mut self, offset: usize, data: &[u8]);

    /// A load from a BAR's window.
    fn bar_read(&mut self, bar: usize, offset: u64, data: &mut [u8]);

    /// A store to a BAR's window.
    fn bar_write(&mut self, bar: usize, offset: u64, data: &[u8]);

    /// The level of its INTA#, asked for after each access. Those with another way to their interrupts
    /// leave this alone.
    fn interrupt(&self) -> bool {
        false
    }
}

/// A function that is only configuration space, like a bridge without registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainFunction(pub ConfigSpace);

impl PciFunction for PlainFunction {
    fn config(&self) -> &ConfigSpace {
        &self.0
    }

    fn config_write(&mut self, offset: usize, data: &[u8]) {
        self.0.write(offset, data);
    }

    fn bar_read(&mut self, _bar: usize, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn bar_write(&mut self, _bar: usize, _offset: u64, _data: &[u8]) {}
}

#[cfg(test)]
mod tests;
