//! Frames between queues and backend, on the worker's thread.
//!
//! ```text
//! a round: control queue, a turn of each transmit queue -> backend
//!          backend -> filter -> the flow's pair (steering) -> its buffers -> receive queue
//! ```
//!
//! Received buffers are taken from the rings ahead of a frame, so that the backend is asked for no more
//! than fits, whichever pair in use the frame is for: one of them without room makes all wait, and no frame is
//! lost. A pair whose driver never gave a buffer is passed over. Where frames are delayed, [`LATE`] of either
//! direction are under way at most; then the others wait in the ring, and with the backend.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::buffers::{Buffers, Shape};
use super::control::Control;
use super::filter::Mac;
use super::header::{HEADER_BYTES, Header};
use super::saved::{NetDriverV1, NetDriverV2};
use super::steering::Flows;
use super::{Backend, CSUM, CTRL_RX, FRAME_MAX, HOST_TSO4, HOST_TSO6, MQ, MRG_RXBUF, Offload};
use crate::device::{Handler, Queues};
use crate::faults::{Counter, Faults, Late};
use crate::queue::{Broken, Chain, Queue};
use crate::state::{ModelV1, StateError};
use crate::worker::Waker;

/// Bytes of frames sent before the other direction has its turn.
const TURN_BYTES: usize = 1 << 20;
/// Frames of a turn.
const TURN_FRAMES: usize = 64;
/// Delayed frames of a direction.
const LATE: usize = 256;
const ETHERNET: usize = 14;
/// A frame that has no Ethernet header is none.
const FRAME_MIN: usize = ETHERNET;

/// A pair's queue of frames for the driver.
fn receive_queue(pair: usize) -> usize {
    2 * pair
}

/// A pair's queue of frames from it.
fn transmit_queue(pair: usize) -> usize {
    2 * pair + 1
}

type Shared = Arc<Mutex<Box<dyn Backend>>>;

pub(super) struct NetHandler {
    backend: Shared,
    features: u64,
    /// The card's own address.
    mac: Mac,
    /// The largest frame that is one packet on the link.
    packet: usize,
    control: Control,
    /// The control queue's number.
    control_queue: usize,
    offload: Offload,
    /// Of each pair there is, whether or not it is in use.
    buffers: Vec<Buffers>,
    /// Pairs in use, the first ones.
    pairs: usize,
    flows: Flows,
    buffer: Box<[u8]>,
    /// Frames that get lost because somebody wants it.
    failing: Counter,
    /// Frames of the driver that are not yet to be sent, and their pairs.
    sending: Late<(usize, Chain)>,
    /// Frames for it that have not yet come.
    coming: Late<(Header, Box<[u8]>)>,
}

impl NetHandler {
    /// `pairs`: how many the card has; those that were not negotiated are not there.
    pub(super) fn new(
        backend: Shared,
        features: u64,
        (mac, mtu): (Mac, u16),
        pairs: usize,
        faults: (Faults, &Waker),
    ) -> Self {
        let (faults, waker) = faults;
        let pairs = if features & MQ != 0 { pairs } else { 1 };
        let mut one = Self {
            backend,
            features,
            mac,
            packet: ETHERNET + usize::from(mtu),
            control: Control::new(pairs),
            control_queue: 2 * pairs,
            offload: Offload::default(),
            buffers: std::iter::repeat_with(Buffers::default).take(pairs).collect(),
            pairs: 1,
            flows: Flows::default(),
            buffer: vec![0; FRAME_MAX].into_boxed_slice(),
            failing: faults.counter(),
            sending: Late::new(faults, waker),
            coming: Late::new(faults, waker),
        };
        let backend = one.backend.clone();
        let mut backend = lock(&backend);
        backend.reset();
        backend.set_mac(mac);
        one.set_offload(&mut **backend, Offload::of(features));
        one
    }

    /// Takes over what the driver had set.
    pub(super) fn resume(&mut self, driver: &NetDriverV2) -> Result<(), StateError> {
        let offload = driver.settings.offload(self.features)?;
        self.control.filter = driver.settings.filter()?;
        self.pairs = driver.pairs_of(self.buffers.len())?;
        self.mac = driver.settings.mac;
        let backend = self.backend.clone();
        let mut backend = lock(&backend);
        backend.set_mac(self.mac);
        self.set_offload(&mut **backend, offload);
        Ok(())
    }

    fn set_offload(&mut self, backend: &mut dyn Backend, offload: Offload) {
        self.offload = offload;
        backend.set_offload(offload);
    }

    fn control(&mut self, queues: &mut Queues, backend: &mut dyn Backend) -> Result<(), Broken> {
        let (control, features) = (&mut self.control, self.features);
        queues.serve(self.control_queue, |chain| control.serve(chain, features))?;
        if let Some(mac) = self.control.new_address.take() {
            self.mac = mac;
            backend.set_mac(mac);
        }
        if let Some(offload) = self.control.new_offload.take() {
            self.set_offload(backend, offload);
        }
        if let Some(pairs) = self.control.new_pairs.take() {
            self.set_pairs(queues, pairs);
        }
        Ok(())
    }

