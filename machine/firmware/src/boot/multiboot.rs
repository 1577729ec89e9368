//! Multiboot v1 start (Multiboot Specification 0.6.96, 3.2 and 3.3).
//!
//! Invariant: every flag set in `multiboot_info` has its fields filled in.

use super::place::Placement;
use super::{BootError, BootRequest, EntryState, Plan, Segment};
use crate::bytes::{put, put_u32, put_u64};
use crate::e820::memory_map;
use crate::kernel::Multiboot;
use crate::layout;

const FLAG_MEMORY: u32 = 1 << 0;
const FLAG_COMMAND_LINE: u32 = 1 << 2;
const FLAG_MODULES: u32 = 1 << 3;
const FLAG_MEMORY_MAP: u32 = 1 << 6;
const FLAG_LOADER_NAME: u32 = 1 << 9;
/// Offsets in the list area: module list (and its empty string), loader name, memory map.
const MODULE_STRING: u64 = 0x20;
const LOADER_NAME: u64 = 0x40;
const MEMORY_MAP: u64 = 0x100;
const MEMORY_MAP_ENTRY: usize = 24;
const COMMAND_LINE: usize = layout::COMMAND_LINE_SIZE as usize - 1;

pub(super) fn plan(image: &Multiboot, request: &BootRequest<'_>) -> Result<Plan, BootError> {
    let mut placement = Placement::new(request.memory);
    placement.command_line(request.command_line, COMMAND_LINE)?;
    placement.kernel(&image.segments)?;
    let initrd = placement.initrd(request.initrd, u32::MAX.into())?;

    let map = memory_map(request.memory);
    let mut lists = vec![0; MEMORY_MAP as usize + map.len() * MEMORY_MAP_ENTRY];
    let base = layout::BOOT_LISTS.0;
    if let Some(initrd) = initrd {
        put_u32(&mut lists, 0, initrd.address.0 as u32);
        put_u32(&mut lists, 4, (initrd.address.0 + initrd.size) as u32);
        put_u32(&mut lists, 8, (base + MODULE_STRING) as u32);
    }
    put(&mut lists, LOADER_NAME as usize, b"Oneroof\0");
    for (index, range) in map.iter().enumerate() {
        let at = MEMORY_MAP as usize + index * MEMORY_MAP_ENTRY;
        // The entry's size doesn't count itself.
        put_u32(&mut lists, at, MEMORY_MAP_ENTRY as u32 - 4);
        put_u64(&mut lists, at + 4, range.start.0);
        put_u64(&mut lists, at + 12, range.size);
        put_u32(&mut lists, at + 20, range.kind as u32);
    }

    let memory = request.memory.ram_below_4g;
    let mut info = vec![0; 116];
    let modules = if initrd.is_some() { FLAG_MODULES } else { 0 };
    let flags = FLAG_MEMORY | FLAG_COMMAND_LINE | FLAG_MEMORY_MAP | FLAG_LOADER_NAME | modules;
    put_u32(&mut info, 0, flags);
    put_u32(&mut info, 4, (memory.min(layout::EBDA.0) >> 10) as u32);
    put_u32(&mut info, 8, (memory.saturating_sub(layout::HIGH_MEMORY.0) >> 10) as u32);
    put_u32(&mut info, 16, layout::COMMAND_LINE.0 as u32);
    put_u32(&mut info, 20, initrd.is_some().into());
    put_u32(&mut info, 24, base as u32);
    put_u32(&mut info, 44, (map.len() * MEMORY_MAP_ENTRY) as u32);
    put_u32(&mut info, 48, (base + MEMORY_MAP) as u32);
    put_u32(&mut info, 64, (base + LOADER_NAME) as u32);

    placement.push(Segment::new(layout::BOOT_LISTS, lists));
    placement.push(Segment::new(layout::BOOT_INFO, info));
    placement.finish(EntryState::multiboot(image.entry, layout::BOOT_INFO), initrd)
}
