//! Tier 2: which code is hot, the path that it takes, and the superblock made of it.
//!
//! Translated code looks at its budget where loops close, and leaves every 100,000 instructions: the
//! block found running then is a sample of what runs most. Where samples repeat, the block gets a
//! gate that leaves at its start; from there the interpreter runs and notes every instruction
//! until execution comes back, and what it noted becomes one straight piece of code whose accesses
//! go through windows.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use engine::Exit;
use iced_x86::{Decoder, InstructionInfoFactory, Register};
use interp::Op;
use interp::cpu::Mode;

use super::SoftVcpu;
use super::code::Code;
use super::library::{Key, Library};
use crate::block::Mix;
use crate::bus::SoftBus;
use crate::bus::tlb::Kind;
use crate::translate::SiteKind;
use crate::translate::Source;
use crate::translate::facts::{DECODING, Gates};
use crate::translate::path::{Path, Step};

/// As long as a vCPU has made fewer superblocks than this, fewer samples make code hot.
const FEW: u32 = 48;
/// Runs of a block that make it hot in lockstep, where there are no samples.
const HOT_WHEN_CHECKED: u8 = 6;
/// Blocks whose samples are counted at once.
const MOST_COUNTED: usize = 4096;
/// A block that no superblock is made for any more.
const HOPELESS: u8 = u8::MAX;
/// Times a path is left for one address before what follows may get a superblock of its own, ...
const HOT_EXITS: u8 = 12;
/// ... if that took fewer instructions than this.
const HOT_EXITS_WITHIN: u64 = 200_000;
/// Times an indirect branch of a path goes elsewhere before nobody counts where.
const COUNTED_ELSEWHERE: u8 = 50;
/// Longest path, in instructions: fewer than can run between two looks at the budget.
pub(super) const LONGEST: usize = 400;
/// A path ends where another superblock begins, but not before so many instructions.
const JOINS: usize = 24;
/// A shorter loop is unrolled until it is longer.
const UNROLLED: usize = 48;
/// A path that the translator can follow for fewer instructions is not worth it.
const SHORTEST: u16 = 4;

/// How soon code counts as hot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Instructions from one sample to the next, and at most between looks at the timer.
    pub(crate) slice: u64,
    /// Samples of a block that make it hot: it ran for about as long as a superblock takes to make.
    hot: u8,
    /// As long as there are few superblocks: programs with few hot places run fast at once.
    hot_of_few: u8,
    /// Samples of a context, of whatever code, after which all its code uses windows.
    lasting: u32,
}

impl Pace {
    pub(crate) const USUAL: Self = Self { slice: 100_000, hot: 12, hot_of_few: 3, lasting: 24 };
    /// So that short programs become hot as well.
    pub(crate) const HURRIED: Self = Self { slice: 40, hot: 4, hot_of_few: 2, lasting: 12 };
}

/// What is known of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Warmth {
    Cold,
    /// Now is the time for a superblock.
    Hot {
        /// Instructions since the first sample.
        within: u64,
    },
    /// There is none to be had.
    Hopeless,
}

/// Samples of one address.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    samples: u8,
    /// Instructions executed when the first came.
    since: u64,
}

/// Samples by program and linear address.
#[derive(Default)]
pub(super) struct Heat(HashMap<(u64, u64), Count, BuildHasherDefault<Mix>>);

impl Heat {
    /// Counts a sample at a time in instructions; `enough` of them make an address hot.
    fn note(&mut self, address: (u64, u64), now: u64, enough: u8) -> Warmth {
        if self.0.len() >= MOST_COUNTED {
            self.0.clear();
        }
        let count = self.0.entry(address).or_insert(Count { samples: 0, since: now });
        if count.samples == HOPELESS {
            return Warmth::Hopeless;
        }
        count.samples += 1;
        if count.samples < enough {
            return Warmth::Cold;
        }
        let within = now - count.since;
        *count = Count { samples: 0, since: now };
        Warmth::Hot { within }
    }

