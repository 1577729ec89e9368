//! Places where translated code can be left, and branches that can be linked.

use super::flags::{Place, Recipe};

/// Why a block is left at a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SiteKind {
    /// A check missed; a grouped one speaks for later accesses too.
    Access { write: bool, size: u32, grouped: bool },
    /// An access faulted in its window.
    Window { write: bool },
    /// The budget is spent, or somebody wants attention.
    Poll,
    /// The interpreter executes the instruction.
    Interpret,
    /// The start of a block that a path is to be recorded from.
    Hot,
    /// A branch that is not linked yet.
    Link(u32),
    /// An indirect branch to an address that the jump cache lacks. It has moved RSP already, and
    /// fails if the address is not canonical.
    Target { rsp_move: i32 },
    /// A path's indirect branch that goes elsewhere, while that is counted.
    Elsewhere { link: u32, rsp_move: i32 },
    /// The page after the block's is not mapped as it was.
    SecondPage,
    /// The host raised a signal on the instruction.
    Trap,
}

impl SiteKind {
    /// Whether the block lies behind: its registers' values are back in their places.
    pub(crate) fn is_behind(self) -> bool {
        matches!(self, Self::Link(_) | Self::Target { .. } | Self::Elsewhere { .. } | Self::Hot)
    }
}

/// A place where a block can be left. Kept packed: see `vcpu::sites`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    pub(crate) kind: SiteKind,
    /// The block, by number.
    pub(crate) block: u32,
    /// The guest instruction (for links: the target), from the start of the block's page.
    pub(crate) offset: i32,
    /// Instructions of the block executed and not yet taken off the budget.
    pub(crate) executed: u16,
    /// Where the status flags are.
    pub(crate) flags: Place,
    /// Words that the guest's RSP is ahead of the host's.
    pub(crate) lag: i8,
}

/// A branch with a target known when it was translated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    /// Where it leaves from.
    pub(crate) site: u32,
    /// Within the page: place of the jump's 32-bit distance.
    pub(crate) patch: Option<u32>,
    /// Beyond it: number of its slot.
    pub(crate) slot: Option<u32>,
    /// Place of the code that leaves.
    pub(crate) stub: u32,
    /// Place of code that finds the target, once nobody counts; 0 where it is known.
    pub(crate) through: u32,
    /// How the flags were made, where it jumps.
    pub(crate) recipe: Option<Recipe>,
}
