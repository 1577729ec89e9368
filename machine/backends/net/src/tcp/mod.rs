//! The TCP terminator: a table of connections, those with something to send, and their timers.
//!
//! Invariant: at most [`CONNECTIONS`] entries, of which [`LARGE`] have buffers of [`LARGE_BYTES`] each way
//! and the others of [`SMALL_BYTES`]: 95 MiB if a guest fills all of them.

mod connection;
mod early;
mod emit;
mod receive;
mod scoreboard;
mod send;
mod sequence;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use smoltcp::wire::{IpProtocol, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};

use self::connection::{Connection, Fate, Start, State};
use self::emit::Outlet;
use crate::context::Context;
use crate::frame::Outgoing;
use crate::host::{Host, Key, Ready, Stream as _};
use crate::slab::{Kind, Slab};

/// Connections at most.
pub const CONNECTIONS: usize = 1024;
/// Connections with large buffers at most.
const LARGE: usize = 32;
const LARGE_BYTES: usize = 512 << 10;
const SMALL_BYTES: usize = 32 << 10;

/// Both ends, as the guest sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Flow {
    pub(crate) guest: SocketAddr,
    pub(crate) remote: SocketAddr,
}

pub(crate) struct Tcp<H: Host> {
    table: Slab<Connection<H::Stream>>,
    flows: BTreeMap<Flow, Key>,
    ready: VecDeque<Key>,
    /// No timer expires earlier.
    timer: Option<Duration>,
    large: usize,
}

