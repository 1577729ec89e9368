//! Pages of RAM that go back to the host: a guest said that it does not need what they hold.
//!
//! Invariant: a released page reads as zero through every mapping from then on (the hole is in the
//! file behind them all, or there is but one), counts as written, and costs the host nothing until it is touched again;
//! or, if it is a part of a large page of RAM without a file, until the host makes that whole again (khugepaged).

use std::io;
use std::sync::atomic::{Ordering, fence};

use rustix::fs::{FallocateFlags, fallocate};
use x86::addr::PAGE_SIZE;

use crate::memory::{GuestMemory, RamOffset};

impl GuestMemory {
    /// Gives the whole pages among `length` bytes from `offset` on back to the host; returns how
    /// many bytes those are.
    ///
    /// # Errors
    /// The host keeps them, and they keep what they hold.
    pub fn release(&self, offset: RamOffset, length: u64) -> io::Result<u64> {
        let end = offset.0.checked_add(length).filter(|end| *end <= self.size());
        let end = end.expect("only RAM is released") / PAGE_SIZE;
        let pages = offset.0.div_ceil(PAGE_SIZE)..end;
        if pages.is_empty() {
            return Ok(0);
        }
        let bytes = (pages.end - pages.start) * PAGE_SIZE;
        match self.file() {
            Some(file) => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(file, flags, pages.start * PAGE_SIZE, bytes)?;
            }
            None => {
                self.mapping().drop_pages((pages.start * PAGE_SIZE) as usize, bytes as usize)?;
            }
        }
        for page in pages.clone() {
            self.dirty().set(page);
        }
        // As in `note_written`: whoever decodes a page sets its bit before reading.
        fence(Ordering::SeqCst);
        for page in pages.filter(|page| self.code().is_set(*page)) {
            self.note_written(page);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use x86::GuestPhys;

    use super::*;
    use crate::alias::Reservation;

    fn filled() -> GuestMemory {
        with_bytes(GuestMemory::new(&[(GuestPhys(0), 0x8000)]).unwrap())
    }

    fn with_bytes(memory: GuestMemory) -> GuestMemory {
        memory.fill(RamOffset(0), 0x8000, 0x55);
        memory
    }

    #[test]
    fn whole_pages_become_zero_and_the_host_s() {
        become_zero(&filled());
        // Too little for a large page.
        let runs = [(GuestPhys(0), 0x8000)];
        let memory = with_bytes(GuestMemory::in_large_pages(&runs).unwrap());
        assert!(memory.file().is_none());
        become_zero(&memory);
    }

    fn become_zero(memory: &GuestMemory) {
        assert_eq!(memory.held_bytes().unwrap(), 0x8000);
        assert_eq!(memory.release(RamOffset(0x1800), 0x3000).unwrap(), 0x2000);
        assert_eq!(memory.held_bytes().unwrap(), 0x6000);
        let byte = |at| memory.load::<u8>(RamOffset(at));
        assert_eq!((byte(0x1fff), byte(0x2000), byte(0x3fff), byte(0x4000)), (0x55, 0, 0, 0x55));
        assert!(memory.dirty().is_set(2) && memory.dirty().is_set(3) && !memory.dirty().is_set(4));
        assert_eq!(memory.release(RamOffset(0x4800), 0xfff).unwrap(), 0, "no whole page");
        assert_eq!(memory.release(RamOffset(0x8000), 0).unwrap(), 0);
    }

    #[test]
    fn further_views_and_later_stores_see_the_same_page() {
        let memory = filled();
        let mut space = Reservation::new(0x1000).unwrap();
        space.show(0, &memory, RamOffset(0x2000), 0x1000, true).unwrap();
        memory.release(RamOffset(0x2000), 0x1000).unwrap();
        memory.store(RamOffset(0x2010), 0x77_u8);
        let mut seen = [0; 0x20];
        let file = std::fs::File::open("/proc/self/mem").unwrap();
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut seen, space.address()).unwrap();
        assert_eq!((seen[0xf], seen[0x10]), (0, 0x77));
    }

    #[test]
    fn whoever_decoded_a_page_is_told() {
        let memory = filled();
        let told = Arc::new(Mutex::new(Vec::new()));
        let listener = told.clone();
        memory.listen_for_code(Some(Arc::new(move |page| listener.lock().unwrap().push(page))));
        memory.code().set(3);
        memory.release(RamOffset(0), 0x8000).unwrap();
        assert_eq!(*told.lock().unwrap(), [3]);
    }

    #[test]
    #[should_panic(expected = "only RAM is released")]
    fn nothing_beyond_ram_is_released() {
        let _ = filled().release(RamOffset(0x7000), 0x2000);
    }
}
