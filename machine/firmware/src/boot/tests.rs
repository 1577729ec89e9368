//! What a kernel finds at its first instruction, for each protocol.

use std::collections::BTreeMap;

use x86::{Efer, Reg, SegmentRegister};

use super::*;
use crate::bytes::{u16_at, u32_at, u64_at};
use crate::layout::ReservedRange;
use crate::samples::{self, Notes};
use crate::unpack::Compression;

const MIB: u64 = 1 << 20;

fn memory(ram: u64) -> MemoryLayout {
    let ecam = ReservedRange { start: GuestPhys(0xe000_0000), size: 256 * MIB };
    MemoryLayout::new(ram, GuestPhys(0xc000_0000), ecam)
}

fn request(memory: &MemoryLayout, initrd: Option<u64>) -> BootRequest<'_> {
    BootRequest {
        initrd,
        command_line: "console=ttyS0",
        protocol: BootProtocol::Auto,
        memory,
        rsdp: Some(layout::ACPI_TABLES),
        framebuffer: None,
        max_unpacked: 1 << 30,
    }
}

fn bzimage() -> Vec<u8> {
    samples::bzimage(&samples::payload(Compression::Lz4, &samples::elf64(Notes::LinuxAndPvh)))
}

/// What was written, by address.
#[derive(Debug, Default)]
struct Ram(BTreeMap<u64, Vec<u8>>);

