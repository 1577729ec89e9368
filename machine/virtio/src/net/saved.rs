//! What a network card saves: its address and pairs of queues, and what the driver set by commands. Buffers that
//! were taken ahead go back to their queues; on which pair a flow was sent is learnt anew; connections that
//! a backend has with the host are its own. The first version is of a card with one pair.

use snapshot::{Decoder, Encoder, Kind, Section, SnapshotError, State};

use super::filter::{Filter, MOST, is_one_card};
use super::{Backend, MOST_PAIRS, Net, Offload};
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

/// A network card, second version: of any number of pairs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetV2 {
    /// Its own address.
    pub mac: [u8; 6],
    /// The link's largest packet.
    pub mtu: u16,
    /// Pairs of queues that it has.
    pub pairs: u16,
    /// What its driver set, if it has one.
    pub driver: Option<NetDriverV2>,
}

/// What a driver set, second version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetDriverV2 {
    /// What it could set before.
    pub settings: NetDriverV1,
    /// Pairs of queues that it uses.
    pub pairs: u16,
}

impl From<NetV1> for NetV2 {
    fn from(one: NetV1) -> Self {
        let driver = one.driver.map(|settings| NetDriverV2 { settings, pairs: 1 });
        Self { mac: one.mac, mtu: one.mtu, pairs: 1, driver }
    }
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
    /// An address is none of a card, or it has no pair of queues, or too many.
    pub fn restore(backend: Box<dyn Backend>, state: &NetV2) -> Result<Self, StateError> {
        let given = state.driver.iter().map(|driver| driver.settings.mac);
        let sound = given.chain([state.mac]).all(is_one_card);
        StateError::unless(sound, "an address of no card")?;
        let sound = (1..=MOST_PAIRS).contains(&state.pairs);
        StateError::unless(sound, "a number of queue pairs")?;
        let mut one = Self::new(backend, state.mac, state.mtu, state.pairs.into());
        one.resumed.clone_from(&state.driver);
        Ok(one)
    }
}

impl NetDriverV2 {
    /// How many of so many pairs it uses.
    pub(super) fn pairs_of(&self, most: usize) -> Result<usize, StateError> {
        let pairs = usize::from(self.pairs);
        StateError::unless((1..=most).contains(&pairs), "queue pairs that were not negotiated")?;
        Ok(pairs)
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
        // Large segments have unfinished checksums.
        let sound = pairs.iter().all(|(has, may)| *may || !has) && (checksum || !tcp4 && !tcp6);
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
        to.option(self.driver.as_ref(), |to, driver| driver.encode(to));
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, SnapshotError> {
        let (mac, mtu) = (from.array()?, from.u16()?);
        let driver = from.option(NetDriverV1::decode)?;
        Ok(Self { mac, mtu, driver })
    }
}

impl State for NetV2 {
    const KIND: Kind = NetV1::KIND;
    const VERSION: u16 = 2;
    const MOST_BYTES: usize = NetV1::MOST_BYTES;

    fn encode(&self, to: &mut Encoder) {
        to.array(&self.mac);
        to.u16(self.mtu);
        to.u16(self.pairs);
        to.option(self.driver.as_ref(), |to, driver| {
            driver.settings.encode(to);
            to.u16(driver.pairs);
        });
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, SnapshotError> {
        let (mac, mtu, pairs) = (from.array()?, from.u16()?, from.u16()?);
        let driver = from.option(|from| {
            Ok(NetDriverV2 { settings: NetDriverV1::decode(from)?, pairs: from.u16()? })
        })?;
        Ok(Self { mac, mtu, pairs, driver })
    }
}

impl NetV2 {
    /// Out of a section of its own version or an earlier one.
    pub(crate) fn from_any(section: &Section) -> Result<Self, SnapshotError> {
        match section.version {
            NetV1::VERSION => NetV1::from_section(section).map(Self::from),
            _ => Self::from_section(section),
        }
    }
}

impl NetDriverV1 {
    fn encode(&self, to: &mut Encoder) {
        to.array(&self.mac);
        let flags = self.offload.iter().chain(&self.mode).chain(&self.too_many);
        flags.for_each(|flag| to.bool(*flag));
        for table in &self.tables {
            to.list(table, |to, address| to.array(address));
        }
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, SnapshotError> {
        let mac = from.array()?;
        let (offload, mode) = (flags(from)?, flags(from)?);
        let too_many = flags(from)?;
        let mut table = || from.list(MOST, "a number of addresses", |from| from.array());
        Ok(Self { mac, offload, mode, tables: [table()?, table()?], too_many })
    }
}

fn flags<const N: usize>(from: &mut Decoder<'_>) -> Result<[bool; N], SnapshotError> {
    let mut flags = [false; N];
    for flag in &mut flags {
        *flag = from.bool()?;
    }
    Ok(flags)
}
