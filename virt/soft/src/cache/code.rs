//! Code memory of translated blocks: regions that are filled and emptied in turn.
//!
//! ```text
//! shared code | region 0 | region 1 | ... hot parts | region 0 | region 1 | ... cold parts
//! ```
//!
//! What runs often lies close together; what seldom does (ways out) in cold parts behind.

use std::ops::Range;

use engine::EngineError;

use crate::sys::code_mapping::CodeMapping;

/// Pages of the writable view that are in the process's page tables at once.
const VIEWED_PAGES: usize = 1024;

/// Translated code.
pub(crate) struct CodeMemory {
    mapping: CodeMapping,
    regions: usize,
    /// End of the shared code.
    shared: usize,
    /// Where cold parts begin.
    cold: usize,
    /// The region that is being filled.
    current: usize,
    used: usize,
    cold_used: usize,
    /// Pages written since the writable view was empty: a bit each, and their number.
    viewed: Box<[u64]>,
    viewed_pages: usize,
}

impl CodeMemory {
    /// Maps `length` bytes, untouched ones costing nothing, in so many regions; cold parts from
    /// `cold` on. `shared` is there for good.
    pub(crate) fn new(
        length: usize,
        cold: usize,
        regions: usize,
        shared: &[u8],
    ) -> Result<Self, EngineError> {
        let mut mapping = CodeMapping::new(c"translated code", length)?;
        mapping.write(0, shared);
        let shared = shared.len().next_multiple_of(16);
        let mut code = Self {
            mapping,
            regions,
            shared,
            cold,
            current: 0,
            used: 0,
            cold_used: 0,
            viewed: vec![0; length.div_ceil(64 * 4096)].into(),
            viewed_pages: 0,
        };
        code.begin(0);
        Ok(code)
    }

    /// The region that is being filled.
    pub(crate) fn current(&self) -> usize {
        self.current
    }

    /// Fills another region from its start on, whose code is no more.
    pub(crate) fn begin(&mut self, region: usize) {
        self.release_view();
        self.mapping.give_back(self.hot_part(region));
        self.mapping.give_back(self.cold_part(region));
        self.current = region;
        self.used = self.hot_part(region).start;
        self.cold_used = self.cold_part(region).start;
    }

    /// Until it is written again, code is in the process's page tables once.
    fn release_view(&mut self) {
        self.mapping.release_view();
        self.viewed.fill(0);
        self.viewed_pages = 0;
    }

    fn hot_part(&self, region: usize) -> Range<usize> {
        let size = self.cold / self.regions & !15;
        (region * size).max(self.shared)..(region + 1) * size
    }

    fn cold_part(&self, region: usize) -> Range<usize> {
        let size = (self.mapping.length() - self.cold) / self.regions & !15;
        self.cold + region * size..self.cold + (region + 1) * size
    }

    /// Addresses that blocks of a region can have.
    pub(crate) fn addresses(&self, region: usize) -> Range<u64> {
        let Range { start, end } = self.hot_part(region);
        self.address(start as u32)..self.address(end as u32)
    }

    /// The region a block's place lies in.
    pub(crate) fn region(&self, place: u32) -> usize {
        let size = self.cold / self.regions & !15;
        place as usize / size
    }

    /// Where the next code goes.
    pub(crate) fn next(&self) -> u32 {
        self.used.next_multiple_of(16) as u32
    }

    /// Where the next cold code goes.
    pub(crate) fn next_cold(&self) -> u32 {
        self.cold_used as u32
    }

    /// Whether both parts of the region have this many bytes left.
    pub(crate) fn has(&self, bytes: usize) -> bool {
        self.hot_part(self.current).end - self.used >= bytes
            && self.cold_part(self.current).end - self.cold_used >= bytes
    }

    /// Bytes in use of the region.
    pub(crate) fn used(&self) -> usize {
        self.used - self.hot_part(self.current).start + self.cold_used
            - self.cold_part(self.current).start
    }

    /// Executable address of a place.
    pub(crate) fn address(&self, place: u32) -> u64 {
        self.mapping.executable() as u64 + u64::from(place)
    }

    /// The place of an address that blocks can have.
    pub(crate) fn place(&self, address: u64) -> Option<u32> {
        let place = address.wrapping_sub(self.mapping.executable() as u64);
        (place < self.mapping.length() as u64).then_some(place as u32)
    }

    /// The address behind all of it.
    pub(crate) fn end(&self) -> u64 {
        self.mapping.executable() as u64 + self.mapping.length() as u64
    }

    /// Where blocks begin, behind the shared code.
    pub(crate) fn start(&self) -> u32 {
        self.shared as u32
    }

    /// Appends code at `next` and cold code at `next_cold`; `has` said that there is room.
    pub(crate) fn add(&mut self, code: &[u8], cold: &[u8]) {
        let (start, cold_start) = (self.next(), self.next_cold());
        self.used = start as usize + code.len();
        self.cold_used += cold.len();
        assert!(
            self.used <= self.hot_part(self.current).end
                && self.cold_used <= self.cold_part(self.current).end,
            "`has` was asked"
        );
        self.write(start, code);
        self.write(cold_start, cold);
    }

    /// Four bytes of code.
    #[cfg(test)]
    pub(crate) fn read(&self, place: u32) -> [u8; 4] {
        self.mapping.read(place as usize)
    }

    /// Changes bytes of code that was added.
    pub(crate) fn write(&mut self, place: u32, bytes: &[u8]) {
        assert!(place as usize >= self.shared, "shared code never changes");
        self.mapping.write(place as usize, bytes);
        for page in place as usize / 4096..(place as usize + bytes.len()).div_ceil(4096) {
            let word = &mut self.viewed[page / 64];
            let bit = 1 << (page % 64);
            self.viewed_pages += usize::from(*word & bit == 0);
            *word |= bit;
        }
        if self.viewed_pages > VIEWED_PAGES {
            self.release_view();
        }
    }
}
