//! Registers freed where they are least used: in a path's code, taken registers that it uses
//! often change places with others that it uses seldom.
//!
//! It is done to the instructions before anything else looks at them: what the translator calls
//! R10 is then the guest's RBP, say, and the other way round. Where a path is entered and left the
//! two values change places, too; who leaves it in between swaps them in the guest's state.
//!
//! Invariant: a renamed register is no operand that an instruction's encoding or meaning fixes.

use iced_x86::{
    Encoder, Instruction, InstructionInfoFactory, Mnemonic, OpCodeOperandKind, OpKind, Register,
};

use super::facts::is_high_byte;
use super::flags::{Place, Recipe, Source};
use super::registers::{RSP, is_taken};

/// Registers that can change places at once: all that are taken.
const PAIRS: usize = 3;
/// Uses that a pair must save, against what the exchange costs.
const WORTH: u32 = 6;
/// Costs of a use as operand, and in an address.
const OPERAND: u32 = 1;
const ADDRESS: u32 = 2;

/// Pairs of a taken register and another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Renaming([Option<(u8, u8)>; PAIRS]);

impl Renaming {
    /// What a path gains most by.
    pub(super) fn choose(
        instructions: &[Instruction],
        factory: &mut InstructionInfoFactory,
        encoder: &mut Encoder,
    ) -> Self {
        let mut uses = [0; 16];
        let mut pinned = 1 << RSP;
        for ins in instructions {
            if matches!(ins.mnemonic(), Mnemonic::Syscall | Mnemonic::Sysret) {
                return Self::default();
            }
            count_uses(ins, &mut uses);
            pinned |= fixed(ins, factory);
        }
        let free = |number: &u8| pinned >> number & 1 == 0;
        let mut taken: Vec<u8> = (0..16).filter(|&number| is_taken(number)).filter(free).collect();
        let mut others: Vec<u8> =
            (0..16).filter(|&number| !is_taken(number)).filter(free).collect();
        taken.sort_by_key(|&number| std::cmp::Reverse(uses[usize::from(number)]));
        others.sort_by_key(|&number| uses[usize::from(number)]);
        let mut chosen = Self::default();
        for (slot, (taken, other)) in chosen.0.iter_mut().zip(taken.into_iter().zip(others)) {
            if uses[usize::from(taken)] >= uses[usize::from(other)] + WORTH {
                *slot = Some((taken, other));
            }
        }
        let encodes = |ins: &Instruction| {
            let mut renamed = *ins;
            !chosen.apply(&mut renamed) || encoder.encode(&renamed, renamed.ip()).is_ok()
        };
        let good = chosen == Self::default() || instructions.iter().all(encodes);
        drop(encoder.take_buffer());
        if good { chosen } else { Self::default() }
    }

    /// The pairs: a taken register and one that is not.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (u8, u8)> {
        self.0.iter().flatten().copied()
    }

    fn number(&self, number: u8) -> u8 {
        let pair = self.pairs().find(|&(taken, other)| number == taken || number == other);
        pair.map_or(number, |(taken, other)| taken ^ other ^ number)
    }

    fn register(&self, register: Register) -> Register {
        if !register.is_gpr() || is_high_byte(register) {
            return register;
        }
        numbered(register, self.number(register.full_register().number() as u8))
    }

    /// Renames an instruction's operands; true if any changed.
    pub(super) fn apply(&self, ins: &mut Instruction) -> bool {
        let before = *ins;
        for index in 0..ins.op_count() {
            if ins.op_kind(index) == OpKind::Register {
                ins.set_op_register(index, self.register(ins.op_register(index)));
            }
        }
        ins.set_memory_base(self.register(before.memory_base()));
        ins.set_memory_index(self.register(before.memory_index()));
        *ins != before
    }

    /// Where the flags are once the values are back in their places.
    pub(super) fn place(&self, place: Place) -> Place {
        match place {
            Place::Recipe(recipe) => Place::Recipe(self.recipe(recipe)),
            Place::Native { recipe, saved } => {
                Place::Native { recipe: recipe.map(|recipe| self.recipe(recipe)), saved }
            }
            Place::Saved => Place::Saved,
        }
    }

    fn recipe(&self, recipe: Recipe) -> Recipe {
        let src = match recipe.src {
            Source::Register(number) => Source::Register(self.number(number)),
            other => other,
        };
        Recipe { dst: self.number(recipe.dst), src, ..recipe }
    }

    /// Puts values back in their places.
    pub(crate) fn undo(&self, regs: &mut [u64]) {
        for (taken, other) in self.pairs() {
            regs.swap(usize::from(taken), usize::from(other));
        }
    }
}

/// The register of a number, as wide as another one.
fn numbered(like: Register, number: u8) -> Register {
    let first = match like.size() {
        8 => Register::RAX,
        4 => Register::EAX,
        2 => Register::AX,
        // Numbers 4 to 7 are SPL to DIL here, behind the high bytes.
        _ if number >= 4 => return Register::SPL + u32::from(number - 4),
        _ => Register::AL,
    };
    first + u32::from(number)
}

