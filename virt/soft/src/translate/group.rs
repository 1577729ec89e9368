//! Accesses that share one check: same base, small distances, known before the block runs.
//!
//! Registers are followed symbolically through a block: a copy or a constant added keeps what is
//! known, anything else makes a fresh symbol. Accesses at constant distances from one symbol form
//! a group; its first access checks the whole range, the others use the host address it found.
//!
//! Invariant: a group's range lies in one page or its check fails, and then the block is left for
//! one without groups, before anything happened.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::facts::{Fact, Kind, gpr_of};
use super::registers::RSP;

/// Largest range one check covers.
const RANGE: i64 = 384;
/// Groups with a slot for their host address.
pub(crate) const GROUPS: usize = 16;

/// A group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    /// The instruction whose access checks for all.
    pub(crate) first: usize,
    /// Lowest address, relative to the first access's own.
    pub(crate) low: i32,
    /// Bytes.
    pub(crate) size: u32,
    pub(crate) write: bool,
}

/// An access as part of a group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    pub(crate) group: usize,
    /// Distance from the group's lowest address.
    pub(crate) offset: i32,
}

/// A block's groups: by number, and by instruction. An instruction with two accesses has none.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    pub(crate) groups: Vec<Group>,
    pub(crate) members: Vec<Option<Member>>,
}

/// What is known of a register: a symbol and a distance from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) symbol: u32,
    pub(super) offset: i64,
}

/// Symbols that are no register's first value.
pub(super) const RIP: u32 = 100;
const NOWHERE: u32 = 101;
const FS: u32 = 102;
const GS: u32 = 103;
const FRESH: u32 = 200;

/// What is known of the registers at one place of a block.
pub(super) struct Values {
    registers: [Value; 16],
    next: u32,
    /// GS's base is another one than at the start: its symbol means nothing.
    swapped: bool,
    /// Sums of two registers that have a symbol of their own: base, index, log2 of the scale.
    sums: Vec<(u32, u32, u8, u32)>,
    /// Registers whose value is known to be a 32-bit number, signed or not, a bit each.
    narrow: u16,
}

impl Values {
    /// At the start of a block.
    pub(super) fn new() -> Self {
        Self {
            registers: std::array::from_fn(|number| Value { symbol: number as u32, offset: 0 }),
            next: FRESH,
            swapped: false,
            sums: Vec::new(),
            narrow: 0,
        }
    }

    /// Behind an instruction.
    pub(super) fn follow(&mut self, fact: &Fact) {
        self.swapped |= fact.kind == Kind::SwapGs;
        self.narrow = self.narrow & !fact.writes | narrowed(fact);
        follow(fact, &mut self.registers, &mut self.next);
    }

    /// A register's value, moved.
    pub(super) fn register(&self, number: u8, by: i32) -> Value {
        let value = self.registers[number as usize];
        Value { offset: value.offset + i64::from(by), ..value }
    }

    /// Whether a register is known to hold a 32-bit number, signed or not.
    pub(super) fn is_narrow(&self, number: u8) -> bool {
        self.narrow >> number & 1 != 0
    }

    /// The linear address of a memory operand.
    pub(super) fn operand(&mut self, ins: &Instruction) -> Option<Value> {
        let value = match ins.memory_index() {
            Register::None => address(ins, &self.registers),
            index if index.is_gpr64() => self.sum(ins, index.number()),
            _ => None,
        };
        value.filter(|value| !(self.swapped && value.symbol == GS))
    }

    /// base + index * scale + disp.
    fn sum(&mut self, ins: &Instruction, index: usize) -> Option<Value> {
        let segment = ins.memory_segment();
        if segment == Register::FS || segment == Register::GS {
            return None;
        }
        let base = match ins.memory_base() {
            Register::None => Value { symbol: NOWHERE, offset: 0 },
            base if base.is_gpr64() => self.registers[base.number()],
            _ => return None,
        };
        let (index, scale) = (self.registers[index], ins.memory_index_scale().ilog2() as u8);
        let offset =
            base.offset + (index.offset << scale) + i64::from(ins.memory_displacement64() as i32);
        let known = self
            .sums
            .iter()
            .find(|sum| (sum.0, sum.1, sum.2) == (base.symbol, index.symbol, scale));
        let symbol = match known {
            Some(sum) => sum.3,
            None => {
                self.next += 1;
                self.sums.push((base.symbol, index.symbol, scale, self.next));
                self.next
            }
        };
        Some(Value { symbol, offset })
    }
}

