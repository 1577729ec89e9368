//! What CPUID announces decides what decodes: an instruction of a missing feature raises #UD.
//! Bits: SDM vol. 2A, CPUID; APM vol. 3, appendix E.
//!
//! Features not listed are either in every 64-bit processor or nothing an instruction group
//! implements. SVM, VMX and SMX are the system group's decision.

use iced_x86::{Code, CpuidFeature, Instruction, OpKind};

use super::CodeSize;
use crate::bus::Bus;
use crate::exec::system::cpuid::is_amd;

/// A CPUID register.
#[derive(Clone, Copy)]
enum Output {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

use Output::{Eax, Ebx, Ecx, Edx};

/// Leaf, subleaf, register, bit.
type Location = (u32, u32, Output, u8);

const EXTENDED: u32 = 0x8000_0001;

/// Whether CPUID announces all that an instruction needs.
pub fn announced<B: Bus>(instruction: &Instruction, size: CodeSize, bus: &mut B) -> bool {
    if matches!(instruction.code(), Code::Lahf | Code::Sahf) && size == CodeSize::Bits64 {
        return is_set(bus, (EXTENDED, 0, Ecx, 0));
    }
    if is_register_prefetch(instruction) && is_amd(bus) {
        return false;
    }
    instruction
        .cpuid_features()
        .iter()
        .all(|&feature| location(feature).is_none_or(|place| is_set(bus, place)))
}

/// 0F 0D with a register: no operation on Intel, undefined on AMD (APM vol. 3, PREFETCHx).
pub fn is_register_prefetch(instruction: &Instruction) -> bool {
    let prefetch = matches!(
        instruction.code(),
        Code::Reservednop_rm16_r16_0F0D
            | Code::Reservednop_rm32_r32_0F0D
            | Code::Reservednop_rm64_r64_0F0D
    );
    prefetch && instruction.op0_kind() == OpKind::Register
}

fn is_set<B: Bus>(bus: &mut B, (leaf, subleaf, output, bit): Location) -> bool {
    let result = bus.cpuid(leaf, subleaf);
    let value = match output {
        Eax => result.eax,
        Ebx => result.ebx,
        Ecx => result.ecx,
        Edx => result.edx,
    };
    value >> bit & 1 != 0
}

/// Where CPUID announces a feature: leaf, subleaf, register (0 for EAX to 3 for EDX), bit.
pub fn bit_of(feature: CpuidFeature) -> Option<(u32, u32, usize, u8)> {
    location(feature).map(|(leaf, subleaf, output, bit)| (leaf, subleaf, output as usize, bit))
}

/// Where CPUID announces a feature.
fn location(feature: CpuidFeature) -> Option<Location> {
    use CpuidFeature as F;
    let place = match feature {
        F::FPU => (1, 0, Edx, 0),
        F::TSC => (1, 0, Edx, 4),
        F::MSR => (1, 0, Edx, 5),
        F::CX8 => (1, 0, Edx, 8),
        F::SEP => (1, 0, Edx, 11),
        F::CMOV => (1, 0, Edx, 15),
        F::CLFSH => (1, 0, Edx, 19),
        F::MMX => (1, 0, Edx, 23),
        F::FXSR => (1, 0, Edx, 24),
        F::SSE => (1, 0, Edx, 25),
        F::SSE2 => (1, 0, Edx, 26),
        F::SSE3 => (1, 0, Ecx, 0),
        F::PCLMULQDQ => (1, 0, Ecx, 1),
        F::MONITOR => (1, 0, Ecx, 3),
        F::SSSE3 => (1, 0, Ecx, 9),
        F::FMA => (1, 0, Ecx, 12),
        F::CMPXCHG16B => (1, 0, Ecx, 13),
        F::SSE4_1 => (1, 0, Ecx, 19),
        F::SSE4_2 => (1, 0, Ecx, 20),
        F::MOVBE => (1, 0, Ecx, 22),
        F::POPCNT => (1, 0, Ecx, 23),
        F::AES => (1, 0, Ecx, 25),
        F::XSAVE => (1, 0, Ecx, 26),
        F::AVX => (1, 0, Ecx, 28),
        F::F16C => (1, 0, Ecx, 29),
        F::RDRAND => (1, 0, Ecx, 30),
        F::XSAVEOPT => (0xd, 1, Eax, 0),
        F::XSAVEC => (0xd, 1, Eax, 1),
        F::XSAVES => (0xd, 1, Eax, 3),
        F::PTWRITE => (0x14, 0, Ebx, 4),
        F::SYSCALL => (EXTENDED, 0, Edx, 11),
        F::RDTSCP => (EXTENDED, 0, Edx, 27),
        F::D3NOWEXT => (EXTENDED, 0, Edx, 30),
        F::D3NOW => (EXTENDED, 0, Edx, 31),
        F::LZCNT => (EXTENDED, 0, Ecx, 5),
        F::SSE4A => (EXTENDED, 0, Ecx, 6),
        F::XOP => (EXTENDED, 0, Ecx, 11),
        F::LWP => (EXTENDED, 0, Ecx, 15),
        F::FMA4 => (EXTENDED, 0, Ecx, 16),
        F::TBM => (EXTENDED, 0, Ecx, 21),
        F::MONITORX => (EXTENDED, 0, Ecx, 29),
        F::CLZERO => (0x8000_0008, 0, Ebx, 0),
        F::RDPRU => (0x8000_0008, 0, Ebx, 4),
        F::WBNOINVD => (0x8000_0008, 0, Ebx, 9),
        other => return structured(other),
    };
    Some(place)
}

/// Leaf 7, structured extended features.
fn structured(feature: CpuidFeature) -> Option<Location> {
    use CpuidFeature as F;
    let place = match feature {
        F::FSGSBASE => (7, 0, Ebx, 0),
        F::BMI1 => (7, 0, Ebx, 3),
        F::AVX2 => (7, 0, Ebx, 5),
        F::BMI2 => (7, 0, Ebx, 8),
        F::INVPCID => (7, 0, Ebx, 10),
        F::RTM => (7, 0, Ebx, 11),
        F::MPX => (7, 0, Ebx, 14),
        F::AVX512F => (7, 0, Ebx, 16),
        F::AVX512DQ => (7, 0, Ebx, 17),
        F::RDSEED => (7, 0, Ebx, 18),
        F::ADX => (7, 0, Ebx, 19),
        F::SMAP => (7, 0, Ebx, 20),
        F::AVX512_IFMA => (7, 0, Ebx, 21),
        F::CLFLUSHOPT => (7, 0, Ebx, 23),
        F::CLWB => (7, 0, Ebx, 24),
        F::AVX512PF => (7, 0, Ebx, 26),
        F::AVX512ER => (7, 0, Ebx, 27),
        F::AVX512CD => (7, 0, Ebx, 28),
        F::SHA => (7, 0, Ebx, 29),
        F::AVX512BW => (7, 0, Ebx, 30),
        F::AVX512VL => (7, 0, Ebx, 31),
        F::AVX512_VBMI => (7, 0, Ecx, 1),
        F::PKU => (7, 0, Ecx, 3),
        F::WAITPKG => (7, 0, Ecx, 5),
        F::AVX512_VBMI2 => (7, 0, Ecx, 6),
        F::CET_SS => (7, 0, Ecx, 7),
        F::GFNI => (7, 0, Ecx, 8),
        F::VAES => (7, 0, Ecx, 9),
        F::VPCLMULQDQ => (7, 0, Ecx, 10),
        F::AVX512_VNNI => (7, 0, Ecx, 11),
        F::AVX512_BITALG => (7, 0, Ecx, 12),
        F::AVX512_VPOPCNTDQ => (7, 0, Ecx, 14),
        F::RDPID => (7, 0, Ecx, 22),
        F::MOVDIRI => (7, 0, Ecx, 27),
        F::MOVDIR64B => (7, 0, Ecx, 28),
        F::ENQCMD => (7, 0, Ecx, 29),
        F::AVX512_4VNNIW => (7, 0, Edx, 2),
        F::AVX512_4FMAPS => (7, 0, Edx, 3),
        F::UINTR => (7, 0, Edx, 5),
        F::AVX512_VP2INTERSECT => (7, 0, Edx, 8),
        F::SERIALIZE => (7, 0, Edx, 14),
        F::TSXLDTRK => (7, 0, Edx, 16),
        F::AMX_BF16 => (7, 0, Edx, 22),
        F::AVX512_FP16 => (7, 0, Edx, 23),
        F::AMX_TILE => (7, 0, Edx, 24),
        F::AMX_INT8 => (7, 0, Edx, 25),
        F::SHA512 => (7, 1, Eax, 0),
        F::SM3 => (7, 1, Eax, 1),
        F::SM4 => (7, 1, Eax, 2),
        F::RAO_INT => (7, 1, Eax, 3),
        F::AVX_VNNI => (7, 1, Eax, 4),
        F::AVX512_BF16 => (7, 1, Eax, 5),
        F::CMPCCXADD => (7, 1, Eax, 7),
        F::WRMSRNS => (7, 1, Eax, 19),
        F::AVX_IFMA => (7, 1, Eax, 23),
        F::AVX_VNNI_INT8 => (7, 1, Edx, 4),
        F::AVX_NE_CONVERT => (7, 1, Edx, 5),
        F::AVX_VNNI_INT16 => (7, 1, Edx, 10),
        _ => return None,
    };
    Some(place)
}
