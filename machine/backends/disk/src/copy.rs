//! From one disk to another, without what is zero.

use crate::bytes::is_zero;
use crate::disk::Disk;
use crate::error::DiskError;

/// What is read at a time.
const PIECE: usize = 2 << 20;
/// What is left out if it is zero.
const GRAIN: usize = 64 << 10;

/// Told how many bytes of how many are done.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// Copies a disk's contents to one that is at least as large and reads as zeros, and flushes.
///
/// # Errors
/// What reading or writing gives; what was copied stays.
pub fn copy(from: &Disk, to: &Disk, progress: Progress<'_>) -> Result<(), DiskError> {
    let capacity = from.capacity();
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    while at < capacity {
        progress(at, capacity);
        let known = from.zeros(at, capacity - at)?;
        if known > 0 {
            at += known;
            continue;
        }
        // To the next multiple, so that clusters are written whole.
        let count = (PIECE as u64 - at % PIECE as u64).min(capacity - at) as usize;
        let piece = &mut buffer[..count];
        from.read_at(at, piece)?;
        for (number, grain) in piece.chunks(GRAIN).enumerate() {
            if !is_zero(grain) {
                to.write_at(at + (number * GRAIN) as u64, grain)?;
            }
        }
        at += count as u64;
    }
    to.flush()?;
    progress(capacity, capacity);
    Ok(())
}
