//! Contexts' areas: one shared page of state, then each context's own tables.
//!
//! GS points at the current context's area while translated code runs, so that switching contexts
//! is one register write and no table is ever copied.
//!
//! Invariant: areas live at fixed addresses from creation to drop; only the owning vCPU's thread
//! touches them.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use engine::EngineError;

use super::layout::{
    AREA, JUMP_ENTRIES, JUMPS, LINK_SLOTS, LINKS, PRIVATE, STATE, STRIDE, TABLES_END, TLB,
    TLB_ENTRIES, VICTIM_ENTRIES, VICTIMS, WINDOW_ENTRIES, WINDOW_TABLE, WINDOWS,
};
use super::state::NativeState;

/// A TLB entry as translated code reads it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct TlbEntry {
    /// Linear page base by kind of access (read, write, fetch), or a page that this slot can't hold.
    pub(crate) tags: [u64; 3],
    /// Host address of the page.
    pub(crate) host: u64,
}

/// A jump-cache entry as translated code reads it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct JumpEntry {
    /// Linear address, or one that this slot can't hold.
    pub(crate) linear: u64,
    /// Host code.
    pub(crate) code: u64,
}

/// All areas of one vCPU.
pub(crate) struct Areas {
    base: NonNull<u8>,
    count: usize,
}

// SAFETY: the mappings belong to this value alone and are valid on any thread.
unsafe impl Send for Areas {}

