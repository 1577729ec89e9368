//! The control queue (virtio 1.2, 5.1.6.5): receive mode, addresses, offloads, queue pairs.
//!
//! ```text
//! readable  class u8, command u8, data      writable  ack u8
//! ```
//!
//! Invariant: a command that is unknown, was not negotiated or is too short or long changes nothing and
//! is answered with 1.

use super::filter::{Filter, Mac, is_one_card};
use super::{CTRL_GUEST_OFFLOADS, CTRL_MAC_ADDR, CTRL_RX, MQ, Offload};
use crate::queue::{Broken, Chain};

const OK: u8 = 0;
const ERROR: u8 = 1;

const RECEIVE_MODE: u8 = 0;
const ADDRESS: u8 = 1;
const PAIRS: u8 = 4;
const OFFLOADS: u8 = 5;

const TABLES: u8 = 0;
const OWN_ADDRESS: u8 = 1;

/// The longest command: two tables of addresses; a driver with more asks for all multicast.
const MOST: u32 = 16 << 10;

/// What commands change.
#[derive(Debug, Default)]
pub(super) struct Control {
    pub(super) filter: Filter,
    /// Pairs of queues there are.
    pairs: usize,
    /// Since the last look: the driver's new address, what it takes from now on, and how many pairs it uses.
    pub(super) new_address: Option<Mac>,
    pub(super) new_offload: Option<Offload>,
    pub(super) new_pairs: Option<usize>,
}

impl Control {
    /// Nothing asked for yet, of a card with so many pairs.
    pub(super) fn new(pairs: usize) -> Self {
        Self { pairs, ..Self::default() }
    }

    /// Does what a chain asks, and answers.
    pub(super) fn serve(&mut self, chain: &mut Chain, features: u64) -> Result<(), Broken> {
        if chain.writable() == 0 {
            return Err(Broken::Protocol("a network command without room for its answer"));
        }
        let mut bytes = vec![0; chain.readable().min(MOST) as usize];
        chain.read(&mut bytes);
        let done = chain.readable() == 0 && self.command(&bytes, features).is_some();
        chain.write(&[if done { OK } else { ERROR }]);
        Ok(())
    }

    /// `None`: refused.
    fn command(&mut self, bytes: &[u8], features: u64) -> Option<()> {
        let (&[class, command], data) = bytes.split_first_chunk()?;
        let has = |feature: u64| (features & feature != 0).then_some(());
        match (class, command) {
            (RECEIVE_MODE, _) => {
                has(CTRL_RX)?;
                let &[on] = data else { return None };
                *self.mode(command)? = on != 0;
            }
            (ADDRESS, TABLES) => {
                has(CTRL_RX)?;
                let (unicast, data) = table(data)?;
                let (multicast, rest) = table(data)?;
                rest.is_empty().then_some(())?;
                self.filter.set_tables([unicast, multicast]);
            }
            (ADDRESS, OWN_ADDRESS) => {
                has(CTRL_MAC_ADDR)?;
                let address: Mac = data.try_into().ok()?;
                is_one_card(address).then_some(())?;
                self.new_address = Some(address);
            }
            (PAIRS, 0) => {
                has(MQ)?;
                let pairs = usize::from(u16::from_le_bytes(data.try_into().ok()?));
                (1..=self.pairs).contains(&pairs).then_some(())?;
                self.new_pairs = Some(pairs);
            }
            (OFFLOADS, 0) => {
                has(CTRL_GUEST_OFFLOADS)?;
                let wanted = u64::from_le_bytes(data.try_into().ok()?);
                (wanted & !(features & Offload::FEATURES) == 0).then_some(())?;
                self.new_offload = Some(Offload::of(wanted));
            }
            _ => return None,
        }
        Some(())
    }

    fn mode(&mut self, command: u8) -> Option<&mut bool> {
        let filter = &mut self.filter;
        Some(match command {
            0 => &mut filter.promiscuous,
            1 => &mut filter.all_multicast,
            2 => &mut filter.all_unicast,
            3 => &mut filter.no_multicast,
            4 => &mut filter.no_unicast,
            5 => &mut filter.no_broadcast,
            _ => return None,
        })
    }
}

/// A count and so many addresses; and what follows them.
fn table(data: &[u8]) -> Option<(Vec<Mac>, &[u8])> {
    let (count, data) = data.split_first_chunk()?;
    let bytes = (u32::from_le_bytes(*count) as usize).checked_mul(6)?;
    let (addresses, rest) = data.split_at_checked(bytes)?;
    Some((addresses.as_chunks().0.to_vec(), rest))
}
