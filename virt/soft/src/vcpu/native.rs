//! Running translated code: the way in and out of it, and what to do at each site.
//!
//! Only 64-bit code and flat 32-bit code are translated, and only while nothing must be seen at
//! every instruction.
//! Whatever a block leaves for, the guest's state is whole again before anything else happens.

use std::ptr;
use std::sync::atomic::{Ordering, compiler_fence};

use engine::Exit;
use interp::CodeKind;
use interp::cpu::Mode;
use interp::flags::LazyFlags;
use interp::op::slot;
use memory::{GuestVirt, RamOffset};
use x86::{Cr0, Cr4, Flags};

use super::SoftVcpu;
use super::code::Code;
use super::library::{Key, Library};
use super::runs::Heat;
use super::superblock::LONGEST;
use crate::bus::Place as MemoryPlace;
use crate::bus::tlb::Kind;
use crate::cache::enter::enter;
use crate::cache::miss::{invalidate, miss, window_fault};
use crate::cache::signal::{Guarded, KICKED, was_kicked};
use crate::sys::host;
use crate::translate::facts::Gates;
use crate::translate::flags::{self, Place, Recipe};
use crate::translate::flat;
use crate::translate::registers::RSP;
use crate::translate::stubs::TRAP_SITE;
use crate::translate::{BLOCK_INSTRUCTIONS, Site, SiteKind, Source};

/// Instructions that may run when the timer is due.
const SHORTEST_SLICE: u64 = 4_000;
/// More instructions than can run between two polls: the rest of a path, a page of one-byte ones,
/// a block, and a path up to its own poll.
const SLACK: u64 = 4096 + 128 + 2 * LONGEST as u64;
/// Linear addresses from here on are the kernel's: one mapping, so code may be bound to it.
const UPPER_HALF: u64 = 1 << 63;

/// A branch that translated code was left through, to be linked once its target is translated.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingLink {
    link: u32,
    target: u64,
    /// The context's area.
    context: u64,
    /// How often a region of code had been dropped then.
    clears: u32,
    /// What code could do there.
    gates: Gates,
}

impl SoftVcpu {
    /// Whether translated code may run now, for at least a poll's worth of instructions.
    #[inline(always)]
    pub(super) fn can_run_native(&mut self, left: u64) -> bool {
        self.native.is_some()
            && left > SLACK
            && !self.cpu.bus.context.watch
            && !self.cpu.bus.context.align_check
            && match self.cpu.mode {
                Mode::Long => true,
                Mode::Protected32 => self.is_flat(),
                _ => false,
            }
    }

    /// Whether 32-bit code runs over a flat address space, with registers as its translation has
    /// them. The context follows the segment registers, so that nothing leads to code that takes
    /// others for granted.
    fn is_flat(&mut self) -> bool {
        let code = self.cpu.code_kind();
        if code != self.cpu.bus.context.code {
            self.cpu.refresh();
        }
        let used = self.cpu.regs[..8].iter().fold(0, |used, value| used | value);
        matches!(code, CodeKind::Flat { .. }) && used >> 32 == 0 && self.cpu.rip() < flat::LAST_PAGE
    }

    /// Runs translated code from RIP on, if there is any. `None`: interpret.
    #[inline]
    pub(super) fn run_native(&mut self, left: u64) -> Option<Option<Exit>> {
        let linear = self.cpu.rip();
        if self.checking {
            return self.check_block(linear);
        }
        let link = self.pending_link.take();
        let mut code = match self.cpu.bus.tlb.jump(linear) {
            _ if self.ungrouped => self.find_ungrouped(linear)?,
            Some(code) => code,
            None => self.find_native(linear)?,
        };
        if let Some(link) = link {
            self.link(link, linear);
            // Linking translates: what was found may have made way for it.
            code = match self.cpu.bus.tlb.jump(linear) {
                Some(code) => code,
                None => self.find_native(linear)?,
            };
        }
        // A sample comes every so many instructions, however often translated code is left.
        let until_sample = self.next_sample.saturating_sub(self.cpu.bus.retired);
        let budget = self.slice().min(left - SLACK).min(until_sample);
        let site = self.enter_native(code, budget);
        Some(self.left_at(site))
    }

