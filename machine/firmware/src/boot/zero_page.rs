//! The zero page, `struct boot_params` (Documentation/arch/x86/zero-page.rst; boot.rst for the
//! setup header inside it).
//!
//! ```text
//!  0x000 screen_info   0x070 acpi_rsdp_addr   0x1e8 e820_entries   0x1f1 setup header   0x2d0 e820
//! ```
//!
//! Invariant: whatever isn't set is zero, the sentinel at 0x1ef above all.

use x86::GuestPhys;

use super::BootRequest;
use super::place::PlacedInitrd;
use crate::bytes::{put, put_u16, put_u32, put_u64};
use crate::e820::memory_map;
use crate::kernel::{SETUP_HEADER, SetupHeader};
use crate::layout;

/// A linear framebuffer of 32 bits a pixel (blue in the low byte), which the guest's efifb takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framebuffer {
    /// First pixel.
    pub address: GuestPhys,
    /// Pixels in a row.
    pub width: u16,
    /// Rows.
    pub height: u16,
    /// Bytes from one row to the next.
    pub stride: u16,
}

const ACPI_RSDP_ADDR: usize = 0x70;
const E820_ENTRIES: usize = 0x1e8;
const E820_TABLE: usize = 0x2d0;
const MAX_E820: usize = 128;
const BOOT_FLAG: usize = 0x1fe;
const HEADER_MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const TYPE_OF_LOADER: usize = 0x210;
const LOADFLAGS: usize = 0x211;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const CMD_LINE_PTR: usize = 0x228;
const SETUP_DATA: usize = 0x250;
const LOADED_HIGH: u8 = 1 << 0;
/// A loader without an assigned number.
const UNDEFINED_LOADER: u8 = 0xff;

pub(super) fn build(
    header: Option<&SetupHeader>,
    request: &BootRequest<'_>,
    initrd: Option<PlacedInitrd>,
) -> Vec<u8> {
    let mut page = vec![0; 4096];
    match header {
        Some(header) => put(&mut page, SETUP_HEADER, &header.raw),
        None => {
            put_u16(&mut page, BOOT_FLAG, 0xaa55);
            put(&mut page, HEADER_MAGIC, b"HdrS");
            put_u16(&mut page, VERSION, 0x020f);
        }
    }
    page[TYPE_OF_LOADER] = UNDEFINED_LOADER;
    // Only that: KASLR did not run, nor does anyone use a heap.
    page[LOADFLAGS] = LOADED_HIGH;
    put_u32(&mut page, CMD_LINE_PTR, layout::COMMAND_LINE.0 as u32);
    put_u64(&mut page, SETUP_DATA, 0);
    let (address, size) = initrd.map_or((0, 0), |initrd| (initrd.address.0, initrd.size));
    put_u32(&mut page, RAMDISK_IMAGE, address as u32);
    put_u32(&mut page, RAMDISK_SIZE, size as u32);
    put_u64(&mut page, ACPI_RSDP_ADDR, request.rsdp.map_or(0, |rsdp| rsdp.0));
    put_memory_map(&mut page, request);
    if let Some(framebuffer) = request.framebuffer {
        put_screen_info(&mut page, framebuffer);
    }
    page
}

fn put_memory_map(page: &mut [u8], request: &BootRequest<'_>) {
    let map = memory_map(request.memory);
    assert!(map.len() <= MAX_E820, "a machine has a handful of memory ranges");
    page[E820_ENTRIES] = map.len() as u8;
    for (index, range) in map.iter().enumerate() {
        let at = E820_TABLE + index * 20;
        put_u64(page, at, range.start.0);
        put_u64(page, at + 8, range.size);
        put_u32(page, at + 16, range.kind as u32);
    }
}

/// `struct screen_info` (include/uapi/linux/screen_info.h) for an EFI-like framebuffer.
fn put_screen_info(page: &mut [u8], framebuffer: Framebuffer) {
    const VIDEO_TYPE_EFI: u8 = 0x70;
    const CAPABILITY_64BIT_BASE: u32 = 1 << 1;
    let Framebuffer { address, width, height, stride } = framebuffer;
    page[0x0f] = VIDEO_TYPE_EFI;
    put_u16(page, 0x12, width);
    put_u16(page, 0x14, height);
    put_u16(page, 0x16, 32);
    put_u32(page, 0x18, address.0 as u32);
    put_u32(page, 0x1c, u32::from(stride) * u32::from(height));
    put_u16(page, 0x24, stride);
    // Size and position of red, green, blue and the unused channel.
    put(page, 0x26, &[8, 16, 8, 8, 8, 0, 8, 24]);
    put_u32(page, 0x36, CAPABILITY_64BIT_BASE);
    put_u32(page, 0x3a, (address.0 >> 32) as u32);
}
