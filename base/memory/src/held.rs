//! Which pages of RAM the host holds: of a file those that have data, else those that are mapped to something.
//!
//! Invariant: a look makes no page the host's.

use std::fs::File;
use std::io;
use std::ops::Range;

use rustix::fs::{SeekFrom, fstat, seek};
use rustix::io::Errno;
use x86::addr::PAGE_SIZE;

use crate::memory::GuestMemory;

/// Pages that the host is asked about at once.
const PAGES_AT_ONCE: u64 = 4096;

impl GuestMemory {
    /// Bytes of RAM that the host has to hold now. Of RAM without a file, pages that were only read count, too,
    /// which are all one page of zeros, and what is swapped out does not.
    ///
    /// # Errors
    /// The host does not say.
    pub fn held_bytes(&self) -> io::Result<u64> {
        if let Some(file) = self.file() {
            return Ok(fstat(file)?.st_blocks as u64 * 512);
        }
        let (mut pages, mut end) = (0, 0);
        while let Some(held) = self.held_from(end)? {
            end = held.end;
            pages += held.end - held.start;
        }
        Ok(pages * PAGE_SIZE)
    }

    /// The next pages in a row that the host holds.
    pub(crate) fn held_from(&self, page: u64) -> io::Result<Option<Range<u64>>> {
        let Some(file) = self.file() else { return self.mapped_from(page) };
        let Some(start) = find(file, SeekFrom::Data(page * PAGE_SIZE))? else { return Ok(None) };
        let end = find(file, SeekFrom::Hole(start))?.unwrap_or(self.size());
        Ok(Some(start / PAGE_SIZE..end / PAGE_SIZE))
    }

    /// The same without a file. A row can be told of in parts.
    fn mapped_from(&self, mut page: u64) -> io::Result<Option<Range<u64>>> {
        let all = self.size() / PAGE_SIZE;
        let mut held = vec![0; PAGES_AT_ONCE.min(all) as usize];
        while page < all {
            let held = &mut held[..(all - page).min(PAGES_AT_ONCE) as usize];
            self.mapping().which_held((page * PAGE_SIZE) as usize, held)?;
            let is_held = |byte: &u8| byte & 1 != 0;
            if let Some(before) = held.iter().position(is_held) {
                let row = held[before..].iter().take_while(|byte| is_held(byte)).count() as u64;
                let start = page + before as u64;
                return Ok(Some(start..start + row));
            }
            page += held.len() as u64;
        }
        Ok(None)
    }
}

fn find(file: &File, from: SeekFrom) -> io::Result<Option<u64>> {
    match seek(file, from) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None), // nothing up to the end
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use x86::GuestPhys;

    use super::*;
    use crate::memory::RamOffset;

    /// 80 MiB: more than the host is asked about at once.
    const RAM: u64 = 80 << 20;

    /// The rows that are told of, joined.
    fn rows(memory: &GuestMemory) -> Vec<Range<u64>> {
        let (mut rows, mut end) = (Vec::<Range<u64>>::new(), 0);
        while let Some(row) = memory.held_from(end).unwrap() {
            assert!(row.start >= end && row.end > row.start);
            end = row.end;
            match rows.last_mut() {
                Some(last) if last.end == row.start => last.end = row.end,
                _ => rows.push(row),
            }
        }
        rows
    }

    #[test]
    fn pages_are_the_host_s_once_they_hold_something() {
        let runs = [(GuestPhys(0), RAM)];
        let memory = GuestMemory::new(&runs).unwrap();
        let small = GuestMemory::in_large_pages(&runs).unwrap();
        small.mapping().keep_small(0, RAM as usize).unwrap();
        for memory in [memory, small] {
            assert_eq!((rows(&memory), memory.held_bytes().unwrap()), (vec![], 0));
            let last = RAM / PAGE_SIZE - 1;
            for page in [3, 4, PAGES_AT_ONCE - 1, PAGES_AT_ONCE, 4 * PAGES_AT_ONCE, last] {
                memory.store(RamOffset(page * PAGE_SIZE), 1_u8);
            }
            let across = PAGES_AT_ONCE - 1..PAGES_AT_ONCE + 1;
            let four = 4 * PAGES_AT_ONCE;
            assert_eq!(rows(&memory), [3..5, across, four..four + 1, last..last + 1]);
            assert_eq!(memory.held_bytes().unwrap(), 6 * PAGE_SIZE);
        }
    }
}
