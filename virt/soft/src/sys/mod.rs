//! The fenced corner: what needs `unsafe` outside translation and host SIMD.

pub(crate) mod code_mapping;
pub(crate) mod host;
pub(crate) mod io_slot;
pub(crate) mod table;
