//! Where each piece goes: kernel where it was linked, initrd as high as it may, the rest at fixed low
//! addresses.
//!
//! Invariant: `finish` returns only segments that lie in RAM and do not overlap.

use x86::GuestPhys;
use x86::addr::PAGE_SIZE;

use super::entry::{EntryState, gdt};
use super::{BootError, Content, Plan, Segment, bios_data_area};
use crate::kernel::LoadSegment;
use crate::layout::{self, MemoryLayout};

/// An initrd never reaches into the PCI hole, wherever the machine starts it.
const INITRD_CEILING: u64 = 3 << 30;

/// Where the initrd lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PlacedInitrd {
    pub(super) address: GuestPhys,
    pub(super) size: u64,
}

/// Pieces placed so far.
pub(super) struct Placement<'a> {
    memory: &'a MemoryLayout,
    segments: Vec<Segment>,
    /// Past the last byte the kernel occupies at start.
    kernel_end: GuestPhys,
}

impl<'a> Placement<'a> {
    pub(super) fn new(memory: &'a MemoryLayout) -> Self {
        let segments = vec![bios_data_area(), Segment::new(layout::GDT, gdt())];
        Self { memory, segments, kernel_end: layout::HIGH_MEMORY }
    }

    pub(super) fn push(&mut self, segment: Segment) {
        self.segments.push(segment);
    }

    /// The kernel's segments.
    pub(super) fn kernel(&mut self, segments: &[LoadSegment]) -> Result<(), BootError> {
        for segment in segments {
            let end = segment.address.0 + segment.memory_size;
            let place = BootError::KernelPlace { start: segment.address, end: GuestPhys(end) };
            if end > layout::FOUR_GIB.0 {
                return Err(place);
            }
            self.reserve_to(GuestPhys(end));
            let low = segment.address < layout::HIGH_MEMORY;
            if low && end > layout::EBDA.0 {
                return Err(place);
            }
            self.segments.push(Segment {
                address: segment.address,
                content: Content::Kernel(segment.file),
                memory_size: segment.memory_size,
            });
        }
        Ok(())
    }

    /// Keeps everything up to `end` free of the initrd.
    pub(super) fn reserve_to(&mut self, end: GuestPhys) {
        self.kernel_end = self.kernel_end.max(end);
    }

    pub(super) fn command_line(&mut self, text: &str, limit: usize) -> Result<(), BootError> {
        let limit = limit.min(layout::COMMAND_LINE_SIZE as usize - 1);
        if text.len() > limit {
            return Err(BootError::CommandLineTooLong { length: text.len(), limit });
        }
        if text.contains('\0') {
            return Err(BootError::CommandLineNul);
        }
        let mut bytes = Vec::with_capacity(text.len() + 1);
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
        self.push(Segment::new(layout::COMMAND_LINE, bytes));
        Ok(())
    }

    /// The initrd, its last byte at `last_max` at most; also checks that the kernel itself fits.
    pub(super) fn initrd(
        &mut self,
        initrd: Option<u64>,
        last_max: u64,
    ) -> Result<Option<PlacedInitrd>, BootError> {
        let size = initrd.unwrap_or(0);
        let floor = self.kernel_end.0.next_multiple_of(PAGE_SIZE);
        let needed = floor.saturating_add(size.next_multiple_of(PAGE_SIZE));
        let limit = last_max.saturating_add(1).min(INITRD_CEILING);
        let have = self.memory.ram_below_4g;
        if size > 0 && needed > limit {
            return Err(BootError::InitrdTooLarge { size, limit });
        }
        if needed > have {
            return Err(BootError::MemoryTooSmall { needed, have });
        }
        if initrd.is_none() {
            return Ok(None);
        }
        let address = GuestPhys(have.min(limit) - size).page_base();
        assert!(address.0 >= floor, "the ceiling was checked in whole pages");
        self.push(Segment { address, content: Content::Initrd, memory_size: size });
        Ok(Some(PlacedInitrd { address, size }))
    }

    /// Checks that nothing overlaps. What is ours has its own fixed place, so an overlap is the
    /// kernel's doing.
    pub(super) fn finish(
        mut self,
        entry: EntryState,
        initrd: Option<PlacedInitrd>,
    ) -> Result<Plan, BootError> {
        self.segments.retain(|segment| segment.memory_size > 0);
        self.segments.sort_by_key(|segment| segment.address);
        for pair in self.segments.windows(2) {
            if pair[0].end() > pair[1].address {
                let start = pair[0].address;
                return Err(BootError::KernelPlace {
                    start,
                    end: pair[0].end().max(pair[1].end()),
                });
            }
        }
        let initrd = initrd.map(|initrd| initrd.address);
        Ok(Plan { segments: self.segments, entry, initrd })
    }
}
