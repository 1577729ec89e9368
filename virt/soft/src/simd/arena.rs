//! Code memory for routines.
//!
//! Invariant: bytes below `used` are whole routines made by `emit`; while one runs (which borrows
//! the arena) none changes.

use engine::EngineError;
use interp::vector::Exchange;
use x86::XsaveArea;

use crate::sys::code_mapping::CodeMapping;

/// Routines start at multiples of this.
const ALIGNMENT: usize = 16;

/// Entry point of a routine within the arena that gave it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place(u32);

/// An append-only store of machine code.
pub(super) struct Arena {
    mapping: CodeMapping,
    used: usize,
}

impl Arena {
    /// Maps `length` bytes, untouched ones costing nothing.
    pub(super) fn new(length: usize) -> Result<Self, EngineError> {
        Ok(Self { mapping: CodeMapping::new(c"vector routines", length)?, used: 0 })
    }

    /// Appends a routine; `None` when full.
    pub(super) fn add(&mut self, code: &[u8]) -> Option<Place> {
        let start = self.used.next_multiple_of(ALIGNMENT);
        let end = start.checked_add(code.len()).filter(|&end| end <= self.mapping.length())?;
        self.mapping.write(start, code);
        self.used = end;
        Some(Place(start as u32))
    }

    /// Bytes that are still free.
    pub(super) fn left(&self) -> usize {
        self.mapping.length() - self.used
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
            let entry = self.mapping.executable().add(place.0 as usize);
            let routine = std::mem::transmute::<*mut u8, Routine>(entry);
            routine(area, exchange);
        }
    }
}
