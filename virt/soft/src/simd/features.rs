//! Which vector features the host's unit can execute for a guest.

use iced_x86::CpuidFeature;

/// Vector feature bits of CPUID that the host has and the interpreter can use: a guest's table
/// masks its own by these. Bits that have nothing to do with vectors are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostFeatures {
    /// Leaf 1 EDX: FPU, MMX, FXSR, SSE, SSE2.
    pub leaf1_edx: u32,
    /// Leaf 1 ECX: SSE3, PCLMULQDQ, SSSE3, FMA, SSE4.1, SSE4.2, AES, AVX, F16C (and XSAVE, which
    /// needs no host).
    pub leaf1_ecx: u32,
    /// Leaf 7 EBX: AVX2, SHA; and bit 13, which says that FCS and FDS read as zero.
    pub leaf7_ebx: u32,
    /// Leaf 13, subleaf 1, EAX: XSAVEOPT, XSAVEC, XGETBV with ECX = 1. (XSAVES, bit 3, is
    /// implemented but wants IA32_XSS announced and answered first.)
    pub leaf13_eax: u32,
}

const FPU: u32 = 1 << 0;
const MMX: u32 = 1 << 23;
const FXSR: u32 = 1 << 24;
const SSE: u32 = 1 << 25;
const SSE2: u32 = 1 << 26;
const SSE3: u32 = 1 << 0;
const PCLMULQDQ: u32 = 1 << 1;
const SSSE3: u32 = 1 << 9;
const FMA: u32 = 1 << 12;
const SSE4_1: u32 = 1 << 19;
const SSE4_2: u32 = 1 << 20;
const AES: u32 = 1 << 25;
const XSAVE: u32 = 1 << 26;
const OSXSAVE: u32 = 1 << 27;
const AVX: u32 = 1 << 28;
const F16C: u32 = 1 << 29;
const AVX2: u32 = 1 << 5;
const FDP_NO_SELECTORS: u32 = 1 << 13;
const SHA: u32 = 1 << 29;
const LEGACY: u32 = SSE3 | PCLMULQDQ | SSSE3 | SSE4_1 | SSE4_2 | AES;

/// Asks the host.
pub fn host_features() -> HostFeatures {
    let leaf1 = core::arch::x86_64::__cpuid_count(1, 0);
    let leaf7 = if core::arch::x86_64::__cpuid_count(0, 0).eax >= 7 {
        core::arch::x86_64::__cpuid_count(7, 0).ebx
    } else {
        0
    };
    let avx = leaf1.ecx & (AVX | OSXSAVE) == AVX | OSXSAVE;
    let mut leaf1_ecx = leaf1.ecx & LEGACY | XSAVE;
    let mut leaf7_ebx = leaf7 & SHA | FDP_NO_SELECTORS;
    if avx {
        leaf1_ecx |= leaf1.ecx & (AVX | FMA | F16C);
        leaf7_ebx |= leaf7 & AVX2;
    }
    HostFeatures {
        leaf1_edx: leaf1.edx & (FPU | MMX | FXSR | SSE | SSE2),
        leaf1_ecx,
        leaf7_ebx,
        leaf13_eax: 0b0111,
    }
}

impl HostFeatures {
    /// Whether instructions of a feature can be executed.
    pub(super) fn has(&self, feature: CpuidFeature) -> bool {
        let edx = |bit| self.leaf1_edx & bit != 0;
        let ecx = |bit| self.leaf1_ecx & bit != 0;
        match feature {
            CpuidFeature::FPU
            | CpuidFeature::FPU287
            | CpuidFeature::FPU387
            | CpuidFeature::CMOV
            | CpuidFeature::INTEL8086
            | CpuidFeature::INTEL286
            | CpuidFeature::INTEL386
            | CpuidFeature::X64 => edx(FPU),
            CpuidFeature::MMX => edx(MMX),
            CpuidFeature::FXSR => edx(FXSR),
            CpuidFeature::SSE => edx(SSE),
            CpuidFeature::SSE2 => edx(SSE2),
            CpuidFeature::SSE3 => ecx(SSE3),
            CpuidFeature::SSSE3 => ecx(SSSE3),
            CpuidFeature::SSE4_1 => ecx(SSE4_1),
            CpuidFeature::SSE4_2 => ecx(SSE4_2),
            CpuidFeature::PCLMULQDQ => ecx(PCLMULQDQ),
            CpuidFeature::AES => ecx(AES),
            CpuidFeature::AVX => ecx(AVX),
            CpuidFeature::FMA => ecx(FMA),
            CpuidFeature::F16C => ecx(F16C),
            CpuidFeature::XSAVE => ecx(XSAVE),
            CpuidFeature::XSAVEOPT => self.leaf13_eax & 1 != 0,
            CpuidFeature::XSAVEC => self.leaf13_eax & 2 != 0,
            CpuidFeature::XSAVES => self.leaf13_eax & 8 != 0,
            CpuidFeature::AVX2 => self.leaf7_ebx & AVX2 != 0,
            CpuidFeature::SHA => self.leaf7_ebx & SHA != 0,
            _ => false,
        }
    }
}
