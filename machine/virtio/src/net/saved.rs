//! What a network card saves: its address, and what the driver set by commands. Buffers that were taken ahead
//! go back to their queue; connections that a backend has with the host are its own.

use snapshot::{Decoder, Encoder, Kind, SnapshotError, State};

use super::filter::{Filter, MOST, is_one_card};
use super::{Backend, Net, Offload};
use crate::state::StateError;

/// A network card, first version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetV1 {
    /// Its own address.
    pub mac: [u8; 6],
    /// The link's largest packet.
    pub mtu: u16,
    /// What its driver set, if it has one.
    pub driver: Option<NetDriverV1>,
}

/// What a driver set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetDriverV1 {
    /// The address that it gave the card.
    pub mac: [u8; 6],
    /// What it takes: unfinished checksums, large segments over IPv4 and IPv6.
    pub offload: [bool; 3],
    /// Promiscuous; all multicast, all unicast; no multicast, no unicast, no broadcast.
    pub mode: [bool; 6],
    /// Unicast and multicast addresses that come in.
    pub tables: [Vec<[u8; 6]>; 2],
    /// More of them than are kept, so that all come in.
    pub too_many: [bool; 2],
}

impl Net {
    /// The card in a saved state, over a backend that does not know it yet.
    ///
    /// # Errors
    /// An address is none of a card.
    pub fn restore(backend: Box<dyn Backend>, state: &NetV1) -> Result<Self, StateError> {
        let given = state.driver.iter().map(|driver| driver.mac);
        let sound = given.chain([state.mac]).all(is_one_card);
        StateError::unless(sound, "an address of no card")?;
        let mut one = Self::new(backend, state.mac, state.mtu);
        one.resumed.clone_from(&state.driver);
        Ok(one)
    }
}

impl NetDriverV1 {
    pub(super) fn new(mac: [u8; 6], offload: Offload, filter: &Filter) -> Self {
        Self {
            mac,
            offload: [offload.checksum, offload.tcp4, offload.tcp6],
            mode: filter.mode(),
            tables: filter.tables().map(<[_]>::to_vec),
            too_many: filter.too_many(),
        }
    }

    /// What the driver takes, if the features allow it to.
    pub(super) fn offload(&self, features: u64) -> Result<Offload, StateError> {
        let [checksum, tcp4, tcp6] = self.offload;
        let most = Offload::of(features);
        let pairs = [(checksum, most.checksum), (tcp4, most.tcp4), (tcp6, most.tcp6)];
        let sound = pairs.iter().all(|(has, may)| *may || !has);
        StateError::unless(sound, "an offload that was not negotiated")?;
        Ok(Offload { checksum, tcp4, tcp6 })
    }

    pub(super) fn filter(&self) -> Result<Filter, StateError> {
        let few = self.tables.iter().all(|table| table.len() <= MOST);
        StateError::unless(few, "too many addresses")?;
        Ok(Filter::restore(self.mode, self.tables.clone(), self.too_many))
    }
}

impl State for NetV1 {
    const KIND: Kind = Kind(*b"vnet");
    const VERSION: u16 = 1;
    const MOST_BYTES: usize = 64 + 2 * 6 * MOST;

    fn encode(&self, to: &mut Encoder) {
        to.array(&self.mac);
        to.u16(self.mtu);
        to.option(self.driver.as_ref(), |to, driver| {
            to.array(&driver.mac);
            let flags = driver.offload.iter().chain(&driver.mode).chain(&driver.too_many);
            flags.for_each(|flag| to.bool(*flag));
            for table in &driver.tables {
                to.list(table, |to, address| to.array(address));
            }
        });
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, SnapshotError> {
        let (mac, mtu) = (from.array()?, from.u16()?);
        let driver = from.option(|from| {
            let mac = from.array()?;
            let (offload, mode) = (flags(from)?, flags(from)?);
            let too_many = flags(from)?;
            let mut table = || from.list(MOST, "a number of addresses", |from| from.array());
            Ok(NetDriverV1 { mac, offload, mode, tables: [table()?, table()?], too_many })
        })?;
        Ok(Self { mac, mtu, driver })
    }
}

fn flags<const N: usize>(from: &mut Decoder<'_>) -> Result<[bool; N], SnapshotError> {
    let mut flags = [false; N];
    for flag in &mut flags {
        *flag = from.bool()?;
    }
    Ok(flags)
}
