//! The network device (virtio 1.2, 5.1) over a [`Backend`].
//!
//! ```text
//! queue 0 receive   queue 1 transmit   queue 2 control                  one pair, or MQ not negotiated
//! queue 2n receive  queue 2n + 1 transmit of pair n, then control       MQ, a pair for each processor
//! ```
//!
//! Large TCP segments and unfinished checksums go through in both directions as far as driver and
//! backend agree; received frames may lie in several buffers. A VM with several processors has as many pairs of
//! queues, so that each has its own locks and interrupts, and finds a flow's frames where it sends them; one
//! thread serves all. Without `CTRL_RX` (only a link that others share
//! needs it) a driver has nothing to wait for when it joins groups; without `STATUS` the link is up from
//! the first moment on, whereas Linux asks, and then sends nothing for up to a second. Invariants: a frame is at most
//! [`FRAME_MAX`] bytes; one that cannot be sent is dropped, as on a wire; what the backend has is
//! asked for only when there is room for it; no frame comes on a pair that the driver does not use.

mod buffers;
mod control;
mod filter;
mod handler;
mod header;
mod saved;
mod steering;

use std::sync::{Arc, Mutex};

use crate::device::{Device, Handler, Kind, Waiter, read_image};
use crate::state::{ModelV1, StateError};
use crate::worker::Waker;
use handler::NetHandler;
pub use header::Header;
pub use saved::{NetDriverV1, NetDriverV2, NetV1, NetV2};

/// Largest frame: an Ethernet header and what an IPv4 packet's length can say.
pub const FRAME_MAX: usize = 14 + 65_535;

const CSUM: u64 = 1 << 0;
const GUEST_CSUM: u64 = 1 << 1;
const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
const MTU: u64 = 1 << 3;
const MAC: u64 = 1 << 5;
const GUEST_TSO4: u64 = 1 << 7;
const GUEST_TSO6: u64 = 1 << 8;
const HOST_TSO4: u64 = 1 << 11;
const HOST_TSO6: u64 = 1 << 12;
const MRG_RXBUF: u64 = 1 << 15;
const CTRL_VQ: u64 = 1 << 17;
const CTRL_RX: u64 = 1 << 18;
const MQ: u64 = 1 << 22;
const CTRL_MAC_ADDR: u64 = 1 << 23;

const QUEUE: u16 = 256;
const CONTROL_QUEUE: u16 = 64;
/// More pairs of queues than that help nobody: one thread serves them.
const MOST_PAIRS: u16 = 16;

/// What the driver takes: unfinished checksums, and large TCP segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// It completes checksums itself.
    pub checksum: bool,
    /// It takes TCP segments over IPv4 that are larger than the MTU.
    pub tcp4: bool,
    /// The same over IPv6.
    pub tcp6: bool,
}

impl Offload {
    const FEATURES: u64 = GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6;

    fn of(features: u64) -> Self {
        let checksum = features & GUEST_CSUM != 0;
        Self {
            checksum,
            tcp4: checksum && features & GUEST_TSO4 != 0,
            tcp6: checksum && features & GUEST_TSO6 != 0,
        }
    }
}

/// The host's side of a network device. All calls come from one thread.
pub trait Backend: Send {
    /// Looks what has happened on the host; does not wait.
    fn poll(&mut self);

    /// Takes a frame of the guest. What it cannot send it drops, and counts.
    fn send(&mut self, header: &Header, frame: &[u8]);

    /// Writes the next frame for the guest into the buffer: its header and length.
    fn receive(&mut self, buffer: &mut [u8]) -> Option<(Header, usize)>;

    /// The round is over: what follows is another poll, or a wait.
    fn settle(&mut self);

    /// What the driver takes from now on.
    fn set_offload(&mut self, offload: Offload);

    /// The driver gave the card another address.
    fn set_mac(&mut self, mac: [u8; 6]);

    /// A driver starts anew: what was under way for the one before is gone.
    fn reset(&mut self);

    /// Where to wait for what [`Backend::poll`] would find.
    fn waiter(&self) -> Arc<dyn Waiter>;

    /// Whether frames for others can come in, so that the driver should say what it wants.
    fn is_shared(&self) -> bool;

    /// Whether the other side takes unfinished checksums and large segments.
    fn takes_large(&self) -> bool;
}

/// A network card as the guest sees it.
pub struct Net {
    backend: Arc<Mutex<Box<dyn Backend>>>,
    mac: [u8; 6],
    mtu: u16,
    features: u64,
    waiter: Arc<dyn Waiter>,
    queues: Vec<u16>,
    /// What the driver of a saved card had set, until it goes on.
    resumed: Option<NetDriverV2>,
}

impl Net {
    /// A card with this Ethernet address on a link of this MTU. It has a pair of queues for each of `cpus`,
    /// up to a bound.
    pub fn new(backend: Box<dyn Backend>, mac: [u8; 6], mtu: u16, cpus: u32) -> Self {
        let pairs = cpus.clamp(1, MOST_PAIRS.into()) as u16;
        let mut features = MTU | MAC | MRG_RXBUF | CTRL_VQ | CTRL_MAC_ADDR;
        if backend.is_shared() {
            features |= CTRL_RX;
        }
        if backend.takes_large() {
            features |= CSUM | HOST_TSO4 | HOST_TSO6 | Offload::FEATURES | CTRL_GUEST_OFFLOADS;
        }
        if pairs > 1 {
            features |= MQ;
        }
        let mut queues = vec![QUEUE; 2 * usize::from(pairs)];
        queues.push(CONTROL_QUEUE);
        let waiter = backend.waiter();
        let backend = Arc::new(Mutex::new(backend));
        Self { backend, mac, mtu, features, waiter, queues, resumed: None }
    }

    fn pairs(&self) -> u16 {
        self.queues.len() as u16 / 2
    }

    fn handler(&self, features: u64, waker: &Waker) -> NetHandler {
        let faults = (waker.faults(), waker);
        let pairs = usize::from(self.pairs());
        NetHandler::new(self.backend.clone(), features, (self.mac, self.mtu), pairs, faults)
    }

    fn config(&self) -> [u8; 12] {
        let mut config = [0; 12];
        config[..6].copy_from_slice(&self.mac);
        config[8..10].copy_from_slice(&self.pairs().to_le_bytes());
        config[10..].copy_from_slice(&self.mtu.to_le_bytes());
        config
    }
}

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Net")
            .field("mac", &self.mac)
            .field("mtu", &self.mtu)
            .finish_non_exhaustive()
    }
}

impl Device for Net {
    fn kind(&self) -> Kind {
        Kind::Network
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queues
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn config_read(&self, offset: u64, data: &mut [u8]) {
        read_image(&self.config(), offset, data);
    }

    fn activate(&mut self, features: u64, waker: Waker) -> Box<dyn Handler> {
        self.resumed = None;
        Box::new(self.handler(features, &waker))
    }

    fn resume(&mut self, features: u64, waker: Waker) -> Result<Box<dyn Handler>, StateError> {
        let driver = self.resumed.take().ok_or(StateError::Impossible("a driver and none"))?;
        let mut handler = self.handler(features, &waker);
        handler.resume(&driver)?;
        Ok(Box::new(handler))
    }

    fn save(&self) -> ModelV1 {
        ModelV1::Net(NetV2 {
            mac: self.mac,
            mtu: self.mtu,
            pairs: self.pairs(),
            driver: self.resumed.clone(),
        })
    }

    fn waiter(&self) -> Option<Arc<dyn Waiter>> {
        Some(self.waiter.clone())
    }
}

#[cfg(test)]
mod tests;
