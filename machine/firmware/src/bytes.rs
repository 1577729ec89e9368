//! Bounded little-endian reads from files and writes into tables.
//!
//! Invariant: a read past the end is `None`, never a panic; writes go into buffers we sized, so
//! there a slip is our own fault and panics.

/// `len` bytes at `offset`.
pub(crate) fn slice(bytes: &[u8], offset: u64, len: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(len).ok()?)?;
    bytes.get(start..end)
}

fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    array(bytes, offset).map(u16::from_le_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    array(bytes, offset).map(u32::from_le_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    array(bytes, offset).map(u64::from_le_bytes)
}

/// Overwrites the bytes at `offset` of a buffer of ours.
pub(crate) fn put(buffer: &mut [u8], offset: usize, value: &[u8]) {
    buffer[offset..offset + value.len()].copy_from_slice(value);
}

pub(crate) fn put_u16(buffer: &mut [u8], offset: usize, value: u16) {
    put(buffer, offset, &value.to_le_bytes());
}

pub(crate) fn put_u32(buffer: &mut [u8], offset: usize, value: u32) {
    put(buffer, offset, &value.to_le_bytes());
}

pub(crate) fn put_u64(buffer: &mut [u8], offset: usize, value: u64) {
    put(buffer, offset, &value.to_le_bytes());
}

/// The byte that makes the sum of all bytes zero (ACPI 5.2.3, SMBIOS 5.2.2).
pub(crate) fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}
