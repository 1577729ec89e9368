//! What can be wrong with saved state.

use thiserror::Error;

use crate::section::Kind;

/// Saved state that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// It begins with something else.
    #[error("this is not saved state of Oneroof: it does not begin with its signature")]
    Signature,
    /// The sections are laid out in a way that is not known.
    #[error(
        "saved state in format {found}, of which this version knows only {known}: use the version that saved it"
    )]
    Format {
        /// What it says.
        found: u16,
        /// What is known.
        known: u16,
    },
    /// Its end is missing.
    #[error(
        "saved state that ends after {have} bytes, where {want} are needed: it was not copied whole"
    )]
    Truncated {
        /// Bytes needed.
        want: u64,
        /// Bytes there.
        have: u64,
    },
    /// There is more than it says.
    #[error("{0} bytes too many behind saved state: it is damaged")]
    Trailing(u64),
    /// The bytes are not those that were saved.
    #[error("the checksum of section {0} does not fit: the saved state is damaged")]
    Checksum(Kind),
    /// Sections, or a list, are longer than anything that is saved.
    #[error("section {kind} of {length} bytes, of which {most} can be: the saved state is damaged")]
    TooLarge {
        /// The section.
        kind: Kind,
        /// What it says.
        length: u64,
        /// The limit.
        most: u64,
    },
    /// More sections than anything has.
    #[error("{count} sections, of which {most} can be: the saved state is damaged")]
    TooMany {
        /// What it says.
        count: u32,
        /// The limit.
        most: u32,
    },
    /// A section is wanted and another one is there.
    #[error("section {found} where {wanted} should be: the saved state is of another machine")]
    Kind {
        /// What is there.
        found: Kind,
        /// What should be.
        wanted: Kind,
    },
    /// A later version saved it, or one that is not supported any more.
    #[error(
        "section {kind} in version {found}, of which this version knows only {known}: use the version that saved it"
    )]
    Version {
        /// The section.
        kind: Kind,
        /// What it says.
        found: u16,
        /// What is known.
        known: u16,
    },
    /// A value that the state cannot have.
    #[error("{0} that cannot be: the saved state is damaged")]
    Value(&'static str),
}
