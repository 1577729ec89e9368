//! All connections of a device: packets in, packets out, the host's streams between.
//!
//! Invariants: at most [`MOST_CONNECTIONS`]; resets that wait to be sent are bounded, and while
//! they are too many no packet is taken from the guest.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};

use super::connection::{BUFFER, Connection, Fate};
use super::packet::{HOST_CID, Header, Ports, STREAM, operation};
use super::saved::MuxV1;
use super::{Host, Stirred};
use crate::state::StateError;

/// Connections at a time.
pub(super) const MOST_CONNECTIONS: usize = 1024;
/// Resets that wait for room in the guest's queue.
const MOST_RESETS: usize = 256;
/// Resets that are saved: those, and one for each packet of a full ring and each connection, twice.
pub(super) const MOST_SAVED_RESETS: usize = 4 * MOST_CONNECTIONS;
/// Where ports for the host's own end of connections begin (the guest sees them as its peer's).
const FIRST_HOST_PORT: u32 = 1 << 30;

pub(super) struct Mux {
    guest_cid: u64,
    host: Box<dyn Host>,
    connections: BTreeMap<Ports, Connection>,
    resets: VecDeque<Ports>,
    next_host_port: u32,
    /// Whose packet was sent last; the next one's turn is after it.
    turn: Option<Ports>,
}

impl Mux {
    pub(super) fn new(guest_cid: u64, host: Box<dyn Host>) -> Self {
        Self {
            guest_cid,
            host,
            connections: BTreeMap::new(),
            resets: VecDeque::new(),
            next_host_port: FIRST_HOST_PORT,
            turn: None,
        }
    }

    /// The host's end, when the device is no more.
    pub(super) fn into_host(self) -> Box<dyn Host> {
        self.host
    }

    /// Everything but the host's end.
    pub(super) fn save(&self) -> MuxV1 {
        let plain = |ports: &Ports| (ports.guest, ports.host);
        let connections = self.connections.iter();
        MuxV1 {
            next_host_port: self.next_host_port,
            turn: self.turn.as_ref().map(plain),
            resets: self.resets.iter().map(plain).collect(),
            connections: connections.map(|(ports, one)| (plain(ports), one.save())).collect(),
        }
    }

    /// Refuses what no device comes to.
    pub(super) fn check(saved: &MuxV1) -> Result<(), StateError> {
        let few =
            saved.connections.len() <= MOST_CONNECTIONS && saved.resets.len() <= MOST_SAVED_RESETS;
        StateError::unless(few, "too many connections")?;
        let own = saved.next_host_port & !(FIRST_HOST_PORT - 1) == FIRST_HOST_PORT;
        StateError::unless(own, "a port that is not the host's to give")?;
        saved.connections.values().try_for_each(|connection| connection.check())
    }

    /// Goes on with what was saved and checked. The guest hears of each connection that is over, unless it
    /// had not heard of it at all.
    pub(super) fn resume(&mut self, saved: MuxV1) {
        let ports = |(guest, host): (u32, u32)| Ports { guest, host };
        self.next_host_port = saved.next_host_port;
        self.turn = saved.turn.map(ports);
        self.resets = saved.resets.into_iter().map(ports).collect();
        for (of, connection) in saved.connections {
            let ports = ports(of);
            let stream = self.host.reopen(ports.guest, ports.host);
            match stream.and_then(|mut one| one.watch(key(ports)).ok().map(|()| one)) {
                Some(stream) => {
                    let connection = Connection::resume(ports, stream, connection);
                    self.connections.insert(ports, connection);
                }
                None if connection.owes[0] => {}
                None => self.resets.push_back(ports),
            }
        }
    }

    /// Whether a packet of the guest can be taken now.
    pub(super) fn has_room(&self) -> bool {
        self.resets.len() < MOST_RESETS
    }

