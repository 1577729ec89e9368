//! The calls that need `unsafe`: code between fork and exec, network interfaces, and a kind of address.
#![allow(unsafe_code)]

pub(crate) mod net;
pub(crate) mod session_leader;
pub(crate) mod vsock;
