//! The common configuration structure (virtio 1.2, 4.1.4.3): feature negotiation, queue set-up, and
//! the device's states.
//!
//! ```text
//!  reset --ACKNOWLEDGE, DRIVER--> features --FEATURES_OK--> queues --DRIVER_OK--> active
//!    ^                                                                             |
//!    `---------------- status = 0; reads as before until the worker has let go ----'
//! ```
//!
//! Invariants: features change only before FEATURES_OK and are never more than were offered; queues
//! change only before DRIVER_OK; status bits are only ever added, but for a reset.

use std::sync::Arc;

use memory::GuestMemory;
use x86::GuestPhys;

use super::layout::{COMMON_BYTES, NOTIFY_STRIDE};
use super::msix::NO_VECTOR;
use crate::device::{Device, Queues, read_image};
use crate::features;
use crate::queue::{MOST_DESCRIPTORS, Queue, QueueLayout};
use crate::signals::{Signals, status};
use crate::worker::Worker;

/// One queue's registers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct QueueRegisters {
    pub(super) layout: QueueLayout,
    pub(super) most: u16,
    pub(super) enabled: bool,
}

pub(super) struct Common {
    pub(super) device: Box<dyn Device>,
    pub(super) signals: Arc<Signals>,
    pub(super) worker: Arc<Worker>,
    pub(super) memory: Arc<GuestMemory>,
    pub(super) offered: u64,
    pub(super) accepted: u64,
    pub(super) device_feature_select: u32,
    pub(super) driver_feature_select: u32,
    pub(super) queue_select: u16,
    pub(super) queues: Vec<QueueRegisters>,
    /// The driver asked for a reset that the worker has not granted yet.
    pub(super) resetting: bool,
    /// Called before the device may touch guest memory.
    pub(super) before_active: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl Common {
    pub(super) fn new(
        device: Box<dyn Device>,
        memory: Arc<GuestMemory>,
        signals: Arc<Signals>,
        worker: Arc<Worker>,
    ) -> Self {
        let sizes = device.queue_sizes();
        let sound = |size: &u16| size.is_power_of_two() && *size <= MOST_DESCRIPTORS;
        assert!(sizes.len() <= 64 && sizes.iter().all(sound), "queues as Device says");
        let queues = sizes.iter().map(|&size| QueueRegisters::fresh(size)).collect();
        Self {
            offered: device.features() | features::TRANSPORT,
            accepted: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            queue_select: 0,
            queues,
            resetting: false,
            before_active: None,
            device,
            memory,
            signals,
            worker,
        }
    }

    /// Reads any bytes of the structure.
    pub(super) fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.go_on_resetting();
        read_image(&self.image(), offset, data);
    }

