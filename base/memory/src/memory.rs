//! Guest RAM as regions of one mapping.
//!
//! ```text
//! guest-physical   0 ........ 3 GiB      4 GiB ........ 6 GiB
//!                  |  region 0  |  hole  |    region 1    |
//! RamOffset        0 ........ 3 GiB ................ 5 GiB      (contiguous in the host mapping)
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{Ordering, fence};

use thiserror::Error;
use x86::GuestPhys;
use x86::addr::PAGE_SIZE;

use crate::access::{self, Scalar};
use crate::mapping::{LARGE_PAGE, Mapping};
use crate::tracking::{CodeListener, Listener, PageBitmap};

/// A byte's place in RAM, counted without the holes of the physical map. Holding one proves
/// nothing: every access checks it against the size of RAM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RamOffset(pub u64);

/// A run of RAM in the guest-physical map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First guest-physical address.
    pub start: GuestPhys,
    /// Bytes.
    pub size: u64,
    /// Where it begins in RAM.
    pub offset: RamOffset,
}

/// Guest RAM could not be made or reached.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// The host gave no memory.
    #[error("the host cannot map {size_bytes} bytes of guest RAM")]
    Map {
        /// How much was asked.
        size_bytes: u64,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
    /// Addresses that are not RAM.
    #[error("guest-physical {start}..+{length:#x} is not RAM")]
    NotRam {
        /// First address.
        start: GuestPhys,
        /// Bytes.
        length: u64,
    },
}

/// Guest RAM. Shared by reference between engine, devices and observers.
#[derive(Debug)]
pub struct GuestMemory {
    mapping: Mapping,
    regions: Vec<Region>,
    dirty: PageBitmap,
    code: PageBitmap,
    listener: Listener,
}

impl GuestMemory {
    /// Maps zeroed RAM for `(start, size)` runs: page-aligned, ascending, not overlapping. It is a memfd's, so
    /// that a [`crate::Reservation`] can show it.
    ///
    /// # Errors
    /// The host gives no memory.
    pub fn new(runs: &[(GuestPhys, u64)]) -> Result<Self, MemoryError> {
        Self::with(runs, Mapping::of_file)
    }

    /// The same for an engine that shows RAM nowhere else: without a file, so that the host backs what is used with
    /// large pages where it has them, else with small ones. A host that accounts for all of such memory
    /// beforehand (vm.overcommit_memory=2) and has not as much gives a file's.
    ///
    /// # Errors
    /// The host gives no memory.
    pub fn in_large_pages(runs: &[(GuestPhys, u64)]) -> Result<Self, MemoryError> {
        Self::with(runs, |len| Mapping::without_file(len).or_else(|_| Mapping::of_file(len)))
    }

    fn with(
        runs: &[(GuestPhys, u64)],
        map: impl FnOnce(usize) -> io::Result<Mapping>,
    ) -> Result<Self, MemoryError> {
        let mut regions = Vec::with_capacity(runs.len());
        let mut total = 0;
        let mut next_free = 0;
        for &(start, size) in runs {
            assert!(
                start.0.is_multiple_of(PAGE_SIZE) && size.is_multiple_of(PAGE_SIZE) && size > 0
            );
            assert!(start.0 >= next_free, "runs ascend and do not overlap");
            regions.push(Region { start, size, offset: RamOffset(total) });
            total += size;
            next_free = start.0 + size;
        }
        let mapping =
            map(total as usize).map_err(|source| MemoryError::Map { size_bytes: total, source })?;
        let pages = total / PAGE_SIZE;
        Ok(Self {
            mapping,
            regions,
            dirty: PageBitmap::new(pages),
            code: PageBitmap::new(pages),
            listener: Listener::default(),
        })
    }

    /// The regions, ascending.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Bytes of RAM.
    pub fn size(&self) -> u64 {
        self.mapping.len() as u64
    }

    /// The memfd behind RAM, if there is one; file offset = `RamOffset`.
    pub(crate) fn file(&self) -> Option<&File> {
        self.mapping.file()
    }

    pub(crate) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Asks the host to hold [`GuestMemory::LARGE_PAGE`] bytes of RAM, which are all in use, in one page
    /// of its own: what reaches them then takes one entry of its TLB. Takes up to some
    /// milliseconds. Fails where the host has no such page left, or cannot (before Linux 6.1).
    pub fn make_large(&self, ram: RamOffset) -> io::Result<()> {
        self.mapping.collapse(ram.0 as usize)
    }

