//! What a running vCPU sees of the machine: [`GuestIo`] over the shared buses.

use std::sync::Arc;

use engine::GuestIo;
use x86::GuestPhys;

use crate::bus::{MmioBus, PortBus};
use crate::irq::Interrupts;

/// The buses and interrupt controllers, shared by all vCPUs; devices behind them have their own
/// locks.
pub(crate) struct Buses {
    pub(crate) ports: PortBus,
    pub(crate) mmio: MmioBus,
    pub(crate) interrupts: Arc<Interrupts>,
}

/// One vCPU's way to them.
#[derive(Clone)]
pub(crate) struct VcpuIo(pub(crate) Arc<Buses>);

impl GuestIo for VcpuIo {
    fn port_in(&mut self, port: u16, data: &mut [u8]) {
        self.0.ports.read(port, data);
    }

    fn port_out(&mut self, port: u16, data: &[u8]) {
        self.0.ports.write(port, data);
    }

    fn mmio_read(&mut self, address: GuestPhys, data: &mut [u8]) {
        self.0.mmio.read(address, data);
    }

    fn mmio_write(&mut self, address: GuestPhys, data: &[u8]) {
        self.0.mmio.write(address, data);
    }

    fn end_of_interrupt(&mut self, vector: u8) {
        self.0.interrupts.end_of_interrupt(vector);
    }

    fn acknowledge_pic(&mut self) -> Option<u8> {
        self.0.interrupts.acknowledge_pic()
    }
}
