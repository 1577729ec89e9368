//! Why a file can't be booted, in sentences for the person who gave it.

use thiserror::Error;

use crate::unpack::Compression;

/// Why a file isn't a kernel this machine boots.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KernelError {
    /// No bytes.
    #[error("the file is empty")]
    Empty,
    /// The reader failed.
    #[error("the file cannot be read: {why}")]
    Unreadable {
        /// What it said.
        why: String,
    },
    /// Too short for any kernel header.
    #[error("the file is too short for a kernel: {length} bytes")]
    TooShort {
        /// Bytes in the file.
        length: u64,
    },
    /// A bzImage cut short.
    #[error("the bzImage is truncated: it has {have} bytes of at least {need}")]
    Truncated {
        /// Bytes in the file.
        have: u64,
        /// Bytes its header asks for.
        need: u64,
    },
    /// Boot protocol before 2.12.
    #[error(
        "the kernel's boot protocol {major}.{minor:02} is too old: 2.12 (Linux 3.8) or later is needed"
    )]
    OldProtocol {
        /// High byte of the version.
        major: u8,
        /// Low byte of the version.
        minor: u8,
    },
    /// No 64-bit entry point.
    #[error(
        "the kernel has no 64-bit entry point: it is a 32-bit kernel, and an x86-64 one is needed"
    )]
    Not64Bit,
    /// A zImage.
    #[error("the kernel is a zImage, loaded below 1 MiB; a bzImage is needed")]
    ZImage,
    /// No payload in the header.
    #[error("the bzImage names no compressed payload")]
    NoPayload,
    /// An image of another architecture.
    #[error("the kernel is for {machine}, not for x86-64")]
    Machine {
        /// Its name.
        machine: String,
    },
    /// A big-endian ELF.
    #[error("the ELF file is big-endian, so not for x86-64")]
    BigEndian,
    /// A 32-bit ELF that isn't multiboot.
    #[error("the file is a 32-bit ELF without a multiboot header or a PVH entry")]
    Elf32,
    /// An ELF that isn't an executable image.
    #[error("the ELF file is {kind}, not an executable kernel")]
    ElfKind {
        /// What it is, with an article.
        kind: &'static str,
    },
    /// A program for an operating system.
    #[error("the ELF file is a dynamically linked program, not a kernel")]
    Program,
    /// Neither a Linux kernel nor one with a PVH entry.
    #[error(
        "the ELF file is not a Linux kernel and has no PVH entry (XEN_ELFNOTE_PHYS32_ENTRY), so how to enter it is unknown"
    )]
    NoEntry,
    /// A header or segment that contradicts itself or the file's length.
    #[error("the ELF file is damaged: {what}")]
    ElfDamaged {
        /// What is wrong.
        what: &'static str,
    },
    /// A 64-bit ELF with a multiboot header.
    #[error(
        "the file is a 64-bit ELF with a multiboot header; multiboot starts 32-bit code: link it as ELF32, or add a PVH entry note"
    )]
    MultibootElf64,
    /// A multiboot header asking for what isn't there.
    #[error("the multiboot header asks for features {flags:#06x} that this loader does not have")]
    MultibootFeatures {
        /// The unknown bits of the mandatory half of its flags.
        flags: u32,
    },
    /// Inconsistent load addresses.
    #[error("the multiboot header's load addresses are inconsistent with the file")]
    MultibootAddresses,
    /// Multiboot, but neither ELF nor with load addresses.
    #[error("the multiboot kernel is neither an ELF file nor has load addresses in its header")]
    MultibootFormat,
    /// An initramfs.
    #[error(
        "the file is an initramfs{}, not a kernel: did you mean -i?",
        .compression.map(|c| format!(" ({c} archive)")).unwrap_or_default()
    )]
    Initramfs {
        /// How it is compressed, if it is.
        compression: Option<Compression>,
    },
    /// A kernel inside a compressed file.
    #[error("the file is a kernel inside a {format} file: unpack it first")]
    CompressedKernel {
        /// The compression.
        format: Compression,
    },
    /// A compressed file of something else.
    #[error("the file is a {format} archive, not a kernel (an initramfs is given with -i)")]
    Archive {
        /// The compression.
        format: Compression,
    },
    /// `#!`.
    #[error("the file is a script, not a kernel")]
    Script,
    /// Text.
    #[error("the file is text, not a kernel")]
    Text,
    /// A UKI.
    #[error(
        "the file is a unified kernel image: give the kernel in its .linux section and the initramfs in its .initrd section"
    )]
    UnifiedKernelImage,
    /// A PE executable.
    #[error("the file is an EFI or Windows program for {machine}, not a Linux kernel")]
    Pe {
        /// Its machine.
        machine: &'static str,
    },
    /// Nothing known.
    #[error(
        "the file is not in a kernel format (bzImage, ELF, multiboot); raw flat binaries are not booted"
    )]
    Flat,
}

impl From<std::io::Error> for KernelError {
    fn from(error: std::io::Error) -> Self {
        Self::Unreadable { why: error.to_string() }
    }
}
