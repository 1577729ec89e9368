//! ELF kernels: program headers and notes, nothing else (gABI chapters 4 and 5).
//!
//! Invariant: every kept segment's file range lies inside the file and its physical range inside
//! the 64-bit space; the number of segments and notes looked at is limited.

use x86::{GuestPhys, GuestVirt};

use super::error::KernelError;
use crate::bytes::{slice, u16_at, u32_at, u64_at};
use crate::source::{FileRange, Source};

const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;
/// A kernel has a handful; the limit bounds the work on a hostile table.
const MAX_PROGRAM_HEADERS: u16 = 64;
const MAX_NOTES: usize = 256;
/// Header and program headers of a compressed kernel lie in its first bytes.
const MAX_HEAD: u64 = 16 << 10;
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
pub struct LoadSegment {
    /// p_paddr.
    pub address: GuestPhys,
    /// p_vaddr.
    pub virtual_address: GuestVirt,
    /// Where its bytes lie in the file.
    pub file: FileRange,
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
pub struct Elf {
    /// Word size.
    pub class: ElfClass,
    /// e_entry as written: Linux has a physical address there, others a virtual one.
    pub entry: u64,
    /// PT_LOADs with memory, in file order.
    pub segments: Vec<LoadSegment>,
    /// Known notes.
    pub notes: ElfNotes,
    /// Where they lie in the file.
    pub(crate) note_ranges: Vec<FileRange>,
}

struct ProgramHeader {
    kind: u32,
    offset: u64,
    virtual_address: u64,
    physical_address: u64,
    file_size: u64,
    memory_size: u64,
}

/// Bytes of notes that are looked at.
const MAX_NOTE_BYTES: u64 = 64 << 10;
/// The ELF header of either class.
const HEADER: usize = 64;

impl Elf {
    /// Parses an ELF file that starts with the magic.
    ///
    /// # Errors
    /// Other machines, object files, programs, and anything inconsistent.
    pub fn parse(source: &dyn Source) -> Result<Self, KernelError> {
        let head = crate::source::head(source, HEADER as u64)?;
        let header = Header::read(&head)?;
        let range = header.table(source.size())?;
        let mut table = vec![0; range.size as usize];
        source.read_at(range.offset, &mut table)?;
        let mut elf = Self::from_table(&header, &table, source.size())?;
        for range in std::mem::take(&mut elf.note_ranges) {
            let mut notes = vec![0; range.size as usize];
            source.read_at(range.offset, &mut notes)?;
            elf.notes.read(&notes);
        }
        Ok(elf)
    }

    /// As much of its beginning as [`Elf::parse_head`] needs; never more than a few KiB.
    ///
    /// # Errors
    /// As for [`Elf::parse`].
    pub(crate) fn head_size(head: &[u8], size: u64) -> Result<u64, KernelError> {
        let end = Header::read(head)?.table(size)?.end();
        if end > MAX_HEAD {
            return Err(KernelError::ElfDamaged {
                what: "the program headers do not follow the header",
            });
        }
        Ok(end)
    }

    /// Parses the beginning of a file of `size` bytes; the notes are not read yet.
    ///
    /// # Errors
    /// As for [`Elf::parse`].
    pub(crate) fn parse_head(head: &[u8], size: u64) -> Result<Self, KernelError> {
        let header = Header::read(head)?;
        let range = header.table(size)?;
        let table = slice(head, range.offset, range.size)
            .ok_or(KernelError::ElfDamaged { what: "the header is cut short" })?;
        Self::from_table(&header, table, size)
    }

    fn from_table(header: &Header, table: &[u8], size: u64) -> Result<Self, KernelError> {
        let damaged = |what| KernelError::ElfDamaged { what };
        let mut elf = Self {
            class: header.class,
            entry: header.entry,
            segments: Vec::new(),
            notes: ElfNotes::default(),
            note_ranges: Vec::new(),
        };
        let mut interpreter = false;
        let mut note_bytes = 0;
        // A size of 0 only comes with a count of 0, and then there is nothing to chunk.
        for bytes in table.chunks_exact(usize::from(header.entry_size.max(1))) {
            let program = ProgramHeader::read(bytes, header.class);
            match program.kind {
                PT_LOAD if program.memory_size > 0 => elf.segments.push(load(size, &program)?),
                PT_NOTE => {
                    let range = FileRange::within(program.offset, program.file_size, size)
                        .ok_or(damaged("a note lies outside of the file"))?;
                    note_bytes += range.size.min(MAX_NOTE_BYTES);
                    if note_bytes <= MAX_NOTE_BYTES {
                        let size = range.size.min(MAX_NOTE_BYTES);
                        elf.note_ranges.push(FileRange { size, ..range });
                    }
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

/// The ELF header, checked.
struct Header {
    class: ElfClass,
    entry: u64,
    /// e_phoff, e_phentsize, e_phnum.
    table: u64,
    entry_size: u16,
    count: u16,
}

impl Header {
    fn read(file: &[u8]) -> Result<Self, KernelError> {
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
        let short = || damaged("the header is cut short");
        let machine = u16_at(file, 18).ok_or_else(short)?;
        if machine != EM_386 && machine != EM_X86_64 {
            return Err(KernelError::Machine { machine: machine_name(machine) });
        }
        if class == ElfClass::Elf64 && machine == EM_386 {
            return Err(damaged("a 64-bit file for a 32-bit machine"));
        }
        check_kind(u16_at(file, 16).ok_or_else(short)?)?;
        let (entry, table, sizes) = match class {
            ElfClass::Elf32 => {
                (u32_at(file, 24).map(u64::from), u32_at(file, 28).map(u64::from), 42)
            }
            ElfClass::Elf64 => (u64_at(file, 24), u64_at(file, 32), 54),
        };
        Ok(Self {
            class,
            entry: entry.ok_or_else(short)?,
            table: table.ok_or_else(short)?,
            entry_size: u16_at(file, sizes).ok_or_else(short)?,
            count: u16_at(file, sizes + 2).ok_or_else(short)?,
        })
    }

    /// Where the program headers lie in a file of this size.
    fn table(&self, file: u64) -> Result<FileRange, KernelError> {
        let damaged = |what| KernelError::ElfDamaged { what };
        let minimum = match self.class {
            ElfClass::Elf32 => 32,
            ElfClass::Elf64 => 56,
        };
        if self.count > MAX_PROGRAM_HEADERS {
            return Err(damaged("too many program headers"));
        }
        if self.count > 0 && self.entry_size < minimum {
            return Err(damaged("program headers of a wrong size"));
        }
        let size = u64::from(self.entry_size) * u64::from(self.count);
        FileRange::within(self.table, size, file)
            .ok_or(damaged("the program headers lie outside of the file"))
    }
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

fn load(file: u64, header: &ProgramHeader) -> Result<LoadSegment, KernelError> {
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
        file: FileRange::within(header.offset, header.file_size, file)
            .ok_or(damaged("a segment lies outside of the file: it is cut short"))?,
        memory_size: header.memory_size,
    })
}

impl ElfNotes {
    /// Reads a PT_NOTE: name size, description size, type, then both padded to 4 bytes.
    pub(crate) fn read(&mut self, notes: &[u8]) {
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