    /// Instructions until the next look at the timer: fewer when it is due soon.
    #[inline]
    fn slice(&self) -> u64 {
        let most = self.cpu.bus.shared.pace.slice;
        if self.cpu.bus.is_virtual() {
            return most;
        }
        // It seldom takes less than a tick to execute one.
        let ticks = self.timer_due.saturating_sub(host::rdtsc());
        most.min(ticks.max(SHORTEST_SLICE))
    }

    #[cold]
    fn check_block(&mut self, linear: u64) -> Option<Option<Exit>> {
        if !matches!(self.code(), Ok(Code::Block(_))) {
            return None;
        }
        let block = if std::mem::take(&mut self.ungrouped) {
            self.native_block_of(linear, false, None)?
        } else {
            match self.superblock_to_check(linear) {
                Ok(Some(superblock)) => superblock,
                Ok(None) => self.native_block(linear)?,
                Err(exit) => return Some(exit),
            }
        };
        let native = self.native.as_ref().expect("asked before");
        let instructions = usize::from(native.instructions(block));
        let (code, steps) = (native.body(block), native.block(block).steps());
        Some(self.run_checked(code, instructions, steps.as_deref()))
    }

    /// Code for a linear address that the jump cache lacks; translates what is hot.
    #[cold]
    #[inline(never)]
    fn find_native(&mut self, linear: u64) -> Option<u64> {
        let heat = self.runs.heat(linear);
        if heat == Heat::Cold {
            return None;
        }
        let (ram, key) = self.block_key(linear, true, None)?;
        let block = match self.known_block(linear, &key) {
            Some(block) => block,
            None if heat == Heat::New => return None,
            None => self.translate_block(linear, ram, key)?,
        };
        let native = self.native.as_ref().expect("asked before");
        let code = native.address(block);
        if !self.checking {
            let page = native.block(block).ram() >> 12;
            self.cpu.bus.tlb.set_jump(linear, page, code);
        }
        Some(code)
    }

    /// Code for a linear address in which every access has its own check: a shared one failed.
    #[cold]
    fn find_ungrouped(&mut self, linear: u64) -> Option<u64> {
        self.ungrouped = false;
        let block = self.native_block_of(linear, false, None)?;
        // Not through a gate, which leads to code with groups.
        Some(self.native.as_ref().expect("asked before").body(block))
    }

    pub(super) fn native_block(&mut self, linear: u64) -> Option<u32> {
        self.native_block_of(linear, true, None)
    }

    fn native_block_of(
        &mut self,
        linear: u64,
        grouped: bool,
        entry: Option<Recipe>,
    ) -> Option<u32> {
        let (ram, key) = self.block_key(linear, grouped, entry)?;
        match self.known_block(linear, &key) {
            Some(block) => Some(block),
            None => self.translate_block(linear, ram, key),
        }
    }

    /// Where code lies, and what its block would be found by.
    fn block_key(
        &mut self,
        linear: u64,
        grouped: bool,
        entry: Option<Recipe>,
    ) -> Option<(RamOffset, Key)> {
        let gates = Gates { grouped, ..self.gates() };
        if gates.flat && linear >= flat::LAST_PAGE {
            return None;
        }
        let ram = self.fetched(linear)?;
        // Code of a lasting context gains more by knowing its addresses than others could share.
        let bound = linear >= UPPER_HALF || gates.windows;
        let page = bound.then_some(linear & !0xfff);
        Some((ram, Key { ram: ram.0, page, gates, entry }))
    }

    /// The block of a key, if it was translated.
    fn known_block(&mut self, linear: u64, key: &Key) -> Option<u32> {
        let native = self.native.as_ref()?;
        let block = native.find(key)?;
        let Some(second) = native.block(block).second() else { return Some(block) };
        let next = (linear & !0xfff).wrapping_add(0x1000);
        (self.fetched(next).map(|offset| offset.0 >> 12) == Some(second)).then_some(block)
    }

