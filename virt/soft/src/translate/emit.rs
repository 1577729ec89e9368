//! One block: decode, look ahead, emit, then the code out of line.

use iced_x86::{Decoder, Encoder, Instruction, InstructionInfoFactory};

use super::asm::{Asm, Hole, cond};
use super::facts::{DECODING, Fact, Gates, Kind, examine};
use super::flags::{Place, Recipe, serves};
use super::forecast::{Stretch, foresee, note_chains};
use super::group::{self, Groups};
use super::late::Late;
use super::leads::Leads;
use super::path::{self, Path};
use super::quiet::Rcx;
use super::registers::BUDGET;
use super::rename::Renaming;
use super::site::{Link, Site, SiteKind};
use super::stubs::Stubs;
use super::values::{Value, Values};

/// Longest block, in instructions.
pub(crate) const BLOCK_INSTRUCTIONS: usize = 64;
/// Branches that a block goes on behind, when they are not taken.
const PASSED_BRANCHES: usize = 3;

/// What a block is made from.
pub(crate) struct Source<'a> {
    /// Code from the block's start to the end of its page (or more than a block can be made
    /// from), or 15 bytes across it.
    pub(crate) bytes: &'a [u8],
    /// Start of the block in its page.
    pub(crate) offset: u32,
    /// Linear address of the page, where the code may be bound to it.
    pub(crate) page: Option<u64>,
    /// The one instruction crosses into the next page, which lies at this host address.
    pub(crate) second_page: Option<u64>,
    pub(crate) gates: Gates,
    /// How whoever jumps here made the flags, if it is always the same.
    pub(crate) entry: Option<Recipe>,
    /// The general registers' values where the block will run next.
    pub(crate) registers: Option<&'a [u64; 16]>,
    /// The path to translate; `bytes` are its instructions' in this order.
    pub(crate) path: Option<&'a Path>,
    /// The path leads back to its start.
    pub(crate) closes: bool,
    /// The linear pages that a path holds in.
    pub(crate) pages: &'a [(u64, u64)],
}

/// Numbers and places the block will have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers {
    pub(crate) block: u32,
    pub(crate) first_site: u32,
    pub(crate) first_link: u32,
    pub(crate) first_slot: u32,
    /// Place of the block's code in code memory.
    pub(crate) place: u32,
    /// Place of its code out of line.
    pub(crate) cold_place: u32,
}

/// A translated block.
#[derive(Default)]
pub(crate) struct Draft {
    pub(crate) code: Vec<u8>,
    /// The code out of line.
    pub(crate) cold: Vec<u8>,
    pub(crate) sites: Vec<Site>,
    pub(crate) links: Vec<Link>,
    /// Instructions that the host may raise a signal on: bytes from the code's start, site.
    pub(crate) traps: Vec<(u32, u32)>,
    /// Guest instructions, without one at the end that the interpreter executes.
    pub(crate) instructions: u16,
    /// It has to save the flags it is entered with, for want of a recipe.
    pub(crate) saves_entry: bool,
    /// Registers that have other names in it, where it is left for the interpreter.
    pub(crate) renaming: Renaming,
}

/// What translation needs anew for every block, kept between them.
pub(crate) struct Tools {
    encoder: Encoder,
    factory: InstructionInfoFactory,
    facts: Vec<Fact>,
    stubs: Vec<Stub>,
    /// The last block's buffers.
    spare: Draft,
}

impl Tools {
    pub(crate) fn new() -> Self {
        Self {
            encoder: Encoder::new(64),
            factory: InstructionInfoFactory::new(),
            facts: Vec::new(),
            stubs: Vec::new(),
            spare: Draft::default(),
        }
    }

    /// Takes a block's buffers back for the next one.
    pub(crate) fn take_back(&mut self, draft: Draft) {
        self.spare = draft;
    }
}

