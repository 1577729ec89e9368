//! Tier 2: a path that execution took, as one straight block.
//!
//! Where the path follows a branch the code goes straight on, and a comparison leaves it where
//! execution would go elsewhere. A path that comes back to its start closes as a loop.
//!
//! Invariant: a path is bound to linear addresses. It runs only while each of its pages is the
//! page of RAM it was recorded from.

use iced_x86::{Decoder, Encoder, Instruction, InstructionInfoFactory};

use super::asm::{Alu, Hole, Mem, cond};
use super::emit::{Emitter, Source, Stub, poll_position};
use super::facts::{DECODING, Fact, Kind, examine};
use super::flags::{Place, serves};
use super::forecast::stretch;
use super::registers::{BUDGET, RCX, S0, S1};
use super::rename::Renaming;
use super::site::{Link, SiteKind};
use crate::cache::layout::LINKS;
use crate::cache::state::at;

/// One instruction of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) linear: u64,
    pub(crate) length: u8,
}

/// Instructions in the order they were executed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) steps: Vec<Step>,
    /// The general registers before each.
    pub(crate) registers: Vec<[u64; 16]>,
    /// Where execution went behind the last one.
    pub(crate) next: u64,
}

impl Path {
    /// Whether it leads back to its start.
    pub(crate) fn is_closed(&self) -> bool {
        self.steps.first().is_some_and(|first| first.linear == self.next)
    }
}

/// Takes a path's instructions apart, up to one that the translator leaves to the interpreter.
pub(super) fn decode(
    source: &Source<'_>,
    path: &Path,
    (factory, encoder): (&mut InstructionInfoFactory, &mut Encoder),
    facts: &mut Vec<Fact>,
    announced: &mut dyn FnMut(&Instruction) -> bool,
) -> Renaming {
    let instructions = instructions(source, path);
    let renaming = Renaming::choose(&instructions, factory, encoder);
    let whole = examine_all(source, path, (&instructions, renaming), factory, facts, announced);
    if whole || renaming == Renaming::default() {
        return renaming;
    }
    // Perhaps it is the names that the translator cannot follow.
    let renamed = std::mem::take(facts);
    let none = Renaming::default();
    examine_all(source, path, (&instructions, none), factory, facts, announced);
    if facts.len() > renamed.len() {
        return none;
    }
    *facts = renamed;
    renaming
}

fn instructions(source: &Source<'_>, path: &Path) -> Vec<Instruction> {
    let page = source.page.expect("paths are bound to addresses");
    let mut code_at = 0;
    let decode = |step: &Step| {
        let bytes = &source.bytes[code_at..code_at + usize::from(step.length)];
        code_at += usize::from(step.length);
        let offset = step.linear.wrapping_sub(page);
        Decoder::with_ip(64, bytes, offset, DECODING).decode()
    };
    path.steps.iter().map(decode).collect()
}

/// False: there is an instruction that the translator cannot follow.
fn examine_all(
    source: &Source<'_>,
    path: &Path,
    (instructions, renaming): (&[Instruction], Renaming),
    factory: &mut InstructionInfoFactory,
    facts: &mut Vec<Fact>,
    announced: &mut dyn FnMut(&Instruction) -> bool,
) -> bool {
    let page = source.page.expect("paths are bound to addresses");
    let mut code_at = 0;
    for (index, (step, ins)) in path.steps.iter().zip(instructions).enumerate() {
        let length = usize::from(step.length);
        let known = !ins.is_invalid() && ins.len() == length && announced(ins);
        let (plain, mut ins) = (*ins, *ins);
        let renamed = renaming.apply(&mut ins);
        let offset = step.linear.wrapping_sub(page) as i64;
        let mut fact = examine(factory, &ins, offset as i32, source.gates, known);
        fact.stretch = path.registers.get(index).and_then(|before| stretch(&plain, before));
        fact.code_at = (!renamed).then_some(code_at);
        code_at += length as u32;
        let next = path.steps.get(index + 1).map_or(path.next, |next| next.linear);
        let inside = index + 1 < path.steps.len() || path.is_closed();
        if inside && fact.kind.ends_block() && fact.kind != Kind::Interpret {
            go_on(&mut fact, next.wrapping_sub(page) as i64 as i32);
        }
        let last = fact.kind == Kind::Interpret;
        facts.push(fact);
        if last {
            return false;
        }
    }
    true
}

