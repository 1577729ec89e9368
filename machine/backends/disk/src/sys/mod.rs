//! The calls that need `unsafe`: locks of open file descriptions, io_uring.
#![allow(unsafe_code)]

pub(crate) mod ofd;
pub(crate) mod uring;
