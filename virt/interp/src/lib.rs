//! What one x86 instruction does, over a small memory and I/O seam.
//!
//! `decode` turns bytes into an [`Op`]: a handler and its operands, made once and run many times.
//! `Cpu` holds the registers and owns the [`Bus`]; an engine keeps ops in blocks and runs them.
//!
//! Invariants: no OS calls, clock, allocation on the execution path, recursion, floating point or
//! SIMD in this crate's own code (the guest's vector state is executed by the bus's
//! [`vector::VectorUnit`]); nothing the guest does panics; every register write of an
//! instruction happens after its last access that can fault.
#![no_std]
#![forbid(unsafe_code)]

pub mod bus;
pub mod cpu;
pub mod deliver;
pub mod exec;
pub mod flags;
pub mod lower;
pub mod op;
pub mod operand;
#[cfg(test)]
#[allow(dead_code, reason = "each group's tests use a part")]
mod testing;
pub mod vector;
pub mod width;

pub use bus::{
    Bus, CodeKind, Context, Flush, LinearMemory, Platform, PortIo, StringAssist, Translation,
};
pub use cpu::{Cpu, Exec, Stop, Trap};
pub use lower::{CodeSize, DecodeError, decode};
pub use op::{AddressForm, Handler, Op, OpFlags};
pub use width::Width;
