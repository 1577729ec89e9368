//! One TCP connection: the guest's end is spoken here (RFC 9293), the other is a host socket.
//!
//! The guest hears of a connection only once the host has it, and of a failure by a reset. Invariant: a
//! connection that is `Open` has exchanged SYNs; it ends when both directions have, or by a reset.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use smoltcp::wire::{TcpControl, TcpRepr};

use super::Flow;
use super::receive::Receive;
use super::send::{Acknowledgement, Send};
use super::sequence;
use crate::dns::PATIENCE;
use crate::host::{Ready, Stream};

/// The host tries to connect no longer than this.
const CONNECT: Duration = Duration::from_secs(120);
/// A guest that has not answered this long is asked whether it is still there, ...
const IDLE: Duration = Duration::from_secs(7200);
/// ... again after this time ...
const PROBE: Duration = Duration::from_secs(75);
/// ... this many times.
const PROBES: u8 = 4;
/// For an answer to a repeated FIN; nobody else can use the guest's port anyway.
const TIME_WAIT: Duration = Duration::from_secs(2);
/// Duplicate acknowledgements that wait to be sent at most.
const DUPLICATES: u8 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The guest's SYN is here, the host connects.
    Connecting,
    /// The host is connected, our SYN-ACK is under way.
    SynReceived,
    /// Somebody connected to a forwarded port, our SYN is under way.
    SynSent,
    Open,
    /// Both directions have ended, the guest's last.
    TimeWait,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Goes,
    /// In order; nothing is owed to anybody.
    Ended,
    /// The guest gets a reset.
    ResetGuest,
    /// The guest has reset, so the host side gets one.
    ResetHost,
}

pub(super) struct Connection<S> {
    pub(super) flow: Flow,
    pub(super) state: State,
    pub(super) stream: S,
    pub(super) send: Send,
    pub(super) receive: Receive,
    /// Window scaling was agreed on.
    pub(super) scaling: bool,
    /// It is in the list of those with something to send.
    pub(super) queued: bool,
    /// It has the larger buffers.
    pub(super) large: bool,
    pub(super) ack_due: bool,
    pub(super) duplicates_due: u8,
    pub(super) probe_due: bool,
    /// Where else the host may connect to, the last one first.
    pub(super) targets: Vec<SocketAddr>,
    readable: bool,
    probes: u8,
    deadline: Duration,
}

/// What a new connection begins with.
pub(super) struct Start {
    pub(super) flow: Flow,
    pub(super) state: State,
    /// Our initial sequence number.
    pub(super) first: u32,
    /// The guest's first byte, if its SYN is known.
    pub(super) next: u32,
    pub(super) capacity: usize,
    pub(super) large: bool,
}

impl<S: Stream> Connection<S> {
    pub(super) fn new(start: &Start, stream: S, now: Duration) -> Self {
        Self {
            flow: start.flow,
            state: start.state,
            stream,
            send: Send::new(start.first, start.capacity),
            receive: Receive::new(start.next, start.capacity),
            scaling: false,
            queued: false,
            large: start.large,
            ack_due: false,
            duplicates_due: 0,
            probe_due: false,
            targets: Vec::new(),
            readable: true,
            probes: 0,
            deadline: now + CONNECT,
        }
    }

    /// The host connects, for so long; then to the next of `targets`.
    pub(super) fn connects(&mut self, targets: Vec<SocketAddr>, now: Duration) {
        self.deadline = now + if targets.is_empty() { CONNECT } else { PATIENCE };
        self.targets = targets;
    }

    /// Takes the options of the guest's SYN; `mss` is what the link allows.
    pub(super) fn agree(&mut self, syn: &TcpRepr<'_>, mss: usize) {
        let theirs = usize::from(syn.max_seg_size.unwrap_or(536)).max(64);
        self.send.segment_max = theirs.min(mss);
        self.scaling = syn.window_scale.is_some();
        if !self.scaling {
            self.receive.limit_to_unscaled();
        }
        self.send.scale = syn.window_scale.unwrap_or(0).min(14);
        self.send.window = usize::from(syn.window_len);
        self.send.selective = syn.sack_permitted;
    }

    /// The host's socket has become ready.
    pub(super) fn host_event(&mut self, ready: Ready, scratch: &mut [u8], now: Duration) -> Fate {
        self.readable |= ready.read;
        self.receive.writable |= ready.write;
        if self.state == State::Connecting {
            match self.stream.connected() {
                Ok(true) => {
                    self.state = State::SynReceived;
                    self.deadline = now + IDLE;
                }
                Ok(false) => return Fate::Goes,
                Err(_) => return Fate::ResetGuest,
            }
        }
        self.move_bytes(scratch, now)
    }

    /// Moves what can move between the buffers and the host.
    pub(super) fn move_bytes(&mut self, scratch: &mut [u8], now: Duration) -> Fate {
        if self.state == State::TimeWait {
            return Fate::Goes;
        }
        let moved = self.fill(scratch).and_then(|()| self.receive.flush(&mut self.stream));
        if moved.is_err() {
            return Fate::ResetGuest;
        }
        self.send.watch(now);
        self.ack_due |= self.state == State::Open && self.receive.has_opened();
        self.end(now)
    }

