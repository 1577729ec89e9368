//! Frames between queues and backend, on the worker's thread.
//!
//! Received buffers are taken from the ring ahead of a frame, so that the backend is asked for no more
//! than fits; they wait in `free`. Invariant: at most as many chains wait there as hold one frame of
//! the largest size, or one chain without mergeable buffers. Where frames are delayed, [`LATE`] of either
//! direction are under way at most; then the others wait in the ring, and with the backend.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::control::Control;
use super::filter::Mac;
use super::header::{HEADER_BYTES, Header};
use super::saved::NetDriverV1;
use super::{Backend, CSUM, CTRL_RX, FRAME_MAX, HOST_TSO4, HOST_TSO6, MRG_RXBUF, Offload};
use crate::device::{Handler, Queues};
use crate::faults::{Counter, Faults, Late};
use crate::queue::{Broken, Chain, Queue};
use crate::state::{ModelV1, StateError};
use crate::worker::Waker;

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const CONTROL: usize = 2;

/// Bytes of frames sent before the other direction has its turn.
const TURN_BYTES: usize = 1 << 20;
/// Frames of a turn.
const TURN_FRAMES: usize = 64;
/// Delayed frames of a direction.
const LATE: usize = 256;
const ETHERNET: usize = 14;
/// A frame that has no Ethernet header is none.
const FRAME_MIN: usize = ETHERNET;

type Shared = Arc<Mutex<Box<dyn Backend>>>;

pub(super) struct NetHandler {
    backend: Shared,
    features: u64,
    /// The card's own address.
    mac: Mac,
    /// The largest frame that is one packet on the link.
    packet: usize,
    control: Control,
    offload: Offload,
    free: VecDeque<Chain>,
    /// Bytes that all of `free` hold.
    room: usize,
    buffer: Box<[u8]>,
    /// Frames that get lost because somebody wants it.
    failing: Counter,
    /// Frames of the driver that are not yet to be sent.
    sending: Late<Chain>,
    /// Frames for it that have not yet come.
    coming: Late<(Header, Box<[u8]>)>,
}

