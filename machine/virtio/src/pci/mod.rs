//! The virtio-over-PCI transport (virtio 1.2, 4.1): a device as a function on the bus.
//!
//! Modern only: no I/O BAR, no legacy layout. Files: `layout` says where registers are, `common` is
//! the structure with the states, `msix` the interrupts, `saved` saving and restoring. Invariant: an access never waits for the
//! device's work, unless its worker is inline.

mod common;
mod layout;
pub(crate) mod msix;
mod saved;

use std::fmt;
use std::sync::Arc;

use devices::pci::{ConfigSpace, PciFunction};
use memory::GuestMemory;

use crate::bells::{Doorbells, InKernel};
use crate::device::Device;
use crate::signals::{Interrupter, Signals};
use crate::worker::Worker;
use common::Common;
use layout::{
    BAR, COMMON, DEVICE, ISR, MSIX_TABLE, NOTIFY, NOTIFY_STRIDE, PENDING, Places, REGION_BYTES,
    config_space,
};

const COMMAND: usize = 0x04;
const COMMAND_NO_INTX: u16 = 1 << 10;

/// A virtio device as a PCI function.
pub struct VirtioPci {
    config: ConfigSpace,
    places: Places,
    common: Common,
    bells: Option<InKernel>,
}

/// What a store to a doorbell does.
pub enum Rings {
    /// The work itself (see [`Worker`]).
    Inline,
    /// It comes to the transport, which wakes the worker.
    Transport,
    /// It wakes the worker without coming here, where the device allows it.
    Kernel(Arc<dyn Doorbells>),
}

/// A device's worker, and its doorbells in the kernel.
fn wire(device: &dyn Device, rings: Rings, signals: &Arc<Signals>) -> (Worker, Option<InKernel>) {
    let inline = matches!(rings, Rings::Inline);
    let worker = Worker::new(device.kind(), inline, signals.clone(), device.waiter());
    match rings {
        Rings::Kernel(machine) => {
            let worker = worker.with_bell();
            let bells = worker.event().map(|event| InKernel::new(machine, event));
            (worker, bells)
        }
        _ => (worker, None),
    }
}

impl VirtioPci {
    /// The function of a device. Unless doorbells do the work themselves, [`VirtioPci::worker`] is to be
    /// given a thread.
    pub fn new(
        device: Box<dyn Device>,
        memory: Arc<GuestMemory>,
        interrupter: Arc<dyn Interrupter>,
        rings: Rings,
    ) -> Self {
        let kind = device.kind();
        let queues = device.queue_sizes().len();
        let signals = Signals::new(interrupter, queues);
        let (worker, bells) = wire(&*device, rings, &signals);
        let (config, places) = config_space(kind, queues + 1);
        let common = Common::new(device, memory, signals, Arc::new(worker));
        Self { config, places, common, bells }
    }

    /// Has this called each time a driver sets the device going, on the processor that does and before
    /// the device may touch guest memory.
    pub fn call_before_active(&mut self, before: Arc<dyn Fn() + Send + Sync>) {
        self.common.before_active = Some(before);
    }

    /// How many interrupt vectors the function of a device has.
    pub fn vectors(device: &dyn Device) -> usize {
        device.queue_sizes().len() + 1
    }

    /// Doorbells in the kernel exactly for the queues that work, where the BAR is now.
    fn settle_bells(&mut self) {
        let Some(bells) = &mut self.bells else { return };
        let window = self.config.windows().find(|window| window.bar == BAR);
        let doorbell =
            |queue| Some(window?.base + NOTIFY + queue as u64 * u64::from(NOTIFY_STRIDE));
        let addresses: Vec<_> = self.common.active_queues().filter_map(doorbell).collect();
        bells.settle(&addresses);
    }

    /// Its worker.
    pub fn worker(&self) -> Arc<Worker> {
        self.common.worker.clone()
    }

    /// The window into the BAR that the PCI configuration access capability opens (4.1.4.9): the
    /// offset and 1, 2 or 4 bytes.
    fn pci_cfg_window(&self) -> Option<(u64, usize)> {
        let at = self.places.pci_cfg;
        let dword =
            |at: usize| u64::from(self.config.word(at)) | u64::from(self.config.word(at + 2)) << 16;
        let (offset, length) = (dword(at + 8), dword(at + 12) as usize);
        let bar = usize::from(self.config.word(at + 4) & 0xff);
        let sound =
            bar == BAR && matches!(length, 1 | 2 | 4) && offset.is_multiple_of(length as u64);
        sound.then_some((offset, length))
    }

    /// Whether a configuration access touches the capability's data.
    fn is_pci_cfg_data(&self, offset: usize, length: usize) -> bool {
        let data = self.places.pci_cfg + 16;
        offset < data + 4 && offset + length > data
    }
}

impl PciFunction for VirtioPci {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_read(&mut self, offset: usize, data: &mut [u8]) {
        if self.is_pci_cfg_data(offset, data.len())
            && let Some((at, length)) = self.pci_cfg_window()
        {
            let mut bytes = [0; 4];
            self.bar_read(BAR, at, &mut bytes[..length]);
            self.config.put(self.places.pci_cfg + 16, &bytes);
        }
        self.config.read(offset, data);
    }

    fn config_write(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
        if self.is_pci_cfg_data(offset, data.len())
            && let Some((at, length)) = self.pci_cfg_window()
        {
            let mut bytes = [0; 4];
            self.config.read(self.places.pci_cfg + 16, &mut bytes);
            self.bar_write(BAR, at, &bytes[..length]);
        }
        let signals = &self.common.signals;
        let mut state = signals.state();
        state.msix.set_control(self.config.word(self.places.msix_control));
        state.line_disabled = self.config.word(COMMAND) & COMMAND_NO_INTX != 0;
        signals.settle(&mut state);
        drop(state);
        self.settle_bells();
    }

    fn bar_read(&mut self, _bar: usize, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let place = offset % REGION_BYTES;
        match offset - place {
            COMMON => self.common.read(place, data),
            ISR if place == 0 => data[0] = self.common.signals.take_isr(),
            DEVICE => self.common.device.config_read(place, data),
            PENDING => self.common.signals.state().msix.read_pending(place, data),
            NOTIFY | ISR => {}
            _ if offset < PENDING => {
                self.common.signals.state().msix.read_table(offset - MSIX_TABLE, data);
            }
            _ => {}
        }
    }

    fn bar_write(&mut self, _bar: usize, offset: u64, data: &[u8]) {
        let place = offset % REGION_BYTES;
        match offset - place {
            COMMON => {
                let before = self.common.is_active();
                self.common.write(place, data);
                if self.common.is_active() != before {
                    self.settle_bells();
                }
            }
            DEVICE => self.common.device.config_write(place, data),
            NOTIFY => self.common.ring(place),
            ISR => {}
            _ if (MSIX_TABLE..PENDING).contains(&offset) => {
                let signals = &self.common.signals;
                let mut state = signals.state();
                state.msix.write_table(offset - MSIX_TABLE, data);
                signals.settle(&mut state);
            }
            _ => {}
        }
    }
}

impl fmt::Debug for VirtioPci {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioPci").field("worker", &self.common.worker).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
