//! UDP: a host socket for each pair of ends, with a timeout; and datagrams to forwarded ports.
//!
//! Invariant: at most [`FLOWS`] flows, the one that was idle longest makes way. A socket is read only while
//! the queue of frames has room, so what comes too fast is dropped by the host, which counts it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::context::Context;
use crate::forward::Forwards;
use crate::frame::QUEUE_FRAMES;
use crate::host::{Datagrams, Host, Key};
use crate::icmp;
use crate::slab::{Kind, Slab};
use crate::tcp::Flow;

/// Flows at most.
pub const FLOWS: usize = 512;
/// A flow that only the guest has used (RFC 4787, section 4.3, asks for 120 seconds at least once it is in use).
const ONE_WAY: Duration = Duration::from_secs(60);
const BOTH_WAYS: Duration = Duration::from_secs(180);

enum Via<D> {
    /// A socket of its own.
    Socket(D),
    /// A forwarded port's socket, for this peer.
    Forward(Key, SocketAddr),
}

struct Entry<D> {
    flow: Flow,
    via: Via<D>,
    answered: bool,
    expires: Duration,
    waiting: bool,
}

pub(crate) struct Udp<H: Host> {
    table: Slab<Entry<H::Datagrams>>,
    flows: BTreeMap<Flow, Key>,
    peers: BTreeMap<(Key, SocketAddr), Key>,
    /// Those with something to read, as long as it has to wait.
    readable: VecDeque<Key>,
    /// No flow expires earlier.
    timer: Option<Duration>,
}

impl<H: Host> Udp<H> {
    pub(crate) fn new() -> Self {
        Self {
            table: Slab::new(Kind::Udp, FLOWS),
            flows: BTreeMap::new(),
            peers: BTreeMap::new(),
            readable: VecDeque::new(),
            timer: None,
        }
    }

    /// A datagram of the guest; `target` is where its other end is on the host, if anywhere.
    pub(crate) fn datagram(
        &mut self,
        cx: &mut Context<H>,
        forwards: &mut Forwards<H>,
        flow: Flow,
        payload: &[u8],
        target: Option<SocketAddr>,
    ) {
        let key = match self.flows.get(&flow) {
            Some(&key) => key,
            None => {
                let Some(target) = target else {
                    cx.counters.refused += 1;
                    return icmp::port_unreachable(cx, flow);
                };
                self.make_room();
                let made = self
                    .insert(cx.now, flow, |key| cx.host.datagrams_to(key, target).map(Via::Socket));
                let Ok(key) = made else { return icmp::port_unreachable(cx, flow) };
                key
            }
        };
        let entry = self.table.get_mut(key).expect("flows lead to entries");
        entry.touch(cx.now);
        let sent = match &mut entry.via {
            Via::Socket(socket) => socket.send(payload, None),
            Via::Forward(forward, peer) => forwards.send(*forward, payload, *peer),
        };
        self.failed(cx, key, sent.err());
    }

    fn insert(
        &mut self,
        now: Duration,
        flow: Flow,
        make: impl FnOnce(Key) -> io::Result<Via<H::Datagrams>>,
    ) -> io::Result<Key> {
        let made = self.table.insert_with(|key| {
            let via = make(key)?;
            Ok::<_, io::Error>(Entry {
                flow,
                via,
                answered: false,
                expires: now + ONE_WAY,
                waiting: false,
            })
        });
        let key = made.expect("callers have made room")?;
        self.flows.insert(flow, key);
        let expires = now + ONE_WAY;
        self.timer = Some(self.timer.map_or(expires, |timer| timer.min(expires)));
        Ok(key)
    }

    fn make_room(&mut self) {
        if self.table.is_full() {
            let idle = self.table.iter().min_by_key(|(_, one)| one.expires);
            let key = idle.map(|(key, _)| key).expect("a full table has entries");
            self.remove(key);
        }
    }

