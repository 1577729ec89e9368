//! Sockets between guest and host (virtio 1.2, 5.10): streams, with credit in both directions.
//!
//! ```text
//! packet      the header
//! connection  one stream's buffers, credit and states
//! mux         all of them, in turns
//! saved       what it saves
//! unix        the host's side as Unix sockets, in the way of Firecracker and Cloud Hypervisor
//! ```
//!
//! Invariants: the guest has one address (CID) and the host has 2, nobody else exists; whatever the
//! guest sends, memory is bounded by connections times their buffers; nothing here waits for a
//! stream, whose readiness comes through [`Host::stirred`] and the waker.

mod connection;
mod mux;
mod packet;
mod saved;
mod unix;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::device::{Device, Handler, Kind, Queues, read_image};
use crate::queue::Broken;
use crate::state::{ModelV1, StateError};
use crate::worker::Waker;
use mux::Mux;
use packet::{HEADER, Header};
pub use saved::{ConnectionV1, MuxV1, VsockV1};
pub use unix::{UnixSockets, VsockError};

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// Receive, transmit, events (of which there are none: they tell of migrations).
const QUEUES: [u16; 3] = [256, 256, 16];
/// The data of one packet (Linux sends 64 KiB at most).
const MOST_DATA: usize = 64 << 10;

/// A byte stream of the host; nothing waits.
pub trait Stream: Send {
    /// From now on what happens to it is told by [`Host::stirred`] under this number. Called once,
    /// before anything else.
    ///
    /// # Errors
    /// The host gives no more of what that takes.
    fn watch(&mut self, key: u64) -> io::Result<()>;

    /// Reads some bytes; 0: there will be no more. [`io::ErrorKind::WouldBlock`]: none now.
    ///
    /// # Errors
    /// The stream broke.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// Writes some bytes. [`io::ErrorKind::WouldBlock`]: no room now.
    ///
    /// # Errors
    /// The stream broke.
    fn write(&mut self, from: &[u8]) -> io::Result<usize>;

    /// The guest will send no more; said any number of times.
    fn no_more_writes(&mut self);

    /// The guest accepted the connection that somebody here wanted, and this is its port at the
    /// host's end. Nothing was read or written before.
    fn opened(&mut self, host_port: u32);
}

/// A stream that may be read or written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stirred {
    /// The number it is watched under.
    pub key: u64,
    /// Its other end is gone altogether.
    pub hung_up: bool,
}

/// Where a guest's connections lead to and come from.
pub trait Host: Send {
    /// Whom to wake when there is something to look at; `None`: nobody any more.
    fn attach(&mut self, waker: Option<Waker>);

    /// Opens what is behind a port that the guest wants to be connected with.
    ///
    /// # Errors
    /// Nobody is there.
    fn connect(&mut self, port: u32) -> io::Result<Box<dyn Stream>>;

    /// The next connection that somebody wants with a port of the guest, if there is one.
    fn accept(&mut self) -> Option<(u32, Box<dyn Stream>)>;

    /// The stream of a connection that lived when the device was saved, by the guest's port and the host's;
    /// `None`: it is gone. It is watched anew.
    fn reopen(&mut self, _guest_port: u32, _host_port: u32) -> Option<Box<dyn Stream>> {
        None
    }

    /// What stirred since the last call.
    fn stirred(&mut self) -> Vec<Stirred>;
}

/// The host's side while no driver has it.
type Slot = Arc<Mutex<Option<Box<dyn Host>>>>;

/// The device.
pub struct Vsock {
    guest_cid: u64,
    host: Slot,
    /// The connections that a saved device had, until it goes on.
    resumed: Option<MuxV1>,
}

impl Vsock {
    /// A device by which the guest has this address, from 3 on.
    pub fn new(guest_cid: u32, host: Box<dyn Host>) -> Self {
        assert!(
            (3..u32::MAX).contains(&guest_cid),
            "addresses below 3 and the last are not guests'"
        );
        let host = Arc::new(Mutex::new(Some(host)));
        Self { guest_cid: guest_cid.into(), host, resumed: None }
    }
}

