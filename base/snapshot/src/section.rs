//! A section: what a thing saved of itself, and in which version of its form.

use std::fmt;

use crate::codec::{Decoder, Encoder};
use crate::error::SnapshotError;

/// What a section is about: four letters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(pub [u8; 4]);

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kind({self})")
    }
}

/// One thing's saved state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// What it is about.
    pub kind: Kind,
    /// The form of its bytes.
    pub version: u16,
    /// At most 4 GiB, and as the limits say.
    pub bytes: Vec<u8>,
}

/// A struct that is one version of a thing's saved state. Its name ends with the version; a new form is a
/// new struct, and reading the old one is a conversion.
pub trait State: Sized {
    /// What it is about.
    const KIND: Kind;
    /// Which form this is.
    const VERSION: u16;
    /// Bytes that it has at most.
    const MOST_BYTES: usize;

    /// Puts all fields down, in an order that never changes.
    fn encode(&self, to: &mut Encoder);

    /// Reads them. That they fit together, and the machine, is looked at by whoever is made from them.
    ///
    /// # Errors
    /// Too few bytes, lists that are too long, values that cannot be.
    fn decode(from: &mut Decoder<'_>) -> Result<Self, SnapshotError>;

    /// A section of it.
    fn to_section(&self) -> Section {
        let mut to = Encoder::default();
        self.encode(&mut to);
        let bytes = to.into_bytes();
        assert!(bytes.len() <= Self::MOST_BYTES, "{} keeps to its own bound", Self::KIND);
        Section { kind: Self::KIND, version: Self::VERSION, bytes }
    }

    /// It, out of its section.
    ///
    /// # Errors
    /// Another kind or version, too many bytes or too few, values that cannot be.
    fn from_section(section: &Section) -> Result<Self, SnapshotError> {
        let (kind, wanted) = (section.kind, Self::KIND);
        if kind != wanted {
            return Err(SnapshotError::Kind { found: kind, wanted });
        }
        if section.version != Self::VERSION {
            let (found, known) = (section.version, Self::VERSION);
            return Err(SnapshotError::Version { kind, found, known });
        }
        if section.bytes.len() > Self::MOST_BYTES {
            let (length, most) = (section.bytes.len() as u64, Self::MOST_BYTES as u64);
            return Err(SnapshotError::TooLarge { kind, length, most });
        }
        let mut from = Decoder::new(&section.bytes);
        let state = Self::decode(&mut from)?;
        from.finish()?;
        Ok(state)
    }
}
