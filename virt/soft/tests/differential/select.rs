//! Which instructions take part: all that are unprivileged, deterministic and announced.

use iced_x86::{Code, CpuidFeature, EncodingKind, Mnemonic, OpCodeOperandKind};
use soft::simd::host_features;
use x86::cpuid::Vendor;

/// The instructions of a code size, by the start of their mnemonic if given.
pub(crate) fn codes(bitness: u32, only: &str) -> Vec<Code> {
    Code::values()
        .filter(|&code| code != Code::INVALID && is_selected(code, bitness))
        .filter(|code| format!("{:?}", code.mnemonic()).to_lowercase().starts_with(only))
        .collect()
}

/// Near branches of operand size 16 in 64-bit mode, which AMD has.
fn is_short_branch(code: Code) -> bool {
    code.op_code()
        .op_kinds()
        .iter()
        .any(|&kind| matches!(kind, OpCodeOperandKind::br16_1 | OpCodeOperandKind::br16_2))
        || matches!(code, Code::Call_rm16 | Code::Jmp_rm16)
}

/// Whether the host is AMD's, as [`interp`] sees it.
pub(crate) fn host_is_amd() -> bool {
    let leaf = core::arch::x86_64::__cpuid(0);
    leaf.ebx == Vendor::Amd.words()[0]
}

fn is_selected(code: Code, bitness: u32) -> bool {
    let info = code.op_code();
    if is_short_branch(code) && (bitness != 64 || !host_is_amd()) {
        return false;
    }
    info.is_instruction()
        && info.is_available_in_mode(bitness)
        && matches!(code.encoding(), EncodingKind::Legacy | EncodingKind::VEX)
        && !info.is_privileged()
        && !info.is_input_output()
        && code.cpuid_features().iter().all(|&feature| is_announced(feature))
        && !info.op_kinds().iter().any(|&kind| is_excluded_operand(kind))
        && !is_excluded(code)
}

fn is_announced(feature: CpuidFeature) -> bool {
    let host = host_features();
    match feature {
        CpuidFeature::INTEL8086
        | CpuidFeature::INTEL186
        | CpuidFeature::INTEL286
        | CpuidFeature::INTEL386
        | CpuidFeature::INTEL486
        | CpuidFeature::X64
        | CpuidFeature::FPU
        | CpuidFeature::FPU287
        | CpuidFeature::FPU387
        | CpuidFeature::CMOV
        | CpuidFeature::CX8
        | CpuidFeature::FXSR
        | CpuidFeature::MMX
        | CpuidFeature::SSE
        | CpuidFeature::SSE2
        | CpuidFeature::MULTIBYTENOP
        | CpuidFeature::PAUSE => true,
        CpuidFeature::CMPXCHG16B => std::is_x86_feature_detected!("cmpxchg16b"),
        CpuidFeature::SSE3 => std::is_x86_feature_detected!("sse3"),
        CpuidFeature::SSSE3 => std::is_x86_feature_detected!("ssse3"),
        CpuidFeature::SSE4_1 => std::is_x86_feature_detected!("sse4.1"),
        CpuidFeature::SSE4_2 => std::is_x86_feature_detected!("sse4.2"),
        CpuidFeature::POPCNT => std::is_x86_feature_detected!("popcnt"),
        CpuidFeature::LZCNT => std::is_x86_feature_detected!("lzcnt"),
        CpuidFeature::BMI1 => std::is_x86_feature_detected!("bmi1"),
        CpuidFeature::BMI2 => std::is_x86_feature_detected!("bmi2"),
        CpuidFeature::ADX => std::is_x86_feature_detected!("adx"),
        CpuidFeature::MOVBE => std::is_x86_feature_detected!("movbe"),
        CpuidFeature::AVX => std::is_x86_feature_detected!("avx"),
        CpuidFeature::AVX2 => std::is_x86_feature_detected!("avx2"),
        CpuidFeature::FMA => std::is_x86_feature_detected!("fma"),
        CpuidFeature::F16C => std::is_x86_feature_detected!("f16c"),
        CpuidFeature::AES => std::is_x86_feature_detected!("aes"),
        CpuidFeature::PCLMULQDQ => std::is_x86_feature_detected!("pclmulqdq"),
        CpuidFeature::SHA => host.leaf7_ebx >> 29 & 1 != 0,
        CpuidFeature::XSAVE | CpuidFeature::XSAVEOPT | CpuidFeature::XSAVEC => {
            std::is_x86_feature_detected!("xsavec")
        }
        _ => false,
    }
}

fn is_excluded_operand(kind: OpCodeOperandKind) -> bool {
    matches!(
        kind,
        OpCodeOperandKind::seg_reg
            | OpCodeOperandKind::cr_reg
            | OpCodeOperandKind::dr_reg
            | OpCodeOperandKind::tr_reg
            | OpCodeOperandKind::farbr2_2
            | OpCodeOperandKind::farbr4_2
            | OpCodeOperandKind::es
            | OpCodeOperandKind::cs
            | OpCodeOperandKind::ss
            | OpCodeOperandKind::ds
            | OpCodeOperandKind::fs
            | OpCodeOperandKind::gs
            | OpCodeOperandKind::brdisp_2
            | OpCodeOperandKind::brdisp_4
    )
}

/// Instructions that leave the child's world, depend on what this test does not control, or whose
/// pieces iced lists twice (those with WAIT in front).
fn is_excluded(code: Code) -> bool {
    use Mnemonic as M;
    let pseudo = matches!(
        code,
        Code::Finit | Code::Fclex | Code::Fstcw_m2byte | Code::Fstsw_m2byte | Code::Fstsw_AX
    );
    pseudo
        || code.op_code().fwait()
        || matches!(
            code.mnemonic(),
            // System calls, far transfers, interrupts.
            M::Syscall | M::Sysenter | M::Int | M::Int1 | M::Int3 | M::Into | M::Iret | M::Iretd
                | M::Iretq | M::Retf | M::Sysret | M::Sysretq | M::Sysexit | M::Sysexitq
                | M::Jmpe | M::Loadall | M::Call | M::Jmp if is_far(code)
        )
        || matches!(
            code.mnemonic(),
            // Segment and system registers.
            M::Lds | M::Les | M::Lss | M::Lfs | M::Lgs | M::Lar | M::Lsl | M::Verr | M::Verw
                | M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw | M::Arpl | M::Cli | M::Sti
                // Time, identity, the environment.
                | M::Cpuid | M::Xgetbv | M::Ud0 | M::Ud1
                // Undocumented forms.
                | M::Salc | M::Fstdw | M::Fstsg | M::Fnstdw | M::Fnstsg | M::Fsetpm | M::Frstpm
                | M::Fstpnce
                // Addresses that translations may keep: no effect to compare.
                | M::Bound
        )
}

/// CALL and JMP through a far pointer, and whatever else is only listed with them.
fn is_far(code: Code) -> bool {
    !matches!(code.mnemonic(), Mnemonic::Call | Mnemonic::Jmp)
        || !matches!(
            code,
            Code::Call_rel16
                | Code::Call_rm16
                | Code::Jmp_rel8_16
                | Code::Jmp_rel16
                | Code::Jmp_rm16
                | Code::Call_rel32_32
                | Code::Call_rel32_64
                | Code::Call_rm32
                | Code::Call_rm64
                | Code::Jmp_rel8_32
                | Code::Jmp_rel8_64
                | Code::Jmp_rel32_32
                | Code::Jmp_rel32_64
                | Code::Jmp_rm32
                | Code::Jmp_rm64
        )
}
