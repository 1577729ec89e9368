//! Privileged, segment- and event-related instructions (SDM vol. 3, chapters 2-8, 17, 20).

pub mod control;
pub mod cpuid;
pub mod debug;
pub mod far;
pub mod flagops;
pub mod io;
pub mod iret;
pub mod lifecycle;
pub mod misc;
pub mod msr;
pub mod segments;
pub mod stack;
pub mod syscall;
pub mod tables;
pub mod task;

#[cfg(test)]
mod tests;
