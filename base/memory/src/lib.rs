//! Guest RAM: one mapping, of a memfd or in the host's large pages, typed addresses, dirty and code-page tracking.
//!
//! Invariants: the only mapping of guest RAM that Rust code reads or writes through (a software
//! CPU can have further views for the code it emits: `Reservation`); every access is bounds-checked;
//! concurrent access by vCPU threads and devices is expected, so plain loads and stores are single
//! machine instructions and read-modify-writes are atomic.

mod access;
mod alias;
mod held;
mod mapping;
mod memory;
mod release;
mod tracking;
mod transfer;
mod zero;

pub use access::Scalar;
pub use alias::Reservation;
pub use memory::{GuestMemory, MemoryError, RamOffset, Region};
pub use tracking::{CodeListener, PageBitmap};
pub use x86::addr::{GuestPhys, GuestVirt, PAGE_SIZE};