    fn give_up(&mut self, program: u64, linear: u64) {
        self.0.insert((program, linear), Count { samples: HOPELESS, since: 0 });
    }
}

impl SoftVcpu {
    /// A block was found running when its budget was spent.
    pub(super) fn found_running(&mut self, block: u32) {
        if !self.may_use_windows() {
            return;
        }
        let key = self.native.as_ref().expect("it just ran").key(block);
        // Code that is not bound to its page notes it where it goes to another.
        let page = key.page.unwrap_or_else(|| self.cpu.bus.tlb.state().rip_base);
        let linear = page | key.ram & 0xfff;
        let pace = &self.cpu.bus.shared.pace;
        let (lasting, few) = (pace.lasting, self.superblocks < FEW);
        let enough = if few { pace.hot_of_few } else { pace.hot };
        if self.cpu.bus.tlb.count_sample() == lasting {
            self.cpu.bus.tlb.enable_windows();
            return;
        }
        let program = self.cpu.bus.tlb.program();
        if key.gates.path || !key.gates.grouped || !self.heats(program, linear, enough) {
            return;
        }
        if key.gates.windows {
            self.want_superblock(block, linear);
        } else if self.cpu.bus.tlb.enable_windows() {
            self.want_superblock_at(linear);
        }
    }

    /// Counts a sample; true for the one that makes an address hot.
    fn heats(&mut self, program: u64, linear: u64, enough: u8) -> bool {
        let now = self.cpu.bus.retired;
        matches!(self.heat.note((program, linear), now, enough), Warmth::Hot { .. })
    }

    /// Gets a superblock for a hot block: a known one, or one to be recorded when it runs next.
    fn want_superblock(&mut self, block: u32, linear: u64) {
        if !self.take_known_superblock(block, linear) {
            self.lead_gates(block, linear, None);
        }
    }

    /// The same for an address.
    fn want_superblock_at(&mut self, linear: u64) {
        let full = self.native.as_ref().is_none_or(Library::is_full);
        if !full && let Some(block) = self.native_block(linear) {
            self.want_superblock(block, linear);
        }
    }

    /// A block was left through a branch: whether it is a path's, and still counted. What it leads
    /// to often gets a superblock, too.
    pub(super) fn counts_exit(&mut self, block: u32, linear: u64) -> bool {
        let native = self.native.as_ref().expect("it just ran");
        if self.checking || !native.block(block).gates().path {
            return false;
        }
        if !self.may_use_windows() || self.known_superblock(linear).is_some() {
            return false;
        }
        self.counts_way_out(linear)
    }

    /// Counts a way out of a path to an address, and lets what it leads to have a superblock if that
    /// comes often enough. Whether it is to be counted on.
    fn counts_way_out(&mut self, linear: u64) -> bool {
        let program = self.cpu.bus.tlb.program();
        match self.heat.note((program, linear), self.cpu.bus.retired, HOT_EXITS) {
            Warmth::Cold => return true,
            Warmth::Hot { within } if within < HOT_EXITS_WITHIN => {
                if self.known_superblock(linear).is_none() {
                    self.want_superblock_at(linear);
                }
            }
            // Seldom: if what follows takes time all the same, samples will tell.
            Warmth::Hot { .. } | Warmth::Hopeless => {}
        }
        false
    }

    /// A path's indirect branch went elsewhere.
    pub(super) fn went_elsewhere(&mut self, link: u32, linear: u64) {
        if self.checking || !self.may_use_windows() {
            return;
        }
        let program = self.cpu.bus.tlb.program();
        let native = self.native.as_ref().expect("it just ran");
        let crate::translate::Link { slot, stub, through, .. } = native.link_at(link);
        let (stub, through) = (native.place_address(stub), native.place_address(through));
        let clears = native.clears();
        self.counts_way_out(linear);
        let same = self.native.as_ref().is_some_and(|native| native.clears() == clears);
        if same
            && self.heats(program, stub, COUNTED_ELSEWHERE)
            && let Some(ram) = self.fetched(linear)
        {
            let slot = slot.expect("these have one");
            self.cpu.bus.tlb.set_link(slot, linear, ram.0 >> 12, through);
        }
    }

