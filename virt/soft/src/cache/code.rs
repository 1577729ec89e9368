//! Code memory: one memfd mapped twice, writable here, executable there.
//!
//! Invariant: no page is writable and executable through one mapping. Whoever jumps into the
//! memory knows what lies there; this module only keeps the bytes.

use std::ffi::c_void;
use std::ptr::NonNull;

use engine::EngineError;

/// A stretch of code memory with its two views.
pub(crate) struct CodeMemory {
    writable: NonNull<u8>,
    executable: NonNull<u8>,
    length: usize,
    used: usize,
    /// Where code that seldom runs begins, and where it ends.
    cold: usize,
    cold_used: usize,
}

// SAFETY: the mappings belong to this value alone and are valid on any thread.
unsafe impl Send for CodeMemory {}

impl CodeMemory {
    /// Maps `length` bytes, untouched ones costing nothing; from `cold` on for code that seldom
    /// runs, so that what runs often lies close together.
    pub(crate) fn new(length: usize, cold: usize) -> Result<Self, EngineError> {
        // SAFETY: the name is a NUL-terminated string; the descriptor is closed below.
        let file = unsafe { libc::memfd_create(c"translated code".as_ptr(), libc::MFD_CLOEXEC) };
        if file < 0 {
            return Err(EngineError::last_os("memfd_create"));
        }
        let mapped = Self::map_both(file, length);
        // SAFETY: `file` is ours and the mappings keep the memory without it.
        unsafe { libc::close(file) };
        let (writable, executable) = mapped?;
        Ok(Self { writable, executable, length, used: 0, cold, cold_used: cold })
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

    /// Where the next code goes.
    pub(crate) fn next(&self) -> u32 {
        self.used.next_multiple_of(16) as u32
    }

    /// Where the next cold code goes.
    pub(crate) fn next_cold(&self) -> u32 {
        self.cold_used as u32
    }

    /// Whether both parts have this many bytes left.
    pub(crate) fn has(&self, bytes: usize) -> bool {
        self.cold - self.used >= bytes && self.length - self.cold_used >= bytes
    }

    /// Executable address of a place.
    pub(crate) fn address(&self, place: u32) -> u64 {
        self.executable.as_ptr() as u64 + u64::from(place)
    }

    /// The place of an executable address, if it is in here.
    pub(crate) fn place(&self, address: u64) -> Option<u32> {
        let place = address.wrapping_sub(self.executable.as_ptr() as u64);
        (place < self.length as u64).then_some(place as u32)
    }

    /// Appends code at `next` and cold code at `next_cold`; `has` said that there is room.
    pub(crate) fn add(&mut self, code: &[u8], cold: &[u8]) {
        let (start, cold_start) = (self.next(), self.next_cold());
        self.used = start as usize + code.len();
        self.cold_used += cold.len();
        assert!(self.used <= self.cold && self.cold_used <= self.length, "`has` was asked");
        self.write(start, code);
        self.write(cold_start, cold);
    }

    /// Changes bytes of code that was added.
    pub(crate) fn write(&mut self, place: u32, bytes: &[u8]) {
        let end = place as usize + bytes.len();
        let limit = if place as usize >= self.cold { self.cold_used } else { self.used };
        assert!(end <= limit, "patches stay within added code");
        // SAFETY: within the writable mapping, as just checked; the code does not run meanwhile,
        // because it belongs to this vCPU, whose thread is here.
        unsafe {
            let to = self.writable.as_ptr().add(place as usize);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }

    /// Drops everything behind a place, and all cold code.
    pub(crate) fn truncate(&mut self, place: u32) {
        self.used = self.used.min(place as usize);
        self.cold_used = self.cold;
    }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        for mapping in [self.writable, self.executable] {
            // SAFETY: mapped in `new` with this length; no code of it runs any more.
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
