//! The calls that need `unsafe`: locks of open file descriptions.
#![allow(unsafe_code)]

pub(crate) mod ofd;
