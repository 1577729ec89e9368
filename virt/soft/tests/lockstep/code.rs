//! Instructions with labels, laid out in the image's code pages.
//!
//! Every address is the image's own offset: code is encoded once and lies at four linear addresses,
//! so branches and RIP-relative operands are all it may name. Invariant: no instruction's length
//! depends on where its target lies, short branches that do not reach apart.

use iced_x86::{Code, Encoder, Instruction, OpKind, Register};

use crate::layout::{ALL_UNDEFINED, CODE_PAGES, PAGE};

/// A place in the code, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label(usize);

/// What an instruction points at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// Nothing.
    None,
    /// A branch goes there.
    Branch(Label),
    /// A RIP-relative operand lies so many bytes before the end of the instruction there.
    BeforeEnd(Label, u64),
    /// A RIP-relative operand lies at the instruction there.
    At(Label),
    /// A RIP-relative operand lies at this offset of the image.
    Offset(u64),
}

#[derive(Clone, Debug)]
enum Entry {
    /// With the status flags that are undefined before it.
    Code(Instruction, Goal, u8),
    Label(Label),
    /// So many bytes before the end of the page.
    PageEnd(u64),
}

/// Code under construction.
#[derive(Clone, Default)]
pub(crate) struct Listing {
    entries: Vec<Entry>,
    labels: usize,
    pub(crate) instructions: usize,
    /// 32-bit code for an image here: operands that would be RIP-relative are absolute.
    narrow: Option<u64>,
}

/// Code with its addresses.
pub(crate) struct Placed {
    /// From the image's start.
    pub(crate) bytes: Vec<u8>,
    /// By offset: length of the instruction there.
    pub(crate) lengths: Vec<u8>,
    /// By offset: status flags undefined before the instruction there; all of them inside one.
    pub(crate) undefined: Vec<u8>,
    labels: Vec<u64>,
    ends: Vec<u64>,
}

impl Placed {
    pub(crate) fn offset(&self, label: Label) -> u64 {
        self.labels[label.0]
    }
}

impl Listing {
    /// For 32-bit code of the image that lies there.
    pub(crate) fn narrow(image: u64) -> Self {
        Self { narrow: Some(image), ..Self::default() }
    }

    pub(crate) fn label(&mut self) -> Label {
        self.labels += 1;
        Label(self.labels - 1)
    }

    pub(crate) fn here(&mut self, label: Label) {
        self.entries.push(Entry::Label(label));
    }

    /// What follows starts so many bytes before the end of a page. Nothing may run into it.
    pub(crate) fn near_page_end(&mut self, bytes: u64) {
        self.entries.push(Entry::PageEnd(bytes));
    }

    /// `undefined`: status flags that are undefined before it, as `layout::UNDEFINED` has them.
    pub(crate) fn add(&mut self, instruction: Instruction, goal: Goal, undefined: u8) {
        self.instructions += 1;
        self.entries.push(Entry::Code(instruction, goal, undefined));
    }

    /// Gives everything its place; `None` if it does not fit.
    pub(crate) fn place(mut self) -> Option<Placed> {
        loop {
            let placed = self.measure()?;
            match self.encode(&placed) {
                Ok(bytes) => return Some(Placed { bytes, ..placed }),
                Err(far) => self.entries[far].lengthen(),
            }
        }
    }

    fn measure(&self) -> Option<Placed> {
        let size = (CODE_PAGES * PAGE) as usize;
        let mut placed = Placed {
            bytes: Vec::new(),
            lengths: vec![0; size],
            undefined: vec![ALL_UNDEFINED; size],
            labels: vec![0; self.labels],
            ends: vec![0; self.labels],
        };
        let mut at = 0u64;
        let mut fresh: Vec<Label> = Vec::new();
        for entry in &self.entries {
            match entry {
                Entry::Label(label) => {
                    placed.labels[label.0] = at;
                    fresh.push(*label);
                }
                Entry::PageEnd(bytes) => {
                    let page_end = (at / PAGE + 1) * PAGE;
                    let wanted = page_end - bytes;
                    at = if wanted >= at { wanted } else { wanted + PAGE };
                }
                Entry::Code(instruction, goal, undefined) => {
                    let length = encode(instruction, *goal, at, at, self.narrow)?.len() as u64;
                    if at + length > size as u64 {
                        return None;
                    }
                    placed.lengths[at as usize] = length as u8;
                    placed.undefined[at as usize] = *undefined;
                    at += length;
                    for label in fresh.drain(..) {
                        placed.ends[label.0] = at;
                    }
                }
            }
        }
        Some(placed)
    }

