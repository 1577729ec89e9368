//! From an unpacked kernel to bytes in guest memory and registers in the boot processor.
//!
//! Linux enters its own vmlinux at startup_64, as its decompressor would
//! (Documentation/arch/x86/boot.rst, "64-bit boot protocol"); others by PVH or multiboot. Nothing is
//! held that can be passed on piece by piece. Invariants: segments lie in RAM and do not overlap;
//! everything the kernel is told about lies in a segment; RAM is written only after all that can be
//! known before the unpacking has been checked.

mod copy;
mod entry;
mod multiboot;
mod place;
mod pvh;
mod zero_page;

use thiserror::Error;
use x86::{CpuState, GuestPhys};

pub use entry::EntryState;
pub use zero_page::Framebuffer;

use crate::bytes::put_u16;
use crate::kernel::{BzImage, Elf, ElfClass, Kernel, KernelError, SetupHeader};
use crate::layout::{self, MemoryLayout};
use crate::source::{FileRange, Sink, Source};
use crate::unpack::{Payload, UnpackError};
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
    /// Bytes of the initial RAM disk, or of the one module of a multiboot kernel.
    pub initrd: Option<u64>,
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
    /// Most bytes a compressed kernel may unpack to; [`crate::unpack::MAX_UNPACKED`] is plenty.
    pub max_unpacked: u64,
}

/// What a segment is filled with.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// A part of the kernel: of its file, or of what its payload unpacks to.
    Kernel(FileRange),
    /// The initrd, which the caller writes.
    Initrd,
}

/// One place in guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    address: GuestPhys,
    content: Content,
    /// Bytes the segment occupies; those past the content are zero, as fresh RAM is.
    memory_size: u64,
}

impl Segment {
    fn new(address: GuestPhys, bytes: Vec<u8>) -> Self {
        Self { address, memory_size: bytes.len() as u64, content: Content::Bytes(bytes) }
    }

    /// The address past the last byte.
    fn end(&self) -> GuestPhys {
        GuestPhys(self.address.0.saturating_add(self.memory_size))
    }
}

/// Everything's place, before anything is written.
#[derive(Clone, Debug)]
struct Plan {
    /// Sorted by address, without overlap.
    segments: Vec<Segment>,
    entry: EntryState,
    initrd: Option<GuestPhys>,
}

/// A kernel in place: write the initrd, enter the boot processor.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// How the boot processor starts.
    pub entry: EntryState,
    /// Where the initrd belongs.
    pub initrd: Option<GuestPhys>,
}

impl Loaded {
    /// Sets the boot processor's registers; what a kernel may not rely on stays as after reset.
    pub fn enter(&self, cpu: &mut CpuState) {
        self.entry.apply(cpu);
    }
}

/// Why a kernel did not get into memory.
#[derive(Debug, Error)]
pub enum LoadError {
    /// It can't be started on this machine.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// It can't be unpacked.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// Its file can't be read any more.
    #[error("the kernel cannot be read")]
    File(#[source] std::io::Error),
    /// Guest memory can't be written.
    #[error("the kernel cannot be written into the guest's memory")]
    Memory(#[source] Box<dyn std::error::Error + Send + Sync>),
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

/// Loads a kernel, parsed from `source`, into fresh memory; the initrd is left to the caller.
///
/// # Errors
/// When the machine's memory or the kernel's entry points don't allow it, or its payload is
/// damaged: there is no fallback to the guest's own decompressor.
pub fn load(
    kernel: &Kernel,
    source: &dyn Source,
    request: &BootRequest<'_>,
    sink: &mut dyn Sink,
) -> Result<Loaded, LoadError> {
    let plan = match kernel {
        Kernel::BzImage(image) => return load_linux(image, source, request, sink),
        Kernel::Elf(elf) => plan_elf(elf, request)?,
        Kernel::Multiboot(image) => match request.protocol {
            BootProtocol::Auto => multiboot::plan(image, request)?,
            BootProtocol::Linux64 => {
                return Err(BootError::NoSuchEntry { protocol: "64-bit Linux" }.into());
            }
            BootProtocol::Pvh => return Err(BootError::NoSuchEntry { protocol: "PVH" }.into()),
        },
    };
    copy::own(&plan.segments, sink)?;
    copy::from_file(&plan.segments, source, sink)?;
    Ok(Loaded { entry: plan.entry, initrd: plan.initrd })
}

fn plan_elf(elf: &Elf, request: &BootRequest<'_>) -> Result<Plan, BootError> {
    let pvh = |elf| Ok(pvh::plan(elf, request)?.entered_at(pvh::entry(elf)?));
    match request.protocol {
        BootProtocol::Linux64 => linux(elf, None, request),
        BootProtocol::Pvh => pvh(elf),
        BootProtocol::Auto if elf.is_linux() => linux(elf, None, request),
        BootProtocol::Auto if elf.notes.pvh_entry.is_some() => pvh(elf),
        BootProtocol::Auto => Err(KernelError::NoEntry.into()),
    }
}

/// A bzImage: the vmlinux in it goes to its place while it is unpacked, headers first.
fn load_linux(
    image: &BzImage,
    source: &dyn Source,
    request: &BootRequest<'_>,
    sink: &mut dyn Sink,
) -> Result<Loaded, LoadError> {
    let payload = Payload::open(source, image.payload, request.max_unpacked)?;
    let mut unpacking = copy::Unpacking::new(payload);
    let mut elf = unpacking.headers()?;
    let pvh = request.protocol == BootProtocol::Pvh;
    let mut plan = match pvh {
        true => pvh::plan(&elf, request)?,
        false => linux(&elf, Some(&image.header), request)?,
    };
    copy::own(&plan.segments, sink)?;
    unpacking.finish(&mut elf, &plan.segments, sink)?;
    if pvh {
        // The note with the entry comes late in the file.
        plan = plan.entered_at(pvh::entry(&elf)?);
    }
    Ok(Loaded { entry: plan.entry, initrd: plan.initrd })
}

impl Plan {
    fn entered_at(mut self, entry: GuestPhys) -> Self {
        self.entry.rip = entry;
        self
    }
}

fn linux(
    elf: &Elf,
    header: Option<&SetupHeader>,
    request: &BootRequest<'_>,
) -> Result<Plan, BootError> {
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
fn bios_data_area() -> Segment {
    let mut bytes = vec![0; 8];
    put_u16(&mut bytes, 0, (layout::EBDA.0 >> 4) as u16);
    put_u16(&mut bytes, 5, (layout::EBDA.0 >> 10) as u16);
    Segment::new(layout::BDA_EBDA_SEGMENT, bytes)
}

#[cfg(test)]
mod tests;
