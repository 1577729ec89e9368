//! PVH: 32-bit entry with `hvm_start_info` (Xen's include/public/arch-x86/hvm/start_info.h, version 1).
//!
//! Invariant: module list and memory map lie in one list area, below 4 GiB.

use x86::GuestPhys;

use super::place::Placement;
use super::{BootError, BootRequest, EntryState, Plan, Segment};
use crate::bytes::{put_u32, put_u64};
use crate::e820::memory_map;
use crate::kernel::Elf;
use crate::layout;

const MAGIC: u32 = 0x336e_c578;
const MEMORY_MAP: u64 = 0x100;
/// Longest command line; the guest has its own limit.
const COMMAND_LINE: usize = layout::COMMAND_LINE_SIZE as usize - 1;

/// Where its note says that an ELF is entered.
pub(super) fn entry(elf: &Elf) -> Result<GuestPhys, BootError> {
    let inside = |entry: &u32| {
        elf.segments.iter().any(|segment| {
            u64::from(*entry)
                .checked_sub(segment.address.0)
                .is_some_and(|at| at < segment.memory_size)
        })
    };
    let entry = elf.notes.pvh_entry.filter(inside);
    Ok(GuestPhys(entry.ok_or(BootError::NoSuchEntry { protocol: "PVH" })?.into()))
}

/// Everything but the entry point, whose note may not have been read yet.
pub(super) fn plan(elf: &Elf, request: &BootRequest<'_>) -> Result<Plan, BootError> {
    let mut placement = Placement::new(request.memory);
    placement.command_line(request.command_line, COMMAND_LINE)?;
    placement.kernel(&elf.segments)?;
    let initrd = placement.initrd(request.initrd, u32::MAX.into())?;

    let map = memory_map(request.memory);
    let mut lists = vec![0; MEMORY_MAP as usize + map.len() * 24];
    if let Some(initrd) = initrd {
        put_u64(&mut lists, 0, initrd.address.0);
        put_u64(&mut lists, 8, initrd.size);
    }
    for (index, range) in map.iter().enumerate() {
        let at = MEMORY_MAP as usize + index * 24;
        put_u64(&mut lists, at, range.start.0);
        put_u64(&mut lists, at + 8, range.size);
        put_u32(&mut lists, at + 16, range.kind as u32);
    }

    let mut info = vec![0; 56];
    put_u32(&mut info, 0, MAGIC);
    put_u32(&mut info, 4, 1);
    put_u32(&mut info, 12, initrd.is_some().into());
    put_u64(&mut info, 16, layout::BOOT_LISTS.0);
    put_u64(&mut info, 24, layout::COMMAND_LINE.0);
    put_u64(&mut info, 32, request.rsdp.map_or(0, |rsdp| rsdp.0));
    put_u64(&mut info, 40, layout::BOOT_LISTS.0 + MEMORY_MAP);
    put_u32(&mut info, 48, map.len() as u32);

    placement.push(Segment::new(layout::BOOT_LISTS, lists));
    placement.push(Segment::new(layout::BOOT_INFO, info));
    placement.finish(EntryState::pvh(GuestPhys(0), layout::BOOT_INFO), initrd)
}