/// Code that is emitted behind the block.
pub(super) enum Stub {
    /// Emitted already.
    Done,
    /// Fills what a check missed, and goes back to it.
    Miss { from: Hole, back: usize, site: u32, write: bool },
    /// Looks up a window that is not the expected one, by bits 63:32 in S1.
    LookUp { from: Hole, back: usize },
    /// Leaves the block with flags saved or made by a recipe.
    Leave { from: Hole, site: u32 },
    /// Leaves an indirect branch: the target is in S0.
    Target { from: Hole, site: u32 },
    /// Leaves through a link whose target is not translated, flags being the host's.
    Unlinked { from: Hole, link: usize },
    /// Leaves through a branch in the middle that is taken, after so many instructions.
    Aside { from: Hole, target: i32, executed: usize, polled: bool, lag: i32 },
    /// Leaves through an indirect branch in the middle that does not go where the path went.
    Elsewhere { from: Hole, index: usize, rsp_move: i32, place: Place, polled: bool, lag: i32 },
    /// A call in the middle that does not go where the path went: its target, in S0, may not be
    /// canonical.
    Unexpected { from: Hole, back: usize, site: u32, native: bool },
    /// Goes through a slot.
    Cross { from: Hole, target: i32 },
    /// Leaves with the flags where the site says, RCX being elsewhere.
    Quiet { from: Hole, site: u32, rcx: Rcx },
    /// Leaves in front of a block's last branch.
    Late { from: Hole, site: u32, kept: bool },
    /// Loads the vector (or x87) state, then comes back.
    Unit { from: Hole, back: usize, x87: bool },
}

/// A block under construction.
pub(super) struct Emitter<'a> {
    /// Code in line; while `out_of_line` works, that out of line.
    pub(super) asm: Asm,
    /// The other one.
    pub(super) other: Asm,
    pub(super) is_cold: bool,
    pub(super) groups: Groups,
    /// The group whose host address is in S0.
    pub(super) held: Option<usize>,
    /// What is known of the registers here, where accesses go through windows.
    pub(super) values: Values,
    /// The address whose window S1 leads to, unless S1 has changed.
    pub(super) lead: Option<Value>,
    /// What is kept in memory of what leads to windows.
    pub(super) leads: Leads,
    /// The slot there of the access that comes next.
    pub(super) slot: Option<u8>,
    /// The instruction of the access that comes next, and where it probably is.
    pub(super) expected: Option<(usize, Stretch)>,
    /// The site of the access that comes next.
    pub(super) touching: Option<u32>,
    /// The budget was looked at; blocks are made so that they need not where they are left.
    pub(super) polled: bool,
    pub(super) source: &'a Source<'a>,
    pub(super) numbers: Numbers,
    pub(super) shared: &'a Stubs,
    pub(super) encoder: &'a mut Encoder,
    pub(super) facts: &'a [Fact],
    pub(super) place: Place,
    pub(super) sites: Vec<Site>,
    pub(super) links: Vec<Link>,
    pub(super) traps: Vec<(u32, u32)>,
    pub(super) stubs: Vec<Stub>,
    pub(super) vectors_ready: bool,
    pub(super) x87_ready: bool,
    /// The comparison that waits for the block's last branch.
    pub(super) late: Option<Late>,
    /// No instruction has changed the flags yet.
    pub(super) entry_flags: bool,
    saves_entry: bool,
    /// The recipe of an instruction whose memory operand was kept for it.
    pub(super) copied: Option<Recipe>,
    /// Registers that have other names in this path.
    pub(super) renaming: Renaming,
    /// They have here.
    pub(super) is_renamed: bool,
    /// Bytes that the guest's RSP is ahead of the host's.
    pub(super) lag: i32,
    /// The taken register whose value is in S0 as well, unless S0 has changed.
    pub(super) stood: Option<u8>,
}

