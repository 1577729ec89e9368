//! Flat 32-bit code: in compatibility mode under the 64-bit handler, and in protected mode, with and
//! without paging, under a handler of its own.
//!
//! One image lies at the end of the address space, and its last pages at the beginning: what points
//! into it wraps at 4 GiB.

mod handler;
mod modes;
mod steps;

use memory::GuestMemory;
use x86::segment::attr;
use x86::{CpuState, Cr0, Cr4, Flags, GuestPhys, Segment, TableRegister};

use crate::layout::{
    self, ACCESSED_DIRTY, CR3, DATA, GDT, IDT, IMAGE_PAGES, IMAGE_TABLE, IMAGES, LARGE, PAGE, PML4,
    POOL, PRESENT, Places, TSS, USER, WRITABLE,
};
use crate::machine;
use crate::operand::stack_offset;
use crate::random::Random;
use crate::run::{CODE_RIGHTS, DATA_RIGHTS, RING3, bare, flat};

pub(crate) use steps::{address, program};

const STATUS: u64 = Flags::STATUS.bits();
/// The image at the end of the address space.
const TOP: u64 = 0xffff_0000;
/// Of its pages, those before the end.
const PAGES_BELOW: u64 = 16;
/// Where a row of pages begins without paging.
const ROW: [u64; 1] = [POOL];
const PAGED: [u64; 3] = [IMAGES[0], IMAGES[1], TOP];
/// Linear address of physical address 0 in protected mode with paging.
const DIRECT_32: u64 = 0xc000_0000;
/// Tables of the pages around the end of the address space.
const MORE_TABLES: u64 = 0x1_a000;

/// Descriptors behind those that 64-bit code needs, from 0x38 on.
pub(crate) const DESCRIPTORS: [u64; 8] = [
    // Code of 32 bits for CPL 0 and 3.
    0x00cf_9b00_0000_ffff,
    0x00cf_fb00_0000_ffff,
    // Whole data from 0xfffff000 on; 4 KiB; read-only; above 16 MiB; flat again.
    0xffcf_f3ff_f000_ffff,
    0x0040_f300_0000_0fff,
    0x00cf_f100_0000_ffff,
    0x00cf_f700_0000_0fff,
    0x00cf_f300_0000_ffff,
    0,
];
/// Selectors of data segments: null, whole, 4 KiB, read-only, expand-down.
pub(crate) const ODD_SELECTORS: [u16; 5] = [0, 0x4b, 0x53, 0x5b, 0x63];
/// A flat one.
pub(crate) const FLAT_SELECTOR: u16 = 0x6b;

/// What 32-bit code runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum World {
    Compatibility,
    Paged,
    Unpaged,
}

impl World {
    pub(crate) fn new(random: &mut Random) -> Self {
        random.pick(&[Self::Compatibility, Self::Compatibility, Self::Paged, Self::Unpaged])
    }

