//! What lies where in a context's area, relative to GS.
//!
//! ```text
//! 0          NativeState: the same page in every area
//! TLB        512 entries of 32 bytes: read, write and fetch tag, host address of the page
//! JUMPS      4096 entries of 16 bytes: linear address, host code
//! LINKS      host code for each branch that leaves its page
//! ```

/// Entries of the TLB.
pub(crate) const TLB_ENTRIES: usize = 512;
/// Bytes of one.
pub(crate) const TLB_ENTRY: usize = 32;
/// log2 of it.
pub(crate) const TLB_ENTRY_SHIFT: u8 = 5;
/// Where the TLB begins.
pub(crate) const TLB: usize = 4096;
/// The host address within an entry.
pub(crate) const TLB_HOST: usize = 24;

/// Entries of the jump cache: one for each place in a page.
pub(crate) const JUMP_ENTRIES: usize = 4096;
/// Where the jump cache begins.
pub(crate) const JUMPS: usize = TLB + TLB_ENTRIES * TLB_ENTRY;

/// Where link slots begin.
pub(crate) const LINKS: usize = JUMPS + JUMP_ENTRIES * 16;
/// Branches that can have one.
pub(crate) const LINK_SLOTS: usize = 1 << 16;

/// Bytes of an area.
pub(crate) const AREA: usize = LINKS + LINK_SLOTS * 8;
