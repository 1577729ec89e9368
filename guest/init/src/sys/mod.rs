//! The calls that need `unsafe`: code between fork and exec, and one network ioctl.
#![allow(unsafe_code)]

pub(crate) mod net;
pub(crate) mod session_leader;
