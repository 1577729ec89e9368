//! The guest's address spaces: where everything lies, and the tables that say so (SDM vol. 3, 4.5).
//!
//! ```text
//! image (64 KiB and more, at four linear addresses at once)     physical pages shuffled
//!   page 0-7    code                     user, writable on demand; page 1 has a twin
//!   page 8-11   data                     user, writable
//!   page 12     data                     read-only until the handler thinks otherwise
//!   page 13     nothing
//!   page 14     data                     user, writable
//!   page 15     data                     supervisor only
//!   page 16     loop counters            user, writable
//!   page 17     tables of code addresses user, read-only
//!   page 18-21  stack                    user, writable
//! direct map of all RAM                  supervisor
//! ```
//!
//! Invariant: all four images share one page table, so a change of an entry means all of them.

use memory::GuestMemory;
use x86::GuestPhys;

use crate::random::Random;

pub(crate) const PAGE: u64 = 4096;
/// Bytes of guest RAM.
pub(crate) const RAM: u64 = 1 << 20;

/// Where images lie: two in the lower half, both below 2 GiB, two in the upper.
pub(crate) const IMAGES: [u64; 4] =
    [0x0040_0000, 0x1240_0000, 0xffff_ffff_8140_0000, 0xffff_8000_0040_0000];
/// Linear address of physical address 0.
pub(crate) const DIRECT: u64 = 0xffff_9000_0000_0000;

pub(crate) const CODE_PAGES: u64 = 8;
pub(crate) const DATA: u64 = 8 * PAGE;
pub(crate) const READ_ONLY: u64 = 12 * PAGE;
pub(crate) const COUNTERS: u64 = 16 * PAGE;
pub(crate) const TABLES: u64 = 17 * PAGE;
pub(crate) const STACK: u64 = 18 * PAGE;
pub(crate) const IMAGE_PAGES: u64 = 22;
/// The code page that has a twin.
pub(crate) const TWIN: u64 = 1;

/// Physical addresses of what the handler uses.
pub(crate) const HANDLER: u64 = 0x1_0000;
pub(crate) const IDT: u64 = 0x1_4000;
pub(crate) const GDT: u64 = 0x1_5000;
pub(crate) const TSS: u64 = 0x1_6000;
pub(crate) const HANDLER_STACK: u64 = 0x1_8000;
pub(crate) const LOG: u64 = 0x2_0000;
/// A byte for every byte of the image's first 64 KiB: the length of the instruction there.
pub(crate) const LENGTHS: u64 = 0x3_0000;
pub(crate) const PML4: u64 = 0x1000;
/// The image's page table.
pub(crate) const IMAGE_TABLE: u64 = 0x5000;
pub(crate) const POOL: u64 = 0x4_0000;
/// A byte for every byte of the image's first 64 KiB: the status flags that are undefined there, as
/// RFLAGS' low byte has them, and OF as `UNDEFINED_OF`.
pub(crate) const UNDEFINED: u64 = 0x8_0000;
pub(crate) const UNDEFINED_OF: u8 = 1 << 3;
/// All of them.
pub(crate) const ALL_UNDEFINED: u8 = 0xd5 | UNDEFINED_OF;

pub(crate) const CR3: u64 = PML4;

pub(crate) const PRESENT: u64 = 1;
pub(crate) const WRITABLE: u64 = 2;
pub(crate) const USER: u64 = 4;
pub(crate) const ACCESSED: u64 = 0x20;
pub(crate) const ACCESSED_DIRTY: u64 = 0x60;
pub(crate) const LARGE: u64 = 0x80;

/// Where each page of the image lies in RAM.
#[derive(Clone)]
pub(crate) struct Places {
    pages: Vec<u64>,
    /// The twin of the code page that has one.
    pub(crate) twin: u64,
}

impl Places {
    pub(crate) fn new(random: &mut Random) -> Self {
        let mut pool: Vec<u64> = (0..48).map(|page| POOL + page * PAGE).collect();
        for last in (1..pool.len()).rev() {
            pool.swap(last, random.below(last as u64 + 1) as usize);
        }
        let twin = pool.pop().expect("48 pages are enough");
        pool.truncate(IMAGE_PAGES as usize);
        Self { pages: pool, twin }
    }