    /// Whether code like that at RIP can have superblocks.
    fn may_use_windows(&self) -> bool {
        self.announced.bmi2 && self.cpu.cpl == 3 && self.cpu.mode == Mode::Long
    }

    /// Lets all ways into a block lead to a superblock in this context, or to the recorder.
    fn lead_gates(&mut self, block: u32, linear: u64, to: Option<u64>) {
        let native = self.native.as_mut().expect("it just ran");
        let tlb = &mut self.cpu.bus.tlb;
        for sibling in native.siblings(block) {
            if native.is_full() {
                return;
            }
            let gate = native.gate(sibling, tlb);
            let (body, entrance) = (native.body(sibling), native.address(sibling));
            let leave = native.place_address(gate.leave);
            let to = to.unwrap_or(leave);
            tlb.set_link(gate.slot, linear, native.block(sibling).ram() >> 12, to);
            for old in [body, entrance, leave] {
                tlb.redirect(linear, old, to);
            }
        }
    }

    /// Enters a superblock that another address space had made of the same pages.
    fn take_known_superblock(&mut self, block: u32, linear: u64) -> bool {
        let Some(known) = self.known_superblock(linear) else { return false };
        self.enter_superblocks(block, linear, known)
    }

    /// The superblock that starts at a linear address, if its pages are where they were.
    pub(super) fn known_superblock(&mut self, linear: u64) -> Option<u32> {
        let key = self.superblock_key(linear)?;
        let native = self.native.as_ref()?;
        let known = native.find(&key)?;
        let pages: Box<[_]> = native.block(known).pages().into();
        let fits = pages
            .iter()
            .all(|&(page, ram)| self.fetched(page).map(|offset| offset.0 >> 12) == Some(ram));
        fits.then_some(known)
    }

    /// Lockstep: the superblock at a linear address. `Err`: one is being recorded instead.
    pub(super) fn superblock_to_check(&mut self, linear: u64) -> Result<Option<u32>, Option<Exit>> {
        if !self.may_use_windows() {
            return Ok(None);
        }
        if let Some(known) = self.known_superblock(linear) {
            return Ok(self.cpu.bus.tlb.enable_windows().then_some(known));
        }
        let program = self.cpu.bus.tlb.program();
        if !self.heats(program, linear, HOT_WHEN_CHECKED) {
            return Ok(None);
        }
        let (path, exit) = self.record_path();
        let made = path.and_then(|path| self.make_superblock(&path));
        if made.is_none() {
            self.heat.give_up(program, linear);
        }
        Err(exit)
    }

    fn superblock_key(&mut self, linear: u64) -> Option<Key> {
        let ram = self.fetched(linear)?.0;
        let gates = Gates { windows: true, path: true, ..self.gates() };
        Some(Key { ram, page: Some(linear & !0xfff), gates, entry: None })
    }

    fn enter_superblocks(&mut self, block: u32, linear: u64, superblock: u32) -> bool {
        if !self.cpu.bus.tlb.enable_windows() {
            return false;
        }
        let native = self.native.as_ref().expect("it just ran");
        let code = native.body(superblock);
        let pages: Box<[_]> = native.block(superblock).pages().into();
        if !self.cpu.bus.tlb.add_spread(&pages, code) {
            return false;
        }
        self.lead_gates(block, linear, Some(code));
        true
    }

