//! Message-signalled interrupts: address and data to message (SDM vol. 3, 10.11).
//!
//! ```text
//! address 31      20 19     12 11        5 4  3    2   1 0
//!        |  0xFEE   | dest 7:0 | dest 14:8 | -| RH | DM | - |   dest 14:8: KVM_FEATURE_MSI_EXT_DEST_ID
//! data    15      14    10       8 7       0
//!        | trigger | level | delivery | vector |
//! ```
//! Invariant: decoding never fails; reserved bits are ignored.

use crate::ipi::{BROADCAST, DeliveryMode, DestinationMode, Ipi, Shorthand, Trigger};

/// A message-signalled interrupt: what is written where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Msi {
    /// The address, 0xFEEx_xxxx.
    pub address: u64,
    /// The data.
    pub data: u32,
}

impl Msi {
    /// Where messages go.
    pub const BASE: u64 = 0xfee0_0000;

    /// The message to deliver.
    pub const fn decode(self) -> Ipi {
        let low = (self.address >> 12) as u32 & 0xff;
        let high = (self.address >> 5) as u32 & 0x7f;
        let logical = self.address & 1 << 2 != 0;
        Ipi {
            vector: self.data as u8,
            delivery: DeliveryMode::from_bits(self.data >> 8),
            mode: if logical { DestinationMode::Logical } else { DestinationMode::Physical },
            destination: if high == 0 && low == 0xff { BROADCAST } else { high << 8 | low },
            shorthand: Shorthand::None,
            level: self.data & 1 << 14 != 0,
            trigger: if self.data & 1 << 15 != 0 { Trigger::Level } else { Trigger::Edge },
        }
    }

    /// The MSI that asks for this vector, delivery and destination (15 bits) with edge trigger.
    pub const fn new(
        vector: u8,
        delivery: DeliveryMode,
        mode: DestinationMode,
        destination: u32,
    ) -> Self {
        let logical = matches!(mode, DestinationMode::Logical) as u64;
        let destination = destination as u64;
        Self {
            address: Self::BASE
                | (destination & 0xff) << 12
                | (destination >> 8 & 0x7f) << 5
                | logical << 2,
            data: vector as u32 | (delivery as u32) << 8,
        }
    }

    /// The same with level trigger, asserted.
    pub const fn level(self) -> Self {
        Self { address: self.address, data: self.data | 1 << 15 | 1 << 14 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn physical_edge() {
        let ipi = Msi { address: 0xfee0_3000, data: 0x0041 }.decode();
        assert_eq!(ipi.destination, 3);
        assert_eq!(ipi.vector, 0x41);
        assert_eq!(ipi.mode, DestinationMode::Physical);
        assert_eq!(ipi.delivery, DeliveryMode::Fixed);
        assert_eq!(ipi.trigger, Trigger::Edge);
    }

    #[test]
    fn logical_lowest_priority_level() {
        let ipi = Msi { address: 0xfee0_f00c, data: 0xc1_61 }.decode();
        assert_eq!(ipi.destination, 0x0f);
        assert_eq!(ipi.mode, DestinationMode::Logical);
        assert_eq!(ipi.delivery, DeliveryMode::LowestPriority);
        assert_eq!(ipi.trigger, Trigger::Level);
        assert!(ipi.level);
    }

    #[test]
    fn eight_bit_broadcast_is_widened() {
        assert_eq!(Msi { address: 0xfeef_f000, data: 0x30 }.decode().destination, BROADCAST);
    }

    #[test]
    fn extended_destination_bits() {
        // Destination 0x123: low byte in 19:12, bits 14:8 in 11:5.
        let ipi = Msi { address: 0xfee2_3000 | 1 << 5, data: 0x30 }.decode();
        assert_eq!(ipi.destination, 0x123);
        // 0x1ff is a processor, not a broadcast.
        assert_eq!(Msi { address: 0xfeef_f020, data: 0x30 }.decode().destination, 0x1ff);
    }

    #[test]
    fn new_and_decode_agree() {
        for destination in [0, 1, 0x7f, 0xfe, 0x100, 0x7ffe] {
            for mode in [DestinationMode::Physical, DestinationMode::Logical] {
                let msi = Msi::new(0x55, DeliveryMode::LowestPriority, mode, destination).level();
                let ipi = msi.decode();
                assert_eq!((ipi.destination, ipi.mode), (destination, mode));
                assert_eq!((ipi.vector, ipi.trigger), (0x55, Trigger::Level));
                assert_eq!(ipi.delivery, DeliveryMode::LowestPriority);
            }
        }
    }
}
