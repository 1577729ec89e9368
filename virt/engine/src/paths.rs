//! Ways between guest and devices that the host's kernel takes alone: an optional ability of an
//! engine ([`crate::Engine::kernel_paths`]).
//!
//! Invariant: they change how long something takes, never what it means. A guest cannot tell a
//! doorbell that rings in the kernel from one that comes to [`crate::GuestIo`], nor a message with a
//! route from one without.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use x86::GuestPhys;

use crate::exit::EngineError;
use crate::io::MsiMessage;

/// Doorbells and messages without this process in between.
pub trait KernelPaths: Send + Sync {
    /// From now on a store of any width to exactly this address, which is not RAM, adds one to
    /// `event` (an eventfd) and does not come to [`crate::GuestIo::mmio_write`].
    ///
    /// # Errors
    /// The host takes no more of them, or has one at this address already.
    fn add_doorbell(&self, address: GuestPhys, event: &Arc<OwnedFd>) -> Result<(), EngineError>;

    /// Stores to this address come to [`crate::GuestIo::mmio_write`] again. What was stored before has
    /// been added to the event when this returns; nothing if there is no doorbell there.
    fn remove_doorbell(&self, address: GuestPhys);

    /// A source of messages: one MSI-X vector of one function.
    ///
    /// # Errors
    /// There are too many; messages go by [`crate::Engine::signal_msi`] then.
    fn message_source(&self) -> Result<Box<dyn MessageSource>, EngineError>;
}

/// Sends the messages of one vector. The host's kernel may keep a route for a message that is sent
/// often; a message that changes is another one from its next sending on.
pub trait MessageSource: Send + Sync {
    /// Delivers a message, as [`crate::Engine::signal_msi`] does.
    ///
    /// # Errors
    /// The host failed.
    fn send(&self, message: MsiMessage) -> Result<Sent, EngineError>;
}

/// How a message went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// By a call that named it.
    Called,
    /// By the route that the kernel keeps for its source.
    Routed,
}
