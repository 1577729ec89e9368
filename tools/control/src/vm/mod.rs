//! A VM from a wish to a report: prepare, run, tell.
//!
//! [`RunConfig`] is what the user wants, [`Vm::prepare`] turns it into something that can start
//! ([`Effective`] says what that is), [`Vm::run`] gives [`Event`]s while it runs and a
//! [`RunReport`] at the end. Invariants: every failure before the guest starts is a [`RunError`];
//! everything after is an [`Outcome`], whatever the guest does.

mod assemble;
mod choose;
mod config;
mod debug;
mod disks;
mod drivers;
mod error;
mod extras;
mod fixed_input;
mod network;
mod outbox;
mod report;
mod run;
mod session;
mod shares;
mod stream;
mod typing;
mod watch;

pub use choose::{Choice, EngineChoice, EngineKind, Execution, KvmVerdict, kvm_verdict};
pub use config::{Deterministic, Effective, RunConfig};
pub use debug::Debug;
pub use disks::{Access, DiskConfig};
pub use error::RunError;
pub use extras::Extras;
pub use machine::EventDigest;
pub use network::{NetChoice, NetConfig};
pub use outbox::Controls;
pub use protocol::ShareMode;
pub use report::{Event, Outcome, RunReport};
pub use run::Vm;
pub use shares::{Root, Share, ShareWish};
pub use x86::cpuid::Vendor as CpuVendor;