    /// From now on these are in use; the others' buffers wait in their queues again.
    fn set_pairs(&mut self, queues: &mut Queues, pairs: usize) {
        for pair in pairs..self.pairs {
            if let Some(queue) = queues.get(receive_queue(pair)) {
                self.buffers[pair].put_back(queue);
            }
        }
        self.pairs = pairs;
    }

    /// Sends what the driver has, for a turn of each queue. True: it may have more.
    ///
    /// The queues of pairs out of use are looked at, too: what was in them before is sent.
    fn transmit(&mut self, queues: &mut Queues, backend: &mut dyn Backend) -> Result<bool, Broken> {
        while let Some((pair, chain)) = self.sending.pop() {
            let queue = queues.get(transmit_queue(pair)).expect("its chain came from there");
            self.send((pair, queue), backend, chain);
        }
        let mut more = false;
        for pair in 0..self.buffers.len() {
            let Some(queue) = queues.get(transmit_queue(pair)) else { continue };
            more |= self.transmit_one(pair, queue, backend)?;
            queues.signal(transmit_queue(pair));
        }
        Ok(more)
    }

    /// A queue's part of a turn. True: it may have more.
    fn transmit_one(
        &mut self,
        pair: usize,
        queue: &mut Queue,
        backend: &mut dyn Backend,
    ) -> Result<bool, Broken> {
        queue.silence_doorbell();
        let mut bytes = 0;
        for _ in 0..TURN_FRAMES / self.pairs {
            if self.sending.len() >= LATE {
                return Ok(false); // only time helps, and it wakes us
            }
            let Some(chain) = queue.pop()? else { return Ok(queue.arm_doorbell()) };
            match self.sending.begin() {
                Some(begun) => self.sending.push(begun, (pair, chain)),
                None => bytes += self.send((pair, queue), backend, chain),
            }
            if bytes >= TURN_BYTES / self.pairs {
                break;
            }
        }
        Ok(true)
    }

    /// Sends what a chain holds, unless it is to be lost; gives its length.
    fn send(
        &mut self,
        (pair, queue): (usize, &mut Queue),
        backend: &mut dyn Backend,
        mut chain: Chain,
    ) -> usize {
        let mut bytes = 0;
        if let Some((header, length)) = self.take(&mut chain) {
            bytes = length;
            if self.pairs > 1 {
                self.flows.sent(&self.buffer[..length], pair);
            }
            if !self.failing.hits() {
                backend.send(&header, &self.buffer[..length]);
            }
        }
        queue.push(chain);
        bytes
    }

    /// A frame of the driver in the buffer, if it is one that it may send.
    fn take(&mut self, chain: &mut Chain) -> Option<(Header, usize)> {
        let mut bytes = [0; HEADER_BYTES];
        if chain.read(&mut bytes) < bytes.len() {
            return None;
        }
        let header = Header::decode(*bytes.first_chunk().expect("twelve bytes"));
        let length = chain.readable() as usize;
        if !(FRAME_MIN..=FRAME_MAX).contains(&length) || !self.is_allowed(&header, length) {
            return None;
        }
        chain.read(&mut self.buffer[..length]);
        Some((header, length))
    }

    /// Whether a header is of what was negotiated, and its places lie in the frame (5.1.6.2).
    fn is_allowed(&self, header: &Header, length: usize) -> bool {
        let unfinished = header.flags & Header::NEEDS_CHECKSUM != 0;
        let end = usize::from(header.checksum_start) + usize::from(header.checksum_offset) + 2;
        if unfinished && (self.features & CSUM == 0 || end > length) {
            return false;
        }
        let feature = match header.segmentation & !Header::ECN {
            0 => return true,
            Header::TCP4 => HOST_TSO4,
            Header::TCP6 => HOST_TSO6,
            _ => return false,
        };
        self.features & feature != 0 && unfinished && header.segment > 0
    }

    fn shape(&self) -> Shape {
        Shape {
            merges: self.features & MRG_RXBUF != 0,
            packet: self.packet,
            large: self.offload.tcp4 || self.offload.tcp6,
        }
    }

    /// Takes buffers ahead. Bytes that a frame may have now, whichever pair it is for; `None` if one has no
    /// room even for an ordinary one.
    fn make_room(&mut self, queues: &mut Queues) -> Result<Option<usize>, Broken> {
        let shape = self.shape();
        for (pair, buffers) in self.buffers[..self.pairs].iter_mut().enumerate() {
            if let Some(queue) = queues.get(receive_queue(pair)) {
                buffers.fill(queue, shape)?;
            }
        }
        let used = self.buffers[..self.pairs].iter().filter(|buffers| buffers.is_used());
        // `None` comes before any room.
        Ok(used.map(|buffers| buffers.room(shape)).min().flatten())
    }

