//! The software CPU: runs unmodified x86-64 guests with no help of the host's virtualization.
//!
//! `engine` and `vcpu` implement the engine seam; `bus` is the interpreter's world (RAM through a
//! software TLB, devices through `GuestIo`); `block` keeps decoded code; `simd` executes the
//! guest's vector instructions on the host's own unit; `shared` is what vCPU threads see of each
//! other. Needs an x86-64 host. Invariant: `unsafe` only in `simd` and `sys`.

mod block;
mod bus;
mod cache;
mod clock;
mod cpuid;
mod cross;
mod engine;
mod shared;
pub mod simd;
mod sys;
mod translate;
mod vcpu;

pub use crate::engine::{Execution, SoftEngine, SoftOptions};