struct Candidate {
    symbol: u32,
    index: usize,
    offset: i64,
    size: i64,
    write: bool,
    /// Branches passed before it.
    passed: usize,
    /// Changes of rights or of segments' bases passed before it.
    era: usize,
}

/// Finds the groups of a block.
pub(crate) fn find(facts: &[Fact]) -> Groups {
    let candidates = candidates(facts);
    let mut found = Groups { groups: Vec::new(), members: vec![None; facts.len()] };
    let mut taken = vec![false; candidates.len()];
    for first in 0..candidates.len() {
        if taken[first] || found.groups.len() == GROUPS {
            continue;
        }
        let start = &candidates[first];
        let (mut low, mut high) = (start.offset, start.offset + start.size);
        let mut write = start.write;
        let mut chosen = vec![first];
        for (other, candidate) in candidates.iter().enumerate().skip(first + 1) {
            if taken[other] || candidate.symbol != start.symbol || candidate.era != start.era {
                continue;
            }
            // A store that may not come must not mark its page dirty.
            if candidate.write && !write && candidate.passed != start.passed {
                continue;
            }
            let (l, h) = (low.min(candidate.offset), high.max(candidate.offset + candidate.size));
            if h - l <= RANGE {
                (low, high) = (l, h);
                write |= candidate.write;
                chosen.push(other);
            }
        }
        if chosen.len() < 2 {
            continue;
        }
        let group = found.groups.len();
        for &at in &chosen {
            taken[at] = true;
            let offset = (candidates[at].offset - low) as i32;
            found.members[candidates[at].index] = Some(Member { group, offset });
        }
        found.groups.push(Group {
            first: start.index,
            low: (low - start.offset) as i32,
            size: (high - low) as u32,
            write,
        });
    }
    found
}

fn candidates(facts: &[Fact]) -> Vec<Candidate> {
    let mut values = Values::new();
    let mut found = Vec::new();
    let mut passed = 0;
    let mut era = 0;
    for (index, fact) in facts.iter().enumerate() {
        passed += usize::from(matches!(fact.kind, Kind::Branch(_)));
        era += usize::from(matches!(fact.kind, Kind::AccessFlag(_) | Kind::WriteBase));
        if let Some((value, size, write)) = single_access(fact, &values.registers)
            && !(values.swapped && value.symbol == GS)
        {
            found.push(Candidate {
                symbol: value.symbol,
                index,
                offset: value.offset,
                size: i64::from(size),
                write,
                passed,
                era,
            });
        }
        values.follow(fact);
    }
    found
}

/// The address of an instruction's only access, if it is a symbol and a distance.
fn single_access(fact: &Fact, registers: &[Value; 16]) -> Option<(Value, u32, bool)> {
    let rsp = registers[RSP as usize];
    let at = |value: Value, by: i64| Value { offset: value.offset + by, ..value };
    match fact.kind {
        Kind::Push if fact.access.is_none() => Some((at(rsp, -8), 8, true)),
        Kind::Pop | Kind::Return | Kind::PopStackPointer | Kind::PopFlags => Some((rsp, 8, false)),
        Kind::PushFlags => Some((at(rsp, -8), 8, true)),
        Kind::Call => Some((at(rsp, -8), 8, true)),
        Kind::Leave => Some((registers[5], 8, false)),
        Kind::Plain | Kind::JumpIndirect => {
            let access = fact.access?;
            Some((address(&fact.ins, registers)?, access.size, access.write))
        }
        _ => None,
    }
}

fn address(ins: &Instruction, registers: &[Value; 16]) -> Option<Value> {
    if ins.memory_index() != Register::None {
        return None;
    }
    let disp = ins.memory_displacement64() as i64;
    let symbol = match ins.memory_segment() {
        Register::FS => Some(FS),
        Register::GS => Some(GS),
        _ => None,
    };
    match (ins.memory_base(), symbol) {
        (Register::RIP, None) => Some(Value { symbol: RIP, offset: disp }),
        (Register::None, symbol) if ins.memory_displ_size() != 4 => {
            Some(Value { symbol: symbol.unwrap_or(NOWHERE), offset: i64::from(disp as i32) })
        }
        (base, None) if base.is_gpr64() => {
            let value = registers[base.number()];
            Some(Value { offset: value.offset + i64::from(disp as i32), ..value })
        }
        _ => None,
    }
}