    /// Bytes of the host's large pages.
    pub const LARGE_PAGE: u64 = LARGE_PAGE as u64;

    /// The host address of RAM's first byte, for engines that hand the mapping to the kernel.
    pub fn host_base(&self) -> *mut u8 {
        self.mapping.base().as_ptr()
    }

    /// Pages written by the software CPU and devices since last drained; by `RamOffset` / 4096.
    /// The software CPU sets bits only while it fills write-TLB entries: see virt/soft.
    pub fn dirty(&self) -> &PageBitmap {
        &self.dirty
    }

    /// Pages that hold decoded code; by `RamOffset` / 4096.
    pub fn code(&self) -> &PageBitmap {
        &self.code
    }

    /// Who is told when [`GuestMemory::note_written`] meets a page that holds decoded code.
    pub fn listen_for_code(&self, listener: Option<CodeListener>) {
        self.listener.set(listener);
    }

    /// Marks a page dirty that a device (or a walk of page tables) has written to, and tells of it
    /// if it holds decoded code. The software CPU's own stores go another way.
    pub fn note_written(&self, page: u64) {
        self.dirty.set(page);
        // Whoever decodes the page sets its bit before reading: it read the new bytes, or we see
        // the bit.
        fence(Ordering::SeqCst);
        if self.code.is_set(page) {
            self.listener.tell(page);
        }
    }

    /// Where `address` lies in RAM and how many bytes of its region follow (itself included).
    #[inline]
    pub fn locate(&self, address: GuestPhys) -> Option<(RamOffset, u64)> {
        self.regions.iter().find_map(|region| {
            let delta = address.0.wrapping_sub(region.start.0);
            (delta < region.size).then(|| (RamOffset(region.offset.0 + delta), region.size - delta))
        })
    }

    /// The guest-physical address of a place in RAM.
    pub fn physical(&self, offset: RamOffset) -> Option<GuestPhys> {
        self.regions.iter().find_map(|region| {
            let delta = offset.0.wrapping_sub(region.offset.0);
            (delta < region.size).then(|| region.start + delta)
        })
    }

    /// The host pointer for `length` bytes at `offset`. The bounds check every access shares:
    /// an offset outside RAM is our own mistake, never the guest's, so it is an assertion.
    #[inline(always)]
    pub(crate) fn pointer(&self, offset: RamOffset, length: u64) -> *mut u8 {
        let size = self.mapping.len() as u64;
        assert!(length <= size && offset.0 <= size - length, "access outside guest RAM");
        // SAFETY: offset + length was just checked to lie inside the mapping.
        unsafe { self.mapping.base().as_ptr().add(offset.0 as usize) }
    }

    /// Loads a scalar in one instruction, at any alignment.
    #[inline(always)]
    pub fn load<T: Scalar>(&self, offset: RamOffset) -> T {
        let at = self.pointer(offset, T::SIZE);
        // SAFETY: `pointer` checked T::SIZE bytes.
        unsafe { T::load(at) }
    }

    /// Stores a scalar in one instruction, at any alignment.
    #[inline(always)]
    pub fn store<T: Scalar>(&self, offset: RamOffset, value: T) {
        let at = self.pointer(offset, T::SIZE);
        // SAFETY: `pointer` checked T::SIZE bytes.
        unsafe { T::store(at, value) }
    }

    /// LOCK CMPXCHG: returns the value found; it was replaced iff equal to `expected`.
    #[inline]
    pub fn compare_exchange<T: Scalar>(&self, offset: RamOffset, expected: T, new: T) -> T {
        let at = self.pointer(offset, T::SIZE);
        // SAFETY: `pointer` checked T::SIZE bytes.
        unsafe { T::compare_exchange(at, expected, new) }
    }

    /// XCHG: stores `value`, returns what was there.
    #[inline]
    pub fn swap<T: Scalar>(&self, offset: RamOffset, value: T) -> T {
        let at = self.pointer(offset, T::SIZE);
        // SAFETY: `pointer` checked T::SIZE bytes.
        unsafe { T::swap(at, value) }
    }

