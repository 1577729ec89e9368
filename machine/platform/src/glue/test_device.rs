//! kvm-unit-tests' device on the buses: its storage and its interrupt lines.

use std::sync::{Arc, Mutex};

use devices::test_device::TestDevice;

use crate::bus::{MmioDevice, PortDevice};
use crate::irq::{Interrupts, IrqLine, LINES, lock};

/// The storage; on the memory bus itself.
pub(crate) struct Storage(pub(crate) Mutex<TestDevice>);

impl MmioDevice for Storage {
    fn read(&self, offset: u64, data: &mut [u8]) {
        lock(&self.0).read_memory(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        lock(&self.0).write_memory(offset, data);
    }
}

/// Ports 0xe0-0xe3, and again 0xe8-0xeb.
pub(crate) struct StoragePorts(pub(crate) Arc<Storage>);

impl PortDevice for StoragePorts {
    fn read(&self, offset: u16, data: &mut [u8]) {
        lock(&self.0.0).read_port(offset, data);
    }

    fn write(&self, offset: u16, data: &[u8]) {
        lock(&self.0.0).write_port(offset, data);
    }
}

/// Ports 0x2000-0x2017: a byte write sets the level of a line.
pub(crate) struct LinePorts(Mutex<Vec<IrqLine>>);

impl LinePorts {
    pub(crate) fn new(interrupts: &Arc<Interrupts>) -> Self {
        Self(Mutex::new((0..LINES as u8).map(|number| interrupts.line(number)).collect()))
    }
}

impl PortDevice for LinePorts {
    fn read(&self, _offset: u16, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u16, data: &[u8]) {
        let lines = lock(&self.0);
        for (line, &level) in lines[usize::from(offset)..].iter().zip(data) {
            line.set(level != 0);
        }
    }
}
