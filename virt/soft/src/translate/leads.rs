//! What leads to windows, kept for accesses that come back to an address.
//!
//! S1 keeps what one look-up found until another replaces it. A path's accesses alternate between
//! few addresses, though: a table, a buffer, the stack. Those that are asked for again have a slot
//! in memory each, so that a look-up is one load, which waits for no register of the guest. Where a
//! loop closes, the slots of registers that it leaves alone are filled in front of it.

use iced_x86::{Instruction, Register};

use super::asm::Mem;
use super::emit::Emitter;
use super::facts::{Fact, Kind};
use super::memory::Address;
use super::registers::{RSP, S0, S1, is_taken};
use super::values::{RIP, Value, Values};
use super::window::are_near;
use crate::cache::state::{LEADS, at};
use crate::cache::windows::INDEX_BITS;

/// Returns of a block to the stack that make what leads there worth keeping.
const RETURNS: usize = 3;
/// Look-ups that a path must ask for to have them kept.
const WORTH: usize = 2;
/// Instructions of a loop that so often goes round that one look-up in front of it is worth it.
const SHORT: usize = 64;

/// Which accesses have a slot: by instruction, that of its operand and that of its stack element.
enum Plan {
    Nothing,
    /// RSP's accesses have the first.
    Stack,
    Path(Vec<[Option<u8>; 2]>),
}

/// The slots of one block.
pub(super) struct Leads {
    plan: Plan,
    /// The addresses whose leads the slots hold.
    kept: [Option<Value>; LEADS],
    /// Slots filled in front of a loop: what they hold stays.
    fixed: [bool; LEADS],
    /// Registers that they are filled for.
    steady: Vec<(u8, u8)>,
}

impl Leads {
    fn new(plan: Plan, steady: Vec<(u8, u8)>) -> Self {
        Self { plan, kept: [None; LEADS], fixed: [false; LEADS], steady }
    }

    /// Of code without windows.
    pub(super) fn none() -> Self {
        Self::new(Plan::Nothing, Vec::new())
    }

    /// Of a block.
    pub(super) fn of_block(facts: &[Fact]) -> Self {
        let plan = if returns_to_stack(facts) { Plan::Stack } else { Plan::Nothing };
        Self::new(plan, Vec::new())
    }

    /// Of a path.
    pub(super) fn of_path(facts: &[Fact], closes: bool) -> Self {
        let mut values = Values::new();
        let mut asked = Vec::with_capacity(facts.len());
        let mut current = None;
        // How often each symbol is looked up while S1 leads elsewhere.
        let mut counts: Vec<(u32, usize)> = Vec::new();
        for fact in facts {
            let values_here = [
                fact.access.and_then(|_| looked_up(&mut values, &fact.ins)),
                uses_stack(fact).then(|| values.register(RSP, 0)),
            ];
            for value in values_here.into_iter().flatten() {
                if !are_near(current, Some(value)) && value.symbol != RIP {
                    match counts.iter_mut().find(|count| count.0 == value.symbol) {
                        Some(count) => count.1 += 1,
                        None => counts.push((value.symbol, 1)),
                    }
                }
                current = Some(value);
            }
            asked.push(values_here.map(|value| value.map(|value| value.symbol)));
            values.follow(fact);
        }
        let unchanged = |symbol: u32| {
            let end = values.registers.get(symbol as usize);
            closes && end == Some(&Value { symbol, offset: 0 })
        };
        let short = facts.len() <= SHORT;
        counts.retain(|&(symbol, count)| count >= WORTH || short && unchanged(symbol));
        counts.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        counts.truncate(LEADS);
        let slot =
            |symbol: u32| counts.iter().position(|count| count.0 == symbol).map(|slot| slot as u8);
        let plan = asked.into_iter().map(|both| both.map(|symbol| symbol.and_then(slot))).collect();
        let steady = (0..16u8)
            .filter(|&number| unchanged(u32::from(number)))
            .filter_map(|number| Some((number, slot(u32::from(number))?)))
            .collect();
        Self::new(Plan::Path(plan), steady)
    }

    /// The slot of an instruction's access.
    pub(super) fn slot(&self, index: usize, address: Address<'_>) -> Option<u8> {
        let on_stack = matches!(address, Address::Stack(_));
        match (&self.plan, address) {
            (Plan::Nothing, _) | (_, Address::Frame) => None,
            (Plan::Stack, Address::Operand(ins)) => is_at_stack(ins).then_some(0),
            (Plan::Stack, _) => Some(0),
            (Plan::Path(slots), _) => slots[index][usize::from(on_stack)],
        }
    }
}

impl Emitter<'_> {
    /// S1 = what a slot keeps, if that leads from an address.
    pub(super) fn load_lead(&mut self, slot: Option<u8>, start: Option<Value>) -> bool {
        let Some(slot) = slot else { return false };
        let kept = self.leads.kept[usize::from(slot)];
        if !are_near(kept, start) {
            return false;
        }
        self.asm.load(S1, Mem::Gs(at::lead(slot)));
        self.hold(kept);
        true
    }

    /// Keeps what S1 holds, which leads from an address.
    pub(super) fn keep_lead(&mut self, slot: Option<u8>, start: Option<Value>) {
        let Some(slot) = slot else { return };
        if start.is_some() && !self.leads.fixed[usize::from(slot)] {
            self.asm.store(Mem::Gs(at::lead(slot)), S1);
            self.leads.kept[usize::from(slot)] = start;
        }
    }

    /// Fills the slots of registers that a loop leaves alone, in front of it.
    pub(super) fn ready_leads(&mut self) {
        for (number, slot) in std::mem::take(&mut self.leads.steady) {
            let from = if is_taken(number) { S0 } else { number };
            if from == S0 {
                self.asm.load(S0, Mem::Gs(at::reg(number)));
            }
            self.look_up(from);
            let value = self.values.register(number, 0);
            self.keep_lead(Some(slot), Some(value));
            self.leads.fixed[usize::from(slot)] = true;
        }
    }
}

/// The address whose window an operand's access looks up, as far as it is known.
fn looked_up(values: &mut Values, ins: &Instruction) -> Option<Value> {
    let (base, index) = (ins.memory_base(), ins.memory_index());
    let plain = !matches!(ins.memory_segment(), Register::FS | Register::GS);
    if plain && base.is_gpr64() {
        let number = base.number() as u8;
        match index {
            Register::None => return Some(values.register(number, 0)),
            index if index.is_gpr64() => {
                let scale = ins.memory_index_scale().ilog2() as u8;
                if values.width(index.number() as u8) + scale <= INDEX_BITS {
                    return Some(values.register(number, 0));
                }
            }
            _ => {}
        }
    }
    values.operand(ins)
}

fn is_at_stack(ins: &Instruction) -> bool {
    ins.memory_base() == Register::RSP && ins.memory_index() == Register::None
}

/// Whether an instruction accesses the top of the stack.
fn uses_stack(fact: &Fact) -> bool {
    matches!(fact.kind, Kind::Push | Kind::Pop | Kind::Call | Kind::CallIndirect | Kind::Return)
}

/// Whether a block comes back to the stack so often, from accesses elsewhere, that keeping what
/// leads to it is worth a store.
fn returns_to_stack(facts: &[Fact]) -> bool {
    let mut returns = 0;
    let mut elsewhere = true;
    for fact in facts {
        let on_stack = match fact.access {
            Some(_) => is_at_stack(&fact.ins),
            None => uses_stack(fact),
        };
        returns += usize::from(on_stack && elsewhere);
        elsewhere = !on_stack && (elsewhere || fact.access.is_some());
    }
    returns >= RETURNS
}
