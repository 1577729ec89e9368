//! Every refusal has its sentence; no bytes make the parsers panic.

use super::*;
use crate::bytes::{put, put_u16, put_u32, put_u64};
use crate::samples::{self, Notes, Random};
use crate::unpack::Compression;

fn refusal(file: &[u8]) -> KernelError {
    Kernel::parse(&file).expect_err("this file is no kernel")
}

fn gzip_image() -> Vec<u8> {
    samples::bzimage(&samples::payload(Compression::Gzip, &samples::elf64(Notes::LinuxAndPvh)))
}

#[test]
fn bzimage_header_is_read() {
    let file = gzip_image();
    let Ok(Kernel::BzImage(image)) = Kernel::parse(&file) else { panic!("a bzImage") };
    assert_eq!(image.header.kernel_version.as_deref(), Some("7.2.0-sample (builder) #1"));
    assert_eq!(image.header.version, 0x20f);
    assert_eq!(image.header.raw.len(), 0x26c - 0x1f1);
    assert_eq!((image.payload.offset, image.payload.end()), (0x400, file.len() as u64));
}

#[test]
fn bzimages_that_cannot_be_entered_say_why() {
    let damage = |offset: usize, value: &[u8]| {
        let mut file = gzip_image();
        put(&mut file, offset, value);
        refusal(&file)
    };
    assert_eq!(damage(0x206, &[0x0b, 0x02]), KernelError::OldProtocol { major: 2, minor: 11 });
    assert_eq!(damage(0x236, &[0x7e]), KernelError::Not64Bit);
    assert_eq!(damage(0x211, &[0]), KernelError::ZImage);
    assert_eq!(damage(0x24c, &[0; 4]), KernelError::NoPayload);
    let file = gzip_image();
    let (have, need) = (file.len() as u64 - 1, file.len() as u64);
    assert_eq!(refusal(&file[..file.len() - 1]), KernelError::Truncated { have, need });
    assert_eq!(
        damage(0x24c, &[0xff; 4]).to_string(),
        format!(
            "the bzImage is truncated: it has {need} bytes of at least {}",
            0x400 + 0xffff_ffffu64
        )
    );
}

#[test]
fn files_that_are_no_kernels_are_told_apart() {
    let cpio = b"070701 and the rest of a header".to_vec();
    let mut arm64 = vec![0; 0x400];
    put(&mut arm64, 0x38, b"ARM\x64");
    let mut uki = vec![0; 0x400];
    put(&mut uki, 0, b"MZ");
    put_u32(&mut uki, 0x3c, 0x80);
    put(&mut uki, 0x80, b"PE\0\0\x64\x86\x01\0");
    let mut efi = uki.clone();
    put(&mut uki, 0x80 + 24, b".linux\0\0");
    put(&mut efi, 0x80 + 24, b".text\0\0\0");
    let cases: [(&[u8], &str); 12] = [
        (b"", "the file is empty"),
        (&[0; 64], "the file is too short for a kernel: 64 bytes"),
        (b"#!/bin/sh\n", "the file is a script, not a kernel"),
        (b"root:x:0:0\n", "the file is text, not a kernel"),
        (&cpio, "the file is an initramfs, not a kernel: did you mean -i?"),
        (
            &samples::compress(Compression::Gzip, &cpio),
            "the file is an initramfs (gzip archive), not a kernel: did you mean -i?",
        ),
        (
            &samples::compress(Compression::Zstd, &samples::elf64(Notes::None)),
            "the file is a kernel inside a zstd file: unpack it first",
        ),
        (
            &samples::compress(Compression::Xz, b"just text"),
            "the file is a XZ archive, not a kernel (an initramfs is given with -i)",
        ),
        (&arm64, "the kernel is for arm64, not for x86-64"),
        (&efi, "the file is an EFI or Windows program for x86-64, not a Linux kernel"),
        (
            &uki,
            "the file is a unified kernel image: give the kernel in its .linux section and the initramfs in its .initrd section",
        ),
        (
            &[1; 0x400],
            "the file is not in a kernel format (bzImage, ELF, multiboot); raw flat binaries are not booted",
        ),
    ];
    for (file, sentence) in cases {
        assert_eq!(refusal(file).to_string(), sentence);
    }
}

#[test]
fn initramfs_of_every_compression_is_recognised() {
    let cpio: Vec<u8> = b"070701".iter().copied().cycle().take(5000).collect();
    for format in samples::ALL {
        let file = samples::compress(format, &cpio);
        assert_eq!(refusal(&file), KernelError::Initramfs { compression: Some(format) });
        assert_eq!(check_initrd(&file), Ok(InitrdKind::Compressed(format)));
    }
}