impl std::fmt::Debug for Vsock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vsock").field("guest_cid", &self.guest_cid).finish_non_exhaustive()
    }
}

impl Device for Vsock {
    fn kind(&self) -> Kind {
        Kind::Socket
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUES
    }

    fn features(&self) -> u64 {
        0 // stream sockets need none
    }

    fn config_read(&self, offset: u64, data: &mut [u8]) {
        read_image(&self.guest_cid.to_le_bytes(), offset, data);
    }

    fn activate(&mut self, _features: u64, waker: Waker) -> Box<dyn Handler> {
        self.resumed = None;
        Box::new(self.handler(waker))
    }

    fn resume(&mut self, _features: u64, waker: Waker) -> Result<Box<dyn Handler>, StateError> {
        let saved = self.resumed.take().ok_or(StateError::Impossible("a driver and none"))?;
        let mut handler = self.handler(waker);
        handler.mux.as_mut().expect("there until the handler goes").resume(saved);
        Ok(Box::new(handler))
    }

    fn save(&self) -> ModelV1 {
        let guest_cid = self.guest_cid as u32; // as it was given
        ModelV1::Vsock(VsockV1 { guest_cid, mux: self.resumed.clone() })
    }
}

impl Vsock {
    fn handler(&self, waker: Waker) -> VsockHandler {
        let host = self.host.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut host = host.expect("the handler before has given it back");
        host.attach(Some(waker));
        let mux = Some(Mux::new(self.guest_cid, host));
        VsockHandler { mux, slot: self.host.clone() }
    }
}

struct VsockHandler {
    /// Until the handler goes.
    mux: Option<Mux>,
    slot: Slot,
}

impl Handler for VsockHandler {
    fn process(&mut self, queues: &mut Queues) -> Result<(), Broken> {
        let mux = self.mux.as_mut().expect("there until the handler goes");
        mux.look();
        let takes = mux.has_room();
        if takes {
            queues.serve(TRANSMIT, |chain| {
                let mut header = [0; HEADER];
                if chain.read(&mut header) < HEADER {
                    return Err(Broken::Protocol("a packet without a header"));
                }
                let mut data = vec![0; MOST_DATA.min(chain.readable() as usize)];
                chain.read(&mut data);
                mux.take(&Header::decode(header), &data);
                Ok(())
            })?;
        }
        let sent_all = send(mux, queues)?;
        // Without room for packets the doorbell of the receive queue is what gets things going.
        if sent_all && (!takes || mux.has_packet()) {
            queues.again();
        }
        Ok(())
    }

    fn save(&self, model: &mut ModelV1) {
        if let (ModelV1::Vsock(device), Some(mux)) = (model, &self.mux) {
            device.mux = Some(mux.save());
        }
    }
}

/// Packets into the guest's buffers; false: it has none left, and its doorbell will ring.
fn send(mux: &mut Mux, queues: &mut Queues) -> Result<bool, Broken> {
    let Some(queue) = queues.get(RECEIVE) else { return Ok(false) };
    let mut sent_all = true;
    for _ in 0..queue.size() {
        if !mux.has_packet() {
            break;
        }
        let Some(mut chain) = queue.pop()? else {
            if queue.arm_doorbell() {
                continue;
            }
            sent_all = false;
            break;
        };
        let room = (chain.writable() as usize).checked_sub(HEADER);
        let most = room.ok_or(Broken::Protocol("a buffer without room for a header"))?;
        if let Some((header, data)) = mux.packet(most.min(MOST_DATA)) {
            chain.write(&header.encode());
            chain.write(&data);
        }
        queue.push(chain);
    }
    queues.signal(RECEIVE);
    Ok(sent_all)
}

impl Drop for VsockHandler {
    fn drop(&mut self) {
        if let Some(mux) = self.mux.take() {
            let mut host = mux.into_host();
            host.attach(None);
            *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(host);
        }
    }
}

#[cfg(test)]
mod tests;
