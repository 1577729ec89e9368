//! From an unpacked kernel to bytes in guest memory and registers in the boot processor.
//!
//! Linux enters its own vmlinux at startup_64, as its decompressor would
//! (Documentation/arch/x86/boot.rst, "64-bit boot protocol"); others by PVH or multiboot. Nothing is
//! copied that can be borrowed. Invariants: segments lie in RAM and do not overlap; everything the
//! kernel is told about lies in a segment.

mod entry;
mod multiboot;
mod place;
mod pvh;
mod zero_page;

use std::borrow::Cow;

use thiserror::Error;
use x86::{CpuState, GuestPhys};

pub use entry::EntryState;
pub use zero_page::Framebuffer;

use crate::bytes::put_u16;
use crate::kernel::{Elf, ElfClass, KernelError, SetupHeader};
use crate::layout::{self, MemoryLayout};
use crate::unpack::Unpacked;
use place::Placement;

/// How a kernel is entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BootProtocol {
    /// Linux: `Linux64`; another ELF with a PVH note: `Pvh`; multiboot files: multiboot.
    #[default]
    Auto,
    /// 64-bit mode with a zero page.
    Linux64,
    /// 32-bit protected mode with `hvm_start_info`.
    Pvh,
}

/// What a kernel is started with.
#[derive(Clone, Copy, Debug)]
pub struct BootRequest<'a> {
    /// Initial RAM disk, or the one module of a multiboot kernel.
    pub initrd: Option<&'a [u8]>,
    /// Command line, without NUL.
    pub command_line: &'a str,
    /// How to enter.
    pub protocol: BootProtocol,
    /// The machine's memory.
    pub memory: &'a MemoryLayout,
    /// Where the ACPI tables start.
    pub rsdp: Option<GuestPhys>,
    /// A linear framebuffer that is already on (Linux only).
    pub framebuffer: Option<Framebuffer>,
}

/// Bytes for one place in guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// First address.
    pub address: GuestPhys,
    /// What to write there.
    pub bytes: Cow<'a, [u8]>,
    /// Bytes the segment occupies; those past `bytes` must be zero, as fresh RAM is.
    pub memory_size: u64,
}

impl<'a> Segment<'a> {
    fn new(address: GuestPhys, bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        let bytes = bytes.into();
        Self { address, memory_size: bytes.len() as u64, bytes }
    }

    /// The address past the last byte.
    pub fn end(&self) -> GuestPhys {
        GuestPhys(self.address.0.saturating_add(self.memory_size))
    }
}

/// A kernel in place: write the segments, enter the boot processor.
#[derive(Clone, Debug)]
pub struct BootImage<'a> {
    /// What to write, sorted by address, without overlap.
    pub segments: Vec<Segment<'a>>,
    /// How the boot processor starts.
    pub entry: EntryState,
    /// Where the initrd was placed.
    pub initrd: Option<GuestPhys>,
}

impl BootImage<'_> {
    /// Sets the boot processor's registers; what a kernel may not rely on stays as after reset.
    pub fn enter(&self, cpu: &mut CpuState) {
        self.entry.apply(cpu);
    }
}