    /// LOCK XADD: adds `value`, returns what was there.
    #[inline]
    pub fn fetch_add<T: Scalar>(&self, offset: RamOffset, value: T) -> T {
        let at = self.pointer(offset, T::SIZE);
        // SAFETY: `pointer` checked T::SIZE bytes.
        unsafe { T::fetch_add(at, value) }
    }

    /// LOCK CMPXCHG16B; `offset` is a multiple of 16 (the instruction raises #GP otherwise).
    #[inline]
    pub fn compare_exchange_16(&self, offset: RamOffset, expected: u128, new: u128) -> u128 {
        assert!(offset.0.is_multiple_of(16), "the guest's alignment was checked by CMPXCHG16B");
        let at = self.pointer(offset, 16);
        // SAFETY: `pointer` checked 16 bytes; the mapping is page-aligned, so `at` is too.
        unsafe { access::compare_exchange_16(at, expected, new) }
    }

    /// Copies bytes out of RAM. Not atomic as a whole.
    #[inline]
    pub fn read_bytes(&self, offset: RamOffset, into: &mut [u8]) {
        let at = self.pointer(offset, into.len() as u64);
        // SAFETY: `pointer` checked the length; `into` is ours and not guest RAM. A racing guest
        // store can tear the bytes, which every reader of guest memory must expect.
        unsafe { std::ptr::copy_nonoverlapping(at, into.as_mut_ptr(), into.len()) }
    }

    /// Copies bytes into RAM. Not atomic as a whole.
    #[inline]
    pub fn write_bytes(&self, offset: RamOffset, from: &[u8]) {
        let at = self.pointer(offset, from.len() as u64);
        // SAFETY: as in `read_bytes`.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), at, from.len()) }
    }

    /// Copies `length` bytes within RAM, ascending like REP MOVSB with DF = 0 over bytes that do
    /// not overlap forward (the caller checks), or identically placed.
    pub fn copy_within(&self, from: RamOffset, to: RamOffset, length: u64) {
        let source = self.pointer(from, length);
        let target = self.pointer(to, length);
        // SAFETY: both ranges were checked; `copy` allows overlap.
        unsafe { std::ptr::copy(source, target, length as usize) }
    }

    /// Fills `length` bytes of RAM with one byte value.
    pub fn fill(&self, offset: RamOffset, length: u64, value: u8) {
        let at = self.pointer(offset, length);
        // SAFETY: `pointer` checked the length.
        unsafe { std::ptr::write_bytes(at, value, length as usize) }
    }

    /// Reads guest-physical bytes, which may span adjacent regions but no hole.
    pub fn read_physical(&self, start: GuestPhys, into: &mut [u8]) -> Result<(), MemoryError> {
        self.pieces(start, into.len() as u64, |offset, range| {
            self.read_bytes(offset, &mut into[range]);
        })
    }

    /// Writes guest-physical bytes and marks their pages dirty.
    pub fn write_physical(&self, start: GuestPhys, from: &[u8]) -> Result<(), MemoryError> {
        self.pieces(start, from.len() as u64, |offset, range| {
            let first = offset.0 / PAGE_SIZE;
            let last = (offset.0 + range.len().max(1) as u64 - 1) / PAGE_SIZE;
            self.write_run(offset, &from[range]);
            for page in first..=last {
                self.note_written(page);
            }
        })
    }

    /// Copies bytes into RAM; a kernel or an initrd by way of the file, because its pages, touched
    /// for the first time through the mapping, would cost a host fault each.
    fn write_run(&self, offset: RamOffset, from: &[u8]) {
        const LARGE: usize = 256 << 10;
        let file = self.file().filter(|_| from.len() >= LARGE);
        let written = file.is_some_and(|file| file.write_all_at(from, offset.0).is_ok());
        if !written {
            self.write_bytes(offset, from);
        }
    }

