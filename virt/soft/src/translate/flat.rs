//! 32-bit code over a flat address space (SDM vol. 1, 3.3 and 3.6): compatibility mode and protected
//! mode alike, where segments only add what FS and GS have as a base.
//!
//! An instruction is turned into the one of 64-bit mode that means the same, and translated like any
//! other. Three things differ: addresses wrap at 4 GiB, so they are formed by 32-bit LEA; the stack
//! moves by four bytes, ESP wrapping likewise; and EIP does.
//!
//! Invariant: while such code runs, the high halves of RAX to RDI are zero, as every 32-bit write
//! leaves them; whoever enters it has looked (`vcpu::native`).

use iced_x86::{Code, CodeSize, Instruction, Mnemonic, OpKind, Register};

use super::asm::Mem;
use super::emit::Emitter;
use super::facts::Gates;
use super::registers::{S0, S1};
use crate::cache::state::at;

/// The last page of the address space is the interpreter's, which knows what becomes of EIP beyond.
pub(crate) const LAST_PAGE: u64 = 0xffff_f000;

/// The instruction of 64-bit mode that means the same; `None` where there is none, or an operand
/// lies in a segment that is not whole, or addresses are of 16 bits.
pub(super) fn widened(ins: &Instruction, gates: Gates) -> Option<Instruction> {
    let mut wide = *ins;
    if ins.code_size() != CodeSize::Code32 || !widen_code(&mut wide) {
        return None;
    }
    wide.set_code_size(CodeSize::Code64);
    for index in 0..ins.op_count() {
        match ins.op_kind(index) {
            OpKind::NearBranch32 => {
                // EIP wraps; so do distances from the page's start.
                wide.set_op_kind(index, OpKind::NearBranch64);
                wide.set_near_branch64(i64::from(ins.near_branch32() as i32) as u64);
            }
            OpKind::MemorySegESI => wide.set_op_kind(index, OpKind::MemorySegRSI),
            OpKind::MemoryESEDI => wide.set_op_kind(index, OpKind::MemoryESRDI),
            OpKind::MemorySegSI | OpKind::MemoryESDI | OpKind::MemorySegDI => return None,
            OpKind::Memory => widen_memory(&mut wide)?,
            _ => {}
        }
    }
    match ins.memory_segment() {
        Register::CS => return None,
        Register::FS if !gates.fs => return None,
        Register::GS if !gates.gs => return None,
        Register::FS | Register::GS => {}
        _ => wide.set_segment_prefix(Register::None),
    }
    Some(wide)
}

/// Names the address registers by their whole width.
fn widen_memory(wide: &mut Instruction) -> Option<()> {
    let (base, index) = (wide.memory_base(), wide.memory_index());
    let sound = |register: Register| register == Register::None || register.is_gpr32();
    let bare = base == Register::None && index == Register::None;
    if !sound(base) || !sound(index) || bare && wide.memory_displ_size() != 4 {
        return None;
    }
    if base != Register::None {
        wide.set_memory_base(base.full_register());
    }
    if index != Register::None {
        wide.set_memory_index(index.full_register());
    }
    if bare {
        wide.set_memory_displ_size(8);
    }
    Some(())
}