/// The register that an instruction leaves a 32-bit number in, as a bit.
fn narrowed(fact: &Fact) -> u16 {
    use Mnemonic as M;
    let ins = &fact.ins;
    if !matches!(fact.kind, Kind::Plain | Kind::Address) || ins.op0_kind() != OpKind::Register {
        return 0;
    }
    let Some((number, size)) = gpr_of(ins.op0_register()) else { return 0 };
    let extends = matches!(ins.mnemonic(), M::Movzx | M::Movsx | M::Movsxd);
    // Not those that may leave the register alone.
    let writes = extends
        || matches!(
            ins.mnemonic(),
            M::Mov
                | M::Lea
                | M::Add
                | M::Adc
                | M::Sub
                | M::Sbb
                | M::And
                | M::Or
                | M::Xor
                | M::Not
                | M::Neg
                | M::Inc
                | M::Dec
                | M::Imul
                | M::Popcnt
                | M::Bswap
                | M::Andn
                | M::Shlx
                | M::Shrx
                | M::Sarx
                | M::Rorx
                | M::Bextr
        );
    let masks = ins.mnemonic() == M::And
        && matches!(ins.op1_kind(), OpKind::Immediate8to64 | OpKind::Immediate32to64)
        && ins.immediate(1) as i64 >= 0;
    let shifts = matches!(ins.mnemonic(), M::Shl | M::Shr | M::Sar)
        && ins.op1_kind() == OpKind::Immediate8
        && ins.immediate(1) & 31 != 0;
    let narrow = match size {
        4 => writes || shifts,
        8 => extends || masks,
        _ => false,
    };
    let written = fact.writes >> number & 1 != 0;
    u16::from(narrow && written) << number
}

/// Follows an instruction's register writes.
fn follow(fact: &Fact, registers: &mut [Value; 16], next: &mut u32) {
    let ins = &fact.ins;
    let known = match fact.kind {
        Kind::Push | Kind::PushFlags | Kind::Call | Kind::CallIndirect => {
            Some((RSP as usize, moved(registers, -8)))
        }
        Kind::Plain | Kind::Address => known_write(ins, registers),
        _ => None,
    };
    let popped = match fact.kind {
        Kind::Pop | Kind::PopFlags => Some(moved(registers, 8)),
        Kind::Return if ins.op_count() == 0 => Some(moved(registers, 8)),
        _ => None,
    };
    let left = (fact.kind == Kind::Leave)
        .then(|| Value { offset: registers[5].offset + 8, ..registers[5] });
    for (number, register) in registers.iter_mut().enumerate() {
        if fact.writes >> number & 1 != 0 {
            *next += 1;
            *register = Value { symbol: *next, offset: 0 };
        }
    }
    if let Some((number, value)) = known {
        registers[number] = value;
    }
    if let Some(rsp) = popped.or(left) {
        registers[RSP as usize] = rsp;
    }
}

fn moved(registers: &[Value; 16], by: i64) -> Value {
    let rsp = registers[RSP as usize];
    Value { offset: rsp.offset + by, ..rsp }
}

/// A register write whose value is a symbol and a distance.
fn known_write(ins: &Instruction, registers: &[Value; 16]) -> Option<(usize, Value)> {
    if ins.op0_kind() != OpKind::Register {
        return None;
    }
    let (number, 8) = gpr_of(ins.op0_register())? else { return None };
    let number = number as usize;
    let own = registers[number];
    let immediate = || match ins.op1_kind() {
        OpKind::Register | OpKind::Memory => None,
        _ => Some(i64::from(ins.immediate(1) as i32)),
    };
    let value = match ins.mnemonic() {
        Mnemonic::Mov if ins.op1_kind() == OpKind::Register => {
            registers[gpr_of(ins.op1_register())?.0 as usize]
        }
        Mnemonic::Add => Value { offset: own.offset + immediate()?, ..own },
        Mnemonic::Sub => Value { offset: own.offset - immediate()?, ..own },
        Mnemonic::Inc => Value { offset: own.offset + 1, ..own },
        Mnemonic::Dec => Value { offset: own.offset - 1, ..own },
        Mnemonic::Lea if ins.memory_segment() != Register::FS => {
            address(ins, registers).filter(|value| value.symbol < RIP || value.symbol > GS)?
        }
        _ => return None,
    };
    // Distances stay far from wrapping.
    (value.offset.abs() < 1 << 30).then_some((number, value))
}
