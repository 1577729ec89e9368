//! The calls that need `unsafe`: locks of ranges.
#![allow(unsafe_code)]

pub(crate) mod ranges;
