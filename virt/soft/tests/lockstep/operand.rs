//! Random operands for any opcode, from registers the program may lose and addresses it keeps.

use iced_x86::{
    Code, Instruction, InstructionInfoFactory, OpAccess, OpCodeOperandKind as K, OpKind, Register,
};

use crate::code::{Goal, is_encodable};
use crate::layout::{DATA, IMAGES, PAGE, STACK, TABLES};
use crate::random::Random;

/// Registers with a meaning.
#[derive(Clone, Debug)]
pub(crate) struct Roles {
    /// They point into data pages.
    pub(crate) pointers: Vec<u32>,
    /// By bit: registers that random instructions must leave alone.
    pub(crate) kept: u16,
    /// Images that 32-bit code may name.
    pub(crate) narrow: Option<&'static [u64]>,
}

/// An operand in memory: what it is made of, and what it points at, if at something by RIP.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub(crate) base: Register,
    pub(crate) index: Register,
    pub(crate) scale: u32,
    pub(crate) displacement: i64,
    pub(crate) displacement_size: u32,
    pub(crate) segment: Register,
    pub(crate) goal: Goal,
    /// Register that must hold a small number for this to make sense.
    pub(crate) small: Option<u32>,
}

impl Address {
    /// [base + displacement]
    pub(crate) fn based(base: u32, displacement: i64) -> Self {
        Self {
            base: Register::RAX + base,
            index: Register::None,
            scale: 1,
            displacement,
            displacement_size: u32::from(displacement != 0),
            segment: Register::None,
            goal: Goal::None,
            small: None,
        }
    }

    /// [RIP + ...]
    pub(crate) fn relative(goal: Goal) -> Self {
        Self { base: Register::RIP, goal, displacement_size: 8, ..Self::based(0, 0) }
    }

    /// [disp32]
    pub(crate) fn absolute(displacement: u64) -> Self {
        let bare = Self { base: Register::None, displacement_size: 8, ..Self::based(0, 0) };
        Self { displacement: displacement as i64, ..bare }
    }

    pub(crate) fn apply(&self, instruction: &mut Instruction) {
        instruction.set_memory_base(self.base);
        instruction.set_memory_index(self.index);
        instruction.set_memory_index_scale(self.scale);
        instruction.set_memory_displacement64(self.displacement as u64);
        instruction.set_memory_displ_size(self.displacement_size);
        instruction.set_segment_prefix(self.segment);
    }
}

/// A random address. `aligned`: what vector instructions want.
pub(crate) fn address(random: &mut Random, roles: &Roles, aligned: bool) -> Address {
    if let Some(images) = roles.narrow {
        return crate::flat::address(random, roles, images, aligned);
    }
    let step = if aligned { 16 } else { random.pick(&[1, 4, 8, 8, 8]) };
    let near = (random.below(48) * step) as i64 - 64;
    let pointer = random.pick(&roles.pointers);
    match random.below(20) {
        0..=7 => Address::based(pointer, near),
        8..=10 => indexed(random, roles, pointer, near),
        11 => {
            let far = random.below(3 * PAGE) as i64 - PAGE as i64;
            Address::based(pointer, far)
        }
        12..=13 => {
            let offset = DATA + random.below(4 * PAGE / step) * step;
            let goal = if random.once_in(8) {
                Goal::Offset(TABLES + random.below(64) * 8)
            } else if random.once_in(6) {
                Goal::Offset(DATA + random.below(8 * PAGE))
            } else {
                Goal::Offset(offset)
            };
            Address::relative(goal)
        }
        14 => {
            let image = random.pick(&IMAGES[..3]);
            Address::absolute(image + DATA + random.below(4 * PAGE / step) * step)
        }
        15 => {
            let segment = random.pick(&[Register::FS, Register::GS]);
            let bare = Address::absolute(random.below(2 * PAGE / step) * step);
            Address { segment, ..bare }
        }
        16 => {
            let base = random.pick(&roles.pointers);
            let segment = random.pick(&[Register::FS, Register::GS]);
            let Some(index) = free(random, roles) else { return Address::based(base, near) };
            let based = Address::based(index, near);
            Address { segment, small: Some(index), ..based }
        }
        17 => {
            // A 32-bit address: good where the pointer lies below 4 GiB.
            let based = Address::based(pointer, near);
            Address { base: Register::EAX + pointer, ..based }
        }
        // Below the top, where nothing is kept.
        18 => Address::based(4, -8 - (random.below(24) * 8) as i64),
        // Nowhere, most likely.
        _ if random.once_in(4) => Address::based(free(random, roles).unwrap_or(pointer), near),
        _ => Address::based(pointer, near),
    }
}

