//! Further views of guest RAM, page by page, at addresses reserved for them.
//!
//! A software CPU can let the host's MMU do the guest's translation: it reserves a stretch of
//! address space and shows pages of RAM in it where the guest's page tables have them. Nothing
//! in Rust reads or writes through a view; only code that the CPU emitted does.
//!
//! Invariant: every page of a reservation is either inaccessible or a page of RAM.

use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use crate::mapping::reserve;
use crate::memory::{GuestMemory, RamOffset};

/// A stretch of the process's address space, inaccessible until RAM is shown in it.
#[derive(Debug)]
pub struct Reservation {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: the stretch belongs to this value alone; no Rust reference ever points into it.
unsafe impl Send for Reservation {}

impl Reservation {
    /// Reserves `length` bytes, a multiple of the page size, not backed by anything, from where a
    /// large page can begin.
    pub fn new(length: usize) -> io::Result<Self> {
        assert!(length > 0 && length.is_multiple_of(4096), "reservations are whole pages");
        Ok(Self { base: reserve(length)?, length })
    }

    /// Host address of its first byte.
    pub fn address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// Bytes.
    pub fn length(&self) -> u64 {
        self.length as u64
    }

    fn at(&self, offset: u64, length: u64) -> *mut u8 {
        let end = offset.checked_add(length);
        let inside = end.is_some_and(|end| end <= self.length as u64);
        assert!(inside && offset.is_multiple_of(4096) && length.is_multiple_of(4096));
        // SAFETY: within the reservation, as just checked.
        unsafe { self.base.as_ptr().add(offset as usize) }
    }

    /// Shows `length` bytes of RAM from `ram` on at `offset` of the reservation, in place of what
    /// was there. Fails where the host has no room for another mapping (vm.max_map_count).
    pub fn show(
        &mut self,
        offset: u64,
        memory: &GuestMemory,
        ram: RamOffset,
        length: u64,
        writable: bool,
    ) -> io::Result<()> {
        let at = self.at(offset, length);
        let end = ram.0.checked_add(length);
        assert!(end.is_some_and(|end| end <= memory.size()), "only RAM is shown");
        let file = memory.file().expect("an engine that shows RAM is given a memfd's");
        let protection =
            if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: replaces pages of our own reservation, into which nothing in Rust points.
        unsafe {
            mmap(
                at.cast(),
                length as usize,
                protection,
                MapFlags::SHARED | MapFlags::FIXED | MapFlags::NORESERVE,
                file.as_fd(),
                ram.0,
            )?;
        }
        Ok(())
    }

    /// Makes `length` bytes at `offset` inaccessible again.
    pub fn hide(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let at = self.at(offset, length);
        // SAFETY: replaces pages of our own reservation, into which nothing in Rust points.
        unsafe {
            mmap_anonymous(
                at.cast(),
                length as usize,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED,
            )?;
        }
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: base and length are what mmap returned; nothing runs through the views any more.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.length) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use x86::GuestPhys;

    use super::*;

    /// What /proc/self/maps says of the page at an address: permissions and name.
    fn seen(address: u64) -> (String, String) {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        for line in maps.lines() {
            let mut words = line.split_whitespace();
            let range = words.next().unwrap();
            let (low, high) = range.split_once('-').unwrap();
            let parse = |text| u64::from_str_radix(text, 16).unwrap();
            if (parse(low)..parse(high)).contains(&address) {
                let permissions = words.next().unwrap().to_owned();
                return (permissions, words.nth(3).unwrap_or_default().to_owned());
            }
        }
        (String::new(), String::new())
    }

    #[test]
    fn pages_of_ram_come_and_go() {
        let memory = GuestMemory::new(&[(GuestPhys(0), 0x10000)]).unwrap();
        let mut space = Reservation::new(0x10_0000).unwrap();
        let at = space.address() + 0x3000;
        assert_eq!(seen(at).0, "---p");
        space.show(0x3000, &memory, RamOffset(0x8000), 0x1000, false).unwrap();
        assert_eq!(seen(at).0, "r--s");
        assert!(seen(at).1.contains("oneroof-ram"));
        space.show(0x3000, &memory, RamOffset(0x8000), 0x1000, true).unwrap();
        assert_eq!(seen(at).0, "rw-s");
        space.hide(0x3000, 0x1000).unwrap();
        assert_eq!(seen(at).0, "---p");
    }

    #[test]
    #[should_panic(expected = "only RAM is shown")]
    fn nothing_beyond_ram_is_shown() {
        let memory = GuestMemory::new(&[(GuestPhys(0), 0x10000)]).unwrap();
        let mut space = Reservation::new(0x1_0000).unwrap();
        let _ = space.show(0, &memory, RamOffset(0xf000), 0x2000, true);
    }

    #[test]
    #[should_panic(expected = "is given a memfd's")]
    fn ram_without_a_file_is_not_shown() {
        let memory = GuestMemory::in_large_pages(&[(GuestPhys(0), 0x10000)]).unwrap();
        let mut space = Reservation::new(0x1_0000).unwrap();
        let _ = space.show(0, &memory, RamOffset(0), 0x1000, true);
    }
}
