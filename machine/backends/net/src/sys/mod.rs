//! The calls that need `unsafe`: ioctls of tap devices.
#![allow(unsafe_code)]

pub(crate) mod tun;