fn indexed(random: &mut Random, roles: &Roles, pointer: u32, near: i64) -> Address {
    let based = Address::based(pointer, near);
    let Some(index) = free(random, roles) else { return based };
    let scale = 1 << random.below(4);
    let narrow = random.once_in(8);
    let first = if narrow { Register::EAX } else { Register::RAX };
    let base = if random.once_in(10) { Register::None } else { first + pointer };
    let (displacement, displacement_size) = match base {
        Register::None => ((IMAGES[0] + DATA) as i64 + near, 4),
        _ => (near, u32::from(near != 0)),
    };
    let index_register = first + index;
    let small = Some(index);
    Address { base, index: index_register, scale, displacement, displacement_size, small, ..based }
}

/// A register that may be lost, other than RSP.
pub(crate) fn free(random: &mut Random, roles: &Roles) -> Option<u32> {
    (0..16).map(|_| random.below(16) as u32).find(|&number| is_free(roles, number))
}

pub(crate) fn is_free(roles: &Roles, number: u32) -> bool {
    number != 4 && roles.kept >> number & 1 == 0
}

/// An instruction with random operands; `None` if this one cannot be had.
pub(crate) fn instruction(
    random: &mut Random,
    roles: &Roles,
    factory: &mut InstructionInfoFactory,
    code: Code,
) -> Option<(Instruction, Option<Address>)> {
    (0..6).find_map(|_| attempt(random, roles, factory, code))
}

fn attempt(
    random: &mut Random,
    roles: &Roles,
    factory: &mut InstructionInfoFactory,
    code: Code,
) -> Option<(Instruction, Option<Address>)> {
    let mut ins = Instruction::new();
    ins.set_code(code);
    let mut at = None;
    let mut immediates = 0;
    for (index, &kind) in (0..).zip(code.op_code().op_kinds()) {
        if let Some(register) = register(random, roles, kind) {
            ins.set_op_kind(index, OpKind::Register);
            ins.set_op_register(index, register);
        } else if is_memory(kind) {
            ins.set_op_kind(index, OpKind::Memory);
            let wide = ins.memory_size().size() >= 16;
            let aligned = wide && !random.once_in(6);
            let chosen = address(random, roles, aligned);
            chosen.apply(&mut ins);
            at = Some(chosen);
        } else {
            immediate(random, &mut ins, index, kind, &mut immediates)?;
        }
    }
    if code.op_code().can_use_lock_prefix() && ins.op0_kind() == OpKind::Memory {
        ins.set_has_lock_prefix(random.once_in(3));
    }
    let info = factory.info(&ins);
    let lost = info.used_registers().iter().any(|used| {
        let read = matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None);
        let register = used.register();
        !read && register.is_gpr() && {
            let number = register.full_register().number() as u32;
            !is_free(roles, number)
        }
    });
    let crowded = at.and_then(|at| at.small).is_some_and(|small| {
        let alias = at.expect("just looked at").base.full_register();
        alias.is_gpr()
            && alias.number() as u32 == small
            && at.expect("as above").index != Register::None
    });
    (!lost && !crowded && is_encodable(&ins, roles.narrow.is_some())).then_some((ins, at))
}

fn is_memory(kind: K) -> bool {
    matches!(
        kind,
        K::mem
            | K::r8_or_mem
            | K::r16_or_mem
            | K::r32_or_mem
            | K::r64_or_mem
            | K::mm_or_mem
            | K::xmm_or_mem
            | K::ymm_or_mem
    )
}

