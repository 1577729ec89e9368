//! The facade of Oneroof: VMs as plain commands, events and view-models.
//!
//! Everything a front end needs and nothing of how it shows it: no terminal, no JSON, no command
//! line. Invariants: front ends name no other crate of ours; every failure is a typed error that
//! reads as a sentence.
#![forbid(unsafe_code)]

mod compressed;
pub mod disk;
pub mod doctor;
pub mod fetch;
mod host;
#[doc(hidden)]
pub mod hostile;
pub mod initramfs;
pub mod kernel;
mod source;
pub mod vm;
