//! What lies where in a context's area, relative to GS.
//!
//! ```text
//! -4096      NativeState: the same page in every area
//! TLB        1024 entries of 32 bytes: read, write and fetch tag, host address of the page
//! PRIVATE    what only this context has: the victims' generation
//! JUMPS      65536 entries of 16 bytes: linear address, host code
//!            (as many that stay empty)
//!            65536 second entries for the same addresses
//! LINKS      host code for each branch that leaves its page
//! VICTIMS    4096 entries like the TLB's, tags with the generation in their low bits
//!            4 MiB that are never accessible
//! WINDOWS    65536 entries of 8 bytes: what to add to an address in each 4 GiB of the guest's
//!            address space to reach its window (see `windows`), the upper half's first
//!            nothing accessible up to 4 GiB behind GS
//! ```
//!
//! The TLB comes first because its entries are then named with one byte, in every check.
//!
//! A look-up of a window takes bits 63:32 of any address times 8 as a signed number of 32 bits, counted from
//! the middle of WINDOWS: canonical addresses find their entry, others what lies up to 4 GiB behind GS. So nothing
//! may lie there but the area's own tables, which hold no number that a guest can choose freely: bits 63:48 of theirs are
//! all equal, or nearly (they are addresses, with at most 1 added or taken off there). Being 4 MiB or more in front of the
//! entries, they are found only by addresses whose bits 60:48 are 8 or more away from all equal, and such a
//! sum is not canonical either.

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

/// Places that addresses have in the jump cache.
pub(crate) const JUMP_PLACES: usize = 65536;
/// From a place's first entry to its second. Between them as many entries stay empty: they are looked at
/// where the budget is spent.
pub(crate) const JUMP_SECOND: usize = 2 * JUMP_PLACES;
/// Entries of the jump cache.
pub(crate) const JUMP_ENTRIES: usize = 3 * JUMP_PLACES;
/// An address's place: itself plus its bits this far up, ...
pub(crate) const JUMP_SHIFT: u8 = 16;
/// ... without so many low bits: where calls come back to lies close together but seldom closer than a
/// call is long, and what lies together shares lines of the host's caches.
pub(crate) const JUMP_GRAIN: u8 = 2;
/// Where the jump cache begins.
pub(crate) const JUMPS: usize = PRIVATE + 64;

/// Where link slots begin.
pub(crate) const LINKS: usize = JUMPS + JUMP_ENTRIES * 16;
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
/// Bytes in front of it that are never accessible.
const GAP: usize = 4 << 20;
/// Where the tables in front of the gap end, counted with the state page: on a page's boundary.
pub(crate) const TABLES_END: usize =
    (STATE + VICTIMS + VICTIM_ENTRIES * TLB_ENTRY).next_multiple_of(4096);
/// Where the windows' table begins.
pub(crate) const WINDOWS: usize = TABLES_END - STATE + GAP;
/// Where the entry for addresses from 0 is: the upper half's lie in front of it.
pub(crate) const WINDOWS_MIDDLE: usize = WINDOWS + WINDOW_TABLE / 2;

/// Bytes of an area.
pub(crate) const AREA: usize = STATE + WINDOWS + WINDOW_TABLE;
/// From an area to the next: what a look-up can reach is its own.
pub(crate) const STRIDE: usize = STATE + (4 << 30);

/// Which entry of the windows' table is a stretch's.
pub(crate) fn window_entry(stretch: u16) -> usize {
    usize::from(stretch ^ 0x8000)
}