    /// A packet of the guest's.
    pub(super) fn take(&mut self, header: &Header, data: &[u8]) {
        let ports = Ports { guest: header.source_port, host: header.destination_port };
        let addressed = header.source_cid == self.guest_cid && header.destination_cid == HOST_CID;
        if !addressed {
            return; // there is nobody else, and nobody to answer
        }
        if header.kind != STREAM || header.length as usize != data.len() {
            if header.operation != operation::RESET {
                self.end(ports, Fate::Reset);
            }
            return;
        }
        match (self.connections.get_mut(&ports), header.operation) {
            (_, operation::RESET) => drop(self.connections.remove(&ports)),
            (Some(connection), _) => {
                let fate = match connection.take(header, data) {
                    Fate::Lives => connection.pump(),
                    Fate::Reset => Fate::Reset,
                };
                self.end(ports, fate);
            }
            (None, operation::REQUEST) => self.requested(ports, header),
            (None, _) => self.end(ports, Fate::Reset),
        }
    }

    fn requested(&mut self, ports: Ports, header: &Header) {
        let room = self.connections.len() < MOST_CONNECTIONS;
        let stream = room.then(|| self.host.connect(ports.host)).and_then(Result::ok);
        let watched = stream.and_then(|mut stream| stream.watch(key(ports)).ok().map(|()| stream));
        let Some(stream) = watched else { return self.end(ports, Fate::Reset) };
        let mut connection = Connection::asked(ports, stream);
        let update = Header { operation: operation::CREDIT_UPDATE, ..*header };
        connection.take(&update, &[]);
        self.connections.insert(ports, connection);
    }

    fn end(&mut self, ports: Ports, fate: Fate) {
        if fate == Fate::Reset {
            self.connections.remove(&ports);
            self.resets.push_back(ports);
        }
    }

    /// Looks at what happened on the host's side.
    pub(super) fn look(&mut self) {
        for Stirred { key, hung_up } in self.host.stirred() {
            let ports = ports(key);
            let Some(connection) = self.connections.get_mut(&ports) else { continue };
            connection.stirred(hung_up);
            let fate = connection.pump();
            self.end(ports, fate);
        }
        while self.connections.len() < MOST_CONNECTIONS && self.has_room() {
            let Some((guest, mut stream)) = self.host.accept() else { break };
            let ports = Ports { guest, host: self.free_host_port() };
            if stream.watch(key(ports)).is_ok() {
                self.connections.insert(ports, Connection::asking(ports, stream));
            }
        }
    }

    /// A port that no connection has: they come round after 2^30.
    fn free_host_port(&mut self) -> u32 {
        loop {
            let port = self.next_host_port;
            self.next_host_port = FIRST_HOST_PORT | port.wrapping_add(1) & (FIRST_HOST_PORT - 1);
            if self.connections.keys().all(|ports| ports.host != port) {
                return port;
            }
        }
    }

    /// Whether there is a packet for the guest.
    pub(super) fn has_packet(&self) -> bool {
        !self.resets.is_empty() || self.connections.values().any(Connection::has_packet)
    }

    /// The next packet for the guest, with at most `most` bytes of data; connections take turns.
    pub(super) fn packet(&mut self, most: usize) -> Option<(Header, Vec<u8>)> {
        if let Some(ports) = self.resets.pop_front() {
            let reset = Header::to_guest(self.guest_cid, ports, operation::RESET);
            return Some((Header { buffer: BUFFER, ..reset }, Vec::new()));
        }
        let after = self.turn.map_or(Unbounded, Excluded);
        let waits = |one: &(&Ports, &mut Connection)| one.1.has_packet();
        let next = match self.connections.range_mut((after, Unbounded)).find(waits) {
            None => self.connections.iter_mut().find(waits),
            later => later,
        };
        let (&ports, connection) = next?;
        let packet = connection.packet(self.guest_cid, most);
        let fate = connection.pump();
        self.turn = Some(ports);
        self.end(ports, fate);
        Some(packet)
    }
}

/// How the host's side knows a connection.
fn key(ports: Ports) -> u64 {
    u64::from(ports.guest) << 32 | u64::from(ports.host)
}

fn ports(key: u64) -> Ports {
    Ports { guest: (key >> 32) as u32, host: key as u32 }
}
