//! Code memory for routines: one memfd mapped twice, writable here, executable there.
//!
//! Invariant: bytes below `used` are whole routines made by `emit`; while one runs (which borrows
//! the arena) none changes.

use std::ffi::c_void;
use std::ptr::NonNull;

use engine::EngineError;
use interp::vector::Exchange;
use x86::XsaveArea;

/// Routines start at multiples of this.
const ALIGNMENT: usize = 16;

/// Entry point of a routine within the arena that gave it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place(u32);

/// An append-only store of machine code.
pub(super) struct Arena {
    writable: NonNull<u8>,
    executable: NonNull<u8>,
    length: usize,
    used: usize,
}

// SAFETY: the mappings belong to this value alone and are valid on any thread.
unsafe impl Send for Arena {}

impl Arena {
    /// Maps `length` bytes, untouched ones costing nothing.
    pub(super) fn new(length: usize) -> Result<Self, EngineError> {
        // SAFETY: the name is a NUL-terminated string; the descriptor is closed below.
        let file = unsafe { libc::memfd_create(c"vector routines".as_ptr(), libc::MFD_CLOEXEC) };
        if file < 0 {
            return Err(EngineError::last_os("memfd_create"));
        }
        let mapped = Self::map_both(file, length);
        // SAFETY: `file` is ours and the mappings keep the memory without it.
        unsafe { libc::close(file) };
        let (writable, executable) = mapped?;
        Ok(Self { writable, executable, length, used: 0 })
    }

    fn map_both(file: i32, length: usize) -> Result<(NonNull<u8>, NonNull<u8>), EngineError> {
        // SAFETY: plain call on a descriptor we own.
        if unsafe { libc::ftruncate(file, length as libc::off_t) } != 0 {
            return Err(EngineError::last_os("ftruncate"));
        }
        let writable = map(file, length, libc::PROT_READ | libc::PROT_WRITE)?;
        match map(file, length, libc::PROT_READ | libc::PROT_EXEC) {
            Ok(executable) => Ok((writable, executable)),
            Err(error) => {
                // SAFETY: just mapped with this length, not yet handed out.
                unsafe { libc::munmap(writable.as_ptr().cast(), length) };
                Err(error)
            }
        }
    }

    /// Appends a routine; `None` when full.
    pub(super) fn add(&mut self, code: &[u8]) -> Option<Place> {
        let start = self.used.next_multiple_of(ALIGNMENT);
        let end = start.checked_add(code.len()).filter(|&end| end <= self.length)?;
        // SAFETY: start..end lies within the writable mapping and beyond every routine.
        unsafe {
            let to = self.writable.as_ptr().add(start);
            std::ptr::copy_nonoverlapping(code.as_ptr(), to, code.len());
        }
        self.used = end;
        Some(Place(start as u32))
    }

    /// Bytes that are still free.
    pub(super) fn left(&self) -> usize {
        self.length - self.used
    }

    /// Drops every routine: the owner has dropped every `Place`.
    pub(super) fn clear(&mut self) {
        self.used = 0;
    }

    /// Runs a routine of this arena.
    #[inline(always)]
    pub(super) fn call(&self, place: Place, area: &mut XsaveArea, exchange: &mut Exchange) {
        type Routine = unsafe extern "sysv64" fn(*mut XsaveArea, *mut Exchange);
        // SAFETY: `Place` values come from `add` on this arena alone (each `HostVectors` keeps its
        // own, and drops them together with what they name), so a whole routine lies there. A routine follows the sysv64 convention,
        // reads and writes only the two areas, which are exclusively borrowed and aligned to 64,
        // and leaves MXCSR and x87 as the convention wants them (see `emit`).
        unsafe {
            let entry = self.executable.as_ptr().add(place.0 as usize);
            let routine = std::mem::transmute::<*mut u8, Routine>(entry);
            routine(area, exchange);
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for mapping in [self.writable, self.executable] {
            // SAFETY: mapped in `new` with this length; no routine runs while we hold `&mut self`.
            unsafe { libc::munmap(mapping.as_ptr().cast::<c_void>(), self.length) };
        }
    }
}

fn map(file: i32, length: usize, protection: i32) -> Result<NonNull<u8>, EngineError> {
    // SAFETY: a new shared mapping at an address of the kernel's choice.
    let at =
        unsafe { libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, file, 0) };
    if at == libc::MAP_FAILED {
        return Err(EngineError::last_os("mmap of code memory"));
    }
    Ok(NonNull::new(at.cast()).expect("the kernel does not map at address 0 unasked"))
}
