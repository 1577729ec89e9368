//! Pages that hold nothing: RAM that is zero costs the host as much as any other once it was touched.

use std::io;
use std::ops::Range;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use x86::addr::PAGE_SIZE;

use crate::memory::{GuestMemory, RamOffset};

/// Fewer zero pages in a row are left: each hole costs a call, and the page tables above it stay.
const LEAST_PAGES: u64 = 4;

impl GuestMemory {
    /// Gives pages back to the host that are zero, four or more in a row; how many bytes.
    ///
    /// Nobody else may write to RAM meanwhile: what came between the look and the release would be lost.
    ///
    /// # Errors
    /// The host does not say which pages it holds, or keeps them.
    pub fn release_zeros(&self) -> io::Result<u64> {
        let (mut released, mut end) = (0, 0);
        while let Some(held) = self.held_from(end)? {
            end = held.end;
            let mut run = 0;
            for page in held {
                if !self.code().is_set(page) && self.is_zero(page) {
                    run += 1;
                } else {
                    released += self.release_run(page, std::mem::take(&mut run))?;
                }
            }
            released += self.release_run(end, run)?;
        }
        Ok(released)
    }

    /// The next pages in a row that the host holds: to look at others would make them so.
    fn held_from(&self, page: u64) -> io::Result<Option<Range<u64>>> {
        let find = |from| match seek(self.file(), from) {
            Ok(at) => Ok(Some(at)),
            Err(Errno::NXIO) => Ok(None), // nothing up to the end
            Err(error) => Err(error),
        };
        let Some(start) = find(SeekFrom::Data(page * PAGE_SIZE))? else { return Ok(None) };
        let end = find(SeekFrom::Hole(start))?.unwrap_or(self.size());
        Ok(Some(start / PAGE_SIZE..end / PAGE_SIZE))
    }

    /// Releases the pages before this one, if they are worth it.
    fn release_run(&self, end: u64, pages: u64) -> io::Result<u64> {
        if pages < LEAST_PAGES {
            return Ok(0);
        }
        self.release(RamOffset((end - pages) * PAGE_SIZE), pages * PAGE_SIZE)
    }

    fn is_zero(&self, page: u64) -> bool {
        let mut words = (page * PAGE_SIZE..(page + 1) * PAGE_SIZE).step_by(8).map(RamOffset);
        words.all(|at| self.load::<u64>(at) == 0)
    }
}

#[cfg(test)]
mod tests {
    use x86::GuestPhys;

    use super::*;

    #[test]
    fn only_zeros_that_the_host_holds_go_back() {
        let memory = GuestMemory::new(&[(GuestPhys(0), 0x40_000)]).unwrap();
        memory.fill(RamOffset(0), 0x40_000, 0x55);
        memory.fill(RamOffset(0x2000), 0x8000, 0); // eight pages
        memory.fill(RamOffset(0x10_000), 0x3000, 0); // too few
        memory.fill(RamOffset(0x20_000), 0x6000, 0); // with one bit in their middle
        memory.store(RamOffset(0x22_ff8), 1_u64 << 63);
        memory.fill(RamOffset(0x3c_000), 0x4000, 0); // at the end
        memory.release(RamOffset(0x8000), 0x4000).unwrap(); // some are no more
        let held = memory.held_bytes().unwrap();
        assert_eq!(memory.release_zeros().unwrap(), 0x6000 + 0x4000);
        assert_eq!(memory.held_bytes().unwrap(), held - 0xa000);
        assert_eq!(memory.load::<u64>(RamOffset(0x22_ff8)), 1 << 63);
        assert_eq!(memory.load::<u8>(RamOffset(0x1fff)), 0x55);
        assert_eq!(memory.load::<u8>(RamOffset(0x3000)), 0);
        let _ = memory.load::<u8>(RamOffset(0xc000));
        assert_eq!(memory.load::<u8>(RamOffset(0xd000)), 0x55);
    }

    #[test]
    fn a_look_makes_no_page_the_host_s() {
        let memory = GuestMemory::new(&[(GuestPhys(0), 0x40_000)]).unwrap();
        assert_eq!(memory.release_zeros().unwrap(), 0);
        memory.store(RamOffset(0x5000), 7_u8);
        assert_eq!(memory.release_zeros().unwrap(), 0);
        assert_eq!(memory.held_bytes().unwrap(), 0x1000);
    }

    #[test]
    fn decoded_code_stays() {
        let memory = GuestMemory::new(&[(GuestPhys(0), 0x8000)]).unwrap();
        memory.fill(RamOffset(0), 0x8000, 0);
        memory.code().set(3);
        assert_eq!(memory.release_zeros().unwrap(), 0x4000, "those behind it");
    }
}
