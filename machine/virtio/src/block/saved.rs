//! What a disk saves: who it is, and what of the disk the guest knows. Requests are done or in their queues.

use std::sync::Arc;

use snapshot::{Decoder, Encoder, Kind, SnapshotError, State};

use super::{Block, Disk, MOST_QUEUES, QUEUE};
use crate::state::StateError;

/// A block device, first version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockV1 {
    /// Its serial number.
    pub id: [u8; 20],
    /// Bytes of the disk.
    pub capacity: u64,
    /// The guest cannot write to it.
    pub read_only: bool,
    /// Its queues.
    pub queues: u16,
}

impl Block {
    pub(super) fn saved(&self) -> BlockV1 {
        BlockV1 {
            id: self.id,
            capacity: self.disk.capacity(),
            read_only: self.disk.read_only(),
            queues: self.queues.len() as u16,
        }
    }

    /// The device in a saved state, over a disk that holds what it held.
    ///
    /// # Errors
    /// The disk has another size or another right to write, or the state is damaged.
    pub fn restore(disk: Arc<dyn Disk>, state: &BlockV1) -> Result<Self, StateError> {
        StateError::same("bytes of its disk", state.capacity, disk.capacity())?;
        let read_only = [state.read_only, disk.read_only()].map(u64::from);
        StateError::same("write protection", read_only[0], read_only[1])?;
        let queues = usize::from(state.queues);
        let sound = (1..=MOST_QUEUES as usize).contains(&queues);
        StateError::unless(sound, "a number of queues")?;
        Ok(Self { disk, id: state.id, queues: vec![QUEUE; queues] })
    }
}

impl State for BlockV1 {
    const KIND: Kind = Kind(*b"vblk");
    const VERSION: u16 = 1;
    const MOST_BYTES: usize = 31;

    fn encode(&self, to: &mut Encoder) {
        to.array(&self.id);
        to.u64(self.capacity);
        to.bool(self.read_only);
        to.u16(self.queues);
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, SnapshotError> {
        Ok(Self {
            id: from.array()?,
            capacity: from.u64()?,
            read_only: from.bool()?,
            queues: from.u16()?,
        })
    }
}
