//! Memory that translated code runs in and reaches: code, contexts' tables, the vCPU's state page.
//!
//! `code` is executable memory, `area` and `layout` the tables behind GS, `state` the page all
//! areas share, `windows` views of guest pages, `enter` the call into translated code, `signal`
//! what to do when it faults.
//! Invariant: all of it belongs to one vCPU and is touched by its thread alone.

pub(crate) mod area;
pub(crate) mod code;
pub(crate) mod enter;
pub(crate) mod layout;
pub(crate) mod miss;
pub(crate) mod signal;
pub(crate) mod state;
pub(crate) mod windows;
