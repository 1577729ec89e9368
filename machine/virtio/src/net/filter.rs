//! Which frames of a shared link reach the driver (virtio 1.2, 5.1.6.5.1, 5.1.6.5.2).
//!
//! Invariant: the table of addresses holds at most [`MOST`] of each kind; a longer one lets all of its
//! kind in, as the specification has it.

/// Addresses of a kind that are kept.
pub(super) const MOST: usize = 64;

/// An Ethernet address.
pub(super) type Mac = [u8; 6];

/// Whether it is one card's address: no group's, and not none.
pub(super) fn is_one_card(address: Mac) -> bool {
    address[0] & 1 == 0 && address != [0; 6]
}

/// What the driver asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    /// Everything comes in.
    pub(super) promiscuous: bool,
    pub(super) all_multicast: bool,
    pub(super) all_unicast: bool,
    pub(super) no_multicast: bool,
    pub(super) no_unicast: bool,
    pub(super) no_broadcast: bool,
    unicast: Vec<Mac>,
    multicast: Vec<Mac>,
    too_many: [bool; 2],
}

impl Filter {
    /// Whether a frame to this address comes in; `own` is the device's.
    pub(super) fn passes(&self, to: Mac, own: Mac) -> bool {
        if self.promiscuous || to == own {
            return true;
        }
        if to == [0xff; 6] {
            return !self.no_broadcast;
        }
        match to[0] & 1 != 0 {
            true => {
                let known = self.too_many[1] || self.multicast.contains(&to);
                !self.no_multicast && (self.all_multicast || known)
            }
            false => {
                let known = self.too_many[0] || self.unicast.contains(&to);
                !self.no_unicast && (self.all_unicast || known)
            }
        }
    }

    /// What was asked for, in the order of the fields.
    pub(super) fn mode(&self) -> [bool; 6] {
        [
            self.promiscuous,
            self.all_multicast,
            self.all_unicast,
            self.no_multicast,
            self.no_unicast,
            self.no_broadcast,
        ]
    }

    /// The unicast and the multicast addresses.
    pub(super) fn tables(&self) -> [&[Mac]; 2] {
        [&self.unicast, &self.multicast]
    }

    /// Of which kinds there were more than are kept.
    pub(super) fn too_many(&self) -> [bool; 2] {
        self.too_many
    }

    /// A filter of what [`Filter::mode`], [`Filter::tables`] and [`Filter::too_many`] gave.
    pub(super) fn restore(mode: [bool; 6], tables: [Vec<Mac>; 2], too_many: [bool; 2]) -> Self {
        let [promiscuous, all_multicast, all_unicast, no_multicast, no_unicast, no_broadcast] =
            mode;
        let [unicast, multicast] = tables;
        Self {
            promiscuous,
            all_multicast,
            all_unicast,
            no_multicast,
            no_unicast,
            no_broadcast,
            unicast,
            multicast,
            too_many,
        }
    }

    /// Takes the two tables; each is a count and so many addresses.
    pub(super) fn set_tables(&mut self, tables: [Vec<Mac>; 2]) {
        let [unicast, multicast] = tables;
        self.too_many = [unicast.len() > MOST, multicast.len() > MOST];
        self.unicast = if self.too_many[0] { Vec::new() } else { unicast };
        self.multicast = if self.too_many[1] { Vec::new() } else { multicast };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = [0x52, 0x54, 0, 1, 2, 3];
    const OTHER: Mac = [0x52, 0x54, 0, 9, 9, 9];
    const GROUP: Mac = [0x33, 0x33, 0, 0, 0, 1];

    #[test]
    fn own_and_broadcast_come_in_and_the_rest_when_asked_for() {
        let mut filter = Filter::default();
        let pass = |filter: &Filter| {
            [OWN, [0xff; 6], OTHER, GROUP].map(|address| filter.passes(address, OWN))
        };
        assert_eq!(pass(&filter), [true, true, false, false]);
        filter.set_tables([vec![], vec![GROUP]]);
        assert_eq!(pass(&filter), [true, true, false, true]);
        filter.no_broadcast = true;
        filter.no_multicast = true;
        filter.all_unicast = true;
        assert_eq!(pass(&filter), [true, false, true, false]);
        filter.promiscuous = true;
        assert_eq!(pass(&filter), [true; 4]);
        let mut filter = Filter::default();
        filter.set_tables([vec![OTHER; 65], vec![]]);
        assert_eq!(pass(&filter), [true, true, true, false], "too many to keep lets all in");
    }
}
