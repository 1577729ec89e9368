//! What instructions do: one file per group of handlers.

pub mod system;