/// Whether a path leads back to its start.
pub(super) fn closes(source: &Source<'_>, facts: &[Fact]) -> bool {
    let last = &facts[facts.len() - 1];
    last.follows == Some(facts[0].offset) || !last.kind.ends_block() && source.closes
}

/// What a branch is where the path goes on behind it.
fn go_on(fact: &mut Fact, follows: i32) {
    fact.follows = Some(follows);
    fact.reads_flags = matches!(fact.kind, Kind::Branch(_));
    fact.stack_move = match fact.kind {
        Kind::Call | Kind::CallIndirect => Some(-8),
        Kind::Return if fact.ins.op_count() == 0 => Some(8),
        Kind::Return => Some(8 + fact.ins.immediate(0) as i32),
        _ => None,
    };
}

impl Emitter<'_> {
    /// A path's code.
    pub(super) fn path(&mut self) {
        let facts: &[Fact] = self.facts;
        let count = facts.len();
        let closed = closes(self.source, facts);
        self.exchange();
        if closed {
            self.ready_leads();
            self.ready_all_units();
        }
        let start = self.asm.here();
        let mut poll_at = poll_position(facts, true);
        for index in 0..count {
            if poll_at == Some(index) || poll_at.is_some() && self.can_poll(index) {
                self.poll(index);
                self.polled = true;
                poll_at = None;
            }
            self.instruction(index);
        }
        let last = &facts[count - 1];
        if closed {
            self.want_native();
            self.settle();
            self.spend(count);
            let from = self.asm.jmp();
            self.asm.land_far(from, start as i64);
        } else if !last.kind.ends_block() {
            let next = last.offset + last.ins.len() as i32;
            self.want_native();
            self.spend(count);
            self.jump_to(next);
        }
    }

    /// The renamed registers' values change places.
    fn exchange(&mut self) {
        self.stood = None;
        for (taken, other) in self.renaming.pairs() {
            self.asm.load(S1, Mem::Gs(at::reg(taken)));
            self.asm.store(Mem::Gs(at::reg(taken)), other);
            self.asm.mov(other, S1);
        }
    }

    /// Where a path is left for other code: values are in their places from here on. Changes S1.
    pub(super) fn restore_names(&mut self) {
        if std::mem::take(&mut self.is_renamed) {
            self.exchange();
            self.place = self.renaming.place(self.place);
        }
    }

    /// Whether a poll before an instruction would cost nothing to save the flags.
    fn can_poll(&self, index: usize) -> bool {
        let at_hand = match self.place {
            Place::Native { saved: true, .. } | Place::Saved | Place::Recipe(_) => true,
            Place::Native { recipe, .. } => {
                recipe.is_some_and(|recipe| serves(recipe, self.facts, index))
            }
        };
        self.facts[index].makes_flags && at_hand
    }

    /// Loads in front of a loop what it would otherwise ask for in each round.
    fn ready_all_units(&mut self) {
        let vector = self.facts.iter().any(|fact| fact.vector);
        let x87 = self.facts.iter().any(|fact| fact.x87);
        if vector || x87 {
            let needs = Fact { vector, x87, ..self.facts[0].clone() };
            self.ready_units(0, &needs);
            self.want_native();
        }
        // What the loop's end leads back to knows no more than that.
        self.place = Place::Native { recipe: None, saved: false };
        self.held = None;
        self.lead = None;
    }

    /// An instruction that moves control, where the path goes on behind it.
    pub(super) fn along(&mut self, index: usize, fact: &Fact, follows: i32) {
        match fact.kind {
            Kind::Branch(condition) => {
                let target = fact.ins.near_branch_target() as i64 as i32;
                let next = fact.offset + fact.ins.len() as i32;
                let (leaves, elsewhere) =
                    if follows == target { (condition ^ 1, next) } else { (condition, target) };
                self.branch_aside(index, leaves, elsewhere);
            }
            Kind::Call => {
                self.push_return(index, fact);
                self.move_stack(-8);
            }
            Kind::CallIndirect => {
                self.load_target(index, fact);
                self.check_unexpected(index, follows);
                self.asm.store(Mem::Gs(at::TEMP), S0);
                self.push_return(index, fact);
                self.asm.load(S0, Mem::Gs(at::TEMP));
                self.expect(index, follows, -8);
            }
            Kind::JumpIndirect => {
                self.load_target(index, fact);
                self.expect(index, follows, 0);
            }
            Kind::Return => {
                self.load_top(index);
                self.expect(index, follows, fact.stack_move.expect("set with `follows`"));
            }
            Kind::Jump => {}
            other => unreachable!("{other:?} moves no control"),
        }
    }

    /// Before a call to the target in S0: if that is not where the path goes on, it may be an address
    /// that is not canonical, and then the call is the interpreter's.
    fn check_unexpected(&mut self, index: usize, follows: i32) {
        let from = self.unless_expected(index, follows);
        let site = self.site(SiteKind::Interpret, index);
        let native = matches!(self.place, Place::Native { .. });
        if native {
            self.asm.mov(RCX, S1);
        }
        self.stubs.push(Stub::Unexpected { from, back: self.asm.here(), site, native });
    }

    /// Jumps unless the target in S0 is where the path goes on. Where the flags are the host's, RCX is
    /// in S1 both there and behind.
    fn unless_expected(&mut self, index: usize, follows: i32) -> Hole {
        let page = self.source.page.expect("paths are bound to addresses");
        let expected = page.wrapping_add(follows as i64 as u64);
        if self.would_save(index) {
            return self.differs_quietly(expected);
        }
        self.clobber(index);
        self.differs(expected)
    }

    /// Leaves unless the target in S0 is where the path goes on; then moves RSP.
    fn expect(&mut self, index: usize, follows: i32, rsp_move: i32) {
        let from = self.unless_expected(index, follows);
        let (place, polled, lag) = (self.place, self.polled, self.lag);
        self.stubs.push(Stub::Elsewhere { from, index, rsp_move, place, polled, lag });
        if matches!(self.place, Place::Native { .. }) {
            self.asm.mov(RCX, S1);
        }
        if rsp_move != 0 {
            self.move_stack(rsp_move);
        }
    }

    /// Jumps if S0 is another address; changes the flags.
    fn differs(&mut self, expected: u64) -> Hole {
        match i32::try_from(expected as i64) {
            Ok(short) => self.asm.alu_imm(true, Alu::Cmp, S0, short),
            Err(_) => {
                self.asm.constant(S1, expected);
                self.asm.rr(true, &[0x39], S1, S0);
            }
        }
        self.asm.jcc(cond::NOT_EQUAL)
    }

    /// Out of line: looks at the budget where a path is left before it did, with the flags in the
    /// host's. Else branches from path to path could go round for ever.
    pub(super) fn poll_aside(&mut self, target: i32) {
        let site = self.site_at(SiteKind::Poll, target, 0);
        self.look_quietly(site);
    }

    /// Out of line: an indirect branch of the path that goes elsewhere, to the target in S0.
    pub(super) fn elsewhere(&mut self, index: usize, rsp_move: i32, polled: bool) {
        self.restore_names();
        if rsp_move != 0 {
            self.move_rsp(rsp_move);
        }
        self.settle();
        self.spend(index + 1);
        let offset = self.facts[index].offset;
        if !polled && self.would_save(index) {
            self.asm.store(Mem::Gs(at::TARGET), S0);
            let site = self.site_at(SiteKind::Target { rsp_move }, offset, 0);
            self.look_quietly(site);
        } else if !polled {
            self.clobber_at_end();
            let site = self.site_at(SiteKind::Target { rsp_move }, offset, 0);
            self.asm.rr(true, &[0x85], BUDGET, BUDGET);
            let goes_on = self.asm.jcc(cond::NOT_SIGN);
            self.asm.store(Mem::Gs(at::TARGET), S0);
            self.go_out(site, false);
            self.asm.land(goes_on);
        }
        let slot = self.next_slot();
        self.asm.jmp_mem(Mem::Gs((LINKS as u32 + slot * 8) as i32));
        let stub = self.base() + self.asm.here() as u32;
        let link = self.numbers.first_link + self.links.len() as u32;
        let site = self.site_at(SiteKind::Elsewhere { link, rsp_move }, offset, 0);
        self.asm.store(Mem::Gs(at::TARGET), S0);
        self.go_out(site, matches!(self.place, Place::Native { .. }));
        let through = self.base() + self.asm.here() as u32;
        self.links.push(Link { site, patch: None, slot: Some(slot), stub, through, recipe: None });
        self.go_to_target(index, rsp_move);
    }
}
