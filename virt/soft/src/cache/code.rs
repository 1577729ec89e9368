//! Code memory of translated blocks: what runs often from the start on, what seldom does from a
//! place behind it.

use engine::EngineError;

use crate::sys::code_mapping::CodeMapping;

/// Translated code.
pub(crate) struct CodeMemory {
    mapping: CodeMapping,
    used: usize,
    /// Where code that seldom runs begins, and where it ends.
    cold: usize,
    cold_used: usize,
}

impl CodeMemory {
    /// Maps `length` bytes, untouched ones costing nothing; from `cold` on for code that seldom
    /// runs, so that what runs often lies close together.
    pub(crate) fn new(length: usize, cold: usize) -> Result<Self, EngineError> {
        let mapping = CodeMapping::new(c"translated code", length)?;
        Ok(Self { mapping, used: 0, cold, cold_used: cold })
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
        self.cold - self.used >= bytes && self.mapping.length() - self.cold_used >= bytes
    }

    /// Executable address of a place.
    pub(crate) fn address(&self, place: u32) -> u64 {
        self.mapping.executable() as u64 + u64::from(place)
    }

    /// The place of an executable address, if it is in here.
    pub(crate) fn place(&self, address: u64) -> Option<u32> {
        let place = address.wrapping_sub(self.mapping.executable() as u64);
        (place < self.mapping.length() as u64).then_some(place as u32)
    }

    /// Appends code at `next` and cold code at `next_cold`; `has` said that there is room.
    pub(crate) fn add(&mut self, code: &[u8], cold: &[u8]) {
        let (start, cold_start) = (self.next(), self.next_cold());
        self.used = start as usize + code.len();
        self.cold_used += cold.len();
        assert!(
            self.used <= self.cold && self.cold_used <= self.mapping.length(),
            "`has` was asked"
        );
        self.write(start, code);
        self.write(cold_start, cold);
    }

    /// Changes bytes of code that was added.
    pub(crate) fn write(&mut self, place: u32, bytes: &[u8]) {
        let end = place as usize + bytes.len();
        let limit = if place as usize >= self.cold { self.cold_used } else { self.used };
        assert!(end <= limit, "patches stay within added code");
        self.mapping.write(place as usize, bytes);
    }

    /// Drops everything behind a place, and all cold code.
    pub(crate) fn truncate(&mut self, place: u32) {
        self.used = self.used.min(place as usize);
        self.cold_used = self.cold;
    }
}
