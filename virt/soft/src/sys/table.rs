//! Lists in address space of their own: one grows where it lies, costs the pages that it fills, and
//! gives them back when it is cleared. Vectors would be moved to twice the room each time they grow,
//! and what an allocator gets back it seldom returns to the host.
//!
//! Invariant: the first `length` elements are initialised, and the mapping holds `capacity`.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use engine::EngineError;

/// A list of at most so many elements, set at its creation.
pub(crate) struct Table<T> {
    base: NonNull<T>,
    length: usize,
    capacity: usize,
}

// SAFETY: the mapping belongs to this value alone and is valid on any thread; what lies in it is
// only as movable as its type says.
unsafe impl<T: Send> Send for Table<T> {}

impl<T: Copy> Table<T> {
    /// Reserves address space for `capacity` elements.
    pub(crate) fn new(capacity: usize) -> Result<Self, EngineError> {
        const { assert!(size_of::<T>() > 0 && align_of::<T>() <= 4096) };
        assert!(capacity > 0, "a mapping has a length");
        // SAFETY: a fresh private mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                capacity * size_of::<T>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(EngineError::last_os("mmap of a table"));
        }
        let base = NonNull::new(base.cast()).expect("the kernel does not map at 0 unasked");
        let table = Self { base, length: 0, capacity };
        table.advise(libc::MADV_NOHUGEPAGE);
        Ok(table)
    }

    /// Advice that the kernel does not take changes nothing but what the pages cost.
    fn advise(&self, advice: libc::c_int) {
        let bytes = self.capacity * size_of::<T>();
        // SAFETY: the whole of a mapping of ours; callers give no advice that drops elements in use.
        unsafe { libc::madvise(self.base.as_ptr().cast(), bytes, advice) };
    }

    /// Appends an element.
    pub(crate) fn push(&mut self, element: T) {
        assert!(self.length < self.capacity, "whoever fills a table knows how much it may hold");
        // SAFETY: inside the mapping, as just checked, and behind all elements.
        unsafe { self.base.as_ptr().add(self.length).write(element) };
        self.length += 1;
    }

    /// Drops all elements, and gives their pages back to the host.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.length) > 0 {
            self.advise(libc::MADV_DONTNEED);
        }
    }

    /// Bytes that the elements take.
    pub(crate) fn bytes(&self) -> usize {
        self.length * size_of::<T>()
    }
}

impl<T> Deref for Table<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: so many elements are initialised, and changing one takes `&mut self`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.length) }
    }
}

impl<T> DerefMut for Table<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, with exclusive access.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.length) }
    }
}

impl<T> Drop for Table<T> {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length; elements are `Copy`, so none has to be dropped.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.capacity * size_of::<T>()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages of a table that the host holds.
    fn resident(table: &Table<u64>) -> usize {
        let pages = (table.capacity * 8).div_ceil(4096);
        let mut there = vec![0u8; pages];
        // SAFETY: the mapping's own range, a byte for each page.
        let done =
            unsafe { libc::mincore(table.base.as_ptr().cast(), pages * 4096, there.as_mut_ptr()) };
        assert_eq!(done, 0);
        there.iter().filter(|&&page| page & 1 != 0).count()
    }

    #[test]
    fn a_table_costs_what_it_holds() {
        let mut table = Table::new(1 << 20).unwrap();
        assert_eq!((table.len(), resident(&table)), (0, 0));
        (0..5000).for_each(|number| table.push(number));
        assert_eq!((table[0], table[4999], table.bytes()), (0, 4999, 40_000));
        assert_eq!(resident(&table), 10);
        table[7] = 1;
        table.clear();
        assert_eq!((table.len(), resident(&table)), (0, 0));
        table.push(3);
        assert_eq!(table[..], [3]);
    }

    #[test]
    #[should_panic(expected = "how much it may hold")]
    fn a_full_table_takes_nothing_more() {
        let mut table = Table::new(2).unwrap();
        (0..3).for_each(|number| table.push(number));
    }
}