    fn image(&self) -> [u8; COMMON_BYTES as usize] {
        let mut image = [0; COMMON_BYTES as usize];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x00, &self.device_feature_select.to_le_bytes());
        put(0x04, &half(self.offered, self.device_feature_select).to_le_bytes());
        put(0x08, &self.driver_feature_select.to_le_bytes());
        put(0x0c, &half(self.accepted, self.driver_feature_select).to_le_bytes());
        let state = self.signals.state();
        put(0x10, &state.config_vector.to_le_bytes());
        put(0x12, &(self.queues.len() as u16).to_le_bytes());
        put(0x14, &[state.status, state.generation]);
        put(0x16, &self.queue_select.to_le_bytes());
        let index = usize::from(self.queue_select);
        let Some(queue) = self.queues.get(index) else { return image };
        put(0x18, &queue.layout.size.to_le_bytes());
        put(0x1a, &state.queue_vectors[index].to_le_bytes());
        put(0x1c, &u16::from(queue.enabled).to_le_bytes());
        put(0x1e, &self.queue_select.to_le_bytes()); // notify_off
        put(0x20, &queue.layout.descriptors.0.to_le_bytes());
        put(0x28, &queue.layout.available.0.to_le_bytes());
        put(0x30, &queue.layout.used.0.to_le_bytes());
        image
    }

    /// Writes a field, or half of one of 64 bits; what is neither is ignored (4.1.3.1).
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        self.go_on_resetting();
        if self.resetting {
            return;
        }
        let mut bytes = [0; 8];
        let length = data.len().min(8);
        bytes[..length].copy_from_slice(&data[..length]);
        let value = u64::from_le_bytes(bytes);
        match (offset, data.len()) {
            (0x00, 4) => self.device_feature_select = value as u32,
            (0x08, 4) => self.driver_feature_select = value as u32,
            (0x0c, 4) => self.accept(value as u32),
            (0x10, 2) => self.set_config_vector(value as u16),
            (0x14, 1) => self.set_status(value as u8),
            (0x16, 2) => self.queue_select = value as u16,
            (0x18, 2) => self.set_queue(|queue| queue.set_size(value as u16)),
            (0x1a, 2) => self.set_queue_vector(value as u16),
            (0x1c, 2) if value == 1 => self.set_queue(|queue| queue.enabled = true),
            (0x20..0x38, 4 | 8) if offset.is_multiple_of(data.len() as u64) => {
                self.set_queue(|queue| queue.set_address(offset, value, data.len()));
            }
            _ => {}
        }
    }

    fn status(&self) -> u8 {
        self.signals.state().status
    }

    fn accept(&mut self, bits: u32) {
        if self.status() & status::FEATURES_OK == 0 {
            let shift = match self.driver_feature_select {
                0 => 0,
                1 => 32,
                _ => return,
            };
            self.accepted = self.accepted & !(0xffff_ffff << shift) | u64::from(bits) << shift;
        }
    }

    fn set_config_vector(&mut self, vector: u16) {
        let mut state = self.signals.state();
        state.config_vector = known(vector, state.msix.vectors());
    }

    fn set_queue_vector(&mut self, vector: u16) {
        let mut state = self.signals.state();
        let vector = known(vector, state.msix.vectors());
        if let Some(slot) = state.queue_vectors.get_mut(usize::from(self.queue_select)) {
            *slot = vector;
        }
    }

    fn set_queue(&mut self, change: impl FnOnce(&mut QueueRegisters)) {
        let closed = self.status() & status::DRIVER_OK != 0;
        match self.queues.get_mut(usize::from(self.queue_select)) {
            Some(queue) if !closed && !queue.enabled => change(queue),
            _ => {}
        }
    }

    fn set_status(&mut self, value: u8) {
        if value == 0 {
            self.resetting = true;
            self.go_on_resetting();
            return;
        }
        let mut state = self.signals.state();
        let before = state.status;
        let mut added = value & !before & !status::NEEDS_RESET;
        let sound = self.accepted & !self.offered == 0 && self.accepted & features::VERSION_1 != 0;
        if added & status::FEATURES_OK != 0 && !sound {
            added &= !status::FEATURES_OK; // the driver reads that it cannot have them (3.1.1)
        }
        state.status |= added;
        state.seen |= added;
        let negotiated = state.status & status::FEATURES_OK != 0;
        let now = state.status;
        drop(state);
        self.worker
            .tell(|| format!("status {before:#04x} -> {now:#04x}, features {:#x}", self.accepted));
        if added & status::DRIVER_OK != 0 {
            match negotiated {
                true => self.activate(),
                false => self.signals.needs_reset(),
            }
        }
    }

    /// DRIVER_OK: queues are made of the registers, the worker gets them.
    fn activate(&mut self) {
        if let Some(before) = &self.before_active {
            before();
        }
        let make = |registers: &QueueRegisters| {
            let enabled = registers.enabled.then_some(registers.layout);
            enabled.map(|layout| Queue::new(self.memory.clone(), layout, self.accepted)).transpose()
        };
        let queues: Result<Vec<_>, _> = self.queues.iter().map(make).collect();
        match queues {
            Ok(queues) => {
                let handler = self.device.activate(self.accepted, self.worker.waker());
                self.worker.start(handler, Queues::new(queues));
            }
            Err(broken) => {
                self.signals.needs_reset();
                self.worker.tell(|| format!("needs a reset: {broken}"));
            }
        }
    }

    /// Finishes a reset as soon as the worker has let go of the guest's buffers (2.4.1).
    pub(super) fn go_on_resetting(&mut self) {
        if !self.resetting || !self.worker.reset() {
            return;
        }
        self.resetting = false;
        self.accepted = 0;
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.queue_select = 0;
        for queue in &mut self.queues {
            *queue = QueueRegisters::fresh(queue.most);
        }
        self.signals.reset();
    }

    /// The doorbell at this offset into its region.
    pub(super) fn ring(&self, offset: u64) {
        let index = offset / u64::from(NOTIFY_STRIDE);
        if index < self.queues.len() as u64 && !self.resetting && self.is_active() {
            self.worker.doorbell();
        }
    }

    /// Whether doorbells mean anything.
    pub(super) fn is_active(&self) -> bool {
        !self.resetting && self.status() & status::DRIVER_OK != 0
    }

    /// The queues whose doorbells do.
    pub(super) fn active_queues(&self) -> impl Iterator<Item = usize> + '_ {
        let active = self.is_active();
        let queues = self.queues.iter().enumerate();
        queues.filter_map(move |(index, queue)| (active && queue.enabled).then_some(index))
    }
}

impl QueueRegisters {
    fn fresh(most: u16) -> Self {
        Self { layout: QueueLayout { size: most, ..QueueLayout::default() }, most, enabled: false }
    }

    /// The driver may make it smaller.
    fn set_size(&mut self, size: u16) {
        if size.is_power_of_two() && size <= self.most {
            self.layout.size = size;
        }
    }

    fn set_address(&mut self, offset: u64, value: u64, length: usize) {
        let layout = &mut self.layout;
        let field = match offset & !7 {
            0x20 => &mut layout.descriptors,
            0x28 => &mut layout.available,
            _ => &mut layout.used,
        };
        let shift = (offset & 4) * 8;
        let mask = if length == 8 { u64::MAX } else { 0xffff_ffff << shift };
        *field = GuestPhys(field.0 & !mask | value << shift & mask);
    }
}

/// A vector that the table has, or none (4.1.5.1.2.1).
fn known(vector: u16, vectors: usize) -> u16 {
    if usize::from(vector) < vectors { vector } else { NO_VECTOR }
}

/// 32 of 64 feature bits.
fn half(bits: u64, select: u32) -> u32 {
    match select {
        0 => bits as u32,
        1 => (bits >> 32) as u32,
        _ => 0,
    }
}
