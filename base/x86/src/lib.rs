//! The x86-64 architecture as data: what a processor's state is, what its registers' bits mean,
//! how its page tables and descriptors are laid out. Nothing here executes anything.
//!
//! Source throughout: Intel SDM and AMD APM; each file names its sections. Invariant: `no_std`, no
//! allocation, no I/O, so every room of the house (and a kernel) can use it.
#![no_std]
#![forbid(unsafe_code)]

pub mod addr;
pub mod control;
pub mod cpuid;
pub mod exception;
pub mod flags;
pub mod lapic;
pub mod msr;
pub mod paging;
pub mod segment;
pub mod state;
pub mod xsave;

pub use addr::{GuestPhys, GuestVirt};
pub use control::{Cr0, Cr4, Dr6, Dr7, Efer, Xcr0};
pub use exception::{Exception, Vector};
pub use flags::Flags;
pub use segment::{Descriptor, Segment, SegmentRegister, TableRegister};
pub use state::{Activity, CpuState, Msrs, Reg};
pub use xsave::XsaveArea;
