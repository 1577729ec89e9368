//! What the machine must decide when a processor comes back, as plain data.

use thiserror::Error;
use x86::Exception;

/// How long a `run` may go on before it comes back by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Budget {
    /// Until something happens.
    #[default]
    Unlimited,
    /// At most this many instructions, counted as the crate's documentation says. The software CPU
    /// stops exactly; KVM treats 1 as single step and refuses other values (see
    /// [`crate::Capabilities::instruction_budget`]).
    Instructions(u64),
}

/// Why a processor came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// HLT with nothing pending. Engines that wait for interrupts themselves inside `run` return
    /// this only when no interrupt can ever end the wait (IF = 0 and no NMI source).
    Halted,
    /// Another thread kicked it.
    Interrupted,
    /// The budget is spent.
    BudgetSpent,
    /// Virtual time reached [`crate::VirtualTime::deadline_ns`].
    Deadline,
    /// The processor cannot go on.
    Shutdown(ShutdownCause),
    /// A debugger's event.
    Debug(DebugEvent),
    /// The engine met an instruction it does not implement; the state is before it.
    Unsupported {
        /// Where.
        rip: u64,
        /// Up to 15 bytes from there.
        bytes: [u8; 15],
        /// How many of them could be read.
        length: u8,
    },
}

/// Why a processor shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownCause {
    /// A fault while delivering a double fault. The last exception, where the engine knows it.
    TripleFault(Option<Exception>),
}

/// What a debugger asked to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DebugEvent {
    /// One instruction was executed under single step.
    Step,
    /// A breakpoint set from outside was reached.
    Breakpoint,
}

/// The host failed an engine; the guest is never the cause.
#[derive(Debug, Error)]
pub enum EngineError {
    /// A host call failed.
    #[error("{call} failed")]
    Host {
        /// Which call.
        call: &'static str,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
    /// The engine cannot do what was asked.
    #[error("the {engine} engine does not support {what}")]
    Unsupported {
        /// Engine name.
        engine: &'static str,
        /// The missing ability.
        what: &'static str,
    },
    /// The host's hypervisor failed internally (KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_FAIL_ENTRY).
    #[error("the host's hypervisor failed at {rip:#x}: {reason}")]
    Internal {
        /// Guest RIP.
        rip: u64,
        /// The engine's own words.
        reason: String,
    },
}

impl EngineError {
    /// A failed host call, from the last OS error.
    pub fn last_os(call: &'static str) -> Self {
        Self::Host { call, source: std::io::Error::last_os_error() }
    }
}
