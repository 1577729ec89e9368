//! What a shared folder's device saves: its tag. Requests are done or in their queues; what the driver has
//! looked up and opened is the [`FileSystem`]'s own.

use std::sync::Arc;

use snapshot::{Decoder, Encoder, Kind, SnapshotError, State};

use super::{FileSystem, Fs, TAG_BYTES};

/// A file system device, first version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsV1 {
    /// Its name, filled up with zeros.
    pub tag: [u8; TAG_BYTES],
}

impl Fs {
    pub(super) fn saved(&self) -> FsV1 {
        FsV1 { tag: *self.config.first_chunk().expect("the tag comes first") }
    }

    /// The device in a saved state, over files that know what they knew; `threads` as for [`Fs::new`].
    pub fn restore(files: Arc<dyn FileSystem>, threads: usize, state: &FsV1) -> Self {
        let mut one = Self::new(files, "", threads);
        one.config[..TAG_BYTES].copy_from_slice(&state.tag);
        one
    }
}

impl State for FsV1 {
    const KIND: Kind = Kind(*b"vfs ");
    const VERSION: u16 = 1;
    const MOST_BYTES: usize = TAG_BYTES;

    fn encode(&self, to: &mut Encoder) {
        to.array(&self.tag);
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, SnapshotError> {
        Ok(Self { tag: from.array()? })
    }
}
