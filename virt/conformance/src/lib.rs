//! Tiny guests run on every engine; their final states and I/O traces compared.
//!
//! [`run`] runs one payload on an engine that a factory makes; [`verify`] holds the outcome against
//! what the payload itself expects, [`compare`] holds two engines' outcomes against each other.
//! [`exceptions`] lists what two engines may differ in, each with its reason.
//!
//! Invariant: nothing here knows an engine by name; the tests choose.
#![forbid(unsafe_code)]

mod compare;
pub mod exceptions;
mod io;
mod run;
mod start;
#[cfg(test)]
mod tests;
mod verify;

pub use compare::compare;
pub use run::{Ended, Factory, Outcome, RunError, missing_feature, run};
pub use verify::verify;
