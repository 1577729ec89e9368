//! What needs `unsafe`: instructions by name, and system calls that have no safe wrapper.

pub(crate) mod aes;
pub(crate) mod jit;
pub(crate) mod pages;
pub(crate) mod process;
pub(crate) mod simd;
pub(crate) mod x87;
