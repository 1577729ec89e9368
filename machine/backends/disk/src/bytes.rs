//! Big-endian numbers in tables, as qcow2 has them, and locks whose holder may have panicked.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The 64-bit entry `index` of a table.
pub(crate) fn get64(table: &[u8], index: usize) -> u64 {
    u64::from_be_bytes(array(table, index * 8))
}

/// Sets the 64-bit entry `index` of a table.
pub(crate) fn put64(table: &mut [u8], index: usize, value: u64) {
    table[index * 8..index * 8 + 8].copy_from_slice(&value.to_be_bytes());
}

/// `N` bytes at `at`; the caller has checked that they are there.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a slice of N bytes")
}

pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

pub(crate) fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array(bytes, at))
}

/// A table of 64-bit entries from its bytes.
pub(crate) fn entries(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|entry| be64(entry, 0)).collect()
}

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let words = bytes.chunks_exact(16);
    words.remainder().iter().all(|byte| *byte == 0)
        && words.into_iter().all(|word| u128::from_ne_bytes(array(word, 0)) == 0)
}

/// A panic elsewhere (ours, caught by a worker) leaves nothing half done that a lock protects.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
