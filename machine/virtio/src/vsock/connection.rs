//! One connection: what waits in either direction, who may still send, and credit (virtio 1.2,
//! 5.10.6.3).
//!
//! ```text
//! guest --DATA--> inbound (at most BUFFER bytes) --write--> stream      what was written: credit
//! guest <--DATA-- outbound (at most STAGE bytes) <--read--- stream      only as the guest has room
//! ```
//!
//! Invariants: never more bytes are under way to the guest than it said it has room for; a guest
//! that sends more than it was given room for loses the connection.

use std::collections::VecDeque;
use std::io::ErrorKind;

use super::Stream;
use super::packet::{Header, NO_MORE_READS, NO_MORE_WRITES, Ports, operation};
use super::saved::ConnectionV1;

/// Room for what a guest sent and the host did not take yet.
pub(super) const BUFFER: u32 = 256 << 10;
/// What is read from the host at a time.
pub(super) const STAGE: usize = 64 << 10;

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Lives,
    /// It is over; the guest shall be told by a RESET.
    Reset,
}

pub(super) struct Connection {
    ports: Ports,
    stream: Box<dyn Stream>,
    /// The guest has answered, or asked.
    open: bool,
    inbound: VecDeque<u8>,
    outbound: Vec<u8>,
    outbound_done: usize,
    /// Whether reads and writes are worth a try.
    readable: bool,
    writable: bool,
    /// What the guest said of its own room, and what was sent to it.
    guest_buffer: u32,
    guest_forwarded: u32,
    sent: u32,
    /// What of the guest's data went to the stream, and what it was last told of that.
    forwarded: u32,
    told: u32,
    /// Directions that the guest closed, and those that we do and told of.
    guest_closed: u32,
    closed: u32,
    closed_told: u32,
    /// What the guest is waiting for.
    owes_request: bool,
    owes_response: bool,
    owes_credit: bool,
}

impl Connection {
    /// The guest asked for it, and `stream` is where it leads.
    pub(super) fn asked(ports: Ports, stream: Box<dyn Stream>) -> Self {
        Self { open: true, owes_response: true, ..Self::new(ports, stream) }
    }

    /// The host asks.
    pub(super) fn asking(ports: Ports, stream: Box<dyn Stream>) -> Self {
        Self { owes_request: true, ..Self::new(ports, stream) }
    }

    fn new(ports: Ports, stream: Box<dyn Stream>) -> Self {
        Self {
            ports,
            stream,
            open: false,
            inbound: VecDeque::new(),
            outbound: Vec::new(),
            outbound_done: 0,
            readable: true,
            writable: true,
            guest_buffer: 0,
            guest_forwarded: 0,
            sent: 0,
            forwarded: 0,
            told: 0,
            guest_closed: 0,
            closed: 0,
            closed_told: 0,
            owes_request: false,
            owes_response: false,
            owes_credit: false,
        }
    }

    /// One that lived when it was saved, with its stream.
    pub(super) fn resume(ports: Ports, stream: Box<dyn Stream>, saved: ConnectionV1) -> Self {
        let [owes_request, owes_response, owes_credit] = saved.owes;
        Self {
            open: saved.open,
            inbound: saved.inbound.into(),
            outbound: saved.outbound,
            guest_buffer: saved.guest_buffer,
            guest_forwarded: saved.guest_forwarded,
            sent: saved.sent,
            forwarded: saved.forwarded,
            told: saved.told,
            guest_closed: saved.guest_closed,
            closed: saved.closed,
            closed_told: saved.closed_told,
            owes_request,
            owes_response,
            owes_credit,
            ..Self::new(ports, stream)
        }
    }

    /// All but the stream and its readiness, which is tried anew.
    pub(super) fn save(&self) -> ConnectionV1 {
        ConnectionV1 {
            open: self.open,
            inbound: self.inbound.iter().copied().collect(),
            outbound: self.outbound[self.outbound_done..].to_vec(),
            guest_buffer: self.guest_buffer,
            guest_forwarded: self.guest_forwarded,
            sent: self.sent,
            forwarded: self.forwarded,
            told: self.told,
            guest_closed: self.guest_closed,
            closed: self.closed,
            closed_told: self.closed_told,
            owes: [self.owes_request, self.owes_response, self.owes_credit],
        }
    }

    /// Something happened to the stream.
    pub(super) fn stirred(&mut self, hung_up: bool) {
        (self.readable, self.writable) = (true, true);
        if hung_up {
            self.closed |= NO_MORE_READS;
        }
    }

