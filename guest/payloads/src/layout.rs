//! Where everything lies in a payload's memory, and the descriptor table all of them share.
//!
//! ```text
//! 0x00000  real-mode vectors            0x0b000  variables
//! 0x01000  PML4   0x02000 PDPT          0x0c000  page table of the first 2 MiB
//! 0x03000  page directories, 4 GiB      0x10000  code of vCPU 0
//! 0x07000  start-up code of vCPU 1      0x20000  code of vCPU 1
//! 0x08000  GDT, 0x8800 TSS, TSS32s      0x30000  data
//! 0x09000  IDT                          0x80000  stack of vCPU 0, down
//! 0x0a000  exception handlers           0x90000  stack of vCPU 1, down
//! ```

/// Top-level page table of long-mode payloads: the first 4 GiB are mapped where they are.
pub const PML4: u64 = 0x1000;
/// Page-directory-pointer table.
pub const PDPT: u64 = 0x2000;
/// Four page directories of 2 MiB pages.
pub const DIRECTORIES: u64 = 0x3000;
/// Start-up code of vCPU 1: SIPI vector 7.
pub const TRAMPOLINE: u64 = 0x7000;
/// Descriptor table.
pub const GDT: u64 = 0x8000;
/// Bytes of the descriptor table.
pub const GDT_BYTES: u16 = 0x100;
/// The 64-bit TSS, or the first 32-bit one.
pub const TSS: u64 = 0x8800;
/// The second 32-bit TSS.
pub const TSS_2: u64 = 0x8900;
/// Bytes of the 64-bit TSS without its I/O bitmap.
pub const TSS_BYTES: u16 = 0x68;
/// Interrupt descriptor table.
pub const IDT: u64 = 0x9000;
/// Exception handlers.
pub const HANDLERS: u64 = 0xa000;
/// Variables.
pub const VARIABLES: u64 = 0xb000;
/// Page table of the first 2 MiB, 4 KiB pages.
pub const PAGE_TABLE: u64 = 0xc000;
/// Code of vCPU 0.
pub const CODE: u64 = 0x1_0000;
/// Code of vCPU 1.
pub const CODE_2: u64 = 0x2_0000;
/// Data.
pub const DATA: u64 = 0x3_0000;
/// Stack of real-mode payloads, below 64 KiB.
pub const STACK16: u16 = 0xf000;
/// Initial stack pointer of vCPU 0.
pub const STACK: u64 = 0x8_0000;
/// Interrupt stack 1 of the TSS.
pub const STACK_IST: u64 = 0x8_8000;
/// Initial stack pointer of vCPU 1.
pub const STACK_2: u64 = 0x9_0000;
/// Initial stack pointer at CPL 3; the page below is the user's.
pub const STACK_USER: u64 = 0x7_0000;
/// First byte above the identity-mapped 4 KiB pages: room for a payload's own page tables.
pub const TABLES: u64 = 0x10_0000;
/// RAM of every payload.
pub const MEMORY_BYTES: u64 = 0x40_0000;
/// The device: [`DEVICE_BYTES`] of registers that keep what is written.
pub const DEVICE: u64 = 0xd000_0000;
/// Size of the device.
pub const DEVICE_BYTES: u64 = 0x1_0000;

/// Selectors of the descriptor table.
#[allow(missing_docs)]
pub mod selector {
    pub const CODE32: u16 = 0x08;
    pub const DATA: u16 = 0x10;
    pub const CODE64: u16 = 0x18;
    pub const USER_CODE32: u16 = 0x23;
    pub const USER_DATA: u16 = 0x2b;
    pub const USER_CODE64: u16 = 0x33;
    /// 16 bytes in long mode; the first 32-bit TSS otherwise.
    pub const TSS: u16 = 0x40;
    pub const CODE16: u16 = 0x50;
    pub const DATA16: u16 = 0x58;
    /// Present bit clear.
    pub const ABSENT: u16 = 0x60;
    /// Read-only data.
    pub const READ_ONLY: u16 = 0x68;
    /// Data of limit 0xfff bytes.
    pub const SMALL: u16 = 0x70;
    /// Execute-only code.
    pub const EXECUTE_ONLY: u16 = 0x78;
    /// Expand-down data, valid from 0x1000 to 0xffff.
    pub const EXPAND_DOWN: u16 = 0x80;
    pub const TSS_2: u16 = 0x88;
    /// A task gate to `TSS_2`.
    pub const TASK_GATE: u16 = 0x90;
    /// The payload's own, two slots.
    pub const OWN: u16 = 0x98;
    /// What SYSENTER_CS asks for: code, data, user code, user data, 32 bits.
    pub const SYSENTER: u16 = 0xc0;
    /// What STAR 47:32 asks for: 64-bit code, data.
    pub const SYSCALL: u16 = 0xe0;
    /// Beyond the table.
    pub const BEYOND: u16 = 0x800;
}

/// The descriptor table. `long` decides what the TSS slot holds.
pub fn gdt(long: bool) -> Vec<u8> {
    use selector as s;
    let tss = TSS << 16;
    // Base 23:0 at bit 16; types: 0x8b busy 64-bit or 32-bit TSS, 0x89 available.
    let entries: [(u16, u64); 23] = [
        (s::CODE32, 0x00cf_9b00_0000_ffff),
        (s::DATA, 0x00cf_9300_0000_ffff),
        (s::CODE64, 0x00af_9b00_0000_ffff),
        (s::USER_CODE32, 0x00cf_fb00_0000_ffff),
        (s::USER_DATA, 0x00cf_f300_0000_ffff),
        (s::USER_CODE64, 0x00af_fb00_0000_ffff),
        (s::TSS, 0x0000_8b00_0000_0000 | tss | u64::from(TSS_BYTES) - 1),
        (s::TSS + 8, 0),
        (s::CODE16, 0x0000_9b00_0000_ffff),
        (s::DATA16, 0x0000_9300_0000_ffff),
        (s::ABSENT, 0x00cf_1300_0000_ffff),
        (s::READ_ONLY, 0x00cf_9100_0000_ffff),
        (s::SMALL, 0x0040_9300_0000_0fff),
        (s::EXECUTE_ONLY, 0x00cf_9900_0000_ffff),
        (s::EXPAND_DOWN, 0x0000_9700_0000_0fff),
        (s::TSS_2, if long { 0 } else { 0x0000_8900_0000_0067 | TSS_2 << 16 }),
        (s::TASK_GATE, if long { 0 } else { 0x0000_8500_0000_0000 | u64::from(s::TSS_2) << 16 }),
        (s::SYSENTER, 0x00cf_9b00_0000_ffff),
        (s::SYSENTER + 8, 0x00cf_9300_0000_ffff),
        (s::SYSENTER + 16, 0x00cf_fb00_0000_ffff),
        (s::SYSENTER + 24, 0x00cf_f300_0000_ffff),
        (s::SYSCALL, 0x00af_9b00_0000_ffff),
        (s::SYSCALL + 8, 0x00cf_9300_0000_ffff),
    ];
    let mut table = vec![0; usize::from(GDT_BYTES)];
    for (selector, descriptor) in entries {
        let at = usize::from(selector & !7);
        table[at..at + 8].copy_from_slice(&descriptor.to_le_bytes());
    }
    table
}