    fn remove(&mut self, key: Key) {
        let entry = self.table.remove(key).expect("callers have it");
        self.flows.remove(&entry.flow);
        if let Via::Forward(forward, peer) = entry.via {
            self.peers.remove(&(forward, peer));
        }
        if entry.waiting {
            self.readable.retain(|other| *other != key);
        }
    }

    /// What a socket's error means to the guest.
    fn failed(&mut self, cx: &mut Context<H>, key: Key, error: Option<io::Error>) {
        let Some(error) = error else { return };
        let Some(entry) = self.table.get_mut(key) else { return };
        if error.kind() == io::ErrorKind::ConnectionRefused {
            let flow = entry.flow;
            icmp::port_unreachable(cx, flow);
        }
    }

    /// A flow's socket has become ready.
    pub(crate) fn host_event(&mut self, cx: &mut Context<H>, key: Key) {
        if let Some(entry) = self.table.get_mut(key)
            && !entry.waiting
        {
            entry.waiting = true;
            self.readable.push_back(key);
            self.pump(cx);
        }
    }

    /// Reads sockets while the queue has room.
    pub(crate) fn pump(&mut self, cx: &mut Context<H>) {
        // A bound, should a socket have nothing but errors to tell.
        let mut turns = 4 * QUEUE_FRAMES;
        while !cx.output.is_busy()
            && turns > 0
            && let Some(key) = self.readable.pop_front()
        {
            let entry = self.table.get_mut(key).expect("who goes leaves the list");
            entry.waiting = false;
            turns -= 1;
            let Via::Socket(socket) = &mut entry.via else { continue };
            match socket.receive(&mut cx.scratch) {
                Ok((length, _)) => {
                    entry.answered = true;
                    entry.touch(cx.now);
                    entry.waiting = true;
                    let payload = cx.scratch[..length].to_vec();
                    cx.datagram(entry.flow.remote, entry.flow.guest, &payload);
                    self.readable.push_back(key);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
                // A socket's error is told once; behind it there may be data.
                Err(error) => {
                    entry.waiting = true;
                    self.readable.push_back(key);
                    self.failed(cx, key, Some(error));
                }
            }
        }
    }

    /// A datagram from `peer` to a forwarded port.
    pub(crate) fn forwarded(
        &mut self,
        cx: &mut Context<H>,
        forward: Key,
        peer: SocketAddr,
        guest: SocketAddr,
        payload: &[u8],
    ) {
        let key = match self.peers.get(&(forward, peer)) {
            Some(&key) => key,
            None => {
                let Some(gateway) = cx.gateway_address(guest.ip()) else { return };
                let free = (0..64).find_map(|_| {
                    let remote = SocketAddr::new(gateway, cx.random.port());
                    let flow = Flow { guest, remote };
                    (!self.flows.contains_key(&flow)).then_some(flow)
                });
                let Some(flow) = free else { return };
                self.make_room();
                let made = self.insert(cx.now, flow, |_| Ok(Via::Forward(forward, peer)));
                let key = made.expect("nothing fails");
                self.peers.insert((forward, peer), key);
                key
            }
        };
        let entry = self.table.get_mut(key).expect("peers lead to entries");
        entry.answered = true;
        entry.touch(cx.now);
        cx.datagram(entry.flow.remote, entry.flow.guest, payload);
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.timer
    }

    pub(crate) fn tick(&mut self, now: Duration) {
        if self.timer.is_none_or(|timer| timer > now) {
            return;
        }
        for key in self.table.keys() {
            if self.table.get_mut(key).is_some_and(|one| one.expires <= now) {
                self.remove(key);
            }
        }
        self.timer = self.table.iter().map(|(_, one)| one.expires).min();
    }

    pub(crate) fn clear(&mut self) {
        for key in self.table.keys() {
            self.remove(key);
        }
    }
}

impl<D> Entry<D> {
    fn touch(&mut self, now: Duration) {
        self.expires = now + if self.answered { BOTH_WAYS } else { ONE_WAY };
    }
}