#[test]
fn elf_files_that_are_no_kernels_say_what_they_are() {
    let damage = |offset: usize, value: u16| {
        let mut file = samples::elf64(Notes::LinuxAndPvh);
        put_u16(&mut file, offset, value);
        refusal(&file)
    };
    assert_eq!(damage(18, 183), KernelError::Machine { machine: "arm64".into() });
    assert_eq!(damage(16, 1), KernelError::ElfKind { kind: "an object file" });
    assert_eq!(damage(16, 4), KernelError::ElfKind { kind: "a core dump" });
    // The second program header becomes an interpreter's.
    assert_eq!(damage(120, 3), KernelError::Program);
    assert!(matches!(damage(56, 65), KernelError::ElfDamaged { .. }));
    let mut big_endian = samples::elf64(Notes::None);
    big_endian[5] = 2;
    put(&mut big_endian, 18, &22u16.to_be_bytes());
    assert_eq!(refusal(&big_endian), KernelError::Machine { machine: "s390".into() });
}

#[test]
fn elf_segments_notes_and_entry_are_read() {
    let file = samples::elf64(Notes::LinuxAndPvh);
    let Ok(Kernel::Elf(elf)) = Kernel::parse(&file) else { panic!("an ELF kernel") };
    assert!(elf.is_linux());
    assert_eq!(elf.notes.pvh_entry, Some(0x100_0040));
    assert_eq!(elf.physical_range().1.0, samples::LOAD + samples::MEMORY);
    let range = elf.segments[0].file;
    assert_eq!(file[range.offset as usize..range.end() as usize], samples::code());
    // A virtual entry point is translated through its segment.
    let mut virtual_entry = file.clone();
    put_u64(&mut virtual_entry, 24, 0x4000_0010);
    let elf = Elf::parse(&virtual_entry).expect("still right");
    assert_eq!(elf.entry_address().map(|address| address.0), Some(samples::LOAD + 0x10));
}

#[test]
fn segments_past_the_file_or_the_address_space_are_refused() {
    for (offset, value) in [
        (64 + 8, u64::MAX),
        (64 + 24, u64::MAX - 16),
        (64 + 32, 1 << 40),
        (64 + 40, 16),
        (32, u64::MAX),
    ] {
        let mut file = samples::elf64(Notes::None);
        put_u64(&mut file, offset, value);
        assert!(matches!(refusal(&file), KernelError::ElfDamaged { .. }), "at {offset}");
    }
}

#[test]
fn multiboot_elf32_is_taken_and_elf64_refused() {
    let file = samples::multiboot_elf32();
    let Ok(Kernel::Multiboot(image)) = Kernel::parse(&file) else { panic!("multiboot") };
    assert_eq!((image.entry.0, image.header.flags), (0x10_0020, 3));
    let mut file = samples::elf64(Notes::None);
    samples::multiboot_header(&mut file, 0x400, 0);
    assert_eq!(refusal(&file), KernelError::MultibootElf64);
    let mut file = samples::multiboot_elf32();
    samples::multiboot_header(&mut file, 0x200, 1 << 5);
    assert_eq!(refusal(&file), KernelError::MultibootFeatures { flags: 1 << 5 });
}

#[test]
fn flat_multiboot_loads_by_the_addresses_in_its_header() {
    let mut file = vec![1; 0x800];
    samples::multiboot_header(&mut file, 0x10, 1 << 16);
    for (index, word) in
        [0x10_0010u32, 0x10_0000, 0x10_0800, 0x10_1000, 0x10_0100].iter().enumerate()
    {
        put_u32(&mut file, 0x10 + 12 + index * 4, *word);
    }
    let Ok(Kernel::Multiboot(image)) = Kernel::parse(&file) else { panic!("multiboot") };
    assert_eq!(image.segments[0].file.size, 0x800);
    assert_eq!((image.segments[0].memory_size, image.entry.0), (0x1000, 0x10_0100));
    put_u32(&mut file, 0x10 + 12 + 16, 0x20_0000);
    assert_eq!(refusal(&file), KernelError::MultibootAddresses);
}

#[test]
fn kernels_given_as_initrd_are_refused() {
    let kernel = |format| Err(InitrdError::Kernel { format });
    assert_eq!(check_initrd(&gzip_image()), kernel("bzImage"));
    assert_eq!(check_initrd(&samples::elf64(Notes::LinuxAndPvh)), kernel("vmlinux"));
    assert_eq!(check_initrd(&samples::multiboot_elf32()), kernel("multiboot"));
    assert_eq!(check_initrd(&samples::elf64(Notes::None)), Err(InitrdError::Elf));
    assert_eq!(check_initrd(b""), Err(InitrdError::Empty));
    assert_eq!(check_initrd(b"#!/bin/sh"), Err(InitrdError::Text { what: "a script" }));
    assert_eq!(check_initrd(b"070701.."), Ok(InitrdKind::Cpio));
    assert_eq!(check_initrd(&[0; 4096]), Ok(InitrdKind::Other));
}

#[test]
fn no_prefix_and_no_mutation_panics() {
    let mut random = Random(7);
    for file in [gzip_image(), samples::elf64(Notes::LinuxAndPvh), samples::multiboot_elf32()] {
        for length in 0..file.len() {
            let _ = Kernel::parse(&&file[..length]);
            let _ = check_initrd(&&file[..length]);
        }
        for _ in 0..20_000 {
            let mut damaged = file.clone();
            for _ in 0..=random.below(8) {
                let at = random.below(damaged.len().min(0x800));
                damaged[at] = random.next() as u8;
            }
            let _ = Kernel::parse(&damaged);
        }
    }
}
