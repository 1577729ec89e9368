//! The engine seam: what the machine asks of a CPU engine, and what an engine asks of the machine.
//!
//! Plain data and traits, no OS calls. Invariants: `Vcpu::run` returns only at an instruction
//! boundary, so `state()` is valid whenever it is not running; RAM access never goes through
//! [`GuestIo`]; the local APIC belongs to the engine, IOAPIC, PIC and PIT to the machine.
//!
//! # What one retired instruction is
//!
//! [`Budget::Instructions`] and [`Vcpu::retired`] count by one rule, however code is executed:
//!
//! - An instruction counts once, when it completes. HLT completes when the processor halts, an
//!   instruction with a trap behind it (single step, data breakpoint, INT n, INT3) before the trap.
//! - An instruction that faults does not count, nor does one that is refused
//!   ([`Exit::Unsupported`]) or that shuts the processor down. Restarted, it counts when it completes.
//! - A string instruction with a repeat prefix counts once, with its last repetition, however often
//!   it was interrupted or trapped in between; with a count of 0 it counts like any other.
//! - Delivering an exception, interrupt, NMI, INIT or SIPI counts nothing: the handler's first
//!   instruction is the next one.
//! - A prefix is part of its instruction; an interrupt shadow (STI, MOV SS) changes nothing.
//!
//! A budget of n ends after the n-th instruction and what its completion brought about (a trap, an
//! interrupt that became deliverable), before the next instruction, even if that one was HLT: then
//! `run` does not wait. A guest that only faults spends no budget; a kick ends it.
#![forbid(unsafe_code)]

mod exit;
mod io;
mod paths;
mod traits;
mod virtual_time;

pub use exit::{Budget, DebugEvent, EngineError, Exit, ShutdownCause};
pub use io::{EventKind, GuestEvent, GuestIo, MsiMessage};
pub use paths::{KernelPaths, MessageSource, Sent};
pub use traits::{Capabilities, Engine, Kick, Vcpu, VmConfig};
pub use virtual_time::{VIRTUAL_TSC_KHZ, VirtualTime};
