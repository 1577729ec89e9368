//! The engine over Linux's /dev/kvm: runs unmodified x86-64 guests on the host's virtualization
//! hardware (Linux Documentation/virt/kvm/api.rst).
//!
//! `host` opens /dev/kvm and says what is wrong with it; `engine` is the VM, `vcpu` and `run` the
//! processors; `state` moves the neutral `CpuState` in and out; `kick` stops a running vCPU from
//! other threads; `halt` notices guests that nothing can wake; `routes` is the table of
//! messages that KVM knows; `paths` lets doorbells and messages go through the kernel alone; `cpuid` shapes what guests see; `probe` judges the host.
//!
//! Invariants: the only crate that sees kvm-bindings; the local APIC is KVM's, IOAPIC, PIC and PIT
//! are the machine's (split irqchip); `unsafe` only around calls into the kernel.

mod cpuid;
mod engine;
mod error;
mod halt;
mod host;
mod kick;
mod paths;
mod probe;
mod routes;
mod run;
mod state;
#[cfg(test)]
mod tests;
mod vcpu;

pub use crate::engine::KvmEngine;
pub use crate::error::KvmError;
pub use crate::probe::{Verdict, probe};
