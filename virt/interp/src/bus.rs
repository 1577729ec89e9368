//! The seam: what an instruction needs of the world outside the processor's registers.
//!
//! An engine implements these for one type and everything above is monomorphised over it, so a
//! RAM access costs no indirect call. Addresses are linear: segmentation is done, paging is not.
//! The bus translates under the [`Context`] it was last given.

use x86::cpuid::CpuidResult;
use x86::{CpuState, Exception};

use crate::vector::VectorUnit;
use crate::width::Width;

/// Everything an instruction needs of its world.
pub trait Bus:
    LinearMemory + StringAssist + PortIo + Translation + Platform + VectorUnit + Sized + 'static
{
}

/// What an engine may take for granted of the code that runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CodeKind {
    /// None of the others.
    #[default]
    Other,
    /// 64-bit mode.
    Long,
    /// 32-bit code over a flat address space: CS, ES, SS and DS begin at 0 and end at 4 GiB, data is
    /// writable, the stack is 32 bits wide.
    Flat {
        /// FS reaches all offsets, from any base.
        fs: bool,
        /// So does GS.
        gs: bool,
    },
}

/// What translation and permission checks depend on. `Cpu` hands it over whenever it changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// CR0 (PG, WP matter).
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4 (PAE, PSE, PGE, PCIDE, SMEP, SMAP, PKE, PKS matter).
    pub cr4: u64,
    /// EFER (LMA, NXE matter).
    pub efer: u64,
    /// Data accesses and fetches are user-mode (CPL 3).
    pub user: bool,
    /// RFLAGS.AC: lifts SMAP at CPL 0-2.
    pub ac: bool,
    /// PKRU, or 0 where CR4.PKE does not make it count.
    pub pkru: u32,
    /// IA32_PKRS, or 0 where CR4.PKS does not make it count.
    pub pkrs: u32,
    /// CR0.AM and RFLAGS.AC and CPL 3: misaligned data raises #AC(0).
    pub align_check: bool,
    /// DR7 has an enabled data or I/O breakpoint: report hits through [`Translation::take_watch_hits`].
    pub watch: bool,
    /// What ran when the context was handed over. Segment registers other than CS are loaded without
    /// handing it over again: see [`Cpu::code_kind`](crate::Cpu::code_kind).
    pub code: CodeKind,
}

/// What to drop from cached translations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// All, global ones too.
    All,
    /// All but global ones, of the current PCID.
    NonGlobal,
    /// Those of one linear page, in the current PCID, and global ones.
    Page(u64),
    /// Non-global ones of one PCID.
    Pcid(u16),
    /// One page of one PCID (INVPCID type 0).
    PcidPage(u16, u64),
    /// All but global ones, every PCID (INVPCID type 3).
    AllNonGlobal,
}

/// Kinds of access, for checks without moving data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Load.
    Read,
    /// Store.
    Write,
}

/// Linear-address memory. Every method checks canonicality (#GP(0); callers turn it into #SS(0)
/// for stack accesses), permission and, on a fault, changes nothing.
///
/// Accesses may cross a page. MMIO happens inside. Plain accesses follow the host's memory model.
pub trait LinearMemory {
    /// Loads with the current privilege.
    fn load<W: Width>(&mut self, at: u64) -> Result<W, Exception>;
    /// Stores with the current privilege.
    fn store<W: Width>(&mut self, at: u64, value: W) -> Result<(), Exception>;
    /// Loads after checking for write permission: the first half of a read-modify-write.
    fn load_for_write<W: Width>(&mut self, at: u64) -> Result<W, Exception>;
    /// Loads up to 4096 bytes.
    fn load_bytes(&mut self, at: u64, into: &mut [u8]) -> Result<(), Exception>;
    /// Stores up to 4096 bytes, all or nothing.
    fn store_bytes(&mut self, at: u64, from: &[u8]) -> Result<(), Exception>;
    /// Checks permission for `length` bytes.
    fn probe(&mut self, at: u64, length: u64, access: Access) -> Result<(), Exception>;
    /// LOCK CMPXCHG: write permission is checked in any case; returns the value found.
    fn compare_exchange<W: Width>(&mut self, at: u64, expected: W, new: W) -> Result<W, Exception>;
    /// LOCK CMPXCHG16B at a 16-byte aligned address.
    fn compare_exchange_16(
        &mut self,
        at: u64,
        expected: u128,
        new: u128,
    ) -> Result<u128, Exception>;
    /// Loads with supervisor privilege whatever the CPL (descriptor tables, TSS, IDT).
    fn load_system<W: Width>(&mut self, at: u64) -> Result<W, Exception>;
    /// Stores with supervisor privilege whatever the CPL.
    fn store_system<W: Width>(&mut self, at: u64, value: W) -> Result<(), Exception>;
}

