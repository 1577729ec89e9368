//! The PC: memory map, buses, interrupt wiring, vCPU threads, lifecycle.
//!
//! ```text
//! Engine's vCPU -> GuestIo (io) -> PortBus / MmioBus (bus) -> glue (one lock per device) -> model
//! model's level -> IrqLine (irq) -> PIC and IOAPIC -> Engine::set_pic_output, signal_msi
//! ```
//!
//! The models (machine/devices, virt/irqchip) know no lock, clock, thread or bus; this crate gives
//! them theirs. Invariants: locks nest only as sink, device, interrupt controllers, engine; no guest
//! access fails or panics; every thread is joined when its [`Machine`] goes.
#![forbid(unsafe_code)]

mod boot;
mod bus;
mod clock;
mod error;
mod events;
mod glue;
mod io;
mod irq;
mod layout;
mod lifecycle;
mod outcome;
mod pc;
mod run;
mod serial;
mod sweep;
mod timers;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

pub use boot::{Boot, BoxError, Initrd};
pub use error::MachineError;
pub use events::EventDigest;
pub use layout::{MAX_CPUS, PCI_HOLE, layout, memory_layout};
pub use lifecycle::{Machine, MachineConfig, Trace, VirtioTraffic};
pub use outcome::{Outcome, ResetSource};
pub use run::OnEnd;
pub use serial::{DiscardSink, SERIAL_PORTS, SerialConfig, SerialInput, SerialSink};
