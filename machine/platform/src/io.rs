//! What a running vCPU sees of the machine: [`GuestIo`] over the shared buses.

use std::sync::Arc;

use engine::{GuestEvent, GuestIo};
use x86::GuestPhys;

use crate::bus::{MmioBus, PortBus};
use crate::events::{Access, EventLog};
use crate::irq::Interrupts;

/// The buses and interrupt controllers, shared by all vCPUs; devices behind them have their own
/// locks.
pub(crate) struct Buses {
    pub(crate) ports: PortBus,
    pub(crate) mmio: MmioBus,
    pub(crate) interrupts: Arc<Interrupts>,
    /// In virtual time.
    pub(crate) log: Option<EventLog>,
}

/// One vCPU's way to them.
#[derive(Clone)]
pub(crate) struct VcpuIo(pub(crate) Arc<Buses>);

impl VcpuIo {
    fn log(&self, access: Access, address: u64, data: &[u8]) {
        if let Some(log) = &self.0.log {
            log.access(access, address, data);
        }
    }
}

impl GuestIo for VcpuIo {
    fn port_in(&mut self, port: u16, data: &mut [u8]) {
        self.0.ports.read(port, data);
        self.log(Access::In, port.into(), data);
    }

    fn port_out(&mut self, port: u16, data: &[u8]) {
        self.log(Access::Out, port.into(), data);
        self.0.ports.write(port, data);
    }

    fn mmio_read(&mut self, address: GuestPhys, data: &mut [u8]) {
        self.0.mmio.read(address, data);
        self.log(Access::Load, address.0, data);
    }

    fn mmio_write(&mut self, address: GuestPhys, data: &[u8]) {
        self.log(Access::Store, address.0, data);
        self.0.mmio.write(address, data);
    }

    fn end_of_interrupt(&mut self, vector: u8) {
        if let Some(log) = &self.0.log {
            log.ended(vector);
        }
        self.0.interrupts.end_of_interrupt(vector);
    }

    fn acknowledge_pic(&mut self) -> Option<u8> {
        let vector = self.0.interrupts.acknowledge_pic();
        if let Some(log) = &self.0.log {
            log.acknowledged(vector);
        }
        vector
    }

    fn event(&mut self, event: GuestEvent) {
        if let Some(log) = &self.0.log {
            log.event(event);
        }
    }
}