    /// Place in RAM of code, without raising anything.
    pub(super) fn fetched(&mut self, linear: u64) -> Option<RamOffset> {
        if let Some(offset) = self.cpu.bus.tlb.lookup(Kind::Fetch, linear, 1) {
            return Some(offset);
        }
        match self.cpu.bus.translate(Kind::Fetch, linear) {
            Ok(MemoryPlace::Ram(offset)) => Some(offset),
            _ => None,
        }
    }

    fn translate_block(&mut self, linear: u64, ram: RamOffset, key: Key) -> Option<u32> {
        self.cpu.bus.watch_code_page(ram.0 >> 12);
        let mut bytes = [0; 15 * BLOCK_INSTRUCTIONS + 16];
        let left = (4096 - (ram.0 & 0xfff) as usize).min(15 * BLOCK_INSTRUCTIONS);
        self.cpu.bus.memory.read_bytes(ram, &mut bytes[..left]);
        let mut second = None;
        let mut available = left;
        if left < 15 && crosses(&bytes[..left], key.gates.flat) {
            let next = self.fetched((linear & !0xfff).wrapping_add(0x1000))?;
            let page = RamOffset(next.0 & !0xfff);
            self.cpu.bus.watch_code_page(page.0 >> 12);
            self.cpu.bus.memory.read_bytes(page, &mut bytes[left..left + 15]);
            available = left + 15;
            second = Some(page);
        }
        self.runs.forget(linear);
        let gates = key.gates;
        let registers = *self.cpu.regs.first_chunk().expect("16 and more");
        let source = Source {
            bytes: &bytes[..available],
            offset: (linear & 0xfff) as u32,
            page: key.page,
            second_page: second.map(|page| self.cpu.bus.tlb.host_address(page)),
            gates,
            entry: key.entry,
            registers: Some(&registers).filter(|_| linear == self.cpu.rip()),
            path: None,
            closes: false,
            pages: &[],
        };
        let bus = &mut self.cpu.bus;
        let native = self.native.as_mut().expect("asked before");
        if native.is_full() {
            native.make_room(&mut bus.tlb);
        }
        let cpuid = &bus.shared.cpuid;
        let announced = &mut self.announced;
        let mut known = |ins: &iced_x86::Instruction| announced.has(ins, cpuid);
        let second = second.map(|page| page.0 >> 12);
        Some(native.add(key, second, &[], &source, &mut bus.tlb, &mut known))
    }

    /// What the units may do now.
    pub(super) fn gates(&self) -> Gates {
        let state = &self.cpu.state;
        let usable = state.cr0 & (Cr0::TS | Cr0::EM).bits() == 0;
        let native_errors = state.cr0 & Cr0::NE.bits() != 0;
        let sse = usable && state.cr4 & Cr4::OSFXSR.bits() != 0;
        let avx = sse && state.cr4 & Cr4::OSXSAVE.bits() != 0 && state.xcr0 & 6 == 6;
        let time = !self.checking
            && (state.cr4 & Cr4::TSD.bits() == 0 || self.cpu.cpl == 0)
            && self.announced.bmi2;
        let (flat, fs, gs) = match self.cpu.bus.context.code {
            CodeKind::Flat { fs, gs } => (true, fs, gs),
            _ => (false, false, false),
        };
        Gates {
            sse,
            avx,
            x87: usable && native_errors,
            time,
            counted_time: self.cpu.bus.is_virtual(),
            kernel: self.cpu.cpl == 0,
            bases: state.cr4 & Cr4::FSGSBASE.bits() != 0,
            keys: state.cr4 & Cr4::PKE.bits() != 0,
            unchecked: !self.checking,
            grouped: true,
            windows: self.cpu.cpl == 3 && self.cpu.bus.tlb.has_windows(),
            path: false,
            flat,
            fs,
            gs,
        }
    }