    /// The pair that a frame goes to.
    fn pair_of(&self, frame: &[u8]) -> usize {
        let pair = match self.pairs {
            1 => 0,
            pairs => self.flows.pair(frame, pairs),
        };
        let used = |pair: &usize| self.buffers[*pair].is_used();
        if used(&pair) { pair } else { (0..self.pairs).find(used).unwrap_or(0) }
    }

    /// Gives the driver what has come, for a turn. True: there may be more.
    fn receive(&mut self, queues: &mut Queues, backend: &mut dyn Backend) -> Result<bool, Broken> {
        for pair in 0..self.pairs {
            if let Some(queue) = queues.get(receive_queue(pair)) {
                queue.silence_doorbell();
            }
        }
        for _ in 0..TURN_FRAMES {
            let next = match self.make_room(queues)? {
                Some(room) => self.next_frame(backend, room),
                None => None,
            };
            let Some((header, length)) = next else { return Ok(self.arm_receive(queues)) };
            if self.failing.hits() {
                continue;
            }
            let frame = &self.buffer[..length];
            let to = self.buffer.first_chunk().expect("a buffer of the largest size");
            if self.features & CTRL_RX == 0 || self.control.filter.passes(*to, self.mac) {
                let pair = self.pair_of(frame);
                let queue = queues.get(receive_queue(pair)).expect("its buffers came from there");
                self.buffers[pair].give(queue, &header, frame);
            }
        }
        Ok(true)
    }

    /// Asks for the doorbells of pairs that want more buffers for what may come, or has come. True: there are
    /// some already.
    fn arm_receive(&mut self, queues: &mut Queues) -> bool {
        let shape = self.shape();
        // One that came too large for what is there waits for more buffers.
        let late = self.coming.due().map(|(_, frame)| self.pair_of(frame));
        let mut more = false;
        for pair in 0..self.pairs {
            let buffers = &self.buffers[pair];
            let wants = buffers.room(shape).is_none() || late == Some(pair) && buffers.lacks(shape);
            if let Some(queue) = queues.get(receive_queue(pair)).filter(|_| wants) {
                more |= queue.arm_doorbell();
            }
        }
        more
    }

    /// The next frame that has come, in the buffer; its pair has room for it, as for any of `room` bytes.
    fn next_frame(&mut self, backend: &mut dyn Backend, room: usize) -> Option<(Header, usize)> {
        while let Some(begun) = self.coming.begin().filter(|_| self.coming.len() < LATE) {
            let Some((header, length)) = backend.receive(&mut self.buffer[..room]) else { break };
            self.coming.push(begun, (header, self.buffer[..length].into()));
        }
        if self.coming.begin().is_none() {
            return backend.receive(&mut self.buffer[..room]);
        }
        let shape = self.shape();
        loop {
            let frame = &self.coming.due()?.1;
            let buffers = &self.buffers[self.pair_of(frame)];
            let fits = buffers.room(shape).is_some_and(|room| frame.len() <= room);
            if !fits && buffers.lacks(shape) {
                return None;
            }
            let (header, frame) = self.coming.pop()?;
            // The driver's buffers have become too small for good if it is longer.
            if fits {
                self.buffer[..frame.len()].copy_from_slice(&frame);
                return Some((header, frame.len()));
            }
        }
    }
}

impl Handler for NetHandler {
    fn process(&mut self, queues: &mut Queues) -> Result<(), Broken> {
        let shared = self.backend.clone();
        let backend = &mut **lock(&shared);
        // First, because it takes what doorbells have added to the backend's event.
        backend.poll();
        self.control(queues, backend)?;
        let mut more = self.transmit(queues, backend)?;
        more |= self.receive(queues, backend)?;
        (0..self.pairs).for_each(|pair| queues.signal(receive_queue(pair)));
        backend.settle();
        if more {
            queues.again();
        }
        Ok(())
    }

    /// What was not sent yet is asked for anew; what has not come yet is lost, as frames may be.
    fn quiesce(&mut self, queues: &mut Queues) {
        drop(self.coming.take_all());
        for (pair, chain) in self.sending.take_all() {
            queues.get(transmit_queue(pair)).expect("its chain came from there").put_back(chain);
        }
        for (pair, buffers) in self.buffers.iter_mut().enumerate() {
            if let Some(queue) = queues.get(receive_queue(pair)) {
                buffers.put_back(queue);
            }
        }
    }

    fn save(&self, model: &mut ModelV1) {
        if let ModelV1::Net(card) = model {
            let settings = NetDriverV1::new(self.mac, self.offload, &self.control.filter);
            card.driver = Some(NetDriverV2 { settings, pairs: self.pairs as u16 });
        }
    }
}

fn lock(backend: &Mutex<Box<dyn Backend>>) -> MutexGuard<'_, Box<dyn Backend>> {
    backend.lock().unwrap_or_else(PoisonError::into_inner)
}
