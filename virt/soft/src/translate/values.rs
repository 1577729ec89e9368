//! What is known of the guest's registers at each place of a block.
//!
//! They are followed symbolically: a copy or a constant added keeps what is known, anything else
//! makes a fresh symbol. Beside it stands how many bits its value fits.

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
/// The width of a number of which nothing is known.
const ANY: u8 = 64;

/// What is known of the registers at one place of a block.
pub(super) struct Values {
    pub(super) registers: [Value; 16],
    next: u32,
    /// GS's base is another one than at the start: its symbol means nothing.
    pub(super) swapped: bool,
    /// Sums of two registers that have a symbol of their own: base, index, log2 of the scale.
    sums: Vec<(u32, u32, u8, u32)>,
    /// Bits that each register's value fits as a signed number.
    widths: [u8; 16],
}

impl Values {
    /// At the start of a block.
    pub(super) fn new() -> Self {
        Self {
            registers: std::array::from_fn(|number| Value { symbol: number as u32, offset: 0 }),
            next: FRESH,
            swapped: false,
            sums: Vec::new(),
            widths: [ANY; 16],
        }
    }

    /// Behind an instruction.
    pub(super) fn follow(&mut self, fact: &Fact) {
        self.swapped |= fact.kind == Kind::SwapGs;
        let known = known_width(fact, &self.widths);
        for (number, width) in self.widths.iter_mut().enumerate() {
            if fact.writes >> number & 1 != 0 {
                *width = ANY;
            }
        }
        if let Some((number, width)) = known {
            self.widths[number] = width.min(ANY);
        }
        follow(fact, &mut self.registers, &mut self.next);
    }

    /// A register's value, moved.
    pub(super) fn register(&self, number: u8, by: i32) -> Value {
        let value = self.registers[number as usize];
        Value { offset: value.offset + i64::from(by), ..value }
    }

    /// Bits that a register's value fits as a signed number.
    pub(super) fn width(&self, number: u8) -> u8 {
        self.widths[usize::from(number)]
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

/// The register that an instruction leaves a number of known width in, and that.
fn known_width(fact: &Fact, widths: &[u8; 16]) -> Option<(usize, u8)> {
    use Mnemonic as M;
    let ins = &fact.ins;
    if ins.mnemonic() == M::Cdqe {
        return Some((0, 32));
    }
    if !matches!(fact.kind, Kind::Plain | Kind::Address) || ins.op0_kind() != OpKind::Register {
        return None;
    }
    let (number, size) = gpr_of(ins.op0_register())?;
    if fact.writes >> number & 1 == 0 {
        return None;
    }
    let number = usize::from(number);
    let extended = match ins.op1_kind() {
        OpKind::Register => ins.op1_register().size(),
        _ => ins.memory_size().size(),
    };
    match (ins.mnemonic(), size) {
        (M::Movzx, 4 | 8) => return Some((number, extended as u8 * 8 + 1)),
        (M::Movsx | M::Movsxd, 8) => return Some((number, extended as u8 * 8)),
        (_, 4) => return writes_32_bits(ins).then(|| (number, width_of_32_bits(ins))),
        (_, 8) => {}
        _ => return None,
    }
    let own = widths[number];
    let source = || match ins.op1_kind() {
        OpKind::Register => widths[ins.op1_register().full_register().number()],
        OpKind::Memory => ANY,
        _ => width_of(ins.immediate(1) as i64),
    };
    let immediate = |index| match ins.op_kind(index) {
        OpKind::Immediate8 => Some(ins.immediate8() & 63),
        _ => None,
    };
    let width = match ins.mnemonic() {
        M::Mov => source(),
        M::Add | M::Sub => own.max(source()) + 1,
        M::Inc | M::Dec => own + 1,
        // A mask that is not negative leaves no more than it has.
        M::And if !matches!(ins.op1_kind(), OpKind::Register | OpKind::Memory) => {
            let mask = ins.immediate(1) as i64;
            if mask >= 0 { width_of(mask) } else { own }
        }
        M::Shl => own + immediate(1)?,
        M::Shr => ANY + 1 - immediate(1)?.clamp(1, 63),
        M::Lea => lea_width(ins, widths),
        _ => return None,
    };
    Some((number, width))
}

/// Bits of a signed number.
fn width_of(value: i64) -> u8 {
    (65 - (value ^ value >> 63).leading_zeros()) as u8
}

fn lea_width(ins: &Instruction, widths: &[u8; 16]) -> u8 {
    let of = |register: Register| match register {
        Register::None => 1,
        register if register.is_gpr64() => widths[register.number()],
        _ => ANY,
    };
    let index = of(ins.memory_index()) + ins.memory_index_scale().ilog2() as u8;
    of(ins.memory_base()).max(index).max(width_of(ins.memory_displacement64() as i64)) + 2
}

/// Bits that the result of an instruction fits which writes a 32-bit register.
fn width_of_32_bits(ins: &Instruction) -> u8 {
    let immediate = match ins.op1_kind() {
        OpKind::Register | OpKind::Memory => None,
        _ => Some(ins.immediate(1) as u32),
    };
    match (ins.mnemonic(), immediate) {
        (Mnemonic::Mov | Mnemonic::And, Some(value)) => width_of(i64::from(value)),
        (Mnemonic::Shr, Some(count)) => 33 - (count & 31) as u8,
        _ => 33,
    }
}

/// Whether an instruction with a 32-bit register operand surely writes it.
fn writes_32_bits(ins: &Instruction) -> bool {
    use Mnemonic as M;
    let shifts = matches!(ins.mnemonic(), M::Shl | M::Shr | M::Sar)
        && ins.op1_kind() == OpKind::Immediate8
        && ins.immediate8() & 31 != 0;
    shifts
        || matches!(
            ins.mnemonic(),
            M::Mov
                | M::Movsx
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
        )
}

/// Follows an instruction's register writes.
fn follow(fact: &Fact, registers: &mut [Value; 16], next: &mut u32) {
    let (ins, word) = (&fact.ins, i64::from(fact.word));
    let known = match fact.kind {
        Kind::Push | Kind::PushFlags | Kind::Call | Kind::CallIndirect => {
            Some((RSP as usize, moved(registers, -word)))
        }
        Kind::Plain | Kind::Address => known_write(fact, registers),
        _ => None,
    };
    let popped = match fact.kind {
        Kind::Pop | Kind::PopFlags => Some(moved(registers, word)),
        Kind::Return if ins.op_count() == 0 => Some(moved(registers, word)),
        _ => None,
    };
    let left = (fact.kind == Kind::Leave)
        .then(|| Value { offset: registers[5].offset + word, ..registers[5] });
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
fn known_write(fact: &Fact, registers: &[Value; 16]) -> Option<(usize, Value)> {
    let ins = &fact.ins;
    if ins.op0_kind() != OpKind::Register {
        return None;
    }
    let (number, size) = gpr_of(ins.op0_register())?;
    if size != fact.word {
        return None;
    }
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
