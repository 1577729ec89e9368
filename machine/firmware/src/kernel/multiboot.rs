//! Multiboot v1 kernels (Multiboot Specification 0.6.96, section 3.1).
//!
//! Invariant: what is loaded is either an ELF32's segments or the range the header's own addresses
//! name, cut from inside the file.

use x86::{GuestPhys, GuestVirt};

use super::elf::{Elf, LoadSegment};
use super::error::KernelError;
use crate::bytes::u32_at;
use crate::source::FileRange;

const MAGIC: u32 = 0x1bad_b002;
/// The header lies wholly in this prefix, 4-byte aligned.
const SEARCH: usize = 8192;
/// Modules on page boundaries; memory information; video mode (a wish we may leave unmet).
const KNOWN: u32 = 0b111;
/// Load addresses are in the header.
const ADDRESSES: u32 = 1 << 16;

/// Physical load addresses in a header (flags bit 16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadAddresses {
    /// Where the header itself lands.
    pub header: u32,
    /// Start of the loaded part.
    pub load: u32,
    /// End of the loaded part; 0: the file's end.
    pub load_end: u32,
    /// End of zeroed memory; 0: none.
    pub bss_end: u32,
    /// Entry point.
    pub entry: u32,
}

/// The header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MultibootHeader {
    /// Where in the file it is.
    pub offset: usize,
    /// Its flags.
    pub flags: u32,
    /// Load addresses, if flags bit 16 is set.
    pub addresses: Option<LoadAddresses>,
}

/// A multiboot kernel ready to be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Multiboot {
    /// Its header.
    pub header: MultibootHeader,
    /// What to load.
    pub segments: Vec<LoadSegment>,
    /// Where to start, in 32-bit protected mode.
    pub entry: GuestPhys,
}

impl MultibootHeader {
    /// Looks for a header with a right checksum in a file's first bytes.
    pub fn find(file: &[u8]) -> Option<Self> {
        let head = &file[..file.len().min(SEARCH)];
        (0..head.len()).step_by(4).find_map(|at| Self::at(head, at))
    }

    fn at(head: &[u8], offset: usize) -> Option<Self> {
        let word = |index: usize| u32_at(head, offset + 4 * index);
        if word(0)? != MAGIC {
            return None;
        }
        let flags = word(1)?;
        if MAGIC.wrapping_add(flags).wrapping_add(word(2)?) != 0 {
            return None;
        }
        let addresses = if flags & ADDRESSES == 0 {
            None
        } else {
            Some(LoadAddresses {
                header: word(3)?,
                load: word(4)?,
                load_end: word(5)?,
                bss_end: word(6)?,
                entry: word(7)?,
            })
        };
        Some(Self { offset, flags, addresses })
    }

    fn check(self) -> Result<Self, KernelError> {
        match self.flags & 0xffff & !KNOWN {
            0 => Ok(self),
            flags => Err(KernelError::MultibootFeatures { flags }),
        }
    }
}

impl Multiboot {
    /// A 32-bit ELF whose header has no addresses of its own.
    pub(super) fn parse_elf(elf: Elf, header: MultibootHeader) -> Result<Self, KernelError> {
        let header = header.check()?;
        let entry = elf
            .entry_address()
            .ok_or(KernelError::ElfDamaged { what: "its entry point lies outside its segments" })?;
        Ok(Self { header, segments: elf.segments, entry })
    }

    /// A file of this size and another format, with addresses in its header.
    pub(super) fn parse_flat(file: u64, header: MultibootHeader) -> Result<Self, KernelError> {
        let header = header.check()?;
        let addresses = header.addresses.ok_or(KernelError::MultibootFormat)?;
        let segment =
            flat_segment(file, header.offset, addresses).ok_or(KernelError::MultibootAddresses)?;
        let range = addresses.load..addresses.load.saturating_add(segment.memory_size as u32);
        if !range.contains(&addresses.entry) {
            return Err(KernelError::MultibootAddresses);
        }
        let entry = GuestPhys(addresses.entry.into());
        Ok(Self { header, segments: vec![segment], entry })
    }
}

fn flat_segment(file: u64, header_at: usize, at: LoadAddresses) -> Option<LoadSegment> {
    let before = at.header.checked_sub(at.load)?;
    let start = (header_at as u64).checked_sub(before.into())?;
    let length = match at.load_end {
        0 => file.checked_sub(start)?,
        end => end.checked_sub(at.load)?.into(),
    };
    let file = FileRange::within(start, length, file)?;
    let memory_size = match at.bss_end {
        0 => length,
        end => u64::from(end.checked_sub(at.load)?).max(length),
    };
    (u64::from(at.load) + memory_size <= 1 << 32).then_some(LoadSegment {
        address: GuestPhys(at.load.into()),
        virtual_address: GuestVirt(at.load.into()),
        file,
        memory_size,
    })
}
