//! What lies where in a context's area, relative to GS.
//!
//! ```text
//! 0          NativeState: the same page in every area
//! PRIVATE    what only this context has: the victims' generation
//! TLB        1024 entries of 32 bytes: read, write and fetch tag, host address of the page
//! JUMPS      4096 entries of 16 bytes: linear address, host code
//! LINKS      host code for each branch that leaves its page
//! VICTIMS    4096 entries like the TLB's, tags with the generation in their low bits
//! ```

/// Entries of the TLB.
pub(crate) const TLB_ENTRIES: usize = 1024;
/// Bytes of one.
pub(crate) const TLB_ENTRY: usize = 32;
/// log2 of it.
pub(crate) const TLB_ENTRY_SHIFT: u8 = 5;
/// What only this context has.
pub(crate) const PRIVATE: usize = 4096;
/// Where the TLB begins.
pub(crate) const TLB: usize = PRIVATE + 64;
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

/// Entries behind the TLB, looked at when it misses.
pub(crate) const VICTIM_ENTRIES: usize = 4096;
/// Where they begin.
pub(crate) const VICTIMS: usize = LINKS + LINK_SLOTS * 8;

/// Bytes of an area.
pub(crate) const AREA: usize = (VICTIMS + VICTIM_ENTRIES * TLB_ENTRY).next_multiple_of(4096);