/// Translates the block at the start of the source. `announced` tells whether CPUID names all that
/// an instruction needs; `peek` reads the guest's memory where that has no effect.
pub(crate) fn translate(
    source: &Source<'_>,
    numbers: Numbers,
    shared: &Stubs,
    tools: &mut Tools,
    announced: &mut dyn FnMut(&Instruction) -> bool,
    peek: &dyn Fn(u64) -> Option<u64>,
) -> Draft {
    let Tools { encoder, factory, facts, stubs, spare } = tools;
    facts.clear();
    let mut spare = std::mem::take(spare);
    spare.code.clear();
    spare.cold.clear();
    spare.sites.clear();
    spare.links.clear();
    spare.traps.clear();
    let renaming = match source.path {
        Some(path) => path::decode(source, path, (factory, encoder), facts, announced),
        None => {
            decode(source, factory, facts, announced);
            if let Some(registers) = source.registers.filter(|_| source.gates.windows) {
                foresee(facts, registers, peek);
            }
            Renaming::default()
        }
    };
    if source.gates.windows {
        let closes = source.path.is_some() && path::closes(source, facts);
        note_chains(facts, closes);
    }
    let grouped = source.gates.grouped && !source.gates.windows;
    let groups = if grouped { group::find(facts) } else { Groups::default() };
    for (index, member) in groups.members.iter().enumerate() {
        if member.is_some_and(|member| groups.groups[member.group].first != index) {
            facts[index].can_leave &= facts[index].can_trap || facts[index].kind == Kind::PopFlags;
        }
    }
    assert!(!facts.is_empty(), "a block has an instruction");
    note_poll(facts, source.path.is_some());
    let left = facts.last().is_some_and(|last| last.kind == Kind::Interpret);
    let instructions = facts.len() as u16 - u16::from(left);
    let mut emitter = Emitter {
        asm: Asm::with_buffer(spare.code),
        other: Asm::with_buffer(spare.cold),
        is_cold: false,
        groups,
        held: None,
        values: Values::new(),
        lead: None,
        leads: match source.path {
            _ if !source.gates.windows => Leads::none(),
            Some(_) => Leads::of_path(facts, path::closes(source, facts)),
            None => Leads::of_block(facts),
        },
        slot: None,
        expected: None,
        touching: None,
        polled: source.path.is_none(),
        source,
        numbers,
        shared,
        encoder,
        facts,
        place: Place::Native { recipe: source.entry, saved: false },
        sites: spare.sites,
        links: spare.links,
        traps: spare.traps,
        stubs: std::mem::take(stubs),
        vectors_ready: false,
        x87_ready: false,
        late: None,
        entry_flags: true,
        saves_entry: false,
        copied: None,
        renaming,
        is_renamed: renaming != Renaming::default(),
        lag: 0,
        stood: None,
    };
    match source.path {
        Some(_) => emitter.path(),
        None => emitter.block(),
    }
    emitter.out_of_line();
    let Emitter { asm, other, sites, links, traps, saves_entry, stubs: mut used, .. } = emitter;
    used.clear();
    *stubs = used;
    Draft {
        code: other.bytes,
        cold: asm.bytes,
        sites,
        links,
        traps,
        instructions,
        saves_entry,
        renaming,
    }
}

/// Decodes up to the end of the page, a branch, or the limit.
fn decode(
    source: &Source<'_>,
    factory: &mut InstructionInfoFactory,
    facts: &mut Vec<Fact>,
    announced: &mut dyn FnMut(&Instruction) -> bool,
) {
    let bits = if source.gates.flat { 32 } else { 64 };
    let mut decoder = Decoder::with_ip(bits, source.bytes, u64::from(source.offset), DECODING);
    let mut ins = Instruction::default();
    let mut passed = 0;
    let limit = if source.second_page.is_some() { 1 } else { BLOCK_INSTRUCTIONS };
    while facts.len() < limit && decoder.can_decode() {
        let offset = decoder.ip() as i32;
        decoder.decode_out(&mut ins);
        let crosses = decoder.last_error() == iced_x86::DecoderError::NoMoreBytes;
        if crosses && !facts.is_empty() {
            break;
        }
        let known = !ins.is_invalid() && announced(&ins);
        let mut fact = examine(factory, &ins, offset, source.gates, known);
        fact.code_at = Some(offset as u32 - source.offset);
        let ends = fact.kind.ends_block() && !passes(&fact, &mut passed);
        facts.push(fact);
        if ends {
            break;
        }
    }
}

/// Whether a block goes on behind a branch: it leads forward within the page, so that no loop
/// closes, and there were few of them.
fn passes(fact: &Fact, passed: &mut usize) -> bool {
    let Kind::Branch(_) = fact.kind else { return false };
    let target = fact.ins.near_branch_target() as i64 as i32;
    let next = fact.offset + fact.ins.len() as i32;
    *passed += 1;
    *passed <= PASSED_BRANCHES && (next..4096).contains(&target)
}

