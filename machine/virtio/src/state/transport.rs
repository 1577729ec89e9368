//! What the PCI transport saves (virtio 1.2, 4.1): registers, queues, interrupts.

use devices::pci::{CONFIG_BYTES, ConfigSpaceV1};
use snapshot::{Decoder, Encoder, Kind, SnapshotError, State};
use x86::GuestPhys;

use crate::queue::{MOST_DESCRIPTORS, QueueLayout};

/// Queues that a device has at most (`Device::queue_sizes`).
const MOST_QUEUES: usize = 64;

/// A virtio PCI function, first version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportV1 {
    /// The device's type (virtio 1.2, 5).
    pub device: u16,
    /// Configuration space, with the MSI-X control word.
    pub config: ConfigSpaceV1,
    /// Features the driver accepted.
    pub accepted: u64,
    /// Which half of the device's features is read.
    pub device_feature_select: u32,
    /// Which half of the driver's features is written.
    pub driver_feature_select: u32,
    /// Which queue's registers are seen.
    pub queue_select: u16,
    /// Device status (2.1).
    pub status: u8,
    /// Status bits that were ever set.
    pub seen: u8,
    /// ISR status (4.1.4.5).
    pub isr: u8,
    /// Generation of the configuration space (4.1.4.3.1).
    pub generation: u8,
    /// The vector for changes of configuration, 0xffff: none.
    pub config_vector: u16,
    /// The MSI-X table and pending bits, one for each queue and one more.
    pub messages: Vec<MessageV1>,
    /// In their order.
    pub queues: Vec<QueueV1>,
}

/// An MSI-X table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageV1 {
    /// Address low, address high, data, control.
    pub entry: [u32; 4],
    /// It was raised and not sent.
    pub pending: bool,
}

/// One queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueV1 {
    /// Size and addresses, as the driver said.
    pub layout: QueueLayout,
    /// The driver enabled it.
    pub enabled: bool,
    /// Its vector, 0xffff: none.
    pub vector: u16,
    /// Where it is in its rings, if it runs.
    pub rings: Option<RingsV1>,
}

/// Where a queue that runs is in its rings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RingsV1 {
    /// The next available entry to take; free-running.
    pub next_available: u16,
    /// The next used entry to fill; free-running.
    pub next_used: u16,
    /// Where that was when the driver was last asked whether it wants an interrupt.
    pub signalled: u16,
    /// Chains that were taken and are to be taken again, in order, by their first descriptor.
    pub returned: Vec<u16>,
}

impl State for TransportV1 {
    const KIND: Kind = Kind(*b"vpci");
    const VERSION: u16 = 1;
    const MOST_BYTES: usize =
        1024 + 17 * (MOST_QUEUES + 1) + MOST_QUEUES * (64 + 2 * MOST_DESCRIPTORS as usize);

    fn encode(&self, to: &mut Encoder) {
        to.u16(self.device);
        to.bytes(&self.config.bytes);
        to.u64(self.accepted);
        to.u32(self.device_feature_select);
        to.u32(self.driver_feature_select);
        to.u16(self.queue_select);
        to.array(&[self.status, self.seen, self.isr, self.generation]);
        to.u16(self.config_vector);
        to.list(&self.messages, |to, message| {
            message.entry.iter().for_each(|dword| to.u32(*dword));
            to.bool(message.pending);
        });
        to.list(&self.queues, |to, queue| queue.encode(to));
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, SnapshotError> {
        let device = from.u16()?;
        let config = from.bytes(CONFIG_BYTES, "a PCI configuration space")?;
        let accepted = from.u64()?;
        let (device_feature_select, driver_feature_select) = (from.u32()?, from.u32()?);
        let queue_select = from.u16()?;
        let [status, seen, isr, generation] = from.array()?;
        Ok(Self {
            device,
            config: ConfigSpaceV1 { bytes: config },
            accepted,
            device_feature_select,
            driver_feature_select,
            queue_select,
            status,
            seen,
            isr,
            generation,
            config_vector: from.u16()?,
            messages: from.list(MOST_QUEUES + 1, "an MSI-X table", |from| {
                let entry = [from.u32()?, from.u32()?, from.u32()?, from.u32()?];
                Ok(MessageV1 { entry, pending: from.bool()? })
            })?,
            queues: from.list(MOST_QUEUES, "a number of queues", QueueV1::decode)?,
        })
    }
}

impl QueueV1 {
    fn encode(&self, to: &mut Encoder) {
        let QueueLayout { size, descriptors, available, used } = self.layout;
        to.u16(size);
        [descriptors, available, used].iter().for_each(|address| to.u64(address.0));
        to.bool(self.enabled);
        to.u16(self.vector);
        to.option(self.rings.as_ref(), |to, rings| {
            to.u16(rings.next_available);
            to.u16(rings.next_used);
            to.u16(rings.signalled);
            to.list(&rings.returned, |to, head| to.u16(*head));
        });
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, SnapshotError> {
        let size = from.u16()?;
        let [descriptors, available, used] = [from.u64()?, from.u64()?, from.u64()?].map(GuestPhys);
        Ok(Self {
            layout: QueueLayout { size, descriptors, available, used },
            enabled: from.bool()?,
            vector: from.u16()?,
            rings: from.option(|from| {
                Ok(RingsV1 {
                    next_available: from.u16()?,
                    next_used: from.u16()?,
                    signalled: from.u16()?,
                    returned: from.list(
                        MOST_DESCRIPTORS.into(),
                        "a queue's chains",
                        Decoder::u16,
                    )?,
                })
            })?,
        })
    }
}
