//! Tiny bare-metal test guests with their expected outputs, as data.
//!
//! A [`Payload`] is bytes to lay into RAM, a start, the port and MMIO accesses that it must make,
//! facts that must hold at its end, and how it ends. Most are written by checking themselves: they
//! report every value of interest at [`ports::REPORT`]. [`all`] builds the catalogue;
//! [`for_each_payload`] gives its names to a macro, so that each can be a test of its own.
//!
//! Invariant: deterministic. The same bytes and the same expectations on every host; whatever
//! depends on time, vendor or host is reduced by the guest to a value that does not.
#![forbid(unsafe_code)]

mod catalogue;
mod feature;
mod kit;
pub mod layout;
mod payload;
pub mod ports;

pub use catalogue::{all, by_name};
pub use payload::{Access, Action, Direction, End, Fact, Feature, Payload, Segment, Start};