    pub(super) fn enter_native(&mut self, code: u64, budget: u64) -> u32 {
        let owner = ptr::from_mut(self);
        let xsave = ptr::from_mut(&mut self.cpu.state.xsave) as u64;
        let rflags = self.cpu.flags.bits();
        let regs: [u64; 16] = self.cpu.regs[..16].try_into().expect("sixteen registers");
        let rip = self.cpu.rip();
        let bases = [self.cpu.state.segments[4].base, self.cpu.state.segments[5].base];
        let msrs = &self.cpu.state.msrs;
        let (mut tsc_offset, tsc_aux) = (msrs.tsc_offset, msrs.tsc_aux as u32);
        if self.cpu.bus.is_virtual() {
            // RDTSC: plus what of the budget is spent, which is this less what is left.
            tsc_offset = tsc_offset.wrapping_add(self.cpu.bus.virtual_ns()).wrapping_add(budget);
        }
        let kernel_gs_base = msrs.kernel_gs_base;
        let hidden = Flags::STATUS | Flags::IF | Flags::AC | Flags::RF | Flags::VM;
        let other_flags = self.cpu.state.rflags & !hidden.bits() | Flags::FIXED.bits();
        let interrupts = self.cpu.state.rflags & Flags::IF.bits();
        let pending = u64::from(self.interrupt_ready || self.cpu.state.nmi_pending);
        let selectors = self.cpu.state.segments.map(|segment| u32::from(segment.selector));
        let native = self.native.as_ref().expect("asked before");
        let enter_at = native.enter();
        let gs_base = self.cpu.bus.tlb.gs_base();
        let state = self.cpu.bus.tlb.state();
        state.regs = regs;
        state.budget = budget as i64;
        state.rip_base = rip & !0xfff;
        state.flags = flags::to_saved(rflags);
        state.segment_bases = bases;
        state.tsc_offset = tsc_offset;
        state.tsc_aux = tsc_aux;
        state.kernel_gs_base = kernel_gs_base;
        state.other_flags = other_flags;
        state.interrupts = interrupts;
        state.pending = pending;
        state.selectors = selectors;
        state.xsave = xsave;
        state.owner = owner as u64;
        state.miss = miss as *const () as u64;
        state.window_fault = window_fault as *const () as u64;
        state.invalidate = invalidate as *const () as u64;
        state.entry = code;
        self.native_budget = budget as i64;
        debug_assert!(budget < KICKED as u64 / 2, "a kick takes more off than any budget has");
        self.offer_sides();
        if self.cpu.bus.is_virtual() {
            // The budget tells the time: nobody else may change it.
            return enter(enter_at, gs_base);
        }
        let presence = &self.own.presence;
        presence.set_translated(true);
        // Before this look a signal may have come that changed the old budget, not this one.
        compiler_fence(Ordering::SeqCst);
        if self.own.attention.load(Ordering::Relaxed) != 0 {
            self.cpu.bus.tlb.state().budget -= KICKED;
        }
        let site = enter(enter_at, gs_base);
        presence.set_translated(false);
        site
    }

    /// Lets signals raised by translated code leave it, while the result lives.
    pub(super) fn guard(&mut self) -> Option<Guarded> {
        let guards = self.native.as_ref()?.guards();
        Some(Guarded::new(guards, self.cpu.bus.tlb.state()))
    }

    /// A check missed: fills the TLB, if that is all the access needs.
    pub(crate) fn fill_missed(&mut self, linear: u64, site: u32) -> bool {
        self.follow_side();
        let Some(native) = self.native.as_ref() else { return false };
        let SiteKind::Access { write, size, .. } = native.site(site).kind else { return false };
        if (linear & 0xfff) + u64::from(size) > 4096
            || self.cpu.mode != Mode::Long && linear >> 32 != 0
        {
            return false;
        }
        let kind = if write { Kind::Write } else { Kind::Read };
        let filled = if write {
            // What makes a page dirty is a store: behind a check it may never come (that of a shared
            // one, or to what is not aligned), so the interpreter makes it.
            self.cpu.bus.fill_dirty(linear)
        } else {
            self.cpu.bus.translate(kind, linear).is_ok()
        };
        filled && self.cpu.bus.tlb.lookup(kind, linear, u64::from(size)).is_some()
    }

