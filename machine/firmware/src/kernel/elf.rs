//! ELF kernels: program headers and notes, nothing else (gABI chapters 4 and 5).
//!
//! Invariant: every kept segment's file range lies inside the file and its physical range inside
//! the 64-bit space; the number of segments and notes looked at is limited.

use x86::{GuestPhys, GuestVirt};

use super::error::KernelError;
use crate::bytes::{slice, u16_at, u32_at, u64_at};

const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;
/// A kernel has a handful; the limit bounds the work on a hostile table.
const MAX_PROGRAM_HEADERS: u16 = 64;
const MAX_NOTES: usize = 256;
/// Linux links itself here plus its physical address.
const START_KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;

/// Word size of an ELF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfClass {
    /// ELFCLASS32.
    Elf32,
    /// ELFCLASS64.
    Elf64,
}

/// One PT_LOAD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadSegment<'a> {
    /// p_paddr.
    pub address: GuestPhys,
    /// p_vaddr.
    pub virtual_address: GuestVirt,
    /// The file's bytes.
    pub bytes: &'a [u8],
    /// Bytes in memory; those past the file's are zero.
    pub memory_size: u64,
}

/// What the notes say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ElfNotes {
    /// XEN_ELFNOTE_PHYS32_ENTRY: physical address of the 32-bit PVH entry.
    pub pvh_entry: Option<u32>,
    /// A note of Linux itself, or Xen's GUEST_OS = "linux".
    pub linux: bool,
}

/// An executable ELF for x86.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf<'a> {
    /// Word size.
    pub class: ElfClass,
    /// e_entry as written: Linux has a physical address there, others a virtual one.
    pub entry: u64,
    /// PT_LOADs with memory, in file order.
    pub segments: Vec<LoadSegment<'a>>,
    /// Known notes.
    pub notes: ElfNotes,
}

struct ProgramHeader {
    kind: u32,
    offset: u64,
    virtual_address: u64,
    physical_address: u64,
    file_size: u64,
    memory_size: u64,
}

impl<'a> Elf<'a> {
    /// Parses an ELF file that starts with the magic.
    ///
    /// # Errors
    /// Other machines, object files, programs, and anything inconsistent.
    pub fn parse(file: &'a [u8]) -> Result<Self, KernelError> {
        let damaged = |what| KernelError::ElfDamaged { what };
        let class = match file.get(4) {
            Some(1) => ElfClass::Elf32,
            Some(2) => ElfClass::Elf64,
            _ => return Err(damaged("its class is neither 32 nor 64 bit")),
        };
        if file.get(5) == Some(&2) {
            return Err(match file.get(18..20) {
                Some(machine) => KernelError::Machine {
                    machine: machine_name(u16::from_be_bytes([machine[0], machine[1]])),
                },
                None => KernelError::BigEndian,
            });
        }
        let machine = u16_at(file, 18).ok_or(damaged("the header is cut short"))?;
        if machine != EM_386 && machine != EM_X86_64 {
            return Err(KernelError::Machine { machine: machine_name(machine) });
        }
        if class == ElfClass::Elf64 && machine == EM_386 {
            return Err(damaged("a 64-bit file for a 32-bit machine"));
        }
        let kind = u16_at(file, 16).ok_or(damaged("the header is cut short"))?;
        check_kind(kind)?;
        let entry = match class {
            ElfClass::Elf32 => u32_at(file, 24).map(u64::from),
            ElfClass::Elf64 => u64_at(file, 24),
        }
        .ok_or(damaged("the header is cut short"))?;
        let mut elf = Self { class, entry, segments: Vec::new(), notes: ElfNotes::default() };
        let mut interpreter = false;
        for header in program_headers(file, class)? {
            match header.kind {
                PT_LOAD if header.memory_size > 0 => elf.segments.push(load(file, &header)?),
                PT_NOTE => {
                    let notes = slice(file, header.offset, header.file_size)
                        .ok_or(damaged("a note lies outside of the file"))?;
                    elf.notes.read(notes);
                }
                PT_INTERP => interpreter = true,
                _ => {}
            }
        }
        if interpreter {
            return Err(KernelError::Program);
        }
        if elf.segments.is_empty() {
            return Err(damaged("no loadable segment"));
        }
        Ok(elf)
    }

    /// Whether it is a Linux kernel: by its notes, or linked as Linux links itself.
    pub fn is_linux(&self) -> bool {
        let linked_so = || {
            self.segments.first().is_some_and(|segment| {
                segment.virtual_address.0 == START_KERNEL_MAP.wrapping_add(segment.address.0)
            }) && self.entry_address().is_some()
        };
        self.class == ElfClass::Elf64 && (self.notes.linux || linked_so())
    }

    /// The entry point as a physical address inside of a segment, whichever kind e_entry is.
    pub fn entry_address(&self) -> Option<GuestPhys> {
        let inside = |base: u64, size| (base..base.saturating_add(size)).contains(&self.entry);
        let physical =
            self.segments.iter().any(|segment| inside(segment.address.0, segment.memory_size));
        if physical {
            return Some(GuestPhys(self.entry));
        }
        let segment = self
            .segments
            .iter()
            .find(|segment| inside(segment.virtual_address.0, segment.memory_size))?;
        segment.address.checked_add(self.entry - segment.virtual_address.0)
    }

