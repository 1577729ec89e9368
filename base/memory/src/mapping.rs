//! The host mapping: a memfd, mapped once, shared.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// Bytes of a large page of the host, and of its RAM where one can be.
pub(crate) const LARGE_PAGE: usize = 2 << 20;

/// A shared, zeroed mapping of `len` bytes backed by a memfd; unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    file: File,
}

// SAFETY: the mapping is plain shared memory owned by this value; all access to it goes through
// `access.rs`, which uses single instructions and atomics only.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` zero bytes (not touched, so not resident). `len` is a multiple of the page size.
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        assert!(len > 0 && len.is_multiple_of(4096), "RAM is whole pages");
        let fd = memfd_create("oneroof-ram", MemfdFlags::CLOEXEC)?;
        ftruncate(&fd, len as u64)?;
        let base = reserve(len)?;
        let mapping = Self { base, len, file: fd.into() };
        // SAFETY: replaces a reservation of ours that nothing uses yet.
        unsafe {
            mmap(
                base.as_ptr().cast(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE | MapFlags::FIXED,
                mapping.file.as_fd(),
                0,
            )?;
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

    pub(crate) fn file(&self) -> &File {
        &self.file
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
