//! Virtio devices on the PCI bus: their interrupts' way to the controllers.

use std::sync::Arc;

use virtio::Interrupter;

use crate::irq::{Interrupts, IrqLine};

/// One function's interrupts: messages, and its INTA# line.
pub(crate) struct FunctionInterrupts {
    pub(crate) interrupts: Arc<Interrupts>,
    pub(crate) line: IrqLine,
}

impl Interrupter for FunctionInterrupts {
    fn message(&self, address: u64, data: u32) {
        self.interrupts.message(address, data);
    }

    fn line(&self, asserted: bool) {
        self.line.set(asserted);
    }
}