    /// Reads what the host has, as far as there is room.
    fn fill(&mut self, scratch: &mut [u8]) -> io::Result<()> {
        while self.readable && !self.send.finished && self.send.room() > 0 {
            let most = self.send.room().min(scratch.len());
            match self.stream.receive(&mut scratch[..most]) {
                Ok(0) => self.send.finished = true,
                Ok(count) => self.send.buffer.extend(&scratch[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether both directions are through.
    fn end(&mut self, now: Duration) -> Fate {
        if self.state != State::Open || !self.send.fin_acked || !self.receive.is_done() {
            return Fate::Goes;
        }
        // The guest's FIN has still to be acknowledged, and ours may have been acknowledged first.
        self.state = State::TimeWait;
        self.deadline = now + TIME_WAIT;
        Fate::Goes
    }

    /// A segment of the guest.
    pub(super) fn segment(&mut self, segment: &TcpRepr<'_>, mss: usize, now: Duration) -> Fate {
        match self.state {
            State::Connecting => match segment.control {
                TcpControl::Rst if segment.seq_number.0 as u32 == self.receive.next => {
                    Fate::ResetHost
                }
                _ => Fate::Goes,
            },
            State::SynSent => self.answer_to_syn(segment, mss, now),
            State::SynReceived | State::Open | State::TimeWait => self.later_segment(segment, now),
        }
    }

    /// RFC 9293, section 3.10.7.3.
    fn answer_to_syn(&mut self, segment: &TcpRepr<'_>, mss: usize, now: Duration) -> Fate {
        let ours = segment.ack_number.map(|ack| ack.0 as u32) == Some(self.send.next)
            && self.send.next != self.send.una;
        match segment.control {
            TcpControl::Rst if ours => Fate::ResetHost,
            TcpControl::Syn if ours => {
                self.agree(segment, mss);
                self.receive.begin(sequence::plus(segment.seq_number.0 as u32, 1));
                // The window of a SYN is not scaled.
                let scale = std::mem::take(&mut self.send.scale);
                let ack = Acknowledgement {
                    number: self.send.next,
                    at: self.receive.next,
                    window: segment.window_len,
                    bare: false,
                    blocks: [None; 3],
                };
                self.send.acknowledged(&ack, now);
                self.send.scale = scale;
                self.state = State::Open;
                self.ack_due = true;
                self.heard(now);
                Fate::Goes
            }
            _ => Fate::Goes,
        }
    }

    /// RFC 9293, section 3.10.7.4.
    fn later_segment(&mut self, segment: &TcpRepr<'_>, now: Duration) -> Fate {
        let at = segment.seq_number.0 as u32;
        let fin = segment.control == TcpControl::Fin;
        let syn = segment.control == TcpControl::Syn;
        let length = segment.payload.len() + usize::from(fin);
        if segment.control == TcpControl::Rst {
            if at == self.receive.next {
                // A guest that has closed for good answers so to a late repetition: what the host has still to
                // pass on is not to be lost for that.
                let through = self.state == State::TimeWait;
                return if through { Fate::Ended } else { Fate::ResetHost };
            }
            // In the window, but not exact: whoever it is must prove it (RFC 5961, section 3).
            self.ack_due |= self.receive.accepts(at, 0);
            return Fate::Goes;
        }
        if syn {
            // The SYN again: so is our answer. Elsewhere: a challenge (RFC 5961, section 4).
            self.send.resend |= self.state == State::SynReceived;
            self.ack_due |= self.state != State::SynReceived;
            return Fate::Goes;
        }
        if !self.receive.accepts(at, length) {
            self.ack_due |= self.state != State::SynReceived;
            self.heard(now);
            return Fate::Goes;
        }
        let Some(ack) = segment.ack_number.map(|ack| ack.0 as u32) else { return Fate::Goes };
        if !self.send.can_acknowledge(ack) {
            if self.state == State::SynReceived {
                return Fate::ResetGuest;
            }
            self.ack_due = true;
            return Fate::Goes;
        }
        self.heard(now);
        let ack = Acknowledgement {
            number: ack,
            at,
            window: segment.window_len,
            bare: length == 0,
            blocks: segment.sack_ranges,
        };
        self.send.acknowledged(&ack, now);
        if self.state == State::SynReceived {
            if !self.send.syn_acked {
                return Fate::Goes;
            }
            self.state = State::Open;
        }
        self.take(segment, at, fin)
    }

    fn take(&mut self, segment: &TcpRepr<'_>, at: u32, fin: bool) -> Fate {
        if self.state != State::Open || (segment.payload.is_empty() && !fin) {
            return Fate::Goes;
        }
        match self.receive.segment(at, segment.payload, fin, &mut self.stream) {
            Ok(duplicate) => {
                self.ack_due = true;
                if duplicate {
                    self.duplicates_due = (self.duplicates_due + 1).min(DUPLICATES);
                }
                Fate::Goes
            }
            Err(_) => Fate::ResetGuest,
        }
    }

    fn heard(&mut self, now: Duration) {
        if self.state != State::TimeWait {
            self.deadline = now + IDLE;
        }
        self.probes = 0;
        self.probe_due = false;
    }

    /// When [`Connection::tick`] has something to do.
    pub(super) fn next_deadline(&self) -> Duration {
        self.send.timer.map_or(self.deadline, |timer| timer.min(self.deadline))
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Duration) -> Fate {
        if self.send.timer.is_some_and(|timer| timer <= now) && !self.send.expired(now) {
            return Fate::ResetGuest;
        }
        if self.deadline > now {
            return Fate::Goes;
        }
        match self.state {
            State::TimeWait => Fate::Ended,
            State::Connecting => Fate::ResetGuest,
            _ if self.probes == PROBES => Fate::ResetGuest,
            _ => {
                self.probes += 1;
                self.probe_due = true;
                self.deadline = now + PROBE;
                Fate::Goes
            }
        }
    }
}
