//! What a PC's firmware leaves behind for an operating system: tables, a loaded kernel, registers.
//!
//! Bytes in, bytes out: a kernel file is parsed ([`kernel`]), its payload unpacked on the host
//! ([`unpack`]), placed and entered ([`boot`]), piece by piece from a [`source::Source`] into a
//! [`source::Sink`]; [`acpi`], [`smbios`] and [`e820`] describe the machine to it. Invariants: no
//! I/O of its own, no guest memory type, no clock; every file is hostile, so every read is bounded,
//! every output limited, and every refusal is a typed error with a sentence.
#![forbid(unsafe_code)]

pub mod acpi;
pub mod boot;
mod bytes;
pub mod e820;
pub mod kernel;
pub mod layout;
pub mod smbios;
pub mod source;
pub mod unpack;

#[cfg(test)]
mod samples;