    /// Lowest and highest physical address (exclusive) of the segments.
    pub fn physical_range(&self) -> (GuestPhys, GuestPhys) {
        let start = self.segments.iter().map(|s| s.address).min().unwrap_or_default();
        let end = self.segments.iter().map(|s| s.address.0 + s.memory_size).max().unwrap_or(0);
        (start, GuestPhys(end))
    }
}

fn check_kind(kind: u16) -> Result<(), KernelError> {
    let kind = match kind {
        // ET_EXEC, and ET_DYN as position-independent kernels are.
        2 | 3 => return Ok(()),
        1 => "an object file",
        4 => "a core dump",
        _ => "of an unknown type",
    };
    Err(KernelError::ElfKind { kind })
}

fn program_headers(
    file: &[u8],
    class: ElfClass,
) -> Result<impl Iterator<Item = ProgramHeader>, KernelError> {
    let damaged = |what| KernelError::ElfDamaged { what };
    let short = damaged("the header is cut short");
    let (offset, sizes, minimum) = match class {
        ElfClass::Elf32 => (u32_at(file, 28).map(u64::from), 42, 32),
        ElfClass::Elf64 => (u64_at(file, 32), 54, 56),
    };
    let offset = offset.ok_or(short.clone())?;
    let size = u16_at(file, sizes).ok_or(short.clone())?;
    let count = u16_at(file, sizes + 2).ok_or(short)?;
    if count > MAX_PROGRAM_HEADERS {
        return Err(damaged("too many program headers"));
    }
    if count > 0 && size < minimum {
        return Err(damaged("program headers of a wrong size"));
    }
    let table = slice(file, offset, u64::from(size) * u64::from(count))
        .ok_or(damaged("the program headers lie outside of the file"))?;
    // A size of 0 only comes with a count of 0, and then there is nothing to chunk.
    let headers = table.chunks_exact(usize::from(size.max(1)));
    Ok(headers.map(move |bytes| ProgramHeader::read(bytes, class)))
}

impl ProgramHeader {
    fn read(bytes: &[u8], class: ElfClass) -> Self {
        let word = |at| u32_at(bytes, at).expect("the chunk holds a whole header");
        let half = |at| u64::from(word(at));
        let long = |at| u64_at(bytes, at).expect("the chunk holds a whole header");
        match class {
            ElfClass::Elf32 => Self {
                kind: word(0),
                offset: half(4),
                virtual_address: half(8),
                physical_address: half(12),
                file_size: half(16),
                memory_size: half(20),
            },
            ElfClass::Elf64 => Self {
                kind: word(0),
                offset: long(8),
                virtual_address: long(16),
                physical_address: long(24),
                file_size: long(32),
                memory_size: long(40),
            },
        }
    }
}

fn load<'a>(file: &'a [u8], header: &ProgramHeader) -> Result<LoadSegment<'a>, KernelError> {
    let damaged = |what| KernelError::ElfDamaged { what };
    if header.file_size > header.memory_size {
        return Err(damaged("a segment is larger in the file than in memory"));
    }
    let end = header.physical_address.checked_add(header.memory_size);
    if end.is_none_or(|end| end > 1 << 52) {
        return Err(damaged("a segment ends past the physical address space"));
    }
    Ok(LoadSegment {
        address: GuestPhys(header.physical_address),
        virtual_address: GuestVirt(header.virtual_address),
        bytes: slice(file, header.offset, header.file_size)
            .ok_or(damaged("a segment lies outside of the file: it is cut short"))?,
        memory_size: header.memory_size,
    })
}

impl ElfNotes {
    /// Reads a PT_NOTE: name size, description size, type, then both padded to 4 bytes.
    fn read(&mut self, notes: &[u8]) {
        const XEN_GUEST_OS: u32 = 6;
        const XEN_PHYS32_ENTRY: u32 = 18;
        let mut at = 0usize;
        for _ in 0..MAX_NOTES {
            let header = (u32_at(notes, at), u32_at(notes, at + 4), u32_at(notes, at + 8));
            let (Some(name_size), Some(size), Some(kind)) = header else { return };
            let name_at = at as u64 + 12;
            let value_at = name_at + u64::from(name_size).next_multiple_of(4);
            let name = slice(notes, name_at, u64::from(name_size));
            let value = slice(notes, value_at, u64::from(size));
            let (Some(name), Some(value)) = (name, value) else { return };
            match (name, kind) {
                (b"Xen\0", XEN_PHYS32_ENTRY) => self.pvh_entry = u32_at(value, 0),
                (b"Xen\0", XEN_GUEST_OS) => self.linux |= value.starts_with(b"linux"),
                (b"Linux\0", _) => self.linux = true,
                _ => {}
            }
            let next = value_at + u64::from(size).next_multiple_of(4);
            let Ok(next) = usize::try_from(next) else { return };
            at = next;
        }
    }
}

fn machine_name(machine: u16) -> String {
    let name = match machine {
        2 | 18 | 43 => "SPARC",
        8 => "MIPS",
        20 => "PowerPC",
        21 => "64-bit PowerPC",
        22 => "s390",
        40 => "32-bit ARM",
        50 => "Itanium",
        183 => "arm64",
        243 => "RISC-V",
        247 => "BPF",
        258 => "LoongArch",
        other => return format!("an unknown machine (ELF machine {other})"),
    };
    name.to_string()
}