    /// `Err`: the short branch that does not reach.
    fn encode(&self, placed: &Placed) -> Result<Vec<u8>, usize> {
        const INT3: u8 = 0xcc;
        let mut bytes = vec![INT3; (CODE_PAGES * PAGE) as usize];
        let mut at = 0u64;
        for (number, entry) in self.entries.iter().enumerate() {
            match entry {
                Entry::Label(_) => {}
                Entry::PageEnd(before) => {
                    let wanted = (at / PAGE + 1) * PAGE - before;
                    at = if wanted >= at { wanted } else { wanted + PAGE };
                }
                Entry::Code(instruction, goal, _) => {
                    let target = match *goal {
                        Goal::None => at,
                        Goal::Branch(label) | Goal::At(label) => placed.labels[label.0],
                        Goal::BeforeEnd(label, before) => placed.ends[label.0] - before,
                        Goal::Offset(offset) => offset,
                    };
                    let code = encode(instruction, *goal, at, target, self.narrow).ok_or(number)?;
                    bytes[at as usize..at as usize + code.len()].copy_from_slice(&code);
                    at += code.len() as u64;
                }
            }
        }
        Ok(bytes)
    }
}

impl Entry {
    fn lengthen(&mut self) {
        let Self::Code(instruction, ..) = self else { panic!("only branches can be too short") };
        assert!(instruction.is_jcc_short() || instruction.is_jmp_short(), "{instruction:?}");
        instruction.as_near_branch();
    }
}

/// An instruction's bytes at an offset of the image, pointing at another.
fn encode(
    instruction: &Instruction,
    goal: Goal,
    at: u64,
    target: u64,
    narrow: Option<u64>,
) -> Option<Vec<u8>> {
    // Far from zero, so that nothing wraps.
    const BASE: u64 = 0x40_0000;
    let mut instruction = *instruction;
    match goal {
        Goal::None => {}
        Goal::Branch(_) if narrow.is_some() => {
            instruction.set_near_branch32((BASE + target) as u32);
        }
        Goal::Branch(_) => instruction.set_near_branch64(BASE + target),
        Goal::BeforeEnd(..) | Goal::At(_) | Goal::Offset(_) if let Some(image) = narrow => {
            instruction.set_memory_base(Register::None);
            instruction.set_memory_displ_size(4);
            instruction.set_memory_displacement64((image + target) & 0xffff_ffff);
        }
        Goal::BeforeEnd(..) | Goal::At(_) | Goal::Offset(_) => {
            instruction.set_memory_base(Register::RIP);
            instruction.set_memory_displ_size(8);
            instruction.set_memory_displacement64(BASE + target);
        }
    }
    let mut encoder = Encoder::new(if narrow.is_some() { 32 } else { 64 });
    encoder.encode(&instruction, BASE + at).ok()?;
    Some(encoder.take_buffer())
}

/// Whether an instruction can be encoded at all.
pub(crate) fn is_encodable(instruction: &Instruction, narrow: bool) -> bool {
    encode(instruction, Goal::None, 0, 0, narrow.then_some(0)).is_some()
}

/// A branch whose goal is yet to be said.
pub(crate) fn branch(code: Code) -> Instruction {
    let mut instruction = Instruction::new();
    instruction.set_code(code);
    instruction.set_op0_kind(OpKind::NearBranch64);
    instruction
}