    /// Linear addresses of the image.
    fn images(self) -> &'static [u64] {
        if self == Self::Unpaged { &ROW } else { &PAGED }
    }

    /// Linear address of physical address 0, in protected mode.
    fn direct(self) -> u64 {
        if self == Self::Paged { DIRECT_32 } else { 0 }
    }

    /// Tables and handler.
    pub(crate) fn surroundings(
        self,
        memory: &GuestMemory,
        random: &mut Random,
        writable_code: bool,
    ) -> Places {
        let places = match self {
            Self::Unpaged => Places::in_a_row(),
            _ => Places::new(random),
        };
        match self {
            Self::Compatibility => {
                layout::page_tables(memory, &places, random, writable_code);
                around_the_end(memory, &places, writable_code);
                crate::handler::install(memory, &places);
            }
            Self::Paged => {
                page_tables_32(memory, &places, random, writable_code);
                handler::install(memory, self.direct());
            }
            Self::Unpaged => handler::install(memory, self.direct()),
        }
        places
    }

    /// Registers and system state at the start, at EIP.
    pub(crate) fn start(
        self,
        program: &crate::program::Program,
        eip: u64,
        before: &machine::Start,
        random: &mut Random,
    ) -> CpuState {
        let user = program.user;
        let mut state = match self {
            Self::Compatibility => bare(),
            _ => self.protected(),
        };
        let code = CODE_RIGHTS & !attr::LONG | attr::DB;
        let (cs, ring) = match (self, user) {
            (Self::Compatibility, false) => (0x38, 0),
            (Self::Compatibility, true) => (0x43, RING3),
            (_, false) => (0x08, 0),
            (_, true) => (0x23, RING3),
        };
        state.segments = [flat(if user { 0x1b } else { 0x10 }, DATA_RIGHTS | ring); 6];
        state.segments[1] = flat(cs, code | ring);
        for index in [4, 5] {
            let base = (program.image + DATA + random.below(2 * PAGE)) & 0xffff_ffff;
            let whole = Segment { base, ..flat(0x4b, DATA_RIGHTS | RING3) };
            state.segments[index] = whole;
        }
        state.gpr = before.gpr;
        // High halves are seldom anything, and only behind 64-bit code.
        if self != Self::Compatibility || !random.once_in(3) {
            state.gpr[..8].iter_mut().for_each(|value| *value &= 0xffff_ffff);
        }
        state.gpr[4] = (program.image + stack_offset(random)) & 0xffff_ffff;
        if program.image == TOP && random.once_in(2) {
            // Around the end.
            state.gpr[4] = 4 * random.below(16);
        }
        state.rip = eip;
        state.rflags = before.rflags & STATUS | Flags::FIXED.bits();
        let image = &before.image;
        state.xsave.0[..image.len()].copy_from_slice(image);
        if random.once_in(4) {
            state.cr0 |= Cr0::TS.bits();
        }
        state
    }

    /// Protected mode.
    fn protected(self) -> CpuState {
        let mut state = bare();
        let direct = self.direct();
        state.gdtr = TableRegister { base: direct + GDT, limit: 0x77 };
        state.idtr = TableRegister { base: direct + IDT, limit: 0xff };
        state.tr.base = direct + TSS;
        state.msrs.efer = 0;
        state.cr4 = state.cr4 & !Cr4::PAE.bits() | Cr4::PSE.bits();
        if self == Self::Unpaged {
            state.cr0 &= !Cr0::PG.bits();
            state.cr3 = 0;
        }
        state
    }
}

fn read(memory: &GuestMemory, at: u64) -> u64 {
    let mut bytes = [0; 8];
    memory.read_physical(GuestPhys(at), &mut bytes).expect("tables lie in RAM");
    u64::from_le_bytes(bytes)
}

/// Offset of a page of the image that lies at the end, and its linear address.
fn at_the_end(page: u64) -> u64 {
    (TOP + page * PAGE) & 0xffff_ffff
}

/// The image around the end of 4 GiB, under the tables of long mode. Accessed and dirty from the
/// start: tests know entries by their place.
fn around_the_end(memory: &GuestMemory, places: &Places, writable_code: bool) {
    let user = PRESENT | WRITABLE | USER | ACCESSED_DIRTY;
    let mut next = MORE_TABLES;
    for page in 0..IMAGE_PAGES {
        let linear = at_the_end(page);
        let mut table = PML4;
        for shift in [39, 30, 21] {
            let entry = table + (linear >> shift & 511) * 8;
            if read(memory, entry) == 0 {
                layout::put(memory, entry, next | user);
                next += PAGE;
            }
            table = read(memory, entry) & !0xfff;
        }
        let rights = layout::rights(page, writable_code) | ACCESSED_DIRTY;
        let leaf = places.physical(page * PAGE) | rights;
        layout::put(memory, table + (linear >> 12 & 511) * 8, leaf);
    }
}

/// Page tables of 32-bit paging.
fn page_tables_32(memory: &GuestMemory, places: &Places, random: &mut Random, writable_code: bool) {
    let put = |at: u64, value: u64| layout::write(memory, at, &(value as u32).to_le_bytes());
    let user = PRESENT | WRITABLE | USER | ACCESSED_DIRTY;
    for image in [IMAGES[0], IMAGES[1]] {
        put(CR3 + (image >> 22) * 4, IMAGE_TABLE | user);
    }
    put(CR3 + 1023 * 4, MORE_TABLES | user);
    put(CR3, (MORE_TABLES + PAGE) | user);
    put(CR3 + (DIRECT_32 >> 22) * 4, PRESENT | WRITABLE | ACCESSED_DIRTY | LARGE);
    for page in 0..IMAGE_PAGES {
        let used = if random.once_in(6) { 0 } else { ACCESSED_DIRTY };
        let entry = places.physical(page * PAGE) | layout::rights(page, writable_code);
        put(IMAGE_TABLE + page * 4, entry | used);
        let table = if page < PAGES_BELOW { MORE_TABLES } else { MORE_TABLES + PAGE };
        put(table + (at_the_end(page) >> 12 & 1023) * 4, entry | ACCESSED_DIRTY);
    }
}
