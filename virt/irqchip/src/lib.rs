//! Interrupt controllers as pure models: local APIC, IOAPIC, 8259 pair, 8254 timer.
//!
//! Sources: Intel SDM vol. 3 chapter 10 (APIC), Intel 82093AA (IOAPIC), 8259A and 8254 data sheets.
//! Invariants: no clock, lock, thread or bus inside — time comes in as [`Now`] or nanoseconds,
//! deadlines go out as `next_event`, interrupts go out as values; nothing a guest writes can
//! panic; no allocation, no recursion, no floating point, so a kernel can use it too.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod ioapic;
pub mod ipi;
pub mod lapic;
pub mod msi;
pub mod pic;
pub mod pit;

pub use ioapic::{IoApic, IoApicV1};
pub use ipi::{BROADCAST, DeliveryMode, DestinationMode, Ipi, Shorthand, Trigger};
pub use lapic::{Accepted, Deadline, Effect, Identity, Lapic, Lint, LocalEvent, Mode, Now};
pub use msi::Msi;
pub use pic::{Pic, PicChipV1, PicV1};
pub use pit::{Pit, PitChannelV1, PitV1};
