//! The calls that need `unsafe`: signal masks.
#![allow(unsafe_code)]

pub(crate) mod signals;
