//! Control, debug and extended-control registers (SDM vol. 3, 2.5, 17.2; vol. 1, 13.3).

use bitflags::bitflags;

bitflags! {
    /// CR0.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Cr0: u64 {
        /// Protected mode.
        const PE = 1 << 0;
        /// Monitor coprocessor: WAIT honours TS.
        const MP = 1 << 1;
        /// x87 emulation: x87 instructions raise #NM, SIMD #UD.
        const EM = 1 << 2;
        /// Task switched: x87/SIMD raise #NM.
        const TS = 1 << 3;
        /// Extension type, fixed to 1.
        const ET = 1 << 4;
        /// Native x87 error reporting (#MF).
        const NE = 1 << 5;
        /// Supervisor writes honour read-only pages.
        const WP = 1 << 16;
        /// Alignment mask: with RFLAGS.AC at CPL 3, misaligned data raises #AC.
        const AM = 1 << 18;
        /// Not write-through.
        const NW = 1 << 29;
        /// Cache disable.
        const CD = 1 << 30;
        /// Paging.
        const PG = 1 << 31;
        const _ = !0;
    }

    /// CR4.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Cr4: u64 {
        /// Virtual-8086 mode extensions.
        const VME = 1 << 0;
        /// Protected-mode virtual interrupts.
        const PVI = 1 << 1;
        /// RDTSC only at CPL 0.
        const TSD = 1 << 2;
        /// Debugging extensions: DR4/DR5 raise #UD.
        const DE = 1 << 3;
        /// 4 MiB pages in 32-bit paging.
        const PSE = 1 << 4;
        /// Physical address extension.
        const PAE = 1 << 5;
        /// Machine check.
        const MCE = 1 << 6;
        /// Global pages.
        const PGE = 1 << 7;
        /// RDPMC at any CPL.
        const PCE = 1 << 8;
        /// FXSAVE and SSE usable.
        const OSFXSR = 1 << 9;
        /// #XM usable.
        const OSXMMEXCPT = 1 << 10;
        /// SGDT, SIDT, SLDT, SMSW, STR only at CPL 0.
        const UMIP = 1 << 11;
        /// 57-bit linear addresses.
        const LA57 = 1 << 12;
        /// VMX.
        const VMXE = 1 << 13;
        /// SMX.
        const SMXE = 1 << 14;
        /// RDFSBASE and kin.
        const FSGSBASE = 1 << 16;
        /// Process-context identifiers.
        const PCIDE = 1 << 17;
        /// XSAVE and XCR0.
        const OSXSAVE = 1 << 18;
        /// Supervisor-mode execution prevention.
        const SMEP = 1 << 20;
        /// Supervisor-mode access prevention.
        const SMAP = 1 << 21;
        /// Protection keys, user pages.
        const PKE = 1 << 22;
        /// Control-flow enforcement.
        const CET = 1 << 23;
        /// Protection keys, supervisor pages.
        const PKS = 1 << 24;
        const _ = !0;
    }

    /// IA32_EFER (MSR C000_0080H).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Efer: u64 {
        /// SYSCALL enable.
        const SCE = 1 << 0;
        /// Long mode enable.
        const LME = 1 << 8;
        /// Long mode active, set by hardware.
        const LMA = 1 << 10;
        /// No-execute enable.
        const NXE = 1 << 11;
        /// Fast FXSAVE (AMD): XMM left out at CPL 0 in 64-bit mode.
        const FFXSR = 1 << 14;
        const _ = !0;
    }

    /// XCR0: state components that XSAVE manages.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Xcr0: u64 {
        /// x87, always 1.
        const X87 = 1 << 0;
        /// XMM and MXCSR.
        const SSE = 1 << 1;
        /// High halves of YMM.
        const AVX = 1 << 2;
        /// AVX-512 opmask.
        const OPMASK = 1 << 5;
        /// High halves of ZMM0-15.
        const ZMM_HI256 = 1 << 6;
        /// ZMM16-31.
        const HI16_ZMM = 1 << 7;
        /// PKRU.
        const PKRU = 1 << 9;
        const _ = !0;
    }

    /// DR6, debug status.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Dr6: u64 {
        /// Breakpoint 0 met.
        const B0 = 1 << 0;
        /// Breakpoint 1 met.
        const B1 = 1 << 1;
        /// Breakpoint 2 met.
        const B2 = 1 << 2;
        /// Breakpoint 3 met.
        const B3 = 1 << 3;
        /// Debug register access with DR7.GD.
        const BD = 1 << 13;
        /// Single step.
        const BS = 1 << 14;
        /// Task switch with the T bit.
        const BT = 1 << 15;
        const _ = !0;
    }

    /// DR7, debug control.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Dr7: u64 {
        /// L0-L3 and G0-G3: any breakpoint enabled.
        const ANY_ENABLED = 0xff;
        /// Local exact, global exact.
        const LE_GE = 3 << 8;
        /// General detect: MOV DR raises #DB.
        const GD = 1 << 13;
        const _ = !0;
    }
}

impl Dr6 {
    /// Bits that read as 1 on processors without RTM and bus-lock detection.
    pub const FIXED: u64 = 0xffff_0ff0;
}

impl Dr7 {
    /// Bit 10 reads as 1.
    pub const FIXED: u64 = 0x400;
}
