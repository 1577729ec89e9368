//! Why a machine cannot be built, loaded or held.

use engine::EngineError;
use firmware::boot::LoadError;
use memory::MemoryError;
use thiserror::Error;

/// A host-side failure; the guest is never the cause.
#[derive(Debug, Error)]
pub enum MachineError {
    /// The number of processors.
    #[error("a machine has 1 to 255 processors, not {cpus}")]
    Cpus {
        /// Asked for.
        cpus: u32,
    },
    /// Virtual time with several processors.
    #[error("virtual time is for a machine of one processor, not {cpus}")]
    VirtualTime {
        /// Asked for.
        cpus: u32,
    },
    /// RAM that was not laid out by [`crate::layout`].
    #[error("the guest's memory is not laid out as this machine wants it")]
    Layout,
    /// The engine.
    #[error("the engine failed")]
    Engine(#[from] EngineError),
    /// The kernel cannot be placed.
    #[error("the kernel cannot be started on this machine")]
    Boot(#[from] LoadError),
    /// The initrd cannot be had.
    #[error("the initrd cannot be loaded")]
    Initrd(#[source] crate::boot::BoxError),
    /// Bytes to load lie outside of RAM.
    #[error("cannot load the guest's memory")]
    Memory(#[from] MemoryError),
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// Only before the start.
    #[error("the machine has been started already")]
    Started,
    /// Only after the start.
    #[error("the machine has not been started")]
    NotStarted,
    /// A processor did not stop in time: its output is not taken.
    #[error("a processor did not stop: the reader of its output may be too slow")]
    Stuck,
}