impl Emitter<'_> {
    fn block(&mut self) {
        if let Some(host) = self.source.second_page {
            self.check_second_page(host);
        }
        let count = self.facts.len();
        let poll_at = poll_position(self.facts, false).filter(|_| !self.polls_at_end());
        for index in 0..count {
            if poll_at == Some(index) {
                match self.poll_late(index) {
                    Some(true) => continue,
                    Some(false) => {}
                    None => self.poll(index),
                }
            }
            self.instruction(index);
        }
        let last = &self.facts[count - 1];
        if !last.kind.ends_block() {
            let next = last.offset + last.ins.len() as i32;
            self.want_native();
            self.spend(count);
            self.jump_to(next);
        }
    }

    pub(super) fn instruction(&mut self, index: usize) {
        let facts: &[Fact] = self.facts;
        let fact = &facts[index];
        self.settle_before(fact);
        if (fact.vector && !self.vectors_ready) || (fact.x87 && !self.x87_ready) {
            self.ready_units(index, fact);
        }
        match fact.kind {
            _ if let Some(follows) = fact.follows => self.along(index, fact, follows),
            Kind::Nothing => {}
            Kind::Plain => self.plain(index, fact),
            Kind::Address => self.load_address(fact),
            Kind::BitString => self.bit_string(index, fact),
            Kind::TimeStamp => self.time_stamp(index, fact),
            Kind::PopStackPointer => self.pop_stack_pointer(index),
            Kind::PushFlags => self.push_flags(index),
            Kind::PopFlags => self.pop_flags(index),
            Kind::DisableInterrupts => self.disable_interrupts(),
            Kind::EnableInterrupts => self.enable_interrupts(index),
            Kind::SwapGs => self.swap_gs(),
            Kind::InvalidatePage => self.invalidate_page(index, fact),
            Kind::Selector => self.selector(fact),
            Kind::StoreSelector => self.store_selector(index, fact),
            Kind::AccessFlag(set) => self.access_flag(index, set),
            Kind::ClearDirection => self.clear_direction(index),
            Kind::ReadBase => self.read_base(fact),
            Kind::WriteBase => self.write_base(index, fact),
            Kind::ReadControl => self.read_control(fact),
            Kind::ReadKeys => self.read_keys(index),
            Kind::RepeatedString => self.repeated_string(index, fact),
            Kind::SystemCall => self.system_call(index, fact),
            Kind::SystemReturn => self.system_return(index),
            Kind::Push => self.push(index, fact),
            Kind::Pop => self.pop(index, fact),
            Kind::Leave => self.leave(index),
            Kind::Jump => self.jump(index, fact),
            Kind::Branch(condition) if index + 1 < facts.len() => {
                let target = fact.ins.near_branch_target() as i64 as i32;
                self.branch_aside(index, condition, target);
            }
            Kind::Branch(condition) => self.branch(index, fact, condition),
            Kind::Call => self.call(index, fact),
            Kind::JumpIndirect => self.jump_indirect(index, fact),
            Kind::CallIndirect => self.call_indirect(index, fact),
            Kind::Return => self.ret(index, fact),
            Kind::Interpret => self.interpret(index),
        }
        self.after(fact);
        self.forget_stood(fact);
        assert!(self.touching.is_none(), "an access is where its site says");
        if self.source.gates.windows {
            self.values.follow(fact);
        }
    }

    /// Notes what an instruction does to the flags' place.
    fn after(&mut self, fact: &Fact) {
        if fact.kind == Kind::PopFlags {
            self.entry_flags = false;
            self.place = Place::Saved;
            return;
        }
        if fact.changes_flags {
            self.entry_flags = false;
            let recipe = match self.copied.take() {
                None if fact.makes_flags => Recipe::of(&fact.ins),
                copied => copied,
            };
            self.place = Place::Native { recipe, saved: false };
            return;
        }
        self.place = match self.place {
            Place::Native { recipe: Some(recipe), saved } => {
                Place::Native { recipe: recipe.after(fact), saved }
            }
            Place::Recipe(recipe) => match recipe.after(fact) {
                Some(recipe) => Place::Recipe(recipe),
                // `serves` promised that nobody asks before they are overwritten.
                None => Place::Native { recipe: None, saved: false },
            },
            other => other,
        };
    }

    /// Makes the flags free for host use before instruction `index`.
    pub(super) fn clobber(&mut self, index: usize) {
        let Place::Native { recipe, saved } = self.place else { return };
        if saved {
            self.place = Place::Saved;
        } else if let Some(recipe) = recipe
            && serves(recipe, self.facts, index)
        {
            self.place = Place::Recipe(recipe);
        } else {
            self.saves_entry |= self.entry_flags && self.source.entry.is_none();
            self.save_flags();
            self.place = Place::Saved;
        }
    }

    /// Brings the flags back into the host's; changes S1.
    pub(super) fn want_native(&mut self) {
        match self.place {
            Place::Native { .. } => {}
            Place::Saved => {
                self.restore_flags();
                self.place = Place::Native { recipe: None, saved: true };
            }
            Place::Recipe(recipe) => {
                self.cook(recipe);
                self.place = Place::Native { recipe: Some(recipe), saved: false };
            }
        }
    }

    /// A new site at instruction `index`, with the flags where they are now.
    pub(super) fn site(&mut self, kind: SiteKind, index: usize) -> u32 {
        let offset = self.facts[index].offset;
        self.site_at(kind, offset, index)
    }

    pub(super) fn site_at(&mut self, kind: SiteKind, offset: i32, executed: usize) -> u32 {
        self.sites.push(Site {
            kind,
            block: self.numbers.block,
            offset,
            executed: executed as u16,
            flags: self.place,
            lag: self.lag_in_words(),
        });
        self.numbers.first_site + self.sites.len() as u32 - 1
    }

    /// Takes executed instructions off the budget.
    pub(super) fn spend(&mut self, count: usize) {
        self.asm.add_quietly(BUDGET, -(count as i32));
    }

    /// Looks at the budget before an instruction.
    pub(super) fn poll(&mut self, index: usize) {
        if self.source.gates.windows && self.would_save(index) {
            return self.poll_quietly(index);
        }
        self.clobber(index);
        let site = self.site(SiteKind::Poll, index);
        self.asm.rr(true, &[0x85], BUDGET, BUDGET);
        let from = self.asm.jcc(cond::SIGN);
        self.stubs.push(Stub::Leave { from, site });
    }

    /// Leaves in front of an instruction for good.
    fn interpret(&mut self, index: usize) {
        let native = matches!(self.place, Place::Native { .. });
        let site = self.site(SiteKind::Interpret, index);
        self.go_out(site, native);
    }
}