impl NetHandler {
    pub(super) fn new(
        backend: Shared,
        features: u64,
        mac: Mac,
        mtu: u16,
        faults: (Faults, &Waker),
    ) -> Self {
        let (faults, waker) = faults;
        let mut one = Self {
            backend,
            features,
            mac,
            packet: ETHERNET + usize::from(mtu),
            control: Control::default(),
            offload: Offload::default(),
            free: VecDeque::new(),
            room: 0,
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
    pub(super) fn resume(&mut self, driver: &NetDriverV1) -> Result<(), StateError> {
        let offload = driver.offload(self.features)?;
        self.control.filter = driver.filter()?;
        self.mac = driver.mac;
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
        queues.serve(CONTROL, |chain| control.serve(chain, features))?;
        if let Some(mac) = self.control.new_address.take() {
            self.mac = mac;
            backend.set_mac(mac);
        }
        if let Some(offload) = self.control.new_offload.take() {
            self.set_offload(backend, offload);
        }
        Ok(())
    }

    /// Sends what the driver has, for a turn. True: it may have more.
    fn transmit(&mut self, queue: &mut Queue, backend: &mut dyn Backend) -> Result<bool, Broken> {
        while let Some(chain) = self.sending.pop() {
            self.send(queue, backend, chain);
        }
        queue.silence_doorbell();
        let mut bytes = 0;
        for _ in 0..TURN_FRAMES {
            if self.sending.len() >= LATE {
                return Ok(false); // only time helps, and it wakes us
            }
            let Some(chain) = queue.pop()? else { return Ok(queue.arm_doorbell()) };
            match self.sending.begin() {
                Some(begun) => self.sending.push(begun, chain),
                None => bytes += self.send(queue, backend, chain),
            }
            if bytes >= TURN_BYTES {
                break;
            }
        }
        Ok(true)
    }

    /// Sends what a chain holds, unless it is to be lost; gives its length.
    fn send(&mut self, queue: &mut Queue, backend: &mut dyn Backend, mut chain: Chain) -> usize {
        let mut bytes = 0;
        if let Some((header, length)) = self.take(&mut chain) {
            bytes = length;
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

    /// Bytes of buffers that are taken ahead.
    fn wanted_room(&self) -> usize {
        let large = self.offload.tcp4 || self.offload.tcp6;
        match (self.features & MRG_RXBUF != 0, large) {
            (false, _) => 1, // any chain: a frame does not go on in the next
            (true, false) => HEADER_BYTES + self.packet,
            (true, true) => HEADER_BYTES + FRAME_MAX,
        }
    }

    /// Takes buffers ahead until the largest frame that may come fits.
    fn make_room(&mut self, queue: &mut Queue) -> Result<(), Broken> {
        let wanted = self.wanted_room();
        while self.room < wanted {
            let Some(chain) = queue.pop()? else { break };
            if (chain.writable() as usize) < HEADER_BYTES {
                return Err(Broken::Protocol("a network buffer too small for a header"));
            }
            self.room += chain.writable() as usize;
            self.free.push_back(chain);
        }
        Ok(())
    }

    /// Bytes that a frame may have now; `None` if not even an ordinary one fits.
    fn frame_room(&self) -> Option<usize> {
        let merges = self.features & MRG_RXBUF != 0;
        let room = match merges {
            true => self.room,
            false => self.free.front().map_or(0, |chain| chain.writable() as usize),
        };
        // A driver whose buffers are smaller than the link's packets gets what fits.
        let enough = room >= HEADER_BYTES + self.packet || (!merges && room > HEADER_BYTES);
        enough.then(|| (room - HEADER_BYTES).min(FRAME_MAX))
    }

    /// Gives the driver what has come, for a turn. True: there may be more.
    fn receive(&mut self, queue: &mut Queue, backend: &mut dyn Backend) -> Result<bool, Broken> {
        queue.silence_doorbell();
        for _ in 0..TURN_FRAMES {
            self.make_room(queue)?;
            let Some(room) = self.frame_room() else { return Ok(queue.arm_doorbell()) };
            let Some((header, length)) = self.next_frame(backend, room) else {
                // One that came too large for what is there waits for more buffers.
                return Ok(self.coming.due().is_some() && queue.arm_doorbell());
            };
            if self.failing.hits() {
                continue;
            }
            let to = self.buffer.first_chunk().expect("a buffer of the largest size");
            if self.features & CTRL_RX == 0 || self.control.filter.passes(*to, self.mac) {
                self.give(queue, &header, length);
            }
        }
        Ok(true)
    }

    /// The next frame that has come, in the buffer; it has at most `room` bytes.
    fn next_frame(&mut self, backend: &mut dyn Backend, room: usize) -> Option<(Header, usize)> {
        while let Some(begun) = self.coming.begin().filter(|_| self.coming.len() < LATE) {
            let Some((header, length)) = backend.receive(&mut self.buffer[..room]) else { break };
            self.coming.push(begun, (header, self.buffer[..length].into()));
        }
        if self.coming.begin().is_none() {
            return backend.receive(&mut self.buffer[..room]);
        }
        loop {
            let length = self.coming.due()?.1.len();
            if length > room && self.room < self.wanted_room() {
                return None;
            }
            let (header, frame) = self.coming.pop()?;
            // The driver's buffers have become too small for good if it is longer.
            if length <= room {
                self.buffer[..length].copy_from_slice(&frame);
                return Some((header, length));
            }
        }
    }

    /// Puts the frame in the buffer into as many chains as it takes.
    fn give(&mut self, queue: &mut Queue, header: &Header, length: usize) {
        let (mut covered, mut count) = (0, 0);
        while covered < HEADER_BYTES + length {
            covered += self.free[count].writable() as usize;
            count += 1;
        }
        self.room -= covered;
        let mut bytes = [0; HEADER_BYTES];
        bytes[..10].copy_from_slice(&header.encode());
        bytes[10..].copy_from_slice(&(count as u16).to_le_bytes());
        self.free[0].write(&bytes);
        let mut done = 0;
        for chain in self.free.iter_mut().take(count) {
            done += chain.write(&self.buffer[done..length]);
        }
        queue.push_all(self.free.drain(..count));
    }
}

impl Handler for NetHandler {
    fn process(&mut self, queues: &mut Queues) -> Result<(), Broken> {
        let shared = self.backend.clone();
        let backend = &mut **lock(&shared);
        // First, because it takes what doorbells have added to the backend's event.
        backend.poll();
        self.control(queues, backend)?;
        let mut more = false;
        if let Some(queue) = queues.get(TRANSMIT) {
            more |= self.transmit(queue, backend)?;
            queues.signal(TRANSMIT);
        }
        if let Some(queue) = queues.get(RECEIVE) {
            more |= self.receive(queue, backend)?;
            queues.signal(RECEIVE);
        }
        backend.settle();
        if more {
            queues.again();
        }
        Ok(())
    }

    /// What was not sent yet is asked for anew; what has not come yet is lost, as frames may be.
    fn quiesce(&mut self, queues: &mut Queues) {
        drop(self.coming.take_all());
        if let Some(queue) = queues.get(TRANSMIT) {
            self.sending.take_all().for_each(|chain| queue.put_back(chain));
        }
        self.room = 0;
        if let Some(queue) = queues.get(RECEIVE) {
            self.free.drain(..).for_each(|chain| queue.put_back(chain));
        }
    }

    fn save(&self, model: &mut ModelV1) {
        if let ModelV1::Net(card) = model {
            card.driver = Some(NetDriverV1::new(self.mac, self.offload, &self.control.filter));
        }
    }
}

fn lock(backend: &Mutex<Box<dyn Backend>>) -> MutexGuard<'_, Box<dyn Backend>> {
    backend.lock().unwrap_or_else(PoisonError::into_inner)
}
