//! Virtio 1.2: queues in guest memory, one PCI transport, and the device models.
//!
//! ```text
//! vCPU: store to a doorbell -> pci (transport) -> Worker::ring
//! worker's thread: Handler::process -> Queue: chains out of guest memory, used ones back
//!                  -> Signals -> MSI-X message or INTx level -> Interrupter (platform)
//! ```
//!
//! A model is a [`Device`] (what it is, seen by the transport on a vCPU's thread) and the [`Handler`]
//! it makes at activation (what it does, on its worker's thread alone). Invariants: whatever the
//! guest writes to registers, rings or buffers, nothing panics, every walk is bounded, and the worst
//! that happens is DEVICE_NEEDS_RESET; no vCPU waits for a device's I/O.
#![forbid(unsafe_code)]

mod balloon;
mod bells;
pub mod block;
pub mod console;
mod device;
mod faults;
pub mod fs;
pub mod input;
pub mod net;
mod pci;
mod queue;
mod rng;
mod signals;
pub mod state;
pub mod vsock;
mod worker;

pub use balloon::{Balloon, BalloonControl, BalloonV1, GuestStatistics};
pub use bells::Doorbells;
pub use device::{Alarm, Device, Handler, Kind, Queues, Waiter};
pub use faults::Faults;
pub use pci::{Rings, VirtioPci};
pub use queue::{Broken, Chain, Queue, QueueLayout};
pub use rng::{Entropy, Rng, RngV1};
pub use signals::{Interrupter, Use};
pub use worker::{DoorbellCounts, Quiet, Trace, Waker, Worker};

/// Feature bits of all devices (virtio 1.2, 6).
pub mod features {
    /// Descriptors may point to tables of descriptors.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// `used_event` and `avail_event` say when to notify.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// The device follows this specification, not the legacy one.
    pub const VERSION_1: u64 = 1 << 32;
    /// What the transport offers for every device.
    pub(crate) const TRANSPORT: u64 = INDIRECT_DESC | EVENT_IDX | VERSION_1;
}

#[cfg(test)]
mod testing;
