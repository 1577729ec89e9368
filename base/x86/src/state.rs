//! One processor's whole state, neutral between engines (SDM vol. 1, 3.4; vol. 3, 2.1).
//!
//! A snapshot taken on one engine loads on another, and the conformance tests compare engines by
//! this type. Invariant: valid at an instruction boundary; never tagged by engine.

use crate::exception::Exception;
use crate::lapic::LapicState;
use crate::segment::{Segment, TableRegister, attr};
use crate::xsave::XsaveArea;
use crate::{Cr0, Dr6, Dr7};

/// General-purpose registers in encoding order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Reg {
    Rax = 0,
    Rcx = 1,
    Rdx = 2,
    Rbx = 3,
    Rsp = 4,
    Rbp = 5,
    Rsi = 6,
    Rdi = 7,
    R8 = 8,
    R9 = 9,
    R10 = 10,
    R11 = 11,
    R12 = 12,
    R13 = 13,
    R14 = 14,
    R15 = 15,
}

/// What a processor is doing between instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activity {
    /// Executing.
    #[default]
    Running,
    /// After HLT: waits for an interrupt, NMI, INIT or reset.
    Halted,
    /// An application processor after reset or INIT: waits for a start-up IPI.
    WaitForSipi,
    /// After a triple fault.
    Shutdown,
}

/// Model-specific registers that are state (those derived from CPUID or time are not here).
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Msrs {
    pub efer: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub pat: u64,
    pub tsc_aux: u64,
    pub tsc_adjust: u64,
    /// Guest TSC = host TSC + this.
    pub tsc_offset: u64,
    pub apic_base: u64,
    pub misc_enable: u64,
    pub spec_ctrl: u64,
    pub mtrr_def_type: u64,
    pub mtrr_fixed: [u64; 11],
    /// Base and mask, eight pairs.
    pub mtrr_variable: [u64; 16],
    pub mcg_status: u64,
    /// Rights of supervisor pages' protection keys.
    pub pkrs: u64,
    pub kvm_wall_clock: u64,
    pub kvm_system_time: u64,
    pub kvm_async_pf: u64,
    pub kvm_steal_time: u64,
    pub kvm_pv_eoi: u64,
    pub kvm_poll_control: u64,
}

impl Default for Msrs {
    fn default() -> Self {
        Self {
            efer: 0,
            star: 0,
            lstar: 0,
            cstar: 0,
            sfmask: 0,
            kernel_gs_base: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            pat: 0x0007_0406_0007_0406,
            tsc_aux: 0,
            tsc_adjust: 0,
            tsc_offset: 0,
            apic_base: 0xfee0_0800,
            misc_enable: 1,
            spec_ctrl: 0,
            mtrr_def_type: 0,
            mtrr_fixed: [0; 11],
            mtrr_variable: [0; 16],
            mcg_status: 0,
            pkrs: 0,
            kvm_wall_clock: 0,
            kvm_system_time: 0,
            kvm_async_pf: 0,
            kvm_steal_time: 0,
            kvm_pv_eoi: 0,
            kvm_poll_control: 1,
        }
    }
}

/// The whole state of one processor.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct CpuState {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8-R15: index by [`Reg`].
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    /// ES, CS, SS, DS, FS, GS: index by `SegmentRegister`.
    pub segments: [Segment; 6],
    pub ldtr: Segment,
    pub tr: Segment,
    pub gdtr: TableRegister,
    pub idtr: TableRegister,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub xcr0: u64,
    /// Rights of user pages' protection keys: XSAVE component 9, kept here and not in `xsave`,
    /// because its place there differs between processors.
    pub pkru: u32,
    pub dr: [u64; 4],
    pub dr6: u64,
    pub dr7: u64,
    pub msrs: Msrs,
    pub xsave: XsaveArea,
    pub activity: Activity,
    /// An exception raised but not yet delivered.
    pub pending_exception: Option<Exception>,
    /// An external interrupt acknowledged but not yet delivered.
    pub pending_interrupt: Option<u8>,
    pub nmi_pending: bool,
    /// NMIs blocked until IRET.
    pub nmi_blocked: bool,
    /// Interrupts blocked for one instruction after STI.
    pub sti_shadow: bool,
    /// Interrupts and debug traps blocked for one instruction after MOV SS or POP SS.
    pub mov_ss_shadow: bool,
    /// The local APIC beside it.
    pub lapic: LapicState,
}

impl CpuState {
    /// State after RESET (SDM vol. 3, table 9-1). Processor 0 runs, others wait for SIPI.
    pub fn reset(apic_id: u32) -> Self {
        let data = attr::PRESENT | attr::S | attr::WRITE_READ | attr::ACCESSED;
        let mut segments = [Segment::real_mode(0, data); 6];
        segments[1] = Segment {
            base: 0xffff_0000,
            limit: 0xffff,
            selector: 0xf000,
            attributes: data | attr::CODE,
        };
        let mut gpr = [0; 16];
        gpr[Reg::Rdx as usize] = 0x600;
        let mut msrs = Msrs::default();
        if apic_id == 0 {
            msrs.apic_base |= 1 << 8;
        }
        Self {
            gpr,
            rip: 0xfff0,
            rflags: 2,
            segments,
            ldtr: Segment { limit: 0xffff, attributes: attr::PRESENT | 2, ..Segment::default() },
            tr: Segment { limit: 0xffff, attributes: attr::PRESENT | 11, ..Segment::default() },
            gdtr: TableRegister { base: 0, limit: 0xffff },
            idtr: TableRegister { base: 0, limit: 0xffff },
            cr0: (Cr0::CD | Cr0::NW | Cr0::ET).bits(),
            cr2: 0,
            cr3: 0,
            cr4: 0,
            xcr0: 1,
            pkru: 0,
            dr: [0; 4],
            dr6: Dr6::FIXED,
            dr7: Dr7::FIXED,
            msrs,
            xsave: XsaveArea::default(),
            activity: if apic_id == 0 { Activity::Running } else { Activity::WaitForSipi },
            pending_exception: None,
            pending_interrupt: None,
            nmi_pending: false,
            nmi_blocked: false,
            sti_shadow: false,
            mov_ss_shadow: false,
            lapic: LapicState::reset(apic_id),
        }
    }

    /// Current privilege level: the DPL of SS.
    #[inline]
    pub const fn cpl(&self) -> u8 {
        self.segments[2].dpl()
    }
}
