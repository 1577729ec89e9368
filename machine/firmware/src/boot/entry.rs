//! Registers, GDT and page tables at the kernel's first instruction.
//!
//! Sources: boot.rst "64-bit boot protocol"; Xen's docs/misc/pvh.pandoc; Multiboot 0.6.96, 3.2; AMD
//! APM vol. 2, 5.3. Invariant: interrupts off, flat segments, and a GDT that matches the hidden parts.

use x86::segment::attr;
use x86::{
    Activity, CpuState, Cr0, Cr4, Descriptor, Efer, Flags, GuestPhys, Reg, Segment,
    SegmentRegister, TableRegister,
};

use crate::bytes::put_u64;
use crate::layout;

/// The start of the boot processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryState {
    /// First instruction.
    pub rip: GuestPhys,
    /// 64-bit mode with the identity page tables, or 32-bit protected mode without paging.
    pub long_mode: bool,
    /// General registers that aren't zero.
    pub registers: Vec<(Reg, u64)>,
}

const CODE32: u16 = 0x08;
/// __BOOT_CS.
const CODE64: u16 = 0x10;
/// __BOOT_DS.
const DATA: u16 = 0x18;
const TSS: u16 = 0x20;
/// A 4 GiB limit in pages, less one.
const FLAT: u32 = 0xf_ffff;
const BUSY_TSS: u16 = 11;
const MULTIBOOT_MAGIC: u64 = 0x2bad_b002;
/// IA32_MTRR_DEF_TYPE: enabled, write-back. Without it Linux takes all RAM for uncacheable.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;

const fn code32() -> Descriptor {
    let access = attr::PRESENT | attr::S | attr::CODE | attr::WRITE_READ | attr::ACCESSED;
    Descriptor::new(0, FLAT, access | attr::DB | attr::GRANULAR)
}

const fn code64() -> Descriptor {
    let access = attr::PRESENT | attr::S | attr::CODE | attr::WRITE_READ | attr::ACCESSED;
    Descriptor::new(0, FLAT, access | attr::LONG | attr::GRANULAR)
}

const fn data() -> Descriptor {
    let access = attr::PRESENT | attr::S | attr::WRITE_READ | attr::ACCESSED;
    Descriptor::new(0, FLAT, access | attr::DB | attr::GRANULAR)
}

const fn tss() -> Descriptor {
    Descriptor::new(0, 0x67, attr::PRESENT | BUSY_TSS)
}

/// Null, code32, code64, data, TSS (16 bytes, as long mode has it).
pub(super) fn gdt() -> Vec<u8> {
    let entries = [Descriptor(0), code32(), code64(), data(), tss(), Descriptor(0)];
    entries.iter().flat_map(|entry| entry.0.to_le_bytes()).collect()
}

/// Identity map of the first 4 GiB: a PML4, a PDPT and four page directories of 2 MiB pages.
pub(super) fn identity_page_tables() -> Vec<u8> {
    const PAGE: usize = 4096;
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    let base = layout::PAGE_TABLES.0;
    let mut tables = vec![0; 6 * PAGE];
    put_u64(&mut tables, 0, (base + PAGE as u64) | PRESENT_WRITABLE);
    for gib in 0..4 {
        let directory = base + (2 + gib as u64) * PAGE as u64;
        put_u64(&mut tables, PAGE + gib * 8, directory | PRESENT_WRITABLE);
    }
    for page in 0..4 * 512 {
        put_u64(&mut tables, 2 * PAGE + page * 8, (page as u64) << 21 | PRESENT_WRITABLE | LARGE);
    }
    tables
}

impl EntryState {
    /// startup_64: RSI holds the zero page.
    pub(super) fn linux64(entry: GuestPhys, zero_page: GuestPhys) -> Self {
        Self { rip: entry, long_mode: true, registers: vec![(Reg::Rsi, zero_page.0)] }
    }

    /// EBX holds `hvm_start_info`.
    pub(super) fn pvh(entry: GuestPhys, start_info: GuestPhys) -> Self {
        Self { rip: entry, long_mode: false, registers: vec![(Reg::Rbx, start_info.0)] }
    }

    /// EAX holds the magic, EBX `multiboot_info`.
    pub(super) fn multiboot(entry: GuestPhys, info: GuestPhys) -> Self {
        let registers = vec![(Reg::Rax, MULTIBOOT_MAGIC), (Reg::Rbx, info.0)];
        Self { rip: entry, long_mode: false, registers }
    }

    /// Puts a processor fresh from reset into this state.
    pub fn apply(&self, cpu: &mut CpuState) {
        cpu.gpr = [0; 16];
        cpu.gpr[Reg::Rsp as usize] = layout::STACK_TOP.0;
        for (register, value) in &self.registers {
            cpu.gpr[*register as usize] = *value;
        }
        cpu.rip = self.rip.0;
        cpu.rflags = Flags::FIXED.bits();
        cpu.segments = [data().to_segment(DATA); 6];
        cpu.segments[SegmentRegister::Cs as usize] =
            if self.long_mode { code64().to_segment(CODE64) } else { code32().to_segment(CODE32) };
        cpu.tr = tss().to_segment(TSS);
        cpu.ldtr = Segment { attributes: attr::PRESENT | 2, ..Segment::default() };
        cpu.gdtr = TableRegister { base: layout::GDT.0, limit: gdt().len() as u16 - 1 };
        cpu.idtr = TableRegister::default();
        let mut cr0 = Cr0::PE | Cr0::ET | Cr0::NE;
        (cpu.cr3, cpu.cr4, cpu.msrs.efer) = (0, 0, 0);
        if self.long_mode {
            cr0 |= Cr0::PG;
            cpu.cr3 = layout::PAGE_TABLES.0;
            cpu.cr4 = Cr4::PAE.bits();
            cpu.msrs.efer = (Efer::LME | Efer::LMA).bits();
        }
        cpu.cr0 = cr0.bits();
        cpu.msrs.mtrr_def_type = MTRR_WRITE_BACK;
        cpu.activity = Activity::Running;
    }
}