/// Replaces the code where the mode is part of it; false if nothing of 64-bit mode means the same.
fn widen_code(wide: &mut Instruction) -> bool {
    use Code as C;
    let code = match wide.code() {
        C::Inc_r16 => C::Inc_rm16,
        C::Inc_r32 => C::Inc_rm32,
        C::Dec_r16 => C::Dec_rm16,
        C::Dec_r32 => C::Dec_rm32,
        C::Add_rm8_imm8_82 => C::Add_rm8_imm8,
        C::Or_rm8_imm8_82 => C::Or_rm8_imm8,
        C::Adc_rm8_imm8_82 => C::Adc_rm8_imm8,
        C::Sbb_rm8_imm8_82 => C::Sbb_rm8_imm8,
        C::And_rm8_imm8_82 => C::And_rm8_imm8,
        C::Sub_rm8_imm8_82 => C::Sub_rm8_imm8,
        C::Xor_rm8_imm8_82 => C::Xor_rm8_imm8,
        C::Cmp_rm8_imm8_82 => C::Cmp_rm8_imm8,
        C::Mov_AL_moffs8 => C::Mov_r8_rm8,
        C::Mov_AX_moffs16 => C::Mov_r16_rm16,
        C::Mov_EAX_moffs32 => C::Mov_r32_rm32,
        C::Mov_moffs8_AL => C::Mov_rm8_r8,
        C::Mov_moffs16_AX => C::Mov_rm16_r16,
        C::Mov_moffs32_EAX => C::Mov_rm32_r32,
        C::Push_r32 => C::Push_r64,
        C::Pushd_imm8 => C::Pushq_imm8,
        C::Pushd_imm32 => C::Pushq_imm32,
        C::Push_rm32 => C::Push_rm64,
        C::Pop_r32 => C::Pop_r64,
        C::Leaved => C::Leaveq,
        C::Pushfd => C::Pushfq,
        C::Popfd => C::Popfq,
        C::Jmp_rel8_32 => C::Jmp_rel8_64,
        C::Jmp_rel32_32 => C::Jmp_rel32_64,
        C::Call_rel32_32 => C::Call_rel32_64,
        C::Jmp_rm32 => C::Jmp_rm64,
        C::Call_rm32 => C::Call_rm64,
        C::Retnd => C::Retnq,
        C::Retnd_imm16 => C::Retnq_imm16,
        C::Mov_r32_cr => C::Mov_r64_cr,
        // Only 64-bit mode's are known.
        C::Syscall | C::Sysretd | C::Sysexitd => return false,
        _ if wide.is_jcc_short_or_near() => {
            return match wide.op0_kind() {
                OpKind::NearBranch32 => {
                    let at = C::Jo_rel32_64 as usize + 3 * condition_number(wide);
                    wide.set_code(C::try_from(at).expect("sixteen in a row of threes"));
                    true
                }
                _ => false,
            };
        }
        // It leaves YMM8 to YMM15 alone; so does VZEROUPPER (see `zero_low_uppers`).
        C::VEX_Vzeroall => return false,
        _ if is_gone(wide.mnemonic()) => return false,
        other => other,
    };
    let whole = matches!(
        code,
        C::Push_r64 | C::Push_rm64 | C::Pop_r64 | C::Jmp_rm64 | C::Call_rm64 | C::Mov_r64_cr
    );
    if whole && wide.op0_kind() == OpKind::Register {
        wide.set_op0_register(wide.op0_register().full_register());
    }
    match code {
        C::Pushq_imm8 => wide.set_op0_kind(OpKind::Immediate8to64),
        C::Pushq_imm32 => {
            wide.set_op0_kind(OpKind::Immediate32to64);
        }
        _ => {}
    }
    wide.set_code(code);
    true
}

/// What 64-bit mode has no more.
fn is_gone(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Daa
            | M::Das
            | M::Aaa
            | M::Aas
            | M::Aam
            | M::Aad
            | M::Salc
            | M::Arpl
            | M::Bound
            | M::Les
            | M::Lds
    )
}

/// Which of the sixteen conditions.
fn condition_number(ins: &Instruction) -> usize {
    usize::from(super::facts::condition(ins))
}

impl Emitter<'_> {
    /// Whether the guest's addresses and stack elements have 64 bits.
    pub(super) fn is_wide(&self) -> bool {
        !self.source.gates.flat
    }

    /// Bytes of a stack element.
    pub(super) fn word(&self) -> i32 {
        if self.is_wide() { 8 } else { 4 }
    }

    /// A register = a stack element's worth of data, zero-extended.
    pub(super) fn load_word(&mut self, to: u8, from: Mem) {
        let wide = self.is_wide();
        self.asm.rm(wide, &[0x8b], to, from);
    }

    /// Stores a stack element.
    pub(super) fn store_word(&mut self, to: Mem, from: u8) {
        let wide = self.is_wide();
        self.asm.rm(wide, &[0x89], from, to);
    }

    /// Stores a stack element, sign-extended.
    pub(super) fn store_word_imm(&mut self, to: Mem, value: i32) {
        if self.is_wide() {
            self.asm.store_imm(to, value);
        } else {
            self.asm.store_imm32(to, value);
        }
    }

    /// VZEROUPPER of 32-bit code, which knows eight registers.
    pub(super) fn zero_low_uppers(&mut self) {
        for register in 0..8u8 {
            // VMOVAPS XMM, XMM
            self.asm.bytes.extend([0xc5, 0xf8, 0x28, 0xc0 | register << 3 | register]);
        }
    }

    /// S0 = linear address of the memory operand, moved by a constant; changes S1.
    pub(super) fn flat_address(&mut self, ins: &Instruction, by: i32) {
        self.flat_offset(ins, S0, by);
        let segment = match ins.memory_segment() {
            Register::FS => 0,
            Register::GS => 1,
            _ => return,
        };
        self.asm.load32(S1, Mem::Gs(at::segment_base(segment)));
        self.asm.lea(false, S0, Some(S0), Some((S1, 0)), 0);
    }

    /// `to` = the memory operand's offset in its segment, moved by a constant.
    pub(super) fn flat_offset(&mut self, ins: &Instruction, to: u8, by: i32) {
        let number = |register: Register| {
            (register != Register::None).then(|| register.full_register().number() as u8)
        };
        let disp = (ins.memory_displacement64() as i32).wrapping_add(by);
        let base = number(ins.memory_base());
        let index = number(ins.memory_index());
        let index = index.map(|register| (register, ins.memory_index_scale().ilog2() as u8));
        if base.is_none() && index.is_none() {
            self.asm.constant(to, u64::from(disp as u32));
        } else {
            self.asm.lea(false, to, base, index, disp);
        }
    }
}