    /// Records a path from a block's start, and makes a superblock of it.
    #[cold]
    pub(super) fn record_superblock(&mut self, block: u32, linear: u64) -> Option<Exit> {
        let program = self.cpu.bus.tlb.program();
        let clears = self.native.as_ref().expect("it just ran").clears();
        // Whatever comes of it, the gate does not lead here again.
        let body = self.native.as_ref().expect("it just ran").body(block);
        self.lead_gates(block, linear, Some(body));
        let (path, exit) = self.record_path();
        let same = |vcpu: &Self| {
            let native = vcpu.native.as_ref().expect("it just ran");
            native.clears() == clears && native.is_live(block)
        };
        if !same(self) || program != self.cpu.bus.tlb.program() {
            return exit;
        }
        // What is too long for one goes on in the next.
        let longer = path.as_ref().filter(|path| path.steps.len() == LONGEST);
        let longer = longer.map(|path| path.next);
        let made = path.and_then(|path| self.make_superblock(&path));
        if made.is_some() && !same(self) {
            // It needed room. It is found when its start is hot again.
            return exit;
        }
        let entered = made.is_some_and(|made| self.enter_superblocks(block, linear, made));
        if !entered {
            self.heat.give_up(program, linear);
        } else if let Some(next) = longer {
            self.want_superblock_at(next);
        }
        exit
    }

    /// Interprets and notes each instruction until execution is back at the start, or leaves what
    /// a path can hold, or the budget is spent.
    fn record_path(&mut self) -> (Option<Path>, Option<Exit>) {
        let program = self.cpu.bus.tlb.program();
        let start = self.cpu.rip();
        let mut path = Path::default();
        let mut exit = None;
        while !self.must_look_up() {
            let Ok(Code::Block(block)) = self.code() else { break };
            let ops = self.cache.get(block).ops.clone();
            if let Err(ended) = self.record_ops(&ops, start, &mut path) {
                exit = ended;
                break;
            }
        }
        let same = self.cpu.bus.tlb.program() == program && self.cpu.cpl == 3;
        (same.then_some(path), exit)
    }

    /// Interprets and notes a block's instructions. `Err`: the path ends here.
    fn record_ops(
        &mut self,
        ops: &[Op<SoftBus>],
        start: u64,
        path: &mut Path,
    ) -> Result<(), Option<Exit>> {
        let mut starts = true;
        for op in ops {
            let linear = self.cpu.rip();
            let back = linear == start && path.steps.len() >= UNROLLED;
            let joins = std::mem::take(&mut starts)
                && path.steps.len() >= JOINS
                && linear != start
                && self.known_superblock(linear).is_some();
            let far = i32::try_from(linear.wrapping_sub(start) as i64).is_err();
            let spent = self.cpu.bus.retired >= self.stop_at;
            if back || joins || far || spent || path.steps.len() == LONGEST {
                return Err(None);
            }
            let next = linear.wrapping_add(u64::from(op.len));
            let before = *self.cpu.regs.first_chunk().expect("16 and more");
            self.cpu.set_rip(next);
            let outcome = (op.run)(&mut self.cpu, op);
            let cut = self.cpu.bus.cut;
            if cut {
                self.drop_stale_blocks();
            }
            if outcome.is_err() {
                return Err(self.trapped(op.len));
            }
            self.cpu.bus.retired += 1;
            if cut || self.cpu.cpl != 3 {
                return Err(None);
            }
            path.steps.push(Step { linear, length: op.len });
            path.registers.push(before);
            // An instruction that ends the path by what it does is none of its steps.
            path.next = self.cpu.rip();
            if self.cpu.rip() != next {
                break;
            }
        }
        Ok(())
    }

    fn must_look_up(&self) -> bool {
        self.own.attention.load(std::sync::atomic::Ordering::Relaxed) != 0
            || self.cpu.state.rflags & Self::CAREFUL != 0
            || self.cpu.state.sti_shadow
            || self.cpu.state.mov_ss_shadow
    }