fn count_uses(ins: &Instruction, uses: &mut [u32; 16]) {
    let mut count = |register: Register, cost| {
        if register.is_gpr() {
            uses[register.full_register().number()] += cost;
        }
    };
    for index in 0..ins.op_count() {
        if ins.op_kind(index) == OpKind::Register {
            count(ins.op_register(index), OPERAND);
        }
    }
    count(ins.memory_base(), ADDRESS);
    count(ins.memory_index(), ADDRESS);
}

/// Registers that an instruction uses whatever its operands are, a bit each.
fn fixed(ins: &Instruction, factory: &mut InstructionInfoFactory) -> u32 {
    let mut found = 0;
    let bit = |register: Register| match register.is_gpr() {
        true => 1 << register.full_register().number(),
        false => 0,
    };
    let mut rest = *ins;
    let mut high = false;
    for index in 0..ins.op_count() {
        if ins.op_kind(index) != OpKind::Register || !ins.op_register(index).is_gpr() {
            continue;
        }
        let register = ins.op_register(index);
        high |= is_high_byte(register);
        use OpCodeOperandKind as K;
        let kind = ins.op_code().op_kind(index);
        if matches!(kind, K::al | K::cl | K::ax | K::dx | K::eax | K::rax) {
            found |= bit(register);
        }
        // Out of the way, to see what is used beside the operands.
        rest.set_op_register(index, numbered(register, RSP));
    }
    for register in [ins.memory_base(), ins.memory_index()] {
        // High bytes have no encoding beside registers that need a REX prefix.
        found |= if high { bit(register) } else { 0 };
    }
    if rest.memory_base().is_gpr() {
        rest.set_memory_base(Register::None);
    }
    rest.set_memory_index(Register::None);
    if high {
        for index in 0..ins.op_count() {
            found |= bit(ins.op_register(index));
        }
    }
    for used in factory.info(&rest).used_registers() {
        found |= bit(used.register());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::Decoder;

    fn choose(code: &[u8]) -> Renaming {
        let instructions: Vec<Instruction> = Decoder::new(64, code, 0).into_iter().collect();
        Renaming::choose(&instructions, &mut InstructionInfoFactory::new(), &mut Encoder::new(64))
    }

    fn repeated(code: &[u8]) -> Vec<u8> {
        code.repeat(20)
    }

    #[test]
    fn often_used_taken_registers_change_places_with_unused_ones() {
        // add r10, [rbx + r9 * 4]
        let renaming = choose(&repeated(&[0x4e, 0x03, 0x14, 0x8b]));
        let pairs: Vec<_> = renaming.pairs().collect();
        assert_eq!(pairs.iter().map(|pair| pair.0).collect::<Vec<_>>(), [9, 10]);
        assert!(pairs.iter().all(|pair| !matches!(pair.1, 3 | 4 | 9..=11)));
        let mut ins = Decoder::new(64, &[0x4e, 0x03, 0x14, 0x8b], 0).decode();
        assert!(renaming.apply(&mut ins));
        assert!(!is_taken(ins.memory_index().number() as u8));
        assert_eq!(ins.memory_base(), Register::RBX);
        let mut regs: Vec<u64> = (0..16).collect();
        renaming.undo(&mut regs);
        assert_eq!(regs[9], u64::from(pairs[0].1));
    }

    #[test]
    fn what_an_instruction_fixes_stays() {
        let fixed_by = |code: &[u8]| {
            let ins = Decoder::new(64, code, 0).decode();
            fixed(&ins, &mut InstructionInfoFactory::new()) & !(1 << RSP)
        };
        // mul rax; shl ebx, cl; lock cmpxchg [rdi], ebx; div r10; add eax, imm32.
        assert_eq!(fixed_by(&[0x48, 0xf7, 0xe0]), 0b101);
        assert_eq!(fixed_by(&[0xd3, 0xe3]), 0b10);
        assert_eq!(fixed_by(&[0xf0, 0x0f, 0xb1, 0x1f]), 0b1);
        assert_eq!(fixed_by(&[0x49, 0xf7, 0xf2]), 0b101);
        assert_eq!(fixed_by(&[0x05, 1, 2, 3, 4]), 0b1);
        // add bh, al: no other register can stand beside BH.
        assert_eq!(fixed_by(&[0x00, 0xc7]), 0b1001);
        // leave; rep movsb.
        assert_eq!(fixed_by(&[0xc9]), 1 << 5);
        assert_eq!(fixed_by(&[0xf3, 0xa4]), 0b1100_0010);
        // mov rbx, [rsi + rdx]
        assert_eq!(fixed_by(&[0x48, 0x8b, 0x1c, 0x16]), 0);
    }

    #[test]
    fn little_use_is_not_worth_it() {
        // mov r10, rax
        assert_eq!(choose(&[0x49, 0x89, 0xc2]), Renaming::default());
    }
}
