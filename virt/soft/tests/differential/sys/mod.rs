//! What needs the operating system, and `unsafe`.

pub(crate) mod native;