/// Before which instruction to look at the budget: where a loop may close, at the latest
/// place where flags are about to be overwritten anyway.
pub(super) fn poll_position(facts: &[Fact], path: bool) -> Option<usize> {
    let index = facts.len() - 1;
    let last = &facts[index];
    let wants = match last.kind {
        Kind::Interpret => false,
        _ if path => true,
        Kind::JumpIndirect
        | Kind::CallIndirect
        | Kind::Return
        | Kind::SystemCall
        | Kind::SystemReturn => true,
        Kind::Jump | Kind::Branch(_) | Kind::Call => {
            let target = last.ins.near_branch_target() as i64 as i32;
            target <= last.offset || !(0..4096).contains(&target)
        }
        _ => last.offset + last.ins.len() as i32 >= 4096,
    };
    if !wants {
        return None;
    }
    let maker = (0..index).rev().find(|&at| facts[at].makes_flags);
    let reads = matches!(last.kind, Kind::Branch(_)) || path;
    Some(if reads { maker.unwrap_or(index) } else { index })
}

/// The poll can leave before its instruction, which is to see the flags from before it: a recipe
/// has to serve until then.
pub(super) fn note_poll(facts: &mut [Fact], path: bool) {
    if let Some(index) = poll_position(facts, path) {
        facts[index].can_leave = true;
    }
}