    /// Translates a path.
    fn make_superblock(&mut self, path: &Path) -> Option<u32> {
        let start = path.steps.first()?.linear;
        if path.steps.len() < usize::from(SHORTEST) {
            return None;
        }
        let mut pages: Vec<(u64, u64)> = Vec::new();
        for step in &path.steps {
            for linear in [step.linear, step.linear.wrapping_add(u64::from(step.length) - 1)] {
                let page = linear & !0xfff;
                if !pages.iter().any(|known| known.0 == page) {
                    let ram = self.fetched(page)?.0 >> 12;
                    self.cpu.bus.watch_code_page(ram);
                    pages.push((page, ram));
                }
            }
        }
        let mut bytes = Vec::with_capacity(path.steps.len() * 4);
        for step in &path.steps {
            for index in 0..u64::from(step.length) {
                let offset = self.fetched(step.linear.wrapping_add(index))?;
                bytes.push(self.cpu.bus.memory.load::<u8>(offset));
            }
        }
        let key = self.superblock_key(start)?;
        let source = Source {
            bytes: &bytes,
            offset: (start & 0xfff) as u32,
            page: key.page,
            second_page: None,
            gates: key.gates,
            entry: None,
            registers: None,
            path: Some(path),
            closes: path.is_closed(),
            pages: &pages,
        };
        let bus = &mut self.cpu.bus;
        let native = self.native.as_mut()?;
        if !native.has_slots(2 * path.steps.len()) {
            native.make_room(&mut bus.tlb);
        }
        let (cpuid, announced) = (&bus.shared.cpuid, &mut self.announced);
        let mut known = |ins: &iced_x86::Instruction| announced.has(ins, cpuid);
        let made = native.add(key, None, &pages, &source, &mut bus.tlb, &mut known);
        if native.instructions(made) < SHORTEST {
            native.drop_block(made, &mut bus.tlb);
            return None;
        }
        self.superblocks = self.superblocks.saturating_add(1);
        if self.checking {
            native.keep_steps(made, path);
        }
        Some(made)
    }

    /// An access faulted in its window: shows the page, if that is all it needs.
    pub(crate) fn show_missing(&mut self) -> bool {
        self.follow_side();
        let state = self.cpu.bus.tlb.state();
        let (pc, host, flags) = (state.trap_pc, state.trap_address, state.trap_flags);
        let Some(native) = self.native.as_ref() else { return false };
        let Some(site) = native.trap_site(pc) else { return false };
        let SiteKind::Window { write } = native.site(site).kind else { return false };
        let Some(linear) = self.cpu.bus.tlb.seen_through(host) else { return false };
        let kind = if write { Kind::Write } else { Kind::Read };
        let shown = self.cpu.bus.tlb.may_show_another() && self.cpu.bus.show(kind, linear);
        if shown {
            let state = self.cpu.bus.tlb.state();
            state.resume = pc;
            state.resume_flags = crate::translate::flags::to_saved(flags);
        }
        shown
    }

    /// The instruction at RIP accesses what no window reaches: opens windows for it.
    #[cold]
    pub(super) fn open_window_at(&mut self, rip: u64) {
        let mut bytes = [0; 15];
        for (index, byte) in bytes.iter_mut().enumerate() {
            let Some(offset) = self.fetched(rip.wrapping_add(index as u64)) else { break };
            *byte = self.cpu.bus.memory.load::<u8>(offset);
        }
        let ins = Decoder::with_ip(64, &bytes, rip, DECODING).decode();
        let mut factory = InstructionInfoFactory::new();
        for used in factory.info(&ins).used_memory() {
            let linear = used.try_virtual_address(0, |register, _, _| match register {
                Register::FS => Some(self.cpu.state.segments[4].base),
                Register::GS => Some(self.cpu.state.segments[5].base),
                other if other.is_segment_register() => Some(0),
                other if other.is_gpr64() => Some(self.cpu.regs[other.number()]),
                other if other.is_gpr32() => Some(self.cpu.regs[other.number()] & 0xffff_ffff),
                _ => None,
            });
            if let Some(linear) = linear
                && memory::GuestVirt(linear).is_canonical()
                && linear >> 63 == 0
            {
                self.cpu.bus.tlb.open_window(linear);
            }
        }
    }
}

impl Library {
    /// Keeps a path's addresses for lockstep.
    fn keep_steps(&mut self, block: u32, path: &Path) {
        let steps = path.steps.iter().map(|step| step.linear).collect();
        self.extra(block).steps = Some(steps);
    }
}
