//! What lies where in a context's area, relative to GS.
//!
//! ```text
//! -4096      NativeState: the same page in every area
//! TLB        1024 entries of 32 bytes: read, write and fetch tag, host address of the page
//! PRIVATE    what only this context has: the victims' generation
//! JUMPS      65536 entries of 16 bytes: linear address, host code
//!            (as many that stay empty)
//! LINKS      host code for each branch that leaves its page
//! VICTIMS    4096 entries like the TLB's, tags with the generation in their low bits
//! WINDOWS    65536 entries of 8 bytes: what to add to an address in each 4 GiB of the guest's
//!            address space to reach its window (see `windows`)
//! ```
//!
//! The TLB comes first because its entries are then named with one byte, in every check.

/// Bytes of the state page, in front of what GS points at.
pub(crate) const STATE: usize = 4096;

/// Entries of the TLB.
pub(crate) const TLB_ENTRIES: usize = 1024;
/// Bytes of one.
pub(crate) const TLB_ENTRY: usize = 32;
/// log2 of it.
pub(crate) const TLB_ENTRY_SHIFT: u8 = 5;
/// Where the TLB begins.
pub(crate) const TLB: usize = 0;
/// The host address within an entry.
pub(crate) const TLB_HOST: usize = 24;

/// What only this context has.
pub(crate) const PRIVATE: usize = TLB + TLB_ENTRIES * TLB_ENTRY;

/// Entries of the jump cache.
pub(crate) const JUMP_ENTRIES: usize = 65536;
/// An address's entry: its low 16 bits plus those this far up.
pub(crate) const JUMP_SHIFT: u8 = 16;
/// Where the jump cache begins.
pub(crate) const JUMPS: usize = PRIVATE + 64;

/// Where link slots begin. Behind the jump cache as many entries stay empty: they are looked at
/// where the budget is spent.
pub(crate) const LINKS: usize = JUMPS + 2 * JUMP_ENTRIES * 16;
/// Branches that can have one: in big programs every 320 bytes of code that runs often (measured in
/// cc1 and Linux), and more would leave code memory unused.
pub(crate) const LINK_SLOTS: usize = 1 << 17;

/// Entries behind the TLB, looked at when it misses.
pub(crate) const VICTIM_ENTRIES: usize = 4096;
/// Where they begin.
pub(crate) const VICTIMS: usize = LINKS + LINK_SLOTS * 8;

/// Entries of the windows' table: bits 47:32 of an address.
pub(crate) const WINDOW_ENTRIES: usize = 1 << 16;
/// Bytes of it.
pub(crate) const WINDOW_TABLE: usize = WINDOW_ENTRIES * 8;
/// Where the windows' table begins: on a page of its own, counted with the state page.
pub(crate) const WINDOWS: usize =
    (STATE + VICTIMS + VICTIM_ENTRIES * TLB_ENTRY).next_multiple_of(4096) - STATE;

/// Bytes of an area.
pub(crate) const AREA: usize = STATE + WINDOWS + WINDOW_TABLE;
