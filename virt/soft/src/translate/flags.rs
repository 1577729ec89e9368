//! Where the guest's status flags are at each point of a block.
//!
//! Translated code keeps them in the host's own, but every check of an address destroys those. Yet
//! at every check the guest's flags must be known, because the access may fault. Three ways, the
//! cheapest first: the instruction that made them can be repeated from registers that still hold
//! its operands (a recipe, used only if someone asks); nobody reads them and the recipe serves the
//! exits alone; they are saved by LAHF and SETO.

use iced_x86::{Instruction, Mnemonic, OpKind, RflagsBits};
use interp::flags::LazyFlags;

use super::facts::{Fact, gpr_of};
use super::registers::{RSP, is_taken};

/// All six status flags.
pub(crate) const STATUS: u32 = RflagsBits::OF
    | RflagsBits::SF
    | RflagsBits::ZF
    | RflagsBits::AF
    | RflagsBits::CF
    | RflagsBits::PF;

/// What made the flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Maker {
    /// CMP dst, src: both unchanged.
    Cmp,
    /// TEST dst, src: both unchanged.
    Test,
    /// ADD dst, src: dst holds the sum.
    Add,
    /// SUB dst, src: dst holds the difference.
    Sub,
    /// AND, OR, XOR: dst holds the result.
    Logic,
}

/// The second operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Register(u8),
    Immediate(i32),
    /// The value kept of a memory operand.
    Kept,
}

/// In place of a register's number: the value kept of a memory operand.
pub(crate) const KEPT: u8 = 16;

/// How to make the flags again from registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Recipe {
    pub(crate) maker: Maker,
    /// Bytes: 1, 2, 4, 8.
    pub(crate) size: u8,
    pub(crate) dst: u8,
    pub(crate) src: Source,
    /// What was added to dst since.
    pub(crate) drift: i32,
}

impl Recipe {
    /// The recipe for an instruction's flags, if registers alone can tell.
    pub(crate) fn of(ins: &Instruction) -> Option<Self> {
        let maker = match ins.mnemonic() {
            Mnemonic::Cmp => Maker::Cmp,
            Mnemonic::Test => Maker::Test,
            Mnemonic::Add => Maker::Add,
            Mnemonic::Sub => Maker::Sub,
            Mnemonic::And | Mnemonic::Or | Mnemonic::Xor => Maker::Logic,
            _ => return None,
        };
        if ins.op0_kind() != OpKind::Register {
            return None;
        }
        let (dst, size) = gpr_of(ins.op0_register())?;
        let src = match ins.op1_kind() {
            OpKind::Register => Source::Register(gpr_of(ins.op1_register())?.0),
            OpKind::Memory if maker == Maker::Logic => Source::Immediate(0),
            OpKind::Memory => return None,
            _ => Source::Immediate(ins.immediate(1) as i32),
        };
        let changed = matches!(maker, Maker::Add | Maker::Sub);
        if changed && src == Source::Register(dst) {
            return None;
        }
        let src = if maker == Maker::Logic { Source::Immediate(0) } else { src };
        // ESP moves as RSP does.
        if src == Source::Register(RSP) || dst == RSP && size < 4 {
            return None;
        }
        Some(Self { maker, size, dst, src, drift: 0 })
    }

    /// The recipe for CMP or TEST with a memory operand, if its value is kept.
    pub(crate) fn with_memory(ins: &Instruction) -> Option<Self> {
        let maker = match ins.mnemonic() {
            Mnemonic::Cmp => Maker::Cmp,
            Mnemonic::Test => Maker::Test,
            _ => return None,
        };
        let size = ins.memory_size().size() as u8;
        let register = |at: u32| {
            let (number, _) = gpr_of(ins.op_register(at))?;
            (number != RSP && !is_taken(number)).then_some(number)
        };
        let (dst, src) = match (ins.op0_kind(), ins.op1_kind()) {
            (OpKind::Memory, OpKind::Register) => (KEPT, Source::Register(register(1)?)),
            (OpKind::Memory, _) => (KEPT, Source::Immediate(ins.immediate(1) as i32)),
            (OpKind::Register, OpKind::Memory) => (register(0)?, Source::Kept),
            _ => return None,
        };
        Some(Self { maker, size, dst, src, drift: 0 })
    }