impl Areas {
    /// Maps `count` areas; pages cost nothing until touched.
    pub(crate) fn new(count: usize) -> Result<Self, EngineError> {
        let length = count * STRIDE;
        // SAFETY: a fresh private mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(EngineError::last_os("mmap of translation tables"));
        }
        let areas = Self {
            base: NonNull::new(base.cast()).expect("the kernel does not map at 0 unasked"),
            count,
        };
        for index in 0..count {
            areas.open(index, 0, TABLES_END)?;
            areas.open(index, STATE + WINDOWS, WINDOW_TABLE)?;
        }
        areas.share_state_page()?;
        Ok(areas)
    }

    /// Makes part of an area accessible.
    fn open(&self, index: usize, offset: usize, length: usize) -> Result<(), EngineError> {
        assert!(offset + length <= AREA, "tables are inside their area");
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: whole pages of an area of ours, as just checked, which nobody uses yet.
        let done = unsafe {
            libc::mprotect(self.base.as_ptr().add(index * STRIDE + offset).cast(), length, access)
        };
        if done == 0 { Ok(()) } else { Err(EngineError::last_os("mprotect of translation tables")) }
    }

    /// Puts one page at the start of every area.
    fn share_state_page(&self) -> Result<(), EngineError> {
        const { assert!(size_of::<NativeState>() <= STATE) };
        // SAFETY: the name is a NUL-terminated string; the descriptor is closed below.
        let file = unsafe { libc::memfd_create(c"vcpu state".as_ptr(), libc::MFD_CLOEXEC) };
        if file < 0 {
            return Err(EngineError::last_os("memfd_create"));
        }
        // SAFETY: a plain call on a descriptor we own.
        let mut result = if unsafe { libc::ftruncate(file, STATE as libc::off_t) } == 0 {
            Ok(())
        } else {
            Err(EngineError::last_os("ftruncate"))
        };
        for index in 0..self.count {
            if result.is_err() {
                break;
            }
            // SAFETY: replaces the first page of an area of ours that nobody uses yet.
            let at = unsafe {
                libc::mmap(
                    self.base.as_ptr().add(index * STRIDE).cast(),
                    STATE,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_SHARED | libc::MAP_FIXED,
                    file,
                    0,
                )
            };
            if at == libc::MAP_FAILED {
                result = Err(EngineError::last_os("mmap of the state page"));
            }
        }
        // SAFETY: `file` is ours and the mappings keep the memory without it.
        unsafe { libc::close(file) };
        result
    }

    /// Gives all pages of a context's tables back to the host; they are zero then.
    pub(crate) fn give_back(&mut self, context: usize) {
        let start = self.at(context, 0);
        // SAFETY: an area without the state page in front, with exclusive access: all of it is tables,
        // which may hold any numbers. It is advice on whole pages of private mappings of ours.
        let done = unsafe { libc::madvise(start.cast(), AREA - STATE, libc::MADV_DONTNEED) };
        assert_eq!(done, 0, "private pages that are not locked can always be dropped");
    }

    /// A place in an area, relative to what GS points at.
    fn at(&self, context: usize, offset: usize) -> *mut u8 {
        assert!(context < self.count && STATE + offset < AREA, "tables are inside their area");
        // SAFETY: within the mapping, as just checked.
        unsafe { self.base.as_ptr().add(context * STRIDE + STATE + offset) }
    }

    /// What GS holds while a context is current.
    pub(crate) fn gs_base(&self, context: usize) -> u64 {
        self.at(context, 0) as u64
    }

    /// The state page.
    pub(crate) fn state(&mut self) -> &mut NativeState {
        // SAFETY: the first page of area 0 holds a `NativeState` (all fields integers), and `self`
        // is borrowed exclusively. Translated code, which writes it through other mappings of the
        // page, runs only inside `enter`, a call the compiler can't see through.
        unsafe { &mut *self.base.as_ptr().cast() }
    }

    /// A context's TLB.
    #[inline(always)]
    pub(crate) fn tlb(&self, context: usize) -> &[TlbEntry; TLB_ENTRIES] {
        debug_assert!(context < self.count);
        // SAFETY: TLB_ENTRIES entries of plain integers lie there, inside the mapping (`context`
        // is a context's index, which the owner keeps below `count`); changes need `&mut self`,
        // and translated code only reads them.
        unsafe { &*self.base.as_ptr().add(context * STRIDE + STATE + TLB).cast() }
    }

    /// A context's TLB, to change.
    #[inline]
    pub(crate) fn tlb_mut(&mut self, context: usize) -> &mut [TlbEntry; TLB_ENTRIES] {
        // SAFETY: as in `tlb`, with exclusive access.
        unsafe { &mut *self.at(context, TLB).cast() }
    }

    /// A context's jump cache.
    pub(crate) fn jumps(&self, context: usize) -> &[JumpEntry; JUMP_ENTRIES] {
        // SAFETY: as in `tlb`.
        unsafe { &*self.at(context, JUMPS).cast() }
    }

    /// A context's jump cache, to change.
    pub(crate) fn jumps_mut(&mut self, context: usize) -> &mut [JumpEntry; JUMP_ENTRIES] {
        // SAFETY: as in `tlb`, with exclusive access.
        unsafe { &mut *self.at(context, JUMPS).cast() }
    }

    /// A context's victims.
    pub(crate) fn victims_mut(&mut self, context: usize) -> &mut [TlbEntry; VICTIM_ENTRIES] {
        // SAFETY: as in `tlb`, with exclusive access.
        unsafe { &mut *self.at(context, VICTIMS).cast() }
    }

    /// The generation of a context's victims: 0 to 4095, in tags' low bits.
    pub(crate) fn victim_generation(&mut self, context: usize) -> &mut u64 {
        // SAFETY: as in `tlb`, with exclusive access; the private part begins with it.
        unsafe { &mut *self.at(context, PRIVATE).cast() }
    }

    /// Puts the file's content in place of a context's windows' table: private pages that cost
    /// nothing until one changes.
    pub(crate) fn lay_window_table(&mut self, context: usize, file: &File) -> io::Result<()> {
        // SAFETY: replaces whole pages inside our own mapping, with exclusive access to it; the
        // file is WINDOW_TABLE bytes long and never changes.
        let at = unsafe {
            libc::mmap(
                self.at(context, WINDOWS).cast(),
                WINDOW_TABLE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
                file.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// A context's windows' table.
    pub(crate) fn windows_mut(&mut self, context: usize) -> &mut [u64; WINDOW_ENTRIES] {
        // SAFETY: as in `tlb`, with exclusive access.
        unsafe { &mut *self.at(context, WINDOWS).cast() }
    }

    /// A context's link slots.
    pub(crate) fn links_mut(&mut self, context: usize) -> &mut [u64; LINK_SLOTS] {
        // SAFETY: as in `tlb`, with exclusive access.
        unsafe { &mut *self.at(context, LINKS).cast() }
    }
}

impl Drop for Areas {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length; translated code no longer runs.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.count * STRIDE) };
    }
}
