//! Which opcodes random programs are made of, by kind, so that each kind gets its share.

use iced_x86::{Code, Mnemonic, OpCodeOperandKind as K};

use crate::random::Random;
use crate::select;

/// Opcodes by kind.
pub(crate) struct Opcodes {
    /// What compilers write.
    common: Vec<Code>,
    /// All else over general registers.
    integer: Vec<Code>,
    vector: Vec<Code>,
    x87: Vec<Code>,
}

impl Opcodes {
    pub(crate) fn new(bits: u32) -> Self {
        let mut all = Self { common: vec![], integer: vec![], vector: vec![], x87: vec![] };
        for code in select::codes(bits, "") {
            if !takes_part(code) {
                continue;
            }
            let kinds = code.op_code().op_kinds();
            let has = |test: fn(K) -> bool| kinds.iter().any(|&kind| test(kind));
            if has(is_xmm) {
                all.vector.push(code);
            } else if has(is_x87) || format!("{:?}", code.mnemonic()).starts_with('F') {
                all.x87.push(code);
            } else if is_common(code.mnemonic()) {
                all.common.push(code);
            } else {
                all.integer.push(code);
            }
        }
        all
    }

    /// A random one. `leaning`: which of vector (1) or x87 (2) units the program likes.
    pub(crate) fn pick(&self, random: &mut Random, leaning: u64) -> Code {
        let from = match (random.below(16), leaning) {
            (0..=6, _) => &self.common,
            (7..=9, _) => &self.integer,
            (10..=14, 1) | (10, _) => &self.vector,
            (10..=14, 2) | (11, _) => &self.x87,
            _ => &self.common,
        };
        random.pick(from)
    }
}

fn is_xmm(kind: K) -> bool {
    matches!(
        kind,
        K::xmm_or_mem
            | K::ymm_or_mem
            | K::xmm_reg
            | K::ymm_reg
            | K::xmm_rm
            | K::ymm_rm
            | K::xmm_vvvv
            | K::ymm_vvvv
            | K::xmm_is4
            | K::ymm_is4
    )
}

fn is_x87(kind: K) -> bool {
    matches!(kind, K::st0 | K::sti_opcode | K::mm_or_mem | K::mm_reg | K::mm_rm)
}

fn is_common(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Mov
            | M::Movzx
            | M::Movsx
            | M::Movsxd
            | M::Lea
            | M::Add
            | M::Sub
            | M::Cmp
            | M::Test
            | M::And
            | M::Or
            | M::Xor
            | M::Inc
            | M::Dec
            | M::Neg
            | M::Not
            | M::Adc
            | M::Sbb
            | M::Shl
            | M::Shr
            | M::Sar
            | M::Imul
            | M::Xchg
            | M::Bt
            | M::Bts
    ) || format!("{mnemonic:?}").starts_with("Cmov")
        || format!("{mnemonic:?}").starts_with("Set")
}

/// Not what the program's own steps make, what moves RSP or RIP, or what shows processor
/// bookkeeping (x87 pointers, XSTATE_BV).
fn takes_part(code: Code) -> bool {
    use Mnemonic as M;
    let info = code.op_code();
    let excluded = code.is_jcc_short_or_near()
        || code.is_jmp_short_or_near()
        || code.is_jmp_near_indirect()
        || code.is_call_near()
        || code.is_call_near_indirect()
        || code.is_loop()
        || code.is_loopcc()
        || info.is_stack_instruction()
        || code.is_string_instruction()
        || info.is_save_restore();
    !excluded
        && !matches!(
            code.mnemonic(),
            M::Ret | M::Enter | M::Leave | M::Popf | M::Popfq | M::Maskmovq | M::Maskmovdqu
                | M::Vmaskmovdqu | M::Xlatb | M::Fnstenv | M::Fldenv | M::Fnsave | M::Frstor
                // Underflows by rules of its own.
                | M::Vcvtps2ph
                // Which flags of MXCSR an unmasked exception of one stage leaves of the other is
                // each processor's own.
                | M::Dpps | M::Dppd | M::Vdpps | M::Vdppd
                // Whole conditions of their own.
                | M::Loop | M::Loope | M::Loopne | M::Jrcxz | M::Jecxz
        )
}