/// Whole runs of string instructions, page by page. Optional in effect: 0 means "do it one element
/// at a time", which is what MMIO, crossing elements, watched or aliased pages get.
pub trait StringAssist {
    /// REP MOVS with DF = 0: moves up to `bytes` ascending; returns how many were moved, a
    /// multiple of `element`. Exact also for overlapping ranges.
    fn copy_forward(
        &mut self,
        from: u64,
        to: u64,
        bytes: u64,
        element: u64,
    ) -> Result<u64, Exception>;
    /// REP STOS with DF = 0: stores copies of `value`; returns how many bytes were stored.
    fn fill_forward<W: Width>(&mut self, to: u64, bytes: u64, value: W) -> Result<u64, Exception>;
}

/// Ports.
pub trait PortIo {
    /// IN: width 1, 2 or 4 bytes.
    fn port_in(&mut self, port: u16, width: u8) -> u32;
    /// OUT.
    fn port_out(&mut self, port: u16, width: u8, value: u32);
}

/// Cached translations and what they depend on.
pub trait Translation {
    /// Translation or permission inputs changed.
    fn set_context(&mut self, context: Context);
    /// Drops cached translations.
    fn flush(&mut self, what: Flush);
    /// PAE paging without long mode: whether the four PDPTEs at this CR3 may be loaded (no reserved
    /// bit set in a present one). Called before CR3 and the mode change; `false` raises #GP(0).
    fn pdptes_valid(&mut self, cr3: u64) -> bool;
    /// DR0-3 and DR7 changed.
    fn set_watchpoints(&mut self, dr: [u64; 4], dr7: u64);
    /// Data and I/O breakpoints hit (DR6 bits 3:0) since last asked, under `Context::watch`.
    fn take_watch_hits(&mut self) -> u64;
}

/// What KVM answers to a hypercall it does not know.
pub const KVM_ENOSYS: i64 = -1000;

/// Time, identification, and MSRs that are not plain state.
pub trait Platform {
    /// CPUID from the static table. OSXSAVE, APIC id and other live bits are patched by the caller.
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> CpuidResult;
    /// RDMSR of an MSR that `CpuState` does not hold or that has side effects (APIC base, x2APIC,
    /// TSC deadline, KVM paravirt, MTRR capability ...). `None` raises #GP(0).
    fn read_msr(&mut self, state: &CpuState, index: u32) -> Option<u64>;
    /// WRMSR likewise; may update `state`. `None` raises #GP(0).
    fn write_msr(&mut self, state: &mut CpuState, index: u32, value: u64) -> Option<()>;
    /// The host's time-stamp counter; the guest's is this + `tsc_offset`.
    fn host_tsc(&mut self) -> u64;
    /// 64 random bits for RDRAND and RDSEED.
    fn random(&mut self) -> u64;
    /// VMCALL or VMMCALL at CPL 0: a KVM hypercall by number, with its four arguments; what the
    /// guest finds in RAX. `wide`: from 64-bit mode. Unknown numbers answer [`KVM_ENOSYS`].
    fn hypercall(&mut self, number: u64, arguments: [u64; 4], wide: bool) -> i64;
    /// CR8: the local APIC's task priority, 0-15. `Some` writes it first.
    fn task_priority(&mut self, write: Option<u8>) -> u8;
    /// Whether a long-running instruction should give way: an interrupt, kick or event waits.
    fn attention(&mut self) -> bool;
}