impl Sink for Ram {
    fn write(
        &mut self,
        address: GuestPhys,
        bytes: &[u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let before = self.0.insert(address.0, bytes.to_vec());
        assert_eq!(before, None, "{address} is written once");
        Ok(())
    }
}

#[derive(Debug)]
struct Image {
    ram: Ram,
    loaded: Loaded,
}

fn build(file: &[u8], request: &BootRequest<'_>) -> Result<Image, BootError> {
    let kernel = Kernel::parse(&file).expect("a kernel");
    let mut ram = Ram::default();
    match load(&kernel, &file, request, &mut ram) {
        Ok(loaded) => Ok(Image { ram, loaded }),
        Err(LoadError::Boot(error)) => Err(error),
        Err(error) => panic!("{error}"),
    }
}

fn bytes_at(image: &Image, address: GuestPhys) -> &[u8] {
    image.ram.0.get(&address.0).expect("a segment at that address")
}

#[test]
fn linux_starts_in_64_bit_mode_with_a_zero_page() {
    let (file, memory) = (bzimage(), memory(512 * MIB));
    let image = build(&file, &request(&memory, Some(5000))).expect("fits");
    let mut cpu = CpuState::reset(0);
    image.loaded.enter(&mut cpu);
    assert_eq!((cpu.rip, cpu.gpr[Reg::Rsi as usize]), (samples::LOAD, layout::BOOT_INFO.0));
    assert!(cpu.segments[SegmentRegister::Cs as usize].is_long());
    assert_eq!(cpu.segments[SegmentRegister::Cs as usize].selector, 0x10);
    assert_eq!(cpu.segments[SegmentRegister::Ds as usize].selector, 0x18);
    assert!(Efer::from_bits_retain(cpu.msrs.efer).contains(Efer::LMA | Efer::LME));
    assert_eq!(cpu.cpl(), 0);

    let page = bytes_at(&image, layout::BOOT_INFO);
    assert_eq!((page[0x1ef], page[0x210]), (0, 0xff));
    assert_eq!(u16_at(page, 0x206), Some(0x20f));
    assert_eq!(u64_at(page, 0x70), Some(0xe_0000));
    let place = image.loaded.initrd.expect("there is an initrd");
    assert_eq!(place.0, 512 * MIB - 8192, "as high as it may, on a page boundary");
    assert_eq!(u32_at(page, 0x218), Some(place.0 as u32));
    assert_eq!(u32_at(page, 0x21c), Some(5000));
    assert_eq!(
        bytes_at(&image, GuestPhys(u32_at(page, 0x228).expect("set").into())),
        b"console=ttyS0\0"
    );
    assert_eq!(page[0x1e8], 4);
    assert_eq!(u64_at(page, 0x2d0 + 2 * 20 + 8), Some(511 * MIB));
    assert_eq!(bytes_at(&image, GuestPhys(0x40e))[..2], [0xc0, 0x9f]);
}

#[test]
fn the_kernel_is_at_its_address_and_the_initrd_left_to_the_caller() {
    let (file, memory) = (bzimage(), memory(512 * MIB));
    let image = build(&file, &request(&memory, Some(5000))).expect("fits");
    assert!(bytes_at(&image, GuestPhys(samples::LOAD)).starts_with(&samples::code()));
    let initrd = image.loaded.initrd.expect("there is an initrd");
    assert!(!image.ram.0.contains_key(&initrd.0));
}

#[test]
fn every_compression_loads_the_same() {
    let memory = memory(512 * MIB);
    let elf = samples::elf64(Notes::LinuxAndPvh);
    for protocol in [BootProtocol::Auto, BootProtocol::Pvh] {
        let request = BootRequest { protocol, ..request(&memory, None) };
        let of = |format| build(&samples::bzimage(&samples::payload(format, &elf)), &request);
        let first = of(Compression::Lz4).expect("fits");
        for format in samples::ALL {
            let image = of(format).expect("fits");
            assert_eq!(image.loaded.entry, first.loaded.entry, "{format}");
            assert!(image.ram.0[&samples::LOAD] == first.ram.0[&samples::LOAD], "{format}");
        }
    }
}

#[test]
fn page_tables_map_four_gib_identically() {
    let (file, memory) = (bzimage(), memory(512 * MIB));
    let image = build(&file, &request(&memory, None)).expect("fits");
    let tables = bytes_at(&image, layout::PAGE_TABLES);
    let entry = |table: u64, index: u64| {
        u64_at(tables, (table - layout::PAGE_TABLES.0 + index * 8) as usize).expect("inside")
    };
    let address = |entry: u64| entry & 0x000f_ffff_ffff_f000;
    for virt in [0u64, 0x1000, 0x100_0000, 0xfee0_0000, 0xffff_fff0] {
        let pdpt = address(entry(layout::PAGE_TABLES.0, virt >> 39));
        let directory = address(entry(pdpt, virt >> 30 & 511));
        let large = entry(directory, virt >> 21 & 511);
        assert_eq!(large & 0x83, 0x83);
        assert_eq!(address(large) | virt & 0x1f_ffff, virt);
    }
}

#[test]
fn gdt_matches_the_hidden_parts() {
    let (file, memory) = (bzimage(), memory(512 * MIB));
    let image = build(&file, &request(&memory, None)).expect("fits");
    let mut cpu = CpuState::reset(0);
    image.loaded.enter(&mut cpu);
    let gdt = bytes_at(&image, GuestPhys(cpu.gdtr.base));
    assert_eq!(gdt.len(), usize::from(cpu.gdtr.limit) + 1);
    for segment in cpu.segments {
        let raw = u64_at(gdt, segment.selector.into()).expect("in the GDT");
        assert_eq!(x86::Descriptor(raw).to_segment(segment.selector), segment);
    }
}

#[test]
fn framebuffer_is_announced_as_efi_would() {
    let (file, memory) = (bzimage(), memory(512 * MIB));
    let framebuffer =
        Framebuffer { address: GuestPhys(0x1_d000_0000), width: 1280, height: 800, stride: 5120 };
    let request = BootRequest { framebuffer: Some(framebuffer), ..request(&memory, None) };
    let image = build(&file, &request).expect("fits");
    let page = bytes_at(&image, layout::BOOT_INFO);
    assert_eq!((page[0xf], u16_at(page, 0x12), u16_at(page, 0x24)), (0x70, Some(1280), Some(5120)));
    assert_eq!((u32_at(page, 0x18), u32_at(page, 0x3a)), (Some(0xd000_0000), Some(1)));
    assert_eq!(u32_at(page, 0x1c), Some(5120 * 800));
}

#[test]
fn pvh_kernels_get_start_info_in_protected_mode() {
    let (file, memory) = (samples::elf64(Notes::Pvh), memory(6 << 30));
    let image = build(&file, &request(&memory, Some(5000))).expect("fits");
    let mut cpu = CpuState::reset(0);
    image.loaded.enter(&mut cpu);
    assert_eq!((cpu.rip, cpu.cr0 >> 31, cpu.cr4), (samples::LOAD + 0x40, 0, 0));
    let info = bytes_at(&image, GuestPhys(cpu.gpr[Reg::Rbx as usize]));
    assert_eq!((u32_at(info, 0), u32_at(info, 12)), (Some(0x336e_c578), Some(1)));
    let modules = bytes_at(&image, GuestPhys(u64_at(info, 16).expect("set")));
    assert_eq!(u64_at(modules, 0), image.loaded.initrd.map(|address| address.0));
    assert_eq!(image.loaded.initrd, Some(GuestPhys(0xc000_0000 - 8192)));
    assert_eq!(u32_at(info, 48), Some(5));
}

#[test]
fn linux_can_be_forced_through_pvh() {
    let (file, memory) = (bzimage(), memory(512 * MIB));
    let request = BootRequest { protocol: BootProtocol::Pvh, ..request(&memory, None) };
    assert!(!build(&file, &request).expect("it has the note").loaded.entry.long_mode);
}

#[test]
fn multiboot_kernels_get_their_info() {
    let (file, memory) = (samples::multiboot_elf32(), memory(64 * MIB));
    let image = build(&file, &request(&memory, Some(5000))).expect("fits");
    let mut cpu = CpuState::reset(0);
    image.loaded.enter(&mut cpu);
    assert_eq!((cpu.rip, cpu.gpr[Reg::Rax as usize]), (0x10_0020, 0x2bad_b002));
    let info = bytes_at(&image, GuestPhys(cpu.gpr[Reg::Rbx as usize]));
    assert_eq!(u32_at(info, 0), Some(0b10_0100_1101));
    assert_eq!((u32_at(info, 4), u32_at(info, 8)), (Some(639), Some(63 * 1024)));
    let lists = bytes_at(&image, layout::BOOT_LISTS);
    let place = image.loaded.initrd.expect("a module").0 as u32;
    assert_eq!((u32_at(lists, 0), u32_at(lists, 4)), (Some(place), Some(place + 5000)));
}

#[test]
fn too_little_memory_says_how_much_is_needed() {
    let (file, small) = (bzimage(), memory(16 * MIB));
    let error = build(&file, &request(&small, Some(10 << 20))).expect_err("too small");
    // pref_address + init_size, and the initrd.
    assert_eq!(error, BootError::MemoryTooSmall { needed: 27 * MIB, have: 16 * MIB });
    assert_eq!(
        error.to_string(),
        "the machine's memory is too small: kernel and initramfs need at least 27 MiB, it has 16 MiB"
    );
    let enough = memory(27 * MIB);
    assert!(build(&file, &request(&enough, Some(10 << 20))).is_ok());
}

#[test]
fn initrd_stays_below_the_kernels_limit() {
    let memory = memory(2 << 30);
    let mut file = bzimage();
    crate::bytes::put_u32(&mut file, 0x22c, 0x37ff_ffff);
    let image = build(&file, &request(&memory, Some(8192))).expect("fits");
    assert_eq!(image.loaded.initrd, Some(GuestPhys(0x3800_0000 - 8192)));
    crate::bytes::put_u32(&mut file, 0x22c, 0x100_0000);
    let error = build(&file, &request(&memory, Some(8192))).expect_err("does not fit");
    assert_eq!(error, BootError::InitrdTooLarge { size: 8192, limit: 0x100_0001 });
}

#[test]
fn command_lines_have_limits() {
    let (file, memory) = (bzimage(), memory(512 * MIB));
    let build_with = |command_line: &str| {
        build(&file, &BootRequest { command_line, ..request(&memory, None) }).err()
    };
    assert_eq!(build_with(&"x".repeat(2047)), None);
    let error = BootError::CommandLineTooLong { length: 2048, limit: 2047 };
    assert_eq!(build_with(&"x".repeat(2048)), Some(error));
    assert_eq!(build_with("a\0b"), Some(BootError::CommandLineNul));
}

#[test]
fn kernels_on_top_of_the_bios_or_our_structures_are_refused() {
    let memory = memory(512 * MIB);
    for place in [0x7000u64, 0x9_f000, 0xf_0000, 1 << 33] {
        let mut file = samples::elf64(Notes::LinuxAndPvh);
        crate::bytes::put_u64(&mut file, 64 + 24, place);
        crate::bytes::put_u64(&mut file, 24, place);
        let error = build(&file, &request(&memory, None)).expect_err("not free memory");
        assert!(matches!(error, BootError::KernelPlace { .. }), "{place:#x}: {error}");
    }
}

#[test]
fn an_elf_without_a_known_entry_is_refused() {
    let (file, memory) = (samples::elf64(Notes::None), memory(512 * MIB));
    let error = build(&file, &request(&memory, None)).expect_err("how to enter it?");
    assert_eq!(error, BootError::Kernel(KernelError::NoEntry));
    let forced = BootRequest { protocol: BootProtocol::Linux64, ..request(&memory, None) };
    assert!(build(&file, &forced).is_ok());
}
