//! A device's saved state: what the transport holds, and what the model does.
//!
//! ```text
//! VirtioPci::quiesce -> Quiet        the host's work ends, what was taken ahead goes back to its queue
//! VirtioPci::save    -> VirtioV1 -> two sections
//! sections -> VirtioV1 -> Block::restore(disk, ..) and the like -> VirtioPci::restore -> Quiet
//! ```
//!
//! Guest memory is saved by others, after the first step and before [`crate::Quiet`] is dropped; a device is
//! restored over memory that holds it again. Invariants: a request of the driver is either done or still in
//! its queue, so none is lost or done twice; whatever saved state says, restoring it is refused with a reason
//! or gives a device that a driver could have brought to where it is.

mod transport;

use snapshot::{Section, SnapshotError, State};
use thiserror::Error;

use crate::balloon::BalloonV1;
use crate::block::BlockV1;
use crate::console::ConsoleV1;
use crate::fs::FsV1;
use crate::input::InputV1;
use crate::net::NetV2;
use crate::queue::Broken;
use crate::rng::RngV1;
use crate::vsock::VsockV1;
pub use transport::{MessageV1, QueueV1, RingsV1, TransportV1};

/// Saved state that no device can be made from.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StateError {
    /// Its bytes are damaged, or of another version.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The machine has something else in this place.
    #[error(
        "the saved device has {saved} as its {what} and the one it is to become {here}: \
         restore it with what it was saved with"
    )]
    Differs {
        /// What differs.
        what: &'static str,
        /// As saved.
        saved: u64,
        /// As the wiring has it.
        here: u64,
    },
    /// A queue that no driver could have.
    #[error("queue {queue} of the saved device breaks the rules: the saved state is damaged")]
    Queue {
        /// Its number.
        queue: usize,
        /// The rule.
        #[source]
        broken: Broken,
    },
    /// Values that do not fit together.
    #[error("the saved device has {0}, which cannot be: the saved state is damaged")]
    Impossible(&'static str),
}

impl StateError {
    /// Refuses what differs.
    pub(crate) fn same(what: &'static str, saved: u64, here: u64) -> Result<(), Self> {
        (saved == here).then_some(()).ok_or(Self::Differs { what, saved, here })
    }

    /// Refuses what cannot be.
    pub(crate) fn unless(sound: bool, what: &'static str) -> Result<(), Self> {
        sound.then_some(()).ok_or(Self::Impossible(what))
    }
}

/// What a model saves, in the latest version of each; earlier ones are read as these.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ModelV1 {
    Balloon(BalloonV1),
    Block(BlockV1),
    Console(ConsoleV1),
    Fs(FsV1),
    Input(InputV1),
    Net(NetV2),
    Rng(RngV1),
    Vsock(VsockV1),
}

impl ModelV1 {
    fn to_section(&self) -> Section {
        match self {
            Self::Balloon(state) => state.to_section(),
            Self::Block(state) => state.to_section(),
            Self::Console(state) => state.to_section(),
            Self::Fs(state) => state.to_section(),
            Self::Input(state) => state.to_section(),
            Self::Net(state) => state.to_section(),
            Self::Rng(state) => state.to_section(),
            Self::Vsock(state) => state.to_section(),
        }
    }

    fn from_section(section: &Section) -> Result<Self, SnapshotError> {
        Ok(match section.kind {
            BalloonV1::KIND => Self::Balloon(BalloonV1::from_section(section)?),
            BlockV1::KIND => Self::Block(BlockV1::from_section(section)?),
            ConsoleV1::KIND => Self::Console(ConsoleV1::from_section(section)?),
            FsV1::KIND => Self::Fs(FsV1::from_section(section)?),
            InputV1::KIND => Self::Input(InputV1::from_section(section)?),
            NetV2::KIND => Self::Net(NetV2::from_any(section)?),
            RngV1::KIND => Self::Rng(RngV1::from_section(section)?),
            VsockV1::KIND => Self::Vsock(VsockV1::from_section(section)?),
            _ => return Err(SnapshotError::Value("a virtio device of a kind")),
        })
    }
}

/// A whole device's saved state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtioV1 {
    /// The PCI function, its queues included.
    pub transport: TransportV1,
    /// The device proper.
    pub model: ModelV1,
}

impl VirtioV1 {
    /// Its sections: the transport's, then the model's.
    pub fn to_sections(&self) -> [Section; 2] {
        [self.transport.to_section(), self.model.to_section()]
    }

    /// It, out of its sections.
    ///
    /// # Errors
    /// Damage, or versions that are not known.
    pub fn from_sections([transport, model]: &[Section; 2]) -> Result<Self, StateError> {
        let transport = TransportV1::from_section(transport)?;
        Ok(Self { transport, model: ModelV1::from_section(model)? })
    }
}