    /// Calls `each` for every contiguous run of a physical range, after checking all of it.
    fn pieces(
        &self,
        start: GuestPhys,
        length: u64,
        mut each: impl FnMut(RamOffset, std::ops::Range<usize>),
    ) -> Result<(), MemoryError> {
        let not_ram = || MemoryError::NotRam { start, length };
        for dry in [true, false] {
            let mut done = 0;
            while done < length {
                let at = start.checked_add(done).ok_or_else(not_ram)?;
                let (offset, follows) = self.locate(at).ok_or_else(not_ram)?;
                let run = follows.min(length - done);
                if !dry {
                    each(offset, done as usize..(done + run) as usize);
                }
                done += run;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_hole() -> GuestMemory {
        GuestMemory::new(&[(GuestPhys(0), 0x2000), (GuestPhys(0x10_0000), 0x1000)]).unwrap()
    }

    #[test]
    fn offsets_skip_the_hole() {
        let memory = with_hole();
        assert_eq!(memory.locate(GuestPhys(0x1fff)), Some((RamOffset(0x1fff), 1)));
        assert_eq!(memory.locate(GuestPhys(0x2000)), None);
        assert_eq!(memory.locate(GuestPhys(0x10_0010)), Some((RamOffset(0x2010), 0xff0)));
        assert_eq!(memory.physical(RamOffset(0x2010)), Some(GuestPhys(0x10_0010)));
    }

    #[test]
    fn unaligned_scalars_and_atomics() {
        let memory = with_hole();
        memory.store(RamOffset(0xffd), 0x1122_3344_5566_7788u64);
        assert_eq!(memory.load::<u64>(RamOffset(0xffd)), 0x1122_3344_5566_7788);
        assert_eq!(memory.load::<u8>(RamOffset(0xffe)), 0x77);
        assert_eq!(memory.load::<u16>(RamOffset(0xffe)), 0x6677);
        assert_eq!(memory.swap(RamOffset(0xffd), 5u32), 0x5566_7788);
        assert_eq!(memory.fetch_add(RamOffset(0xffd), 2u8), 5);
        assert_eq!(memory.compare_exchange(RamOffset(0xffd), 7u16, 9), 7);
        assert_eq!(memory.load::<u16>(RamOffset(0xffd)), 9);
    }

    #[test]
    fn sixteen_bytes_exchange_only_when_equal() {
        let memory = with_hole();
        let value = 0x0123_4567_89ab_cdef_u128 << 64 | 42;
        assert_eq!(memory.compare_exchange_16(RamOffset(32), 0, value), 0);
        assert_eq!(memory.compare_exchange_16(RamOffset(32), 1, 2), value);
        assert_eq!(memory.compare_exchange_16(RamOffset(32), value, 7), value);
        assert_eq!(memory.load::<u64>(RamOffset(32)), 7);
        assert_eq!(memory.load::<u64>(RamOffset(40)), 0);
    }

    #[test]
    fn physical_writes_check_everything_first_and_mark_dirty() {
        let memory = with_hole();
        assert!(memory.write_physical(GuestPhys(0x1ffe), &[1; 4]).is_err());
        assert_eq!(memory.load::<u8>(RamOffset(0x1fff)), 0);
        memory.write_physical(GuestPhys(0xfff), &[1, 2]).unwrap();
        assert!(memory.dirty().is_set(0) && memory.dirty().is_set(1));
        let mut bytes = [0; 2];
        memory.read_physical(GuestPhys(0xfff), &mut bytes).unwrap();
        assert_eq!(bytes, [1, 2]);
    }

    #[test]
    fn large_writes_arrive_in_the_mapping() {
        let runs = [(GuestPhys(0), 0x8_0000)];
        large_writes_arrive(&GuestMemory::new(&runs).unwrap());
        large_writes_arrive(&GuestMemory::in_large_pages(&runs).unwrap());
    }

    fn large_writes_arrive(memory: &GuestMemory) {
        let bytes: Vec<u8> = (0..300_000u32).map(|n| (n * 7) as u8).collect();
        memory.write_physical(GuestPhys(123), &bytes).unwrap();
        let mut back = vec![0; bytes.len()];
        memory.read_physical(GuestPhys(123), &mut back).unwrap();
        assert!(back == bytes && memory.load::<u8>(RamOffset(122)) == 0);
        assert!(memory.dirty().is_set(0x40) && !memory.dirty().is_set(0x4a));
    }

    #[test]
    #[should_panic(expected = "outside guest RAM")]
    fn an_offset_outside_is_an_assertion() {
        with_hole().load::<u64>(RamOffset(0x2ffc));
    }
}
