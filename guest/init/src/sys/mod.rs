//! The calls that need `unsafe`: code between fork and exec, and network interfaces.
#![allow(unsafe_code)]

pub(crate) mod net;
pub(crate) mod session_leader;
