//! Memory for machine code made at run time: one memfd mapped twice, writable here, executable
//! there.
//!
//! Invariant: no page is writable and executable through one mapping. Whoever jumps into the
//! memory knows what lies there; this module only keeps the bytes.

use std::ffi::CStr;
use std::ops::Range;
use std::ptr::NonNull;

use engine::EngineError;

/// A stretch of memory with its two views.
pub(crate) struct CodeMapping {
    writable: NonNull<u8>,
    executable: NonNull<u8>,
    length: usize,
}

// SAFETY: the mappings belong to this value alone and are valid on any thread.
unsafe impl Send for CodeMapping {}

impl CodeMapping {
    /// Maps `length` bytes, untouched ones costing nothing. `name` shows in /proc/PID/maps.
    pub(crate) fn new(name: &CStr, length: usize) -> Result<Self, EngineError> {
        // SAFETY: the name is a NUL-terminated string; the descriptor is closed below.
        let file = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
        if file < 0 {
            return Err(EngineError::last_os("memfd_create"));
        }
        let mapped = map_both(file, length);
        // SAFETY: `file` is ours and the mappings keep the memory without it.
        unsafe { libc::close(file) };
        let (writable, executable) = mapped?;
        Ok(Self { writable, executable, length })
    }

    /// Bytes.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// The executable view.
    #[inline(always)]
    pub(crate) fn executable(&self) -> *mut u8 {
        self.executable.as_ptr()
    }

    /// Four bytes.
    #[cfg(test)]
    pub(crate) fn read(&self, at: usize) -> [u8; 4] {
        assert!(at + 4 <= self.length, "code is read inside its mapping");
        // SAFETY: within the writable mapping, as just checked; its owner's thread is here.
        unsafe { self.writable.as_ptr().add(at).cast::<[u8; 4]>().read() }
    }

    /// Lets the pages of the writable view go, whose bytes stay: they come back when they are written
    /// again, and until then are not in the process's page tables twice.
    pub(crate) fn release_view(&mut self) {
        // SAFETY: the whole of a shared mapping of ours; what is in it lies in the file. Advice that
        // the kernel does not take changes nothing.
        unsafe { libc::madvise(self.writable.as_ptr().cast(), self.length, libc::MADV_DONTNEED) };
    }

    /// Gives the whole pages of a range back to the host, in both views; they are zero then.
    pub(crate) fn give_back(&mut self, range: Range<usize>) {
        let (start, end) = (range.start.next_multiple_of(4096), range.end & !4095);
        assert!(range.end <= self.length, "code is dropped inside its mapping");
        if start < end {
            // SAFETY: whole pages of a shared mapping of ours, whose code is no more: it belongs to one
            // vCPU, whose thread is here and so not in it. What the kernel does not do changes nothing.
            unsafe {
                let at = self.writable.as_ptr().add(start);
                libc::madvise(at.cast(), end - start, libc::MADV_REMOVE)
            };
        }
    }

    /// Writes bytes, which must not be running.
    pub(crate) fn write(&mut self, at: usize, bytes: &[u8]) {
        let inside = at.checked_add(bytes.len()).is_some_and(|end| end <= self.length);
        assert!(inside, "code is written inside its mapping");
        // SAFETY: within the writable mapping, as just checked. The code belongs to one vCPU,
        // whose thread is here and so not in it.
        unsafe {
            let to = self.writable.as_ptr().add(at);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }
}

impl Drop for CodeMapping {
    fn drop(&mut self) {
        for mapping in [self.writable, self.executable] {
            // SAFETY: mapped in `new` with this length; no code of it runs any more.
            unsafe { libc::munmap(mapping.as_ptr().cast(), self.length) };
        }
    }
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

fn map(file: i32, length: usize, protection: i32) -> Result<NonNull<u8>, EngineError> {
    // SAFETY: a new shared mapping at an address of the kernel's choice.
    let at =
        unsafe { libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, file, 0) };
    if at == libc::MAP_FAILED {
        return Err(EngineError::last_os("mmap of code memory"));
    }
    Ok(NonNull::new(at.cast()).expect("the kernel does not map at address 0 unasked"))
}
