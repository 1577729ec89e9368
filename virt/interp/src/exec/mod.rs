//! What instructions do: one file per group of handlers.

pub mod alu;
pub mod atomic;
pub mod bcd;
pub mod bits;
pub mod branch;
pub mod misc;
pub mod mov;
pub mod muldiv;
pub mod shift;
pub mod stack;
pub mod string;
pub mod system;

#[cfg(test)]
mod tests;
