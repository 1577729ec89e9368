//! Pages that hold nothing: RAM that is zero costs the host as much as any other once it was touched.

use std::io;
use std::ops::Range;

use x86::addr::PAGE_SIZE;

use crate::memory::{GuestMemory, RamOffset};

/// Fewer zero pages in a row are left: each hole costs a call, and the page tables above it stay.
const LEAST_PAGES: u64 = 4;
/// Rows of large pages with holes that the host is told of, at most: each divides its mapping.
const MOST_ROWS: usize = 64;
const PAGES_OF_LARGE: u64 = GuestMemory::LARGE_PAGE / PAGE_SIZE;

/// What was given back so far.
#[derive(Default)]
struct Sweep {
    bytes: u64,
    /// Large pages with holes, by number, ascending.
    broken: Vec<Range<u64>>,
}

impl GuestMemory {
    /// Gives pages back to the host that are zero, four or more in a row; how many bytes. Where that leaves a part of one
    /// of the host's large pages, the host is told to leave it at that: it would fill the hole with zeros again.
    ///
    /// Nobody else may write to RAM meanwhile: what came between the look and the release would be lost.
    ///
    /// # Errors
    /// The host does not say which pages it holds, or keeps them.
    pub fn release_zeros(&self) -> io::Result<u64> {
        let (mut sweep, mut end) = (Sweep::default(), 0);
        while let Some(held) = self.held_from(end)? {
            end = held.end;
            let mut run = 0;
            for page in held {
                if !self.code().is_set(page) && self.is_zero(page) {
                    run += 1;
                } else {
                    self.release_run(page - run..page, &mut sweep)?;
                    run = 0;
                }
            }
            self.release_run(end - run..end, &mut sweep)?;
        }
        if self.file().is_none() {
            for row in sweep.broken.iter().take(MOST_ROWS) {
                let start = row.start * Self::LARGE_PAGE;
                let length = (row.end * Self::LARGE_PAGE).min(self.size()) - start;
                // A host without large pages refuses, and has none to fill.
                let _ = self.mapping().keep_small(start as usize, length as usize);
            }
        }
        Ok(sweep.bytes)
    }

    /// Releases pages if they are worth it.
    fn release_run(&self, pages: Range<u64>, sweep: &mut Sweep) -> io::Result<()> {
        let count = pages.end - pages.start;
        if count >= LEAST_PAGES {
            sweep.bytes += self.release(RamOffset(pages.start * PAGE_SIZE), count * PAGE_SIZE)?;
            sweep.note(&pages);
        }
        Ok(())
    }

    fn is_zero(&self, page: u64) -> bool {
        let mut words = (page * PAGE_SIZE..(page + 1) * PAGE_SIZE).step_by(8).map(RamOffset);
        words.all(|at| self.load::<u64>(at) == 0)
    }
}

impl Sweep {
    /// Notes the large pages of which these pages are a part: those at their ends.
    fn note(&mut self, pages: &Range<u64>) {
        for edge in [pages.start, pages.end] {
            let large = edge / PAGES_OF_LARGE;
            if edge.is_multiple_of(PAGES_OF_LARGE) {
                continue;
            }
            match self.broken.last_mut() {
                Some(row) if row.end > large => (),
                Some(row) if row.end == large => row.end += 1,
                _ => self.broken.push(large..large + 1),
            }
        }
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

    /// Bytes of the host's large pages in RAM, and the flags of its mappings, from /proc/self/smaps.
    fn large_pages(memory: &GuestMemory) -> (u64, Vec<String>) {
        let ram = memory.host_base() as u64..memory.host_base() as u64 + memory.size();
        let (mut inside, mut bytes, mut flags) = (false, 0, Vec::new());
        for line in std::fs::read_to_string("/proc/self/smaps").unwrap().lines() {
            let mut words = line.split_whitespace();
            let first = words.next().unwrap_or_default();
            if let Some((start, end)) = first.split_once('-') {
                let number = |text| u64::from_str_radix(text, 16).unwrap();
                inside = number(start) >= ram.start && number(end) <= ram.end;
            } else if inside && first == "AnonHugePages:" {
                bytes += words.next().unwrap().parse::<u64>().unwrap() << 10;
            } else if inside && first == "VmFlags:" {
                flags.push(line.to_owned());
            }
        }
        (bytes, flags)
    }

    /// Five large pages of RAM without a file, all in use; `None`, with the reason, where the host has none.
    fn five_large_pages() -> Option<GuestMemory> {
        const LARGE: u64 = GuestMemory::LARGE_PAGE;
        let memory = GuestMemory::in_large_pages(&[(GuestPhys(0), 5 * LARGE)]).unwrap();
        memory.fill(RamOffset(0), 5 * LARGE, 0x55);
        let got = large_pages(&memory).0;
        if got != 5 * LARGE {
            println!("skipped: the host gave {got} bytes in large pages");
            return None;
        }
        Some(memory)
    }

    #[test]
    fn a_large_page_with_a_hole_is_kept_in_small_ones() {
        const LARGE: u64 = GuestMemory::LARGE_PAGE;
        let Some(memory) = five_large_pages() else { return };
        memory.fill(RamOffset(LARGE - 0x2000), LARGE + 0x4000, 0); // two at the end, all of one, two of the next
        memory.fill(RamOffset(4 * LARGE), 0x3000, 0); // too few
        assert_eq!(memory.release_zeros().unwrap(), LARGE + 0x4000);
        assert_eq!(memory.held_bytes().unwrap(), 4 * LARGE - 0x4000);
        let (bytes, flags) = large_pages(&memory);
        assert!(flags.iter().all(|flags| flags.contains(" dc")), "no child gets it: {flags:?}");
        assert_eq!(bytes, 2 * LARGE, "the fourth and the fifth");
        let small: Vec<bool> = flags.iter().map(|flags| flags.contains(" nh")).collect();
        assert_eq!(small, [true, false, true, false], "{flags:?}");
        memory.store(RamOffset(LARGE + 0x5000), 7_u8);
        assert_eq!(large_pages(&memory).0, 3 * LARGE, "what was empty is large again");
        assert_eq!(memory.load::<u8>(RamOffset(LARGE - 0x2001)), 0x55);
        assert_eq!(memory.load::<u8>(RamOffset(LARGE - 0x2000)), 0);
    }

    #[test]
    fn neighbours_with_holes_are_one_row() {
        let mut sweep = Sweep::default();
        for pages in [5..100, 200..512, 600..1000, 1000..1600, 3 * 512..4 * 512, 2500..4000] {
            sweep.note(&pages);
        }
        assert_eq!(sweep.broken, [0..2, 3..5, 7..8]);
    }

    #[test]
    fn a_look_makes_no_page_the_host_s() {
        let runs = [(GuestPhys(0), 0x40_000)];
        for memory in [GuestMemory::new(&runs), GuestMemory::in_large_pages(&runs)] {
            let memory = memory.unwrap();
            assert_eq!(memory.release_zeros().unwrap(), 0);
            memory.store(RamOffset(0x5000), 7_u8);
            assert_eq!(memory.release_zeros().unwrap(), 0);
            assert_eq!(memory.held_bytes().unwrap(), 0x1000);
        }
    }

    #[test]
    fn decoded_code_stays() {
        let memory = GuestMemory::new(&[(GuestPhys(0), 0x8000)]).unwrap();
        memory.fill(RamOffset(0), 0x8000, 0);
        memory.code().set(3);
        assert_eq!(memory.release_zeros().unwrap(), 0x4000, "those behind it");
    }
}
