//! What sockets save: the guest's address and its connections, with what is under way in both directions.
//!
//! Their streams are the host's. Who has them still gives them back by [`Host::reopen`]; a connection
//! whose stream is gone is reset, as when its other end had died.

use std::collections::BTreeMap;

use snapshot::{Decoder, Encoder, Kind, SnapshotError, State};

use super::connection::{BUFFER, STAGE};
use super::mux::{MOST_CONNECTIONS, MOST_SAVED_RESETS, Mux};
use super::packet::{NO_MORE_READS, NO_MORE_WRITES};
use super::{Host, Vsock};
use crate::state::StateError;

/// A socket device, first version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VsockV1 {
    /// The guest's address.
    pub guest_cid: u32,
    /// What its driver has, if there is one.
    pub mux: Option<MuxV1>,
}

/// Connections; each by its port in the guest and at the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MuxV1 {
    /// The port that the host's end of the next one gets.
    pub next_host_port: u32,
    /// Whose packet was sent last.
    pub turn: Option<(u32, u32)>,
    /// Those that the guest is to be told are over.
    pub resets: Vec<(u32, u32)>,
    /// Those that live, by ports.
    pub connections: BTreeMap<(u32, u32), ConnectionV1>,
}

/// A connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionV1 {
    /// The guest has answered, or asked.
    pub open: bool,
    /// From the guest, not written to the stream yet.
    pub inbound: Vec<u8>,
    /// From the stream, not sent to the guest yet.
    pub outbound: Vec<u8>,
    /// The guest's room, and what it passed on (5.10.6.3).
    pub guest_buffer: u32,
    /// See `guest_buffer`.
    pub guest_forwarded: u32,
    /// Bytes that were sent to the guest.
    pub sent: u32,
    /// Bytes of the guest's that went to the stream.
    pub forwarded: u32,
    /// What the guest was last told of that.
    pub told: u32,
    /// Directions that the guest closed, as in a packet's flags.
    pub guest_closed: u32,
    /// Those that the host closed.
    pub closed: u32,
    /// Those that the guest was told of.
    pub closed_told: u32,
    /// The guest waits for a request, a response, credit.
    pub owes: [bool; 3],
}

impl ConnectionV1 {
    /// Refuses what no connection comes to.
    pub(super) fn check(&self) -> Result<(), StateError> {
        let room = self.inbound.len() <= BUFFER as usize && self.outbound.len() <= STAGE;
        StateError::unless(room, "a connection with too much under way")?;
        let all = self.guest_closed | self.closed | self.closed_told;
        let known = all & !(NO_MORE_READS | NO_MORE_WRITES) == 0;
        StateError::unless(known, "a connection with more than two directions")
    }
}

impl Vsock {
    /// The device in a saved state, over a host's side that no driver has.
    ///
    /// # Errors
    /// The address is none of a guest's, or the connections cannot be.
    pub fn restore(host: Box<dyn Host>, state: &VsockV1) -> Result<Self, StateError> {
        StateError::unless((3..u32::MAX).contains(&state.guest_cid), "an address of a guest")?;
        if let Some(mux) = &state.mux {
            Mux::check(mux)?;
        }
        let mut one = Self::new(state.guest_cid, host);
        one.resumed.clone_from(&state.mux);
        Ok(one)
    }
}

impl State for VsockV1 {
    const KIND: Kind = Kind(*b"vsok");
    const VERSION: u16 = 1;
    const MOST_BYTES: usize =
        64 + 8 * MOST_SAVED_RESETS + MOST_CONNECTIONS * (64 + BUFFER as usize + STAGE);

    fn encode(&self, to: &mut Encoder) {
        to.u32(self.guest_cid);
        to.option(self.mux.as_ref(), |to, mux| {
            to.u32(mux.next_host_port);
            to.option(mux.turn.as_ref(), put_ports);
            to.list(&mux.resets, put_ports);
            let connections: Vec<_> = mux.connections.iter().collect();
            to.list(&connections, |to, (ports, connection)| {
                put_ports(to, ports);
                connection.encode(to);
            });
        });
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, SnapshotError> {
        let guest_cid = from.u32()?;
        let mux = from.option(|from| {
            let next_host_port = from.u32()?;
            let turn = from.option(take_ports)?;
            let resets = from.list(MOST_SAVED_RESETS, "a number of connections", take_ports)?;
            let connections = from.list(MOST_CONNECTIONS, "a number of connections", |from| {
                Ok((take_ports(from)?, ConnectionV1::decode(from)?))
            })?;
            if !connections.is_sorted_by(|one, next| one.0 < next.0) {
                return Err(SnapshotError::Value("an order of connections"));
            }
            let connections = connections.into_iter().collect();
            Ok(MuxV1 { next_host_port, turn, resets, connections })
        })?;
        Ok(Self { guest_cid, mux })
    }
}

impl ConnectionV1 {
    fn encode(&self, to: &mut Encoder) {
        to.bool(self.open);
        to.bytes(&self.inbound);
        to.bytes(&self.outbound);
        for number in [self.guest_buffer, self.guest_forwarded, self.sent, self.forwarded] {
            to.u32(number);
        }
        for number in [self.told, self.guest_closed, self.closed, self.closed_told] {
            to.u32(number);
        }
        self.owes.iter().for_each(|owes| to.bool(*owes));
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, SnapshotError> {
        Ok(Self {
            open: from.bool()?,
            inbound: from.bytes(BUFFER as usize, "bytes of a connection")?,
            outbound: from.bytes(STAGE, "bytes of a connection")?,
            guest_buffer: from.u32()?,
            guest_forwarded: from.u32()?,
            sent: from.u32()?,
            forwarded: from.u32()?,
            told: from.u32()?,
            guest_closed: from.u32()?,
            closed: from.u32()?,
            closed_told: from.u32()?,
            owes: [from.bool()?, from.bool()?, from.bool()?],
        })
    }
}

fn put_ports(to: &mut Encoder, &(guest, host): &(u32, u32)) {
    to.u32(guest);
    to.u32(host);
}

fn take_ports(from: &mut Decoder<'_>) -> Result<(u32, u32), SnapshotError> {
    Ok((from.u32()?, from.u32()?))
}