    /// INVLPG. False: not here, because code must be looked at before it goes on. It serialises.
    pub(crate) fn invalidate_page(&mut self, linear: u64) -> bool {
        self.follow_side();
        self.own.attention.load(Ordering::Acquire) == 0
            && (!GuestVirt(linear).is_canonical() || self.cpu.bus.tlb.flush_data_page(linear))
    }

    /// Does what a block was left for.
    fn left_at(&mut self, number: u32) -> Option<Exit> {
        let (number, site) = self.take_state(number);
        let rip = self.cpu.rip();
        self.serve(number, &site, rip)
    }

    /// Makes the state whole after a block was left.
    pub(super) fn take_state(&mut self, number: u32) -> (u32, Site) {
        let native = self.native.as_ref().expect("it just ran");
        let trapped = number == TRAP_SITE;
        let number = if trapped {
            let pc = self.cpu.bus.tlb.state().trap_pc;
            native.trap_site(pc).unwrap_or_else(|| panic!("host code faulted at {pc:#x}"))
        } else {
            number
        };
        let mut site = native.site(number);
        let block = native.block(site.block);
        let (page, renaming) = (block.page(), block.renaming());
        let state = self.cpu.bus.tlb.state();
        let executed = i64::from(site.executed);
        let left = state.budget + if was_kicked(state.budget) { KICKED } else { 0 };
        let used = self.native_budget - left + executed;
        self.cpu.bus.retired += used as u64;
        let rsp = &mut state.regs[usize::from(RSP)];
        *rsp = rsp.wrapping_add((i64::from(site.lag) * 8) as u64);
        self.cpu.regs[..16].copy_from_slice(&state.regs);
        let rflags = match site.flags {
            Place::Recipe(recipe) => recipe.evaluate(&state.regs, state.kept),
            Place::Native { .. } if trapped => state.trap_flags,
            Place::Native { .. } | Place::Saved => flags::from_saved(state.flags),
        };
        self.cpu.flags = LazyFlags::from_bits(rflags);
        if let Some(renaming) = renaming
            && !site.kind.is_behind()
        {
            renaming.undo(&mut self.cpu.regs[..16]);
        }
        // RF and VM, which are hidden, are clear in translated code.
        self.cpu.state.rflags = state.other_flags | state.interrupts | state.access;
        self.cpu.state.segments[4].base = state.segment_bases[0];
        self.cpu.state.segments[5].base = state.segment_bases[1];
        self.cpu.state.msrs.kernel_gs_base = state.kernel_gs_base;
        let mut refused = None;
        if let SiteKind::Target { rsp_move } | SiteKind::Elsewhere { rsp_move, .. } = site.kind
            && !GuestVirt(state.target).is_canonical()
        {
            // The branch itself fails: as if it had not begun.
            refused = Some(rsp_move);
            site.kind = SiteKind::Interpret;
        }
        let rip = match (site.kind, page) {
            (SiteKind::Target { .. } | SiteKind::Elsewhere { .. }, _) => state.target,
            (_, Some(page)) => page.wrapping_add(site.offset as i64 as u64),
            (_, None) => state.rip_base.wrapping_add(u64::from(site.offset as u32 & 0xfff)),
        };
        self.cpu.regs[slot::RIP as usize] = rip;
        if let Some(rsp_move) = refused {
            let rsp = &mut self.cpu.regs[4];
            *rsp = rsp.wrapping_sub(rsp_move as i64 as u64);
            self.cpu.bus.retired -= 1;
        }
        if used > 2000 {
            self.until_timer_check = 0;
        }
        self.take_side();
        (number, site)
    }