    /// In a row from the start of the pool on, for where there is no paging.
    pub(crate) fn in_a_row() -> Self {
        let pages = (0..IMAGE_PAGES).map(|page| POOL + page * PAGE).collect();
        Self { pages, twin: POOL + IMAGE_PAGES * PAGE }
    }

    /// Physical address of an offset in the image.
    pub(crate) fn physical(&self, offset: u64) -> u64 {
        self.pages[(offset / PAGE) as usize] + offset % PAGE
    }

    /// Writes into the image.
    pub(crate) fn write(&self, memory: &GuestMemory, offset: u64, bytes: &[u8]) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let length = rest.len().min((PAGE - at % PAGE) as usize);
            write(memory, self.physical(at), &rest[..length]);
            if at / PAGE == TWIN {
                write(memory, self.twin + at % PAGE, &rest[..length]);
            }
            rest = &rest[length..];
            at += length as u64;
        }
    }

    /// Four bytes of the image, within a page.
    pub(crate) fn read(&self, memory: &GuestMemory, offset: u64) -> [u8; 4] {
        let mut bytes = [0; 4];
        memory.read_physical(GuestPhys(self.physical(offset)), &mut bytes).expect("it lies in RAM");
        bytes
    }

    /// What the handler flips in the twin's entry.
    pub(crate) fn twin_difference(&self) -> u64 {
        self.pages[TWIN as usize] ^ self.twin
    }
}

/// Writes to physical memory.
pub(crate) fn write(memory: &GuestMemory, at: u64, bytes: &[u8]) {
    memory.write_physical(GuestPhys(at), bytes).expect("it lies in RAM");
}

pub(crate) fn put(memory: &GuestMemory, at: u64, value: u64) {
    write(memory, at, &value.to_le_bytes());
}

/// Page tables. Now and then an entry has not been used yet.
pub(crate) fn page_tables(
    memory: &GuestMemory,
    places: &Places,
    random: &mut Random,
    writable_code: bool,
) {
    let mut next = 0x6000;
    let user = PRESENT | WRITABLE | USER | ACCESSED_DIRTY;
    for base in IMAGES {
        let mut table = PML4;
        for shift in [39, 30] {
            let entry = table + (base >> shift & 511) * 8;
            let mut old = [0; 8];
            memory.read_physical(GuestPhys(entry), &mut old).expect("tables lie in RAM");
            let old = u64::from_le_bytes(old);
            table = if old == 0 {
                put(memory, entry, next | user);
                next += PAGE;
                next - PAGE
            } else {
                old & !0xfff
            };
        }
        put(memory, table + (base >> 21 & 511) * 8, IMAGE_TABLE | user);
    }
    for page in 0..IMAGE_PAGES {
        let rights = rights(page, writable_code);
        let used = if random.once_in(6) { 0 } else { ACCESSED_DIRTY };
        put(memory, IMAGE_TABLE + page * 8, places.physical(page * PAGE) | rights | used);
    }
    let kernel = PRESENT | WRITABLE | ACCESSED_DIRTY;
    put(memory, PML4 + (DIRECT >> 39 & 511) * 8, next | kernel);
    put(memory, next + (DIRECT >> 30 & 511) * 8, (next + PAGE) | kernel);
    put(memory, next + PAGE + (DIRECT >> 21 & 511) * 8, kernel | LARGE);
    assert!(next + PAGE < HANDLER, "tables end before the handler");
}

/// What an entry for a page of the image allows.
pub(crate) fn rights(page: u64, writable_code: bool) -> u64 {
    match page {
        12 | 17 => PRESENT | USER,
        0..CODE_PAGES if !writable_code => PRESENT | USER,
        13 => 0,
        15 => PRESENT | WRITABLE,
        _ => PRESENT | WRITABLE | USER,
    }
}