/// Why a kernel can't be started on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BootError {
    /// Not enough RAM below the PCI hole.
    #[error(
        "the machine's memory is too small: kernel and initramfs need at least {} MiB, it has {} MiB",
        needed.div_ceil(1 << 20), have >> 20
    )]
    MemoryTooSmall {
        /// Bytes needed.
        needed: u64,
        /// Bytes of RAM in one piece from 0.
        have: u64,
    },
    /// The initrd doesn't fit below its limit whatever the RAM.
    #[error(
        "the initramfs of {size} bytes does not fit below {limit:#x}, where this kernel wants it"
    )]
    InitrdTooLarge {
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The kernel lies where RAM isn't, or where the start-up structures are.
    #[error("the kernel wants to be loaded at {start}..{end}, which is not free memory")]
    KernelPlace {
        /// First address.
        start: GuestPhys,
        /// Past the last address.
        end: GuestPhys,
    },
    /// Too long a command line.
    #[error("the command line has {length} bytes; this kernel takes at most {limit}")]
    CommandLineTooLong {
        /// Its length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// NUL in the command line.
    #[error("the command line contains a NUL byte")]
    CommandLineNul,
    /// A protocol the file has no entry for.
    #[error("the kernel has no {protocol} entry point")]
    NoSuchEntry {
        /// The protocol's name.
        protocol: &'static str,
    },
    /// The file itself.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// Longest command line of a Linux without a setup header (COMMAND_LINE_SIZE less the NUL).
const LINUX_COMMAND_LINE: usize = 2047;
/// Highest initrd address of a Linux without a setup header, as its own header has it.
const LINUX_INITRD_MAX: u64 = 0x7fff_ffff;

/// Places a kernel.
///
/// # Errors
/// When the machine's memory or the kernel's entry points don't allow it; see [`BootError`].
pub fn build<'a>(
    kernel: &'a Unpacked<'a>,
    request: &BootRequest<'a>,
) -> Result<BootImage<'a>, BootError> {
    let protocol = request.protocol;
    match kernel {
        Unpacked::Linux { header, vmlinux } => {
            let elf = Elf::parse(vmlinux)?;
            match protocol {
                BootProtocol::Pvh => pvh::build(&elf, request),
                _ => linux(&elf, Some(header), request),
            }
        }
        Unpacked::Elf(elf) => match protocol {
            BootProtocol::Linux64 => linux(elf, None, request),
            BootProtocol::Pvh => pvh::build(elf, request),
            BootProtocol::Auto if elf.is_linux() => linux(elf, None, request),
            BootProtocol::Auto if elf.notes.pvh_entry.is_some() => pvh::build(elf, request),
            BootProtocol::Auto => Err(KernelError::NoEntry.into()),
        },
        Unpacked::Multiboot(image) => match protocol {
            BootProtocol::Auto => multiboot::build(image, request),
            BootProtocol::Linux64 => Err(BootError::NoSuchEntry { protocol: "64-bit Linux" }),
            BootProtocol::Pvh => Err(BootError::NoSuchEntry { protocol: "PVH" }),
        },
    }
}

fn linux<'a>(
    elf: &Elf<'a>,
    header: Option<&SetupHeader>,
    request: &BootRequest<'a>,
) -> Result<BootImage<'a>, BootError> {
    let entry = match elf.class {
        ElfClass::Elf64 => elf.entry_address(),
        ElfClass::Elf32 => None,
    };
    let entry = entry.ok_or(BootError::NoSuchEntry { protocol: "64-bit Linux" })?;
    let limit = header.map_or(LINUX_COMMAND_LINE, |header| header.cmdline_size as usize);
    let mut placement = Placement::new(request.memory);
    placement.command_line(request.command_line, limit)?;
    placement.kernel(&elf.segments)?;
    if let Some(header) = header {
        // What it uses before it reads the memory map.
        let end = header.pref_address.0.saturating_add(header.init_size.into());
        placement.reserve_to(GuestPhys(end.min(layout::FOUR_GIB.0)));
    }
    let initrd_max = header.map_or(LINUX_INITRD_MAX, |header| header.initrd_addr_max.into());
    let initrd = placement.initrd(request.initrd, initrd_max)?;
    let zero_page = zero_page::build(header, request, initrd);
    placement.push(Segment::new(layout::BOOT_INFO, zero_page));
    placement.push(Segment::new(layout::PAGE_TABLES, entry::identity_page_tables()));
    placement.finish(EntryState::linux64(entry, layout::BOOT_INFO), initrd)
}

/// BIOS data area: EBDA segment and KiB of low memory, which Linux reads to find reserved memory.
fn bios_data_area() -> Segment<'static> {
    let mut bytes = vec![0; 8];
    put_u16(&mut bytes, 0, (layout::EBDA.0 >> 4) as u16);
    put_u16(&mut bytes, 5, (layout::EBDA.0 >> 10) as u16);
    Segment::new(layout::BDA_EBDA_SEGMENT, bytes)
}

#[cfg(test)]
mod tests;
