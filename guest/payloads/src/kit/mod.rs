//! What payloads are built with: an assembler that knows what the harness must see.

mod guest;
mod handlers;
mod image;
mod multi;
mod privilege;
mod start_up;

pub(crate) use guest::{Assembled, Guest, jump_address};
#[allow(unused_imports, reason = "for payloads to come")]
pub(crate) use image::page;
#[allow(unused_imports, reason = "for payloads to come")]
pub(crate) use multi::lapic;
pub(crate) use start_up::{far_jump_16, long_mode_bits};

/// Exception vectors by their short names (SDM vol. 3, table 6-1).
pub(crate) mod vector {
    pub(crate) const DE: u8 = 0;
    #[allow(dead_code, reason = "the row of vectors is whole")]
    pub(crate) const DB: u8 = 1;
    pub(crate) const NMI: u8 = 2;
    pub(crate) const BP: u8 = 3;
    pub(crate) const OF: u8 = 4;
    pub(crate) const BR: u8 = 5;
    pub(crate) const UD: u8 = 6;
    pub(crate) const NM: u8 = 7;
    pub(crate) const DF: u8 = 8;
    pub(crate) const TS: u8 = 10;
    pub(crate) const NP: u8 = 11;
    pub(crate) const SS: u8 = 12;
    pub(crate) const GP: u8 = 13;
    pub(crate) const PF: u8 = 14;
    pub(crate) const MF: u8 = 16;
    pub(crate) const AC: u8 = 17;
    pub(crate) const XM: u8 = 19;
    /// Leaves CPL 3: the one gate below vector 32 upwards with DPL 3.
    pub(crate) const LEAVE: u8 = 0x20;
    /// First vector whose handler reports [`super::Guest::INTERRUPT`] and the vector.
    pub(crate) const REPORTED: u8 = 0x30;
    /// First vector whose handler only counts.
    pub(crate) const COUNTED: u8 = 0x80;
}

/// Bits of a page-fault error code.
pub(crate) mod pf {
    pub(crate) const P: u32 = 1;
    pub(crate) const W: u32 = 2;
    pub(crate) const U: u32 = 4;
    pub(crate) const RSVD: u32 = 8;
    pub(crate) const FETCH: u32 = 16;
}
