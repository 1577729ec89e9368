//! What is known of the guest's registers at each place of a block.
//!
//! They are followed symbolically: a copy or a constant added keeps what is known, anything else
//! makes a fresh symbol. Beside it stands whether a register's value fits 32 bits.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::facts::{Fact, Kind, gpr_of};
use super::registers::RSP;

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
pub(super) const GS: u32 = 103;
const FRESH: u32 = 200;

/// What is known of the registers at one place of a block.
pub(super) struct Values {
    pub(super) registers: [Value; 16],
    next: u32,
    /// GS's base is another one than at the start: its symbol means nothing.
    pub(super) swapped: bool,
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

/// The linear address of a memory operand without index, if it is a symbol and a distance.
pub(super) fn address(ins: &Instruction, registers: &[Value; 16]) -> Option<Value> {
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
