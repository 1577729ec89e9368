//! Random operands for an opcode, and the registers and memory that make them meaningful.

use iced_x86::{Instruction, Mnemonic, OpCodeInfo, OpCodeOperandKind as K, OpKind, Register};

use crate::case::{CODE, Machine, START, WINDOW, WINDOW_SIZE};
use crate::random::Random;

/// Builds one instruction.
pub(crate) struct Builder<'a> {
    pub(crate) random: &'a mut Random,
    pub(crate) machine: &'a mut Machine,
    pub(crate) bitness: u32,
    /// The first of its sequence: registers may be set so that its operands make sense.
    pub(crate) first: bool,
    /// Where the explicit memory operand lies.
    pub(crate) target: Option<u64>,
}

impl Builder<'_> {
    /// The instruction with all its operands; `None` for kinds that are not generated.
    pub(crate) fn build(&mut self, info: &OpCodeInfo) -> Option<Instruction> {
        let mut instruction = Instruction::new();
        instruction.set_code(info.code());
        let mut immediates = 0;
        for (index, &kind) in info.op_kinds().iter().enumerate() {
            self.operand(&mut instruction, index as u32, kind, &mut immediates)?;
        }
        Some(instruction)
    }

    fn operand(
        &mut self,
        instruction: &mut Instruction,
        index: u32,
        kind: K,
        immediates: &mut u32,
    ) -> Option<()> {
        if let Some(register) = self.register(kind) {
            instruction.set_op_kind(index, OpKind::Register);
            instruction.set_op_register(index, register);
            return Some(());
        }
        match kind {
            K::mem
            | K::mem_vsib32x
            | K::mem_vsib32y
            | K::mem_vsib64x
            | K::mem_vsib64y
            | K::r8_or_mem
            | K::r16_or_mem
            | K::r32_or_mem
            | K::r64_or_mem
            | K::mm_or_mem
            | K::xmm_or_mem
            | K::ymm_or_mem => {
                instruction.set_op_kind(index, OpKind::Memory);
                self.memory(instruction, kind)
            }
            K::mem_offs => {
                instruction.set_op_kind(index, OpKind::Memory);
                let target = self.pick_target();
                self.target = Some(target);
                instruction.set_memory_displ_size(self.bitness / 8);
                instruction.set_memory_displacement64(target);
                Some(())
            }
            K::seg_rSI => {
                self.string(instruction, index, [OpKind::MemorySegRSI, OpKind::MemorySegESI], 6)
            }
            K::es_rDI => {
                self.string(instruction, index, [OpKind::MemoryESRDI, OpKind::MemoryESEDI], 7)
            }
            K::seg_rDI => {
                self.string(instruction, index, [OpKind::MemorySegRDI, OpKind::MemorySegEDI], 7)
            }
            K::seg_rBX_al => {
                instruction.set_op_kind(index, OpKind::Memory);
                instruction.set_memory_base(if self.bitness == 64 {
                    Register::RBX
                } else {
                    Register::EBX
                });
                instruction.set_memory_index(Register::AL);
                if self.first {
                    self.machine.gpr[3] = self.pick_target();
                }
                Some(())
            }
            K::br16_1 | K::br16_2 => {
                // Only on AMD, in 64-bit mode: to where nothing is.
                instruction.set_op_kind(index, OpKind::NearBranch16);
                let after = (CODE + START as u64) as u16;
                let away = self.random.below(100) as u16;
                let back = self.random.once_in(2);
                instruction.set_near_branch16(if back {
                    after.wrapping_sub(away)
                } else {
                    after.wrapping_add(away)
                });
                Some(())
            }
            K::br32_1 | K::br32_4 | K::br64_1 | K::br64_4 => {
                let short = matches!(kind, K::br32_1 | K::br64_1);
                let away =
                    if short { 40 + self.random.below(60) } else { 64 + self.random.below(900) };
                let back = self.random.once_in(2);
                let start = CODE + START as u64;
                let target = if back { start - away } else { start + away };
                let kind =
                    if self.bitness == 64 { OpKind::NearBranch64 } else { OpKind::NearBranch32 };
                instruction.set_op_kind(index, kind);
                if self.bitness == 64 {
                    instruction.set_near_branch64(target);
                } else {
                    instruction.set_near_branch32(target as u32);
                }
                Some(())
            }
            _ => self.immediate(instruction, index, kind, immediates),
        }
    }

    /// A register operand, where the kind allows one (and chance prefers it to memory).
    fn register(&mut self, kind: K) -> Option<Register> {
        let either = matches!(
            kind,
            K::r8_or_mem
                | K::r16_or_mem
                | K::r32_or_mem
                | K::r64_or_mem
                | K::mm_or_mem
                | K::xmm_or_mem
                | K::ymm_or_mem
        );
        if either && self.random.once_in(2) {
            return None;
        }
        let count = if self.bitness == 64 { 16 } else { 8 };
        let number = self.random.below(count) as u32;
        Some(match kind {
            K::r8_or_mem | K::r8_reg | K::r8_opcode => self.byte_register(number),
            K::r16_or_mem | K::r16_reg | K::r16_rm | K::r16_opcode | K::r16_reg_mem => {
                Register::AX + number
            }
            K::r32_or_mem
            | K::r32_reg
            | K::r32_rm
            | K::r32_opcode
            | K::r32_vvvv
            | K::r32_reg_mem => Register::EAX + number,
            K::r64_or_mem
            | K::r64_reg
            | K::r64_rm
            | K::r64_opcode
            | K::r64_vvvv
            | K::r64_reg_mem => Register::RAX + number,
            K::mm_or_mem | K::mm_reg | K::mm_rm => Register::MM0 + (number & 7),
            K::xmm_or_mem | K::xmm_reg | K::xmm_rm | K::xmm_vvvv | K::xmm_is4 => {
                Register::XMM0 + number
            }
            K::ymm_or_mem | K::ymm_reg | K::ymm_rm | K::ymm_vvvv | K::ymm_is4 => {
                Register::YMM0 + number
            }
            K::al => Register::AL,
            K::cl => Register::CL,
            K::ax => Register::AX,
            K::dx => Register::DX,
            K::eax => Register::EAX,
            K::rax => Register::RAX,
            K::st0 => Register::ST0,
            K::sti_opcode => Register::ST0 + (number & 7),
            _ => return None,
        })
    }

    fn byte_register(&mut self, number: u32) -> Register {
        if number < 4 && self.random.once_in(3) {
            Register::AH + number
        } else if self.bitness == 64 && number >= 4 {
            Register::SPL + (number - 4)
        } else {
            Register::AL + (number & 3)
        }
    }

    fn immediate(
        &mut self,
        instruction: &mut Instruction,
        index: u32,
        kind: K,
        immediates: &mut u32,
    ) -> Option<()> {
        let value = self.random.integer();
        let second = *immediates > 0;
        *immediates += 1;
        let mut set = |kind| instruction.set_op_kind(index, kind);
        match kind {
            K::imm8 if second => {
                set(OpKind::Immediate8_2nd);
                instruction.set_immediate8_2nd(value as u8);
            }
            K::imm8 => {
                set(OpKind::Immediate8);
                instruction.set_immediate8(value as u8);
            }
            K::imm8_const_1 => {
                set(OpKind::Immediate8);
                instruction.set_immediate8(1);
            }
            K::imm8sex16 => {
                set(OpKind::Immediate8to16);
                instruction.set_immediate8to16(i16::from(value as i8));
            }
            K::imm8sex32 => {
                set(OpKind::Immediate8to32);
                instruction.set_immediate8to32(i32::from(value as i8));
            }
            K::imm8sex64 => {
                set(OpKind::Immediate8to64);
                instruction.set_immediate8to64(i64::from(value as i8));
            }
            K::imm16 => {
                set(OpKind::Immediate16);
                instruction.set_immediate16(value as u16);
            }
            K::imm32 => {
                set(OpKind::Immediate32);
                instruction.set_immediate32(value as u32);
            }
            K::imm32sex64 => {
                set(OpKind::Immediate32to64);
                instruction.set_immediate32to64(i64::from(value as i32));
            }
            K::imm64 => {
                set(OpKind::Immediate64);
                instruction.set_immediate64(value);
            }
            _ => return None,
        }
        Some(())
    }

    /// An address of data: mostly well inside, sometimes at an edge or nowhere.
    pub(crate) fn pick_target(&mut self) -> u64 {
        let offset = match self.random.below(32) {
            0 => self.random.below(96).wrapping_sub(48),
            1 => WINDOW_SIZE as u64 - self.random.below(96),
            2 => 0x1000 - self.random.below(64),
            3 if self.bitness == 64 => return self.random.integer(),
            _ => 0x200 + self.random.below(0x1a00),
        };
        let alignment = self.random.pick(&[1u64, 1, 4, 8, 16, 32, 64, 64]);
        WINDOW.wrapping_add(offset) & !(alignment - 1)
    }

    fn string(
        &mut self,
        instruction: &mut Instruction,
        index: u32,
        kinds: [OpKind; 2],
        register: usize,
    ) -> Option<()> {
        let narrow = self.bitness == 32;
        instruction.set_op_kind(index, kinds[usize::from(narrow)]);
        if self.first {
            self.machine.gpr[register] = self.pick_target();
        }
        Some(())
    }

    fn memory(&mut self, instruction: &mut Instruction, kind: K) -> Option<()> {
        let target = self.pick_target();
        self.target = Some(target);
        let vsib =
            matches!(kind, K::mem_vsib32x | K::mem_vsib32y | K::mem_vsib64x | K::mem_vsib64y);
        if vsib && !self.first {
            // It needs registers of its own, which the first instruction may use.
            return None;
        }
        if vsib {
            return self.vsib(instruction, kind, target);
        }
        // 32-bit addresses reach what lies below 4 GiB.
        let narrow = self.bitness == 32 || self.random.once_in(10) && target >> 32 == 0;
        let signed = if narrow { i64::from(target as i32) } else { target as i64 };
        let absolute = i64::from(signed as i32) == signed;
        match self.random.below(6) {
            0 if self.bitness == 64 && absolute => {
                instruction.set_memory_base(Register::RIP);
                instruction.set_memory_displ_size(8);
                instruction.set_memory_displacement64(target);
                return Some(());
            }
            1 if absolute => return self.bare(instruction, target),
            _ if !self.first => return absolute.then(|| self.bare(instruction, target))?,
            _ => {}
        }
        let count = if self.bitness == 64 { 16 } else { 8 };
        let base = self.random.below(count) as u32;
        let index = self.random.below(count) as u32;
        let with_index = self.random.once_in(3) && index != 4 && index != base;
        let displacement = match self.random.below(3) {
            0 => 0,
            1 => i64::from(self.random.next() as i8),
            _ => i64::from(self.random.next() as i32),
        };
        let first = if narrow { Register::EAX } else { Register::RAX };
        instruction.set_memory_base(first + base);
        instruction.set_memory_displ_size(if displacement == 0 { 0 } else { 1 });
        instruction.set_memory_displacement64(displacement as u64);
        let mut value = target.wrapping_sub(displacement as u64);
        if with_index {
            let scale = 1 << self.random.below(4);
            instruction.set_memory_index(first + index);
            instruction.set_memory_index_scale(scale);
            let offset = self.machine.gpr[index as usize].wrapping_mul(u64::from(scale));
            value = value.wrapping_sub(offset);
        }
        if self.bitness == 32 {
            value &= 0xffff_ffff;
        } else if narrow {
            value = value & 0xffff_ffff | self.random.next() << 32;
        }
        self.machine.gpr[base as usize] = value;
        Some(())
    }

    /// An address without registers.
    fn bare(&mut self, instruction: &mut Instruction, target: u64) -> Option<()> {
        instruction.set_memory_displ_size(if self.bitness == 64 { 8 } else { 4 });
        instruction.set_memory_displacement64(target);
        Some(())
    }

    /// Base plus a vector of indices, made small so that most elements exist.
    fn vsib(&mut self, instruction: &mut Instruction, kind: K, target: u64) -> Option<()> {
        let count = if self.bitness == 64 { 16 } else { 8 };
        let (base, number) = (self.random.below(count) as u32, self.random.below(count) as u32);
        let wide = matches!(kind, K::mem_vsib32y | K::mem_vsib64y);
        let first = if self.bitness == 64 { Register::RAX } else { Register::EAX };
        instruction.set_memory_base(first + base);
        instruction.set_memory_index(if wide { Register::YMM0 } else { Register::XMM0 } + number);
        instruction.set_memory_index_scale(1 << self.random.below(4));
        instruction.set_memory_displ_size(1);
        instruction.set_memory_displacement64(0x10);
        self.machine.gpr[base as usize] = target.wrapping_sub(0x10);
        let step = if matches!(kind, K::mem_vsib32x | K::mem_vsib32y) { 4 } else { 8 };
        let at = number as usize * 16;
        for start in [160 + at, 576 + at] {
            for place in (start..start + 16).step_by(step) {
                let index = (self.random.below(120) as i64 - 60).to_le_bytes();
                self.machine.image[place..place + step].copy_from_slice(&index[..step]);
            }
        }
        Some(())
    }
}

/// Whether an instruction's count or operands would be undefined by the manuals, such as shifting
/// a 16-bit pair by more than 16.
pub(crate) fn is_undefined(instruction: &Instruction) -> bool {
    match instruction.mnemonic() {
        Mnemonic::Bswap => instruction.op0_register().size() == 2,
        Mnemonic::Shld | Mnemonic::Shrd if is_word_pair(instruction) => {
            instruction.op2_kind() == OpKind::Immediate8 && instruction.immediate8() & 31 > 16
        }
        _ => false,
    }
}

/// SHLD and SHRD of 16 bits, whose results are undefined for counts over 16.
pub(crate) fn is_word_pair(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Shld | Mnemonic::Shrd)
        && instruction.op1_register().size() == 2
}
