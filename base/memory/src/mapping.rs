//! The host mapping: a memfd mapped once, shared; or private memory without a file.
//!
//! Only a file can be mapped again elsewhere ([`crate::Reservation`]). Memory without one gets the host's large pages by
//! itself, at its first use, where Linux gives them to files only if the administrator says so (shmem_enabled).

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

/// Bytes of a large page of the host, and of its RAM where one can be.
pub(crate) const LARGE_PAGE: usize = 2 << 20;

/// A zeroed mapping of `len` bytes; unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    /// `None`: memory without a file.
    file: Option<File>,
}

// SAFETY: the mapping is plain memory owned by this value; all access to it goes through
// `access.rs`, which uses single instructions and atomics only.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` zero bytes of a memfd (not touched, so not resident). `len` is a multiple of the page size.
    pub(crate) fn of_file(len: usize) -> io::Result<Self> {
        assert!(len > 0 && len.is_multiple_of(4096), "RAM is whole pages");
        let fd = memfd_create("oneroof-ram", MemfdFlags::CLOEXEC)?;
        ftruncate(&fd, len as u64)?;
        let base = reserve(len)?;
        let file = File::from(fd);
        // SAFETY: replaces a reservation of ours that nothing uses yet.
        unsafe {
            mmap(
                base.as_ptr().cast(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE | MapFlags::FIXED,
                file.as_fd(),
                0,
            )?;
        }
        Ok(Self { base, len, file: Some(file) })
    }

    /// The same without a file, in the host's large pages as far as it has such and gives them to those who ask.
    pub(crate) fn without_file(len: usize) -> io::Result<Self> {
        assert!(len > 0 && len.is_multiple_of(4096), "RAM is whole pages");
        let mapping = Self { base: reserve(len)?, len, file: None };
        let at = mapping.base.as_ptr().cast();
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: replaces a reservation of ours that nothing uses yet.
        unsafe {
            mmap_anonymous(at, len, ProtFlags::READ | ProtFlags::WRITE, flags)?;
            // After a fork, stores would go to copies that neither KVM nor a device under way sees.
            madvise(at, len, Advice::LinuxDontFork)?;
            // Linux without large pages refuses: then they are small.
            let _ = madvise(at, len, Advice::LinuxHugepage);
        }
        Ok(mapping)
    }

    /// Asks the host to hold [`LARGE_PAGE`] bytes, which are all in use, in one of its pages.
    pub(crate) fn collapse(&self, offset: usize) -> io::Result<()> {
        let inside = offset.checked_add(LARGE_PAGE).is_some_and(|end| end <= self.len);
        assert!(inside && offset.is_multiple_of(LARGE_PAGE), "a large page of RAM");
        // SAFETY: a part of our own mapping; what is in it stays the same.
        let done = unsafe {
            libc::madvise(self.base.as_ptr().add(offset).cast(), LARGE_PAGE, libc::MADV_COLLAPSE)
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// Gives these bytes of memory without a file back to the host: they are zero from now on.
    pub(crate) fn drop_pages(&self, start: usize, length: usize) -> io::Result<()> {
        assert!(self.file.is_none(), "a file would bring its bytes back");
        let at = self.pages(start, length);
        // SAFETY: whole pages of our own mapping, which stays; that bytes of RAM change at any time is expected.
        unsafe { madvise(at.cast(), length, Advice::LinuxDontNeed) }?;
        Ok(())
    }

    /// Asks the host to hold these bytes in small pages from now on.
    pub(crate) fn keep_small(&self, start: usize, length: usize) -> io::Result<()> {
        let at = self.pages(start, length);
        // SAFETY: a part of our own mapping; what is in it stays the same.
        unsafe { madvise(at.cast(), length, Advice::LinuxNoHugepage) }?;
        Ok(())
    }

    /// Which pages from byte `start` on are mapped to one of the host's, one a byte of `into`: bit 0.
    pub(crate) fn which_held(&self, start: usize, into: &mut [u8]) -> io::Result<()> {
        let length = into.len() * 4096;
        let at = self.pages(start, length);
        // SAFETY: `into` has a byte for each page of the range, which lies in our mapping.
        let done = unsafe { libc::mincore(at.cast(), length, into.as_mut_ptr()) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn pages(&self, start: usize, length: usize) -> *mut u8 {
        let inside = start.checked_add(length).is_some_and(|end| end <= self.len);
        assert!(inside && start.is_multiple_of(4096) && length.is_multiple_of(4096));
        // SAFETY: inside the mapping, as just checked.
        unsafe { self.base.as_ptr().add(start) }
    }
}

/// Reserves `length` bytes of address space, inaccessible, that begin where a large page can.
pub(crate) fn reserve(length: usize) -> io::Result<NonNull<u8>> {
    let all = length.checked_add(LARGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
    // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing.
    let start = unsafe {
        mmap_anonymous(
            ptr::null_mut(),
            all,
            ProtFlags::empty(),
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        )?
    };
    let before = start.cast::<u8>().align_offset(LARGE_PAGE);
    // SAFETY: the ends of the mapping just made, of which the middle is kept.
    unsafe {
        let base = start.cast::<u8>().add(before);
        if before > 0 {
            munmap(start, before)?;
        }
        munmap(base.add(length).cast(), LARGE_PAGE - before)?;
        Ok(NonNull::new(base).expect("mmap never returns null without MAP_FIXED"))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and len are what mmap returned, and nothing else unmaps them.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping cannot fail");
    }
}