impl<H: Host> Tcp<H> {
    pub(crate) fn new() -> Self {
        Self {
            table: Slab::new(Kind::Stream, CONNECTIONS),
            flows: BTreeMap::new(),
            ready: VecDeque::new(),
            timer: None,
            large: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// A segment of the guest; `targets` says where its other end is on the host: the first that takes
    /// the connection.
    pub(crate) fn segment(
        &mut self,
        cx: &mut Context<H>,
        flow: Flow,
        segment: &TcpRepr<'_>,
        targets: impl FnOnce(&mut Context<H>) -> Vec<SocketAddr>,
    ) {
        let is_first = segment.control == TcpControl::Syn && segment.ack_number.is_none();
        let mut known = self.flows.get(&flow).copied();
        if let Some(key) = known
            && is_first
            && self.table.get_mut(key).is_some_and(|one| one.state == State::TimeWait)
        {
            self.settle(cx, key, Fate::Ended);
            known = None;
        }
        let Some(key) = known else {
            match segment.control {
                TcpControl::Rst => (),
                TcpControl::Syn if is_first => {
                    let targets = targets(cx);
                    self.open(cx, flow, segment, targets);
                }
                _ => Self::send_reset(cx, flow, &emit::reset_for(segment)),
            }
            return;
        };
        let mss = emit::link_mss(&cx.config, flow.guest.ip());
        let one = self.table.get_mut(key).expect("flows lead to entries");
        let mut fate = one.segment(segment, mss, cx.now);
        if fate == Fate::Goes && one.state != State::Connecting {
            fate = one.move_bytes(&mut cx.scratch, cx.now);
        }
        self.settle(cx, key, fate);
    }

    /// The guest wants to connect.
    fn open(
        &mut self,
        cx: &mut Context<H>,
        flow: Flow,
        segment: &TcpRepr<'_>,
        mut targets: Vec<SocketAddr>,
    ) {
        cx.counters.refused += u64::from(targets.is_empty());
        targets.reverse();
        let next = sequence::plus(segment.seq_number.0 as u32, 1);
        let start = self.start(cx, flow, State::Connecting, next);
        let mss = emit::link_mss(&cx.config, flow.guest.ip());
        while let Some(target) = targets.pop() {
            let made = self.insert(cx, &start, |host, key| host.connect(key, target));
            match made {
                Some(Ok(key)) => {
                    let one = self.table.get_mut(key).expect("it was just made");
                    one.agree(segment, mss);
                    one.connects(targets, cx.now);
                    // On a fake host, or to the host itself, it may be there already.
                    let fate = one.host_event(Ready::default(), &mut cx.scratch, cx.now);
                    return self.settle(cx, key, fate);
                }
                Some(Err(_)) => (),
                // The guest asks again in a second.
                None => return cx.counters.table_full += 1,
            }
        }
        Self::send_reset(cx, flow, &emit::reset_for(segment));
    }

    /// The host could not connect: perhaps it can to the next of the targets. Says whether it tries.
    fn connect_elsewhere(&mut self, cx: &mut Context<H>, key: Key) -> bool {
        let one = self.table.get_mut(key).expect("callers have it");
        while one.state == State::Connecting
            && let Some(target) = one.targets.pop()
        {
            if let Ok(stream) = cx.host.connect(key, target) {
                one.stream = stream;
                let others = std::mem::take(&mut one.targets);
                one.connects(others, cx.now);
                return true;
            }
        }
        false
    }

    /// Somebody has connected to a forwarded port, so the guest's `port` is. Says whether to try for more.
    pub(crate) fn forwarded(
        &mut self,
        cx: &mut Context<H>,
        listener: &mut H::Listener,
        guest: SocketAddr,
    ) -> bool {
        let Some(flow) = self.free_flow(cx, guest) else { return false };
        let start = self.start(cx, flow, State::SynSent, 0);
        let made = self.insert(cx, &start, |host, key| host.accept(listener, key));
        match made {
            Some(Ok(key)) => {
                self.settle(cx, key, Fate::Goes);
                true
            }
            Some(Err(_)) => false,
            None => {
                cx.counters.table_full += 1;
                false
            }
        }
    }

    /// A flow from the gateway to `guest` that is none yet.
    fn free_flow(&self, cx: &mut Context<H>, guest: SocketAddr) -> Option<Flow> {
        let gateway = cx.gateway_address(guest.ip())?;
        (0..64).find_map(|_| {
            let remote = SocketAddr::new(gateway, cx.random.port());
            let flow = Flow { guest, remote };
            (!self.flows.contains_key(&flow)).then_some(flow)
        })
    }

    fn start(&self, cx: &mut Context<H>, flow: Flow, state: State, next: u32) -> Start {
        let large = self.large < LARGE;
        let capacity = if large { LARGE_BYTES } else { SMALL_BYTES };
        Start { flow, state, first: cx.random.next() as u32, next, capacity, large }
    }

    fn insert(
        &mut self,
        cx: &mut Context<H>,
        start: &Start,
        make: impl FnOnce(&mut H, Key) -> std::io::Result<H::Stream>,
    ) -> Option<std::io::Result<Key>> {
        if self.table.is_full() {
            self.make_room(cx);
        }
        let made = self.table.insert_with(|key| {
            make(&mut cx.host, key).map(|stream| Connection::new(start, stream, cx.now))
        });
        if let Some(Ok(key)) = made {
            self.flows.insert(start.flow, key);
            self.large += usize::from(start.large);
        }
        made
    }

    /// Drops a connection that only waits for time to pass.
    fn make_room(&mut self, cx: &mut Context<H>) {
        let waits = self.table.iter().find(|(_, one)| one.state == State::TimeWait);
        if let Some(key) = waits.map(|(key, _)| key) {
            self.settle(cx, key, Fate::Ended);
        }
    }

    /// A host socket has become ready.
    pub(crate) fn host_event(&mut self, cx: &mut Context<H>, key: Key, ready: Ready) {
        if let Some(one) = self.table.get_mut(key) {
            let fate = one.host_event(ready, &mut cx.scratch, cx.now);
            self.settle(cx, key, fate);
        }
    }

    /// What is to be done after something happened to a connection.
    fn settle(&mut self, cx: &mut Context<H>, key: Key, mut fate: Fate) {
        if fate == Fate::ResetGuest && self.connect_elsewhere(cx, key) {
            fate = Fate::Goes;
        }
        let one = self.table.get_mut(key).expect("callers have it");
        if fate == Fate::Goes {
            if !one.queued && one.has_output() {
                one.queued = true;
                self.ready.push_back(key);
            }
            let due = one.next_deadline();
            self.timer = Some(self.timer.map_or(due, |timer| timer.min(due)));
            return;
        }
        let mut one = self.table.remove(key).expect("callers have it");
        self.flows.remove(&one.flow);
        self.large -= usize::from(one.large);
        if one.queued {
            self.ready.retain(|other| *other != key);
        }
        if fate != Fate::Ended {
            one.stream.abort();
        }
        if fate == Fate::ResetGuest {
            let (next, ack) = (one.send.next as i32, one.receive.next as i32);
            let (from, to) = (one.flow.remote.port(), one.flow.guest.port());
            let ack = (one.state != State::SynSent).then_some(TcpSeqNumber(ack));
            Self::send_reset(cx, one.flow, &emit::reset(from, to, TcpSeqNumber(next), ack));
        }
    }

    fn send_reset(cx: &mut Context<H>, flow: Flow, segment: &TcpRepr<'_>) {
        let ends = (flow.remote.ip(), flow.guest.ip());
        cx.packet(ends, IpProtocol::Tcp, segment.header_len(), |bytes| {
            segment.emit(
                &mut TcpPacket::new_unchecked(bytes),
                &ends.0.into(),
                &ends.1.into(),
                &smoltcp::phy::ChecksumCapabilities::default(),
            );
        });
    }

    pub(crate) fn has_output(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Writes the next segment of a connection; connections take turns.
    pub(crate) fn next_frame(
        &mut self,
        cx: &mut Context<H>,
        buffer: &mut [u8],
    ) -> Option<Outgoing> {
        // Each that is in the list has its turn at most once: a buffer too small for all ends this.
        for _ in 0..self.ready.len() {
            let key = self.ready.pop_front()?;
            let one = self.table.get_mut(key).expect("who goes leaves the list");
            one.queued = false;
            let outlet = Outlet { config: &cx.config, offload: cx.offload, now: cx.now };
            let frame = one.emit(&outlet, buffer);
            self.settle(cx, key, Fate::Goes);
            if frame.is_some() {
                return frame;
            }
        }
        None
    }

    /// When [`Tcp::tick`] should be called; it may turn out to have nothing to do.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.timer
    }

    /// Lets time pass.
    pub(crate) fn tick(&mut self, cx: &mut Context<H>) {
        if self.timer.is_none_or(|timer| timer > cx.now) {
            return;
        }
        self.timer = None;
        for key in self.table.keys() {
            let one = self.table.get_mut(key).expect("it was there a moment ago");
            let fate = if one.next_deadline() <= cx.now { one.tick(cx.now) } else { Fate::Goes };
            self.settle(cx, key, fate);
        }
    }

    /// The guest is gone: so is every connection.
    pub(crate) fn clear(&mut self, cx: &mut Context<H>) {
        for key in self.table.keys() {
            self.settle(cx, key, Fate::ResetHost);
        }
    }
}
