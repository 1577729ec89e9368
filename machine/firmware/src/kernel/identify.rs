//! What a file is, by its first bytes alone.
//!
//! Magic numbers: boot.rst (HdrS), gABI, cpio newc, PE/COFF, arm64 and RISC-V booting documents.
//! Invariant: total, cheap and without allocation except for the name of a foreign machine.

use crate::bytes::{u16_at, u32_at};
use crate::unpack::Compression;

/// What a file seems to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// No bytes.
    Empty,
    /// A Linux/x86 boot image (boot flag and `HdrS`).
    BzImage,
    /// An ELF file.
    Elf,
    /// A cpio archive, as an initramfs is.
    Cpio,
    /// A compressed file.
    Compressed(Compression),
    /// `#!`.
    Script,
    /// Printable text.
    Text,
    /// A PE file with a `.linux` section.
    UnifiedKernelImage,
    /// Another PE file, for this machine.
    Pe(&'static str),
    /// A kernel image of another architecture.
    ForeignImage(String),
    /// None of these.
    Other,
}

/// Tells a file's kind.
pub fn identify(file: &[u8]) -> FileKind {
    if file.is_empty() {
        return FileKind::Empty;
    }
    if file.get(0x202..0x206) == Some(b"HdrS") && u16_at(file, 0x1fe) == Some(0xaa55) {
        return FileKind::BzImage;
    }
    if file.starts_with(b"\x7fELF") {
        return FileKind::Elf;
    }
    if is_cpio(file) {
        return FileKind::Cpio;
    }
    if let Some(machine) = foreign_image(file) {
        return FileKind::ForeignImage(machine.to_string());
    }
    if file.starts_with(b"MZ") {
        return pe(file);
    }
    if let Some(format) = Compression::of(file) {
        return FileKind::Compressed(format);
    }
    if file.starts_with(b"#!") {
        return FileKind::Script;
    }
    let head = &file[..file.len().min(512)];
    if head.iter().all(|b| matches!(b, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..)) {
        return FileKind::Text;
    }
    FileKind::Other
}

/// newc (with or without checksums), old ASCII and old binary archives.
fn is_cpio(file: &[u8]) -> bool {
    let magics: [&[u8]; 4] = [b"070701", b"070702", b"070707", b"\xc7\x71"];
    magics.iter().any(|magic| file.starts_with(magic))
}

fn foreign_image(file: &[u8]) -> Option<&'static str> {
    if file.get(0x38..0x3c) == Some(b"ARM\x64") {
        return Some("arm64");
    }
    if file.get(0x30..0x35) == Some(b"RISCV") && file.get(0x38..0x3c) == Some(b"RSC\x05") {
        return Some("RISC-V");
    }
    if file.get(4..8) == Some(b"zimg") && file.starts_with(b"MZ") {
        return Some(pe_machine(file).unwrap_or("another architecture (EFI zboot image)"));
    }
    (u32_at(file, 0x24) == Some(0x016f_2818)).then_some("32-bit ARM")
}

fn pe(file: &[u8]) -> FileKind {
    let Some(machine) = pe_machine(file) else { return FileKind::Other };
    if has_linux_section(file) {
        return FileKind::UnifiedKernelImage;
    }
    FileKind::Pe(machine)
}

fn pe_offset(file: &[u8]) -> Option<usize> {
    let offset = u32_at(file, 0x3c)? as usize;
    (file.get(offset..offset.checked_add(4)?)? == b"PE\0\0").then_some(offset)
}

fn pe_machine(file: &[u8]) -> Option<&'static str> {
    Some(match u16_at(file, pe_offset(file)? + 4)? {
        0x8664 => "x86-64",
        0x014c => "32-bit x86",
        0xaa64 => "arm64",
        0x01c0 | 0x01c2 | 0x01c4 => "32-bit ARM",
        0x5032 | 0x5064 => "RISC-V",
        0x6232 | 0x6264 => "LoongArch",
        _ => "an unknown machine",
    })
}

fn has_linux_section(file: &[u8]) -> bool {
    let sections = || {
        let coff = pe_offset(file)? + 4;
        let count = usize::from(u16_at(file, coff + 2)?);
        let table = coff + 20 + usize::from(u16_at(file, coff + 16)?);
        Some((0..count).map(move |i| table + i * 40))
    };
    sections()
        .is_some_and(|mut all| all.any(|at| file.get(at..at + 8) == Some(b".linux\0\0".as_slice())))
}
