//! Saved state as sections of (kind, version, bytes), with checksums and size limits.
//!
//! ```text
//! struct with a version of its own --State::encode--> Section --write--> bytes --read--> Section --State::decode-->
//! ```
//!
//! This crate knows no device: whoever saves something gives its struct a kind, a version and a bound by
//! implementing [`State`]. Invariants: what is read is a stranger's, so nothing is allocated by a length that
//! was not compared with the bytes that are there and with a limit; what decodes was encoded so, byte by
//! byte; nothing panics.
#![forbid(unsafe_code)]

mod checksum;
mod codec;
mod error;
mod file;
mod section;

pub use codec::{Decoder, Encoder};
pub use error::SnapshotError;
pub use file::{Limits, read, write};
pub use section::{Kind, Section, State};