fn register(random: &mut Random, roles: &Roles, kind: K) -> Option<Register> {
    if is_memory(kind) && (kind == K::mem || !random.once_in(2)) {
        return None;
    }
    let narrow = roles.narrow.is_some();
    let any = random.below(if narrow { 8 } else { 16 }) as u32;
    // Mostly one that may be written; the three that have no host register more often than others.
    let number = match random.below(8) {
        0 => any,
        1 | 2 if !narrow => random.pick(&[9, 10, 11]),
        _ => free(random, roles).unwrap_or(any),
    };
    Some(match kind {
        K::r8_or_mem | K::r8_reg | K::r8_opcode if narrow => {
            Register::AL + (number & 3) + if random.once_in(3) { 4 } else { 0 }
        }
        K::r8_or_mem | K::r8_reg | K::r8_opcode => byte_register(random, number),
        K::r16_or_mem | K::r16_reg | K::r16_rm | K::r16_opcode | K::r16_reg_mem => {
            Register::AX + number
        }
        K::r32_or_mem | K::r32_reg | K::r32_rm | K::r32_opcode | K::r32_vvvv | K::r32_reg_mem => {
            Register::EAX + number
        }
        K::r64_or_mem | K::r64_reg | K::r64_rm | K::r64_opcode | K::r64_vvvv | K::r64_reg_mem => {
            Register::RAX + number
        }
        K::mm_or_mem | K::mm_reg | K::mm_rm => Register::MM0 + (any & 7),
        K::xmm_or_mem | K::xmm_reg | K::xmm_rm | K::xmm_vvvv | K::xmm_is4 => Register::XMM0 + any,
        K::ymm_or_mem | K::ymm_reg | K::ymm_rm | K::ymm_vvvv | K::ymm_is4 => Register::YMM0 + any,
        K::al => Register::AL,
        K::cl => Register::CL,
        K::ax => Register::AX,
        K::dx => Register::DX,
        K::eax => Register::EAX,
        K::rax => Register::RAX,
        K::st0 => Register::ST0,
        K::sti_opcode => Register::ST0 + (any & 7),
        _ => return None,
    })
}

pub(crate) fn byte_register(random: &mut Random, number: u32) -> Register {
    if number < 4 && random.once_in(3) {
        Register::AH + number
    } else if number >= 4 {
        Register::SPL + (number - 4)
    } else {
        Register::AL + number
    }
}

fn immediate(
    random: &mut Random,
    ins: &mut Instruction,
    index: u32,
    kind: K,
    immediates: &mut u32,
) -> Option<()> {
    let value = random.integer();
    let second = *immediates > 0;
    *immediates += 1;
    let op_kind = match kind {
        K::imm8 if second => OpKind::Immediate8_2nd,
        K::imm8 | K::imm8_const_1 => OpKind::Immediate8,
        K::imm8sex16 => OpKind::Immediate8to16,
        K::imm8sex32 => OpKind::Immediate8to32,
        K::imm8sex64 => OpKind::Immediate8to64,
        K::imm16 => OpKind::Immediate16,
        K::imm32 => OpKind::Immediate32,
        K::imm32sex64 => OpKind::Immediate32to64,
        K::imm64 => OpKind::Immediate64,
        _ => return None,
    };
    ins.set_op_kind(index, op_kind);
    match op_kind {
        OpKind::Immediate8_2nd => ins.set_immediate8_2nd(value as u8),
        OpKind::Immediate8 if kind == K::imm8_const_1 => ins.set_immediate8(1),
        OpKind::Immediate8 => ins.set_immediate8(value as u8),
        OpKind::Immediate8to16 => ins.set_immediate8to16(i16::from(value as i8)),
        OpKind::Immediate8to32 => ins.set_immediate8to32(i32::from(value as i8)),
        OpKind::Immediate8to64 => ins.set_immediate8to64(i64::from(value as i8)),
        OpKind::Immediate16 => ins.set_immediate16(value as u16),
        OpKind::Immediate32 => ins.set_immediate32(value as u32),
        OpKind::Immediate32to64 => ins.set_immediate32to64(i64::from(value as i32)),
        _ => ins.set_immediate64(value),
    }
    Some(())
}

/// Where RSP begins: well inside, now and then misaligned.
pub(crate) fn stack_offset(random: &mut Random) -> u64 {
    let skew = if random.once_in(6) { random.below(8) } else { 0 };
    STACK + PAGE + random.below(2 * PAGE / 8) * 8 + skew
}
