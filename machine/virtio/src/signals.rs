//! How a device reaches its driver: MSI-X messages or the INTx level, status and ISR bits.
//!
//! Shared by the transport (a vCPU's thread) and the worker. Invariants: INTx is high exactly while
//! an ISR bit is set, MSI-X is off and the driver has not disabled INTx; a message that is masked
//! stays pending until it is not.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::pci::msix::{Message, Msix, NO_VECTOR};

/// Device status (virtio 1.2, 2.1).
pub(crate) mod status {
    pub(crate) const ACKNOWLEDGE: u8 = 1;
    pub(crate) const DRIVER_OK: u8 = 4;
    pub(crate) const FEATURES_OK: u8 = 8;
    pub(crate) const NEEDS_RESET: u8 = 0x40;
}

const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// The machine's side of interrupts.
pub trait Interrupter: Send + Sync {
    /// Sends the message-signalled interrupt that this vector has now.
    fn message(&self, vector: usize, address: u64, data: u32);

    /// Drives the function's INTx line.
    fn line(&self, asserted: bool);
}

/// How far a guest ever came with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// Its transport has no driver.
    Never,
    /// Its transport has one, it itself has none.
    Found,
    /// A driver said that it is ready.
    Driven,
}

pub(crate) struct State {
    pub(crate) status: u8,
    pub(crate) msix: Msix,
    pub(crate) config_vector: u16,
    pub(crate) queue_vectors: Vec<u16>,
    pub(crate) line_disabled: bool,
    /// Changes with the device's configuration space (4.1.4.3.1).
    pub(crate) generation: u8,
    /// Status bits that were ever set: what the guest once could, it can.
    pub(crate) seen: u8,
    pub(crate) isr: u8,
}

/// One device's signals.
pub(crate) struct Signals {
    interrupter: Arc<dyn Interrupter>,
    state: Mutex<State>,
}

impl Signals {
    pub(crate) fn new(interrupter: Arc<dyn Interrupter>, queues: usize) -> Arc<Self> {
        let state = State {
            status: 0,
            msix: Msix::new(queues + 1),
            config_vector: NO_VECTOR,
            queue_vectors: vec![NO_VECTOR; queues],
            line_disabled: false,
            generation: 0,
            seen: 0,
            isr: 0,
        };
        Self::with(interrupter, state)
    }

    /// Signals in the middle of their life.
    pub(crate) fn with(interrupter: Arc<dyn Interrupter>, state: State) -> Arc<Self> {
        Arc::new(Self { interrupter, state: Mutex::new(state) })
    }

    /// The registers. Whoever changes what the line or pending messages depend on calls
    /// [`Signals::settle`] with them.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what has become possible; drives the line as it must be.
    pub(crate) fn settle(&self, state: &mut State) {
        state.msix.flush(&mut |vector, message| self.send(vector, message));
        let asserted = state.isr != 0 && !state.msix.enabled() && !state.line_disabled;
        self.interrupter.line(asserted);
    }

    /// How far the guest ever came.
    pub(crate) fn used(&self) -> Use {
        match self.state().seen {
            seen if seen & status::DRIVER_OK != 0 => Use::Driven,
            seen if seen & status::ACKNOWLEDGE != 0 => Use::Found,
            _ => Use::Never,
        }
    }

    /// Reads and clears the ISR status (4.1.4.5).
    pub(crate) fn take_isr(&self) -> u8 {
        let mut state = self.state();
        let isr = std::mem::take(&mut state.isr);
        self.settle(&mut state);
        isr
    }

    /// Tells of used buffers in these queues (bits).
    pub(crate) fn queues(&self, bits: u64) {
        if bits == 0 {
            return;
        }
        let mut state = self.state();
        for index in (0..state.queue_vectors.len()).filter(|index| bits >> index & 1 != 0) {
            let vector = state.queue_vectors[index];
            self.raise(&mut state, vector, ISR_QUEUE);
        }
    }

    /// The device changed its configuration space by itself.
    pub(crate) fn config_changed(&self) {
        let mut state = self.state();
        state.generation = state.generation.wrapping_add(1);
        if state.status & status::DRIVER_OK != 0 {
            let vector = state.config_vector;
            self.raise(&mut state, vector, ISR_CONFIG);
        }
    }

    /// The device cannot go on (2.1.2).
    pub(crate) fn needs_reset(&self) {
        let mut state = self.state();
        state.status |= status::NEEDS_RESET;
        if state.status & status::DRIVER_OK != 0 {
            let vector = state.config_vector;
            self.raise(&mut state, vector, ISR_CONFIG);
        }
    }

    /// Everything a reset clears; MSI-X itself belongs to PCI and stays.
    pub(crate) fn reset(&self) {
        let mut state = self.state();
        state.status = 0;
        state.isr = 0;
        state.config_vector = NO_VECTOR;
        state.queue_vectors.fill(NO_VECTOR);
        state.msix.forget_pending();
        self.settle(&mut state);
    }

    fn raise(&self, state: &mut State, vector: u16, isr: u8) {
        if state.msix.enabled() {
            state.msix.raise(vector);
        } else {
            state.isr |= isr;
        }
        self.settle(state);
    }

    fn send(&self, vector: usize, message: Message) {
        self.interrupter.message(vector, message.address, message.data);
    }
}
