//! Kernel files: what a file is, and its parsed header.
//!
//! Formats: Linux bzImage (Documentation/arch/x86/boot.rst), ELF64 (gABI; PVH note of Xen's
//! elfnote.h), multiboot 0.6.96. Invariant: whatever the bytes, parsing ends in a value whose ranges
//! lie inside the file, or in a [`KernelError`] that says what the file is instead.

mod bzimage;
mod elf;
mod error;
mod identify;
mod initrd;
mod multiboot;

pub(crate) use bzimage::SETUP_HEADER;
pub use bzimage::{BzImage, SetupHeader};
pub use elf::{Elf, ElfClass, ElfNotes, LoadSegment};
pub use error::KernelError;
pub use identify::{FileKind, identify};
pub use initrd::{InitrdError, InitrdKind, check_initrd};
pub use multiboot::{LoadAddresses, Multiboot, MultibootHeader};

use crate::source::{Source, head};
use crate::unpack;

/// A kernel file, recognised and bounds-checked.
#[derive(Clone, Debug)]
pub enum Kernel {
    /// A compressed Linux kernel.
    BzImage(BzImage),
    /// An uncompressed x86-64 ELF kernel: vmlinux, or any with a PVH entry.
    Elf(Elf),
    /// A multiboot v1 kernel.
    Multiboot(Multiboot),
}

/// Bytes at a file's beginning that tell what it is: the setup code of a bzImage with its version
/// text (a 16-bit offset from 0x200) is the longest of them.
const HEAD: u64 = 0x1_0000 + 0x200 + 0x100;

impl Kernel {
    /// Recognises and parses a kernel file.
    ///
    /// # Errors
    /// Says what the file is when it isn't a kernel that can be booted.
    pub fn parse(source: &dyn Source) -> Result<Self, KernelError> {
        let file = &head(source, HEAD)?[..];
        match identify(file) {
            FileKind::Empty => Err(KernelError::Empty),
            FileKind::BzImage => BzImage::parse(file, source.size()).map(Self::BzImage),
            FileKind::Elf => parse_elf(source, file),
            FileKind::Cpio => Err(KernelError::Initramfs { compression: None }),
            FileKind::Compressed(format) => Err(match unpack::peek(source, format) {
                Some(FileKind::Cpio) => KernelError::Initramfs { compression: Some(format) },
                Some(FileKind::Elf | FileKind::BzImage) => KernelError::CompressedKernel { format },
                _ => KernelError::Archive { format },
            }),
            FileKind::Script => Err(KernelError::Script),
            FileKind::Text => Err(KernelError::Text),
            FileKind::UnifiedKernelImage => Err(KernelError::UnifiedKernelImage),
            FileKind::Pe(machine) => Err(KernelError::Pe { machine }),
            FileKind::ForeignImage(machine) => Err(KernelError::Machine { machine }),
            FileKind::Other => match MultibootHeader::find(file) {
                Some(header) => Multiboot::parse_flat(source.size(), header).map(Self::Multiboot),
                None if file.len() < bzimage::HEADER_END => {
                    Err(KernelError::TooShort { length: source.size() })
                }
                None => Err(KernelError::Flat),
            },
        }
    }
}

fn parse_elf(source: &dyn Source, head: &[u8]) -> Result<Kernel, KernelError> {
    let elf = Elf::parse(source)?;
    let header = MultibootHeader::find(head);
    match (elf.class, header) {
        // Load addresses in the header take precedence over the ELF's (3.1.3).
        (ElfClass::Elf32, Some(header)) => match header.addresses {
            Some(_) => Multiboot::parse_flat(source.size(), header),
            None => Multiboot::parse_elf(elf, header),
        }
        .map(Kernel::Multiboot),
        (ElfClass::Elf32, None) if elf.notes.pvh_entry.is_none() => Err(KernelError::Elf32),
        (ElfClass::Elf64, Some(header)) if elf.notes.pvh_entry.is_none() && !elf.is_linux() => {
            match header.addresses {
                Some(_) => Multiboot::parse_flat(source.size(), header).map(Kernel::Multiboot),
                None => Err(KernelError::MultibootElf64),
            }
        }
        _ => Ok(Kernel::Elf(elf)),
    }
}

#[cfg(test)]
mod tests;
