//! Virtio devices on the PCI bus: their interrupts' way to the controllers, and their doorbells' way
//! through the host's kernel.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use engine::{Engine, MessageSource};
use virtio::{Doorbells, Interrupter};
use x86::GuestPhys;

use crate::irq::{Interrupts, IrqLine};
use crate::layout::{PCI_HOLE, PCI_WINDOW_SIZE};

/// One function's interrupts: messages, and its INTA# line.
pub(crate) struct FunctionInterrupts {
    pub(crate) interrupts: Arc<Interrupts>,
    pub(crate) line: IrqLine,
    /// By vector, as far as the engine has any.
    pub(crate) sources: Vec<Box<dyn MessageSource>>,
}

impl Interrupter for FunctionInterrupts {
    fn message(&self, vector: usize, address: u64, data: u32) {
        let source = self.sources.get(vector).map(|source| &**source);
        self.interrupts.message(source, address, data);
    }

    fn line(&self, asserted: bool) {
        self.line.set(asserted);
    }
}

/// Doorbells in the kernel of an engine that has them.
pub(crate) struct KernelDoorbells(pub(crate) Arc<dyn Engine>);

impl Doorbells for KernelDoorbells {
    fn add(&self, address: GuestPhys, event: &Arc<OwnedFd>) -> bool {
        // A BAR elsewhere, over a local APIC for instance, is not decoded there.
        let decodes = address.0.checked_sub(PCI_HOLE.0).is_some_and(|at| at < PCI_WINDOW_SIZE);
        let paths = self.0.kernel_paths().filter(|_| decodes);
        paths.is_some_and(|paths| paths.add_doorbell(address, event).is_ok())
    }

    fn remove(&self, address: GuestPhys) {
        if let Some(paths) = self.0.kernel_paths() {
            paths.remove_doorbell(address);
        }
    }
}
