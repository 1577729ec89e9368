//! In which stretch of 4 GiB accesses will probably be, so that what leads to its window can be loaded before
//! their addresses are known (see `window`).
//!
//! A path's accesses are expected where they were when it was recorded; a block's where its first run will have them:
//! registers are followed from the values they have now, through the loads that can be foreseen. It is a guess,
//! and whoever follows it compares.
//!
//! It is made for addresses that come out of memory: in a list, a tree or an interpreter each waits for
//! the load before, so a look-up would lengthen the chain (measured on Zen 4: 10 cycles a step, against 4 on the
//! host and 4.5 with the guess). Addresses that are reckoned are known early, and for them
//! the look-up is the shorter code.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::facts::{Fact, Kind, gpr_of};

/// Values of the general registers, where they are known.
type Known = [Option<u64>; 16];

/// Bits 63:32 of where a memory operand is.
pub(super) type Stretch = u32;

/// What the registers before an instruction tell of its operand.
pub(super) fn stretch(ins: &Instruction, registers: &[u64; 16]) -> Option<Stretch> {
    stretch_of(ins, &registers.map(Some))
}

/// Notes in a block's instructions where their operands will probably be. `peek` reads eight bytes of the
/// guest's memory, where that is possible without an effect.
pub(super) fn foresee(
    facts: &mut [Fact],
    registers: &[u64; 16],
    peek: &dyn Fn(u64) -> Option<u64>,
) {
    let mut known = registers.map(Some);
    for fact in facts {
        if fact.access.is_some() {
            fact.stretch = stretch_of(&fact.ins, &known);
        }
        let written = outcome(fact, &known, peek);
        for (number, value) in known.iter_mut().enumerate() {
            if fact.writes >> number & 1 != 0 {
                *value = None;
            }
        }
        if let Some((number, value)) = written {
            known[usize::from(number)] = Some(value);
        }
    }
}

/// Notes which operands' addresses come out of memory themselves: the others' are known early, and looked up in time.
pub(super) fn note_chains(facts: &mut [Fact], closes: bool) {
    let mut loaded = 0;
    if closes {
        facts.iter().for_each(|fact| follow_loads(fact, &mut loaded));
    }
    for fact in facts {
        fact.is_chained = sources(&fact.ins) & loaded != 0;
        follow_loads(fact, &mut loaded);
    }
}

/// Which registers hold what a load led to, from in front of an instruction to behind it.
fn follow_loads(fact: &Fact, loaded: &mut u16) {
    use Mnemonic as M;
    let ins = &fact.ins;
    let first = match ins.mnemonic() {
        M::Mov | M::Movzx | M::Movsx | M::Movsxd | M::Lea => 1,
        _ => 0,
    };
    let reads = fact.access.is_some() && ins.op0_kind() == OpKind::Register;
    let comes = reads || matches!(fact.kind, Kind::Pop) || operands(ins, first) & *loaded != 0;
    if comes {
        *loaded |= fact.writes;
    } else {
        *loaded &= !fact.writes;
    }
}

/// Of an operand that registers make: without an unknown index, which is a small number where the base is a pointer.
fn stretch_of(ins: &Instruction, known: &Known) -> Option<Stretch> {
    let (base, index) = (ins.memory_base(), ins.memory_index());
    if is_in_segment(ins) || base == Register::None && index == Register::None {
        return None;
    }
    let address = address(ins, known).or_else(|| value(base, known).filter(|_| base.is_gpr64()))?;
    Some((address >> 32) as u32)
}

fn is_in_segment(ins: &Instruction) -> bool {
    matches!(ins.memory_segment(), Register::FS | Register::GS)
}

fn value(register: Register, known: &Known) -> Option<u64> {
    match register {
        Register::None => Some(0),
        register if register.is_gpr64() => known[register.number()],
        _ => None,
    }
}

/// The general registers that a memory operand's address is made of.
fn sources(ins: &Instruction) -> u16 {
    bit(ins.memory_base()) | bit(ins.memory_index())
}

/// Those of the operands from one on.
fn operands(ins: &Instruction, first: u32) -> u16 {
    let registers = (first..ins.op_count()).filter(|&at| ins.op_kind(at) == OpKind::Register);
    registers.fold(sources(ins), |all, at| all | bit(ins.op_register(at)))
}

fn bit(register: Register) -> u16 {
    gpr_of(register).map_or(0, |(number, _)| 1 << number)
}

fn address(ins: &Instruction, known: &Known) -> Option<u64> {
    let scale = u64::from(ins.memory_index_scale());
    let index = value(ins.memory_index(), known)?.wrapping_mul(scale);
    let base = value(ins.memory_base(), known)?;
    Some(base.wrapping_add(index).wrapping_add(ins.memory_displacement64()))
}

/// The register that an instruction leaves a foreseeable pointer in, and that.
fn outcome(fact: &Fact, known: &Known, peek: &dyn Fn(u64) -> Option<u64>) -> Option<(u8, u64)> {
    let ins = &fact.ins;
    let (number, 8) = gpr_of(ins.op0_register())? else { return None };
    if fact.writes >> number & 1 == 0 || ins.op0_kind() != OpKind::Register {
        return None;
    }
    let of_operand = || match ins.op1_kind() {
        OpKind::Register => value(ins.op1_register(), known),
        OpKind::Memory if is_in_segment(ins) => None,
        OpKind::Memory => peek(address(ins, known)?),
        _ => Some(ins.immediate(1)),
    };
    let own = || known[usize::from(number)];
    let value = match (fact.kind, ins.mnemonic()) {
        (Kind::Plain, Mnemonic::Mov) => of_operand()?,
        (Kind::Plain, Mnemonic::Add) => own()?.wrapping_add(of_operand()?),
        (Kind::Plain, Mnemonic::Sub) => own()?.wrapping_sub(of_operand()?),
        (Kind::Address, Mnemonic::Lea) if !is_in_segment(ins) => address(ins, known)?,
        _ => return None,
    };
    Some((number, value))
}