    /// A packet of the guest's, its data apart.
    pub(super) fn take(&mut self, header: &Header, data: &[u8]) -> Fate {
        (self.guest_buffer, self.guest_forwarded) = (header.buffer, header.forwarded);
        match header.operation {
            operation::RESPONSE if !self.open && !self.owes_request => {
                self.open = true;
                self.stream.opened(self.ports.host);
            }
            operation::SHUTDOWN if self.open => {
                self.guest_closed |= header.flags & (NO_MORE_READS | NO_MORE_WRITES);
            }
            operation::DATA if self.open && self.guest_closed & NO_MORE_WRITES == 0 => {
                if self.inbound.len() + data.len() > BUFFER as usize {
                    return Fate::Reset;
                }
                self.inbound.extend(data);
            }
            operation::CREDIT_UPDATE if self.open => {}
            operation::CREDIT_REQUEST if self.open => self.owes_credit = true,
            _ => return Fate::Reset,
        }
        Fate::Lives
    }

    /// Moves what can be moved between buffers and stream.
    pub(super) fn pump(&mut self) -> Fate {
        if !self.open {
            return Fate::Lives;
        }
        while self.writable && !self.inbound.is_empty() {
            let (front, _) = self.inbound.as_slices();
            match self.stream.write(front) {
                Ok(count) => {
                    self.inbound.drain(..count.min(front.len()));
                    self.forwarded = self.forwarded.wrapping_add(count as u32);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Fate::Reset,
            }
        }
        if self.inbound.is_empty() && self.guest_closed & NO_MORE_WRITES != 0 {
            self.stream.no_more_writes();
            if self.guest_closed & NO_MORE_READS != 0 || self.drained() {
                return Fate::Reset;
            }
        }
        self.stage()
    }

    /// The host's end said all it had to say, and the guest was told.
    fn drained(&self) -> bool {
        self.closed_told & NO_MORE_WRITES != 0
    }

    /// Reads as much as the guest has room for, when what was read before is gone.
    fn stage(&mut self) -> Fate {
        let room = STAGE.min(self.credit() as usize);
        let wants = self.guest_closed & NO_MORE_READS == 0 && self.closed & NO_MORE_WRITES == 0;
        if !self.readable || !wants || room == 0 || self.outbound_done < self.outbound.len() {
            return Fate::Lives;
        }
        self.outbound.resize(room, 0);
        self.outbound_done = 0;
        let read = self.stream.read(&mut self.outbound);
        self.outbound.truncate(*read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => self.closed |= NO_MORE_WRITES,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Fate::Reset,
        }
        Fate::Lives
    }

    /// Bytes that the guest has room for.
    fn credit(&self) -> u32 {
        self.guest_buffer.saturating_sub(self.sent.wrapping_sub(self.guest_forwarded))
    }

    /// Whether there is something for the guest.
    pub(super) fn has_packet(&self) -> bool {
        let data = self.outbound_done < self.outbound.len();
        let late = self.forwarded.wrapping_sub(self.told) >= BUFFER / 2;
        self.owes_request
            || self.owes_response
            || self.open && (data || late || self.owes_credit || self.closed != self.closed_told)
    }

    /// The next packet for the guest, with at most `most` bytes of data behind its header.
    pub(super) fn packet(&mut self, guest_cid: u64, most: usize) -> (Header, Vec<u8>) {
        let mut data = Vec::new();
        let mut flags = 0;
        let operation = if std::mem::take(&mut self.owes_request) {
            operation::REQUEST
        } else if std::mem::take(&mut self.owes_response) {
            operation::RESPONSE
        } else if self.outbound_done < self.outbound.len() && most > 0 {
            let rest = &self.outbound[self.outbound_done..];
            data.extend_from_slice(&rest[..rest.len().min(most)]);
            self.outbound_done += data.len();
            self.sent = self.sent.wrapping_add(data.len() as u32);
            operation::DATA
        } else if self.closed != self.closed_told && self.outbound_done == self.outbound.len() {
            self.closed_told = self.closed;
            flags = self.closed;
            operation::SHUTDOWN
        } else {
            operation::CREDIT_UPDATE
        };
        self.owes_credit = false;
        self.told = self.forwarded;
        let header = Header {
            length: data.len() as u32,
            flags,
            buffer: BUFFER,
            forwarded: self.forwarded,
            ..Header::to_guest(guest_cid, self.ports, operation)
        };
        (header, data)
    }
}