    pub(super) fn serve(&mut self, number: u32, site: &Site, rip: u64) -> Option<Exit> {
        let spent = self.cpu.bus.tlb.state().budget < 0;
        match site.kind {
            SiteKind::Poll => self.take_sample(site.block),
            SiteKind::Target { .. } | SiteKind::Interpret if spent => self.take_sample(site.block),
            _ => {}
        }
        match site.kind {
            SiteKind::Poll => None,
            SiteKind::Hot => self.record_superblock(site.block, rip),
            SiteKind::Window { .. } => {
                self.open_window_at(rip);
                self.cpu.bus.tlb.weigh_windows();
                self.interpret_at(number)
            }
            SiteKind::Link(_) if self.counts_exit(site.block, rip) => None,
            SiteKind::Elsewhere { link, .. } => {
                self.went_elsewhere(link, rip);
                None
            }
            SiteKind::Link(link) => {
                let native = self.native.as_ref().expect("it just ran");
                let context = self.cpu.bus.tlb.gs_base();
                let (clears, gates) = (native.clears(), self.gates());
                self.pending_link = Some(PendingLink { link, target: rip, context, clears, gates });
                None
            }
            SiteKind::Target { .. } => None,
            SiteKind::SecondPage => {
                self.fetched((rip & !0xfff).wrapping_add(0x1000));
                self.step()
            }
            SiteKind::Access { grouped: true, .. } => {
                self.ungrouped = true;
                None
            }
            SiteKind::Access { .. } | SiteKind::Interpret | SiteKind::Trap => {
                self.interpret_at(number)
            }
        }
    }

    /// The budget was spent in a block.
    fn take_sample(&mut self, block: u32) {
        self.until_timer_check = 0;
        if self.cpu.bus.retired >= self.next_sample {
            self.next_sample = self.cpu.bus.retired + self.cpu.bus.shared.pace.slice;
            self.found_running(block);
            self.cpu.bus.make_large_pages();
        }
    }

    /// Interprets the one instruction at a site.
    fn interpret_at(&mut self, number: u32) -> Option<Exit> {
        let native = self.native.as_ref().expect("it just ran");
        let op = match native.op(number) {
            Some(op) => op,
            None => {
                let clears = native.clears();
                let op = match self.one_op() {
                    Ok(op) => op,
                    Err(exception) => return self.fetch_fault(exception),
                };
                let native = self.native.as_mut().expect("it just ran");
                if native.clears() == clears {
                    native.keep_op(number, op);
                }
                op
            }
        };
        self.cpu.stepping = false;
        let rip = self.cpu.rip().wrapping_add(u64::from(op.len));
        self.cpu.set_rip(rip);
        let outcome = (op.run)(&mut self.cpu, &op);
        if self.cpu.bus.cut {
            self.drop_stale_blocks();
        }
        if outcome.is_err() {
            return self.trapped(op.len);
        }
        self.cpu.bus.retired += 1;
        None
    }

    /// Links a branch that was left through, unless code was dropped since.
    #[cold]
    fn link(&mut self, link: PendingLink, linear: u64) {
        let PendingLink { link, target, context, clears, gates } = link;
        // An interrupt may have come in between.
        if target != linear || context != self.cpu.bus.tlb.gs_base() || gates != self.gates() {
            return;
        }
        let current = |vcpu: &Self| vcpu.native.as_ref().expect("asked before").clears() == clears;
        // When full, the next translation drops a region: perhaps that of the code to be run now.
        if !current(self) || self.native.as_ref().is_some_and(Library::is_full) {
            return;
        }
        let Some(mut block) = self.native_block(linear) else { return };
        let native = self.native.as_ref().expect("asked before");
        if current(self)
            && native.block(block).saves_entry
            && let Some(recipe) = native.recipe(link)
            && let Some(better) = self.native_block_of(linear, true, Some(recipe))
        {
            block = better;
        }
        if current(self) {
            let native = self.native.as_mut().expect("asked before");
            native.link(link, block, linear, &mut self.cpu.bus.tlb);
        }
    }

    /// RFLAGS that make every instruction boundary matter.
    pub(super) const CAREFUL: u64 = Flags::TF.bits() | Flags::RF.bits();
}

/// Whether the first instruction of these bytes, the last of a page, ends in the next one.
fn crosses(bytes: &[u8], flat: bool) -> bool {
    let bits = if flat { 32 } else { 64 };
    let mut decoder = iced_x86::Decoder::new(bits, bytes, crate::translate::facts::DECODING);
    let _ = decoder.decode();
    decoder.last_error() == iced_x86::DecoderError::NoMoreBytes
}
