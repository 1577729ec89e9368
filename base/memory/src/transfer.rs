//! File contents into RAM and out of it, without a stop in between: preadv(2) and pwritev(2) on the
//! mapping itself.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use x86::addr::PAGE_SIZE;

use crate::memory::{GuestMemory, RamOffset};

/// Runs of RAM in one call, at most (IOV_MAX of Linux).
const MOST_RUNS: usize = 1024;

impl GuestMemory {
    /// Reads a file from `at` on into runs of RAM, in their order; gives how many bytes there were.
    /// Runs beyond the 1024th are left as they are.
    ///
    /// # Errors
    /// As preadv(2).
    pub fn read_file(
        &self,
        runs: &[(RamOffset, u64)],
        file: BorrowedFd<'_>,
        at: u64,
    ) -> io::Result<usize> {
        let vectors = self.vectors(runs);
        let at = i64::try_from(at).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: every vector lies in the mapping, which lives as long as `self`; its bytes are
        // shared with the guest, so nothing in Rust relies on what they hold.
        let done = unsafe {
            libc::preadv(file.as_raw_fd(), vectors.as_ptr(), vectors.len() as libc::c_int, at)
        };
        let done = usize::try_from(done).map_err(|_| io::Error::last_os_error())?;
        self.note_runs(runs, done as u64);
        Ok(done)
    }

    /// Writes runs of RAM, in their order, to a file from `at` on; gives how many bytes were taken.
    /// Runs beyond the 1024th are left out.
    ///
    /// # Errors
    /// As pwritev(2).
    pub fn write_file(
        &self,
        runs: &[(RamOffset, u64)],
        file: BorrowedFd<'_>,
        at: u64,
    ) -> io::Result<usize> {
        let vectors = self.vectors(runs);
        let at = i64::try_from(at).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: every vector lies in the mapping, which lives as long as `self`, and is only read.
        let done = unsafe {
            libc::pwritev(file.as_raw_fd(), vectors.as_ptr(), vectors.len() as libc::c_int, at)
        };
        usize::try_from(done).map_err(|_| io::Error::last_os_error())
    }

    fn vectors(&self, runs: &[(RamOffset, u64)]) -> Vec<libc::iovec> {
        let vector = |&(offset, length): &(RamOffset, u64)| libc::iovec {
            iov_base: self.pointer(offset, length).cast(),
            iov_len: length as usize,
        };
        runs.iter().take(MOST_RUNS).map(vector).collect()
    }

    /// Marks the first `bytes` bytes of runs as written.
    fn note_runs(&self, runs: &[(RamOffset, u64)], mut bytes: u64) {
        for &(offset, length) in runs {
            let written = length.min(bytes);
            if written == 0 {
                return;
            }
            for page in offset.0 / PAGE_SIZE..=(offset.0 + written - 1) / PAGE_SIZE {
                self.note_written(page);
            }
            bytes -= written;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::AsFd;

    use x86::GuestPhys;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let name = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC);
        let mut file = File::from(name.expect("a memfd can be had"));
        file.write_all(bytes).expect("it takes bytes");
        file
    }

    #[test]
    fn a_file_goes_into_runs_and_back() {
        let memory = GuestMemory::new(&[(GuestPhys(0), 0x4000)]).expect("16 KiB can be had");
        let source = file(b"0123456789");
        let runs = [(RamOffset(0x1ffe), 3), (RamOffset(0), 2), (RamOffset(0x3000), 100)];
        let done = memory.read_file(&runs, source.as_fd(), 1).expect("it is readable");
        assert_eq!(done, 9);
        let mut back = [0; 3];
        memory.read_bytes(RamOffset(0x1ffe), &mut back);
        assert_eq!(&back, b"123");
        assert_eq!(memory.load::<u16>(RamOffset(0)), u16::from_le_bytes(*b"45"));
        assert_eq!(memory.load::<u32>(RamOffset(0x3000)), u32::from_le_bytes(*b"6789"));
        let dirty: Vec<bool> = (0..4).map(|page| memory.dirty().is_set(page)).collect();
        assert_eq!(dirty, [true, true, true, true]);

        let target = file(b"");
        assert_eq!(memory.write_file(&runs[..2], target.as_fd(), 4).expect("it takes bytes"), 5);
        let mut bytes = [0xff; 16];
        let read = std::os::unix::fs::FileExt::read_at(&target, &mut bytes, 0);
        assert_eq!(
            (read.expect("it is readable"), &bytes[..9]),
            (9, [&[0; 4], b"12345".as_slice()].concat().as_slice())
        );
    }

    #[test]
    fn only_what_was_read_is_dirty_and_errors_are_the_hosts() {
        let memory = GuestMemory::new(&[(GuestPhys(0), 0x4000)]).expect("16 KiB can be had");
        let source = file(b"abc");
        let runs = [(RamOffset(0x1000), 0x1000), (RamOffset(0x2000), 0x1000)];
        assert_eq!(memory.read_file(&runs, source.as_fd(), 0).expect("it is readable"), 3);
        assert!(memory.dirty().is_set(1) && !memory.dirty().is_set(2));
        assert!(memory.read_file(&runs, source.as_fd(), u64::MAX).is_err());
        let folder = File::open("/").expect("it is there");
        assert!(memory.read_file(&runs, folder.as_fd(), 0).is_err());
    }
}
