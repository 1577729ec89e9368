//! The engine seam: what the machine asks of a CPU engine, and what an engine asks of the machine.
//!
//! Plain data and traits, no OS calls. Invariants: `Vcpu::run` returns only at an instruction
//! boundary, so `state()` is valid whenever it is not running; RAM access never goes through
//! [`GuestIo`]; the local APIC belongs to the engine, IOAPIC, PIC and PIT to the machine.
#![forbid(unsafe_code)]

mod exit;
mod io;
mod traits;

pub use exit::{Budget, DebugEvent, EngineError, Exit, ShutdownCause};
pub use io::{GuestIo, MsiMessage};
pub use traits::{Capabilities, Engine, Kick, Vcpu, VmConfig};
