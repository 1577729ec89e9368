//! Sections one after another.
//!
//! ```text
//! head     "oneroof\n"   format u16   0 u16   count u32   sum u32 of the 16 bytes before
//! section  kind [u8; 4]  version u16  0 u16   length u32  sum u32 of the 12 bytes before and the body   body
//! ```
//!
//! Numbers are little-endian. Invariant: no byte of it can change without a difference: sums cover heads and
//! bodies, the count covers the end, and what is unused is zero.

use crate::checksum::crc32;
use crate::codec::{Decoder, Encoder};
use crate::error::SnapshotError;
use crate::section::{Kind, Section};

const SIGNATURE: [u8; 8] = *b"oneroof\n";
const FORMAT: u16 = 1;
/// What the head's sum is reported as.
const HEAD: Kind = Kind(*b"head");

/// How much is read at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sections.
    pub sections: u32,
    /// Bytes of one.
    pub section_bytes: u32,
}

impl Default for Limits {
    /// Enough for the devices of any machine of ours: guest RAM is not kept in sections.
    fn default() -> Self {
        Self { sections: 1024, section_bytes: 1 << 30 }
    }
}

/// The bytes of some sections.
///
/// # Panics
/// 2^32 sections, or as many bytes in one.
pub fn write(sections: &[Section]) -> Vec<u8> {
    let mut to = Encoder::default();
    to.array(&SIGNATURE);
    to.u16(FORMAT);
    to.u16(0);
    to.u32(u32::try_from(sections.len()).expect("fewer sections than 2^32"));
    let mut all = to.into_bytes();
    all.extend(crc32(&[&all]).to_le_bytes());
    for Section { kind, version, bytes } in sections {
        let mut to = Encoder::default();
        to.array(&kind.0);
        to.u16(*version);
        to.u16(0);
        to.u32(u32::try_from(bytes.len()).expect("a section of less than 4 GiB"));
        let head = to.into_bytes();
        let sum = crc32(&[&head, bytes]);
        all.extend(head);
        all.extend(sum.to_le_bytes());
        all.extend(bytes);
    }
    all
}

/// The sections in some bytes, in their order.
///
/// # Errors
/// Every way in which the bytes are not those of [`write`], or more than the limits allow.
pub fn read(bytes: &[u8], limits: Limits) -> Result<Vec<Section>, SnapshotError> {
    let mut from = Decoder::new(bytes);
    if !bytes.starts_with(&SIGNATURE[..bytes.len().min(SIGNATURE.len())]) {
        return Err(SnapshotError::Signature);
    }
    from.array::<8>()?;
    let (format, unused, count, sum) = (from.u16()?, from.u16()?, from.u32()?, from.u32()?);
    if sum != crc32(&[&bytes[..16]]) {
        return Err(SnapshotError::Checksum(HEAD));
    }
    if format != FORMAT {
        return Err(SnapshotError::Format { found: format, known: FORMAT });
    }
    if unused != 0 {
        return Err(SnapshotError::Value("a reserved field"));
    }
    if count > limits.sections {
        return Err(SnapshotError::TooMany { count, most: limits.sections });
    }
    let mut sections = Vec::new();
    for _ in 0..count {
        sections.push(section(&mut from, limits)?);
    }
    from.finish()?;
    Ok(sections)
}

fn section(from: &mut Decoder<'_>, limits: Limits) -> Result<Section, SnapshotError> {
    let head: [u8; 12] = from.array()?;
    let sum = from.u32()?;
    let mut fields = Decoder::new(&head);
    let kind = Kind(fields.array()?);
    let (version, unused, length) = (fields.u16()?, fields.u16()?, fields.u32()?);
    if length > limits.section_bytes {
        let (length, most) = (length.into(), limits.section_bytes.into());
        return Err(SnapshotError::TooLarge { kind, length, most });
    }
    let bytes = from.slice(length as usize)?;
    if sum != crc32(&[&head, bytes]) {
        return Err(SnapshotError::Checksum(kind));
    }
    if unused != 0 {
        return Err(SnapshotError::Value("a reserved field"));
    }
    Ok(Section { kind, version, bytes: bytes.to_vec() })
}

#[cfg(test)]
mod tests;