    /// The recipe after another instruction, if it still holds.
    pub(crate) fn after(mut self, fact: &Fact) -> Option<Self> {
        let uses_src = matches!(self.src, Source::Register(src) if fact.writes >> src & 1 != 0);
        if uses_src {
            return None;
        }
        if u32::from(fact.writes) >> self.dst & 1 == 0 {
            return Some(self);
        }
        let moved = fact.stack_move?;
        if self.dst != RSP || self.size < 4 || fact.writes & 1 << RSP == 0 {
            return None;
        }
        self.drift = self.drift.checked_add(moved)?;
        Some(self)
    }

    /// The flags as RFLAGS bits, from the registers' values.
    pub(crate) fn evaluate(&self, regs: &[u64; 16], kept: u64) -> u64 {
        let dst = if self.dst == KEPT { kept } else { regs[self.dst as usize] };
        let dst = dst.wrapping_sub(self.drift as i64 as u64);
        let src = match self.src {
            Source::Register(number) => regs[number as usize],
            Source::Immediate(value) => value as i64 as u64,
            Source::Kept => kept,
        };
        macro_rules! width {
            ($type:ty) => {{
                let (a, b) = (dst as $type, src as $type);
                match self.maker {
                    Maker::Cmp => LazyFlags::sub(a, b, a.wrapping_sub(b)),
                    Maker::Test => LazyFlags::logic(a & b),
                    Maker::Add => LazyFlags::add(a.wrapping_sub(b), b, a),
                    Maker::Sub => LazyFlags::sub(a.wrapping_add(b), b, a),
                    Maker::Logic => LazyFlags::logic(a),
                }
                .bits()
            }};
        }
        match self.size {
            1 => width!(u8),
            2 => width!(u16),
            4 => width!(u32),
            _ => width!(u64),
        }
    }
}

/// Where the flags are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// In the host's flags; perhaps with a recipe, perhaps saved as well.
    Native { recipe: Option<Recipe>, saved: bool },
    /// Saved only.
    Saved,
    /// Nowhere, but can be made again.
    Recipe(Recipe),
}

impl Place {
    /// RSP has moved: a recipe that counts on it follows, also while it is not needed yet.
    pub(crate) fn rsp_moved(&mut self, by: i32) {
        if let Self::Recipe(recipe) | Self::Native { recipe: Some(recipe), .. } = self
            && recipe.dst == RSP
        {
            recipe.drift += by;
        }
    }
}

/// Who asks for the flags next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fate {
    /// Index of the instruction that reads them or overwrites them all; the block's length if
    /// neither happens in it (which counts as reading).
    pub(crate) at: usize,
    /// It reads them.
    pub(crate) read: bool,
}

/// The fate of the flags that hold before instruction `from`.
pub(crate) fn fate(facts: &[Fact], from: usize) -> Fate {
    for (index, fact) in facts.iter().enumerate().skip(from) {
        if fact.reads_flags {
            return Fate { at: index, read: true };
        }
        if fact.makes_flags {
            return Fate { at: index, read: false };
        }
    }
    Fate { at: facts.len(), read: true }
}

/// Whether a recipe that holds before instruction `from` serves until the flags' fate: for a
/// reader up to it, else up to the last instruction that can leave the block before.
pub(crate) fn serves(recipe: Recipe, facts: &[Fact], from: usize) -> bool {
    let fate = fate(facts, from);
    let until = if fate.read {
        fate.at
    } else {
        (from..=fate.at).rev().find(|&index| facts[index].can_leave).unwrap_or(from)
    };
    let mut recipe = Some(recipe);
    for fact in &facts[from..until] {
        recipe = recipe.and_then(|recipe| recipe.after(fact));
    }
    recipe.is_some()
}

/// LAHF's and SETO's form as RFLAGS bits.
pub(crate) fn from_saved(saved: u64) -> u64 {
    saved >> 8 & 0xd5 | (saved & 1) << 11
}

/// RFLAGS bits in LAHF's and SETO's form.
pub(crate) fn to_saved(rflags: u64) -> u64 {
    (rflags & 0xd5 | 2) << 8 | rflags >> 11 & 1
}
