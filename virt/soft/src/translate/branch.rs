//! Control flow: links within the page, slots beyond it, the jump cache for indirect branches.
//!
//! A branch within the page is a direct jump, patched once its target is translated: the page is
//! where it was as long as the block runs. A branch beyond it goes through a slot of the current
//! context's area, so that it means this address space's page. An indirect one compares its target
//! with the jump cache of the context.

use super::asm::{Alu, Asm, Hole, Mem, cond};
use super::emit::{Emitter, Stub};
use super::facts::{Fact, Kind, gpr_of};
use super::flags::Place;
use super::registers::{RCX, S0, S1, is_taken};
use super::rename::Renaming;
use super::site::{Link, SiteKind};
use crate::cache::layout::{JUMPS, LINKS};
use crate::cache::state::at;

const PAGE: std::ops::Range<i32> = 0..4096;

impl Emitter<'_> {
    /// Goes to a place known now, with the flags in the host's.
    pub(super) fn jump_to(&mut self, target: i32) {
        self.restore_names();
        self.settle();
        if self.is_sure(target) {
            if self.source.path.is_some() {
                self.enter_page(target);
            }
            let from = self.asm.jmp();
            self.near_link(from, target);
        } else {
            self.cross(target);
        }
    }

    /// Whether a branch's target is in the block's own page, or a path's, and so as sure as the
    /// block.
    fn is_sure(&self, target: i32) -> bool {
        if self.source.path.is_none() {
            return PAGE.contains(&target);
        }
        let start = self.source.page.expect("paths are bound to addresses");
        let page = start.wrapping_add(target as i64 as u64) & !0xfff;
        self.source.pages.iter().any(|known| known.0 == page)
    }

    /// A direct jump within the page; until it is patched it leaves.
    fn near_link(&mut self, from: Hole, target: i32) {
        let patch = self.base() + Asm::distance_at(from) as u32;
        let link = self.add_link(target, Some(patch), None);
        if self.is_cold {
            // What leaves follows at once.
            self.asm.land(from);
            self.leave_unlinked(link);
        } else {
            self.stubs.push(Stub::Unlinked { from, link });
        }
    }

    /// The code that a link leads to until its target is known.
    fn leave_unlinked(&mut self, link: usize) {
        self.links[link].stub = self.base() + self.asm.here() as u32;
        let site = self.links[link].site;
        self.go_out(site, true);
    }

    fn add_link(&mut self, target: i32, patch: Option<u32>, slot: Option<u32>) -> usize {
        let number = self.numbers.first_link + self.links.len() as u32;
        let site = self.site_at(SiteKind::Link(number), target, 0);
        let recipe = match self.place {
            // Only where a loop closes: a block for each way into it would be too many.
            Place::Native { recipe, .. }
                if patch.is_some() && self.source.path.is_none() && self.is_behind(target) =>
            {
                recipe
            }
            _ => None,
        };
        self.links.push(Link { site, patch, slot, stub: 0, through: 0, recipe });
        self.links.len() - 1
    }

    /// Whether a target lies at or before the block's last instruction.
    fn is_behind(&self, target: i32) -> bool {
        self.facts.last().is_some_and(|last| target <= last.offset)
    }

    /// A branch to another page.
    pub(super) fn cross(&mut self, target: i32) {
        let slot = self.next_slot();
        self.enter_page(target);
        self.asm.jmp_mem(Mem::Gs((LINKS as u32 + slot * 8) as i32));
        let link = self.add_link(target, None, Some(slot));
        // Slots lead to what follows until the target is known.
        self.leave_unlinked(link);
    }

    /// Tells code at a branch's target which page it is in, unless all code there knows.
    fn enter_page(&mut self, target: i32) {
        if self.source.gates.windows {
            return;
        }
        let pages = target & !0xfff;
        match self.source.page.map(|page| page.wrapping_add(pages as i64 as u64)) {
            None => {
                self.asm.load(S0, Mem::Gs(at::RIP_BASE));
                let wide = self.is_wide();
                self.asm.lea(wide, S0, Some(S0), None, pages);
                self.asm.store(Mem::Gs(at::RIP_BASE), S0);
            }
            // From the upper half across the top into the lower, whose code asks for it.
            Some(page) if page >> 63 == 0 => {
                self.asm.constant(S0, page);
                self.asm.store(Mem::Gs(at::RIP_BASE), S0);
            }
            Some(_) => {}
        }
    }

    pub(super) fn next_slot(&self) -> u32 {
        let used = self.links.iter().filter(|link| link.slot.is_some()).count() as u32;
        self.numbers.first_slot + used
    }

    /// JMP rel.
    pub(super) fn jump(&mut self, index: usize, fact: &Fact) {
        self.want_native();
        self.spend(index + 1);
        self.jump_to(fact.ins.near_branch_target() as i64 as i32);
    }

    /// Jcc rel.
    pub(super) fn branch(&mut self, index: usize, fact: &Fact, condition: u8) {
        match self.late.take() {
            Some(late) => self.end_late(late, index),
            None => {
                self.want_native();
                self.settle();
                self.spend(index + 1);
            }
        }
        let target = fact.ins.near_branch_target() as i64 as i32;
        let from = self.asm.jcc(condition);
        if self.source.path.is_none() && self.is_sure(target) {
            self.near_link(from, target);
        } else {
            self.stubs.push(Stub::Cross { from, target });
        }
        self.jump_to(fact.offset + fact.ins.len() as i32);
    }

    /// Jcc rel in the middle of a block.
    pub(super) fn branch_aside(&mut self, index: usize, condition: u8, target: i32) {
        self.want_native();
        let from = self.asm.jcc(condition);
        let (polled, lag) = (self.polled, self.lag);
        self.stubs.push(Stub::Aside { from, target, executed: index + 1, polled, lag });
    }

    /// Writes the return address below the top of the stack.
    pub(super) fn push_return(&mut self, index: usize, fact: &Fact) {
        let next = fact.offset + fact.ins.len() as i32;
        let data = self.push_slot(index);
        let known = self.source.page.map(|page| page.wrapping_add(next as i64 as u64) as i64);
        match known.map(i32::try_from) {
            Some(Ok(short)) => {
                self.touch();
                self.asm.store_imm(data.mem(), short);
            }
            _ => {
                let data = self.free_s1(data);
                self.load_rip(S1, next);
                self.touch();
                self.store_word(data.mem(), S1);
            }
        }
    }

    /// CALL rel.
    pub(super) fn call(&mut self, index: usize, fact: &Fact) {
        self.push_return(index, fact);
        self.move_rsp(-self.word());
        self.want_native();
        self.spend(index + 1);
        self.jump_to(fact.ins.near_branch_target() as i64 as i32);
    }

    /// Moves RSP at the end of a block; a recipe that counts on it follows.
    pub(super) fn move_rsp(&mut self, by: i32) {
        self.move_stack(by);
        self.place.rsp_moved(by);
    }

    /// S0 = target of an indirect branch.
    pub(super) fn load_target(&mut self, index: usize, fact: &Fact) {
        if fact.access.is_some() {
            self.load_operand(index, fact, S0);
            return;
        }
        let (number, _) = gpr_of(fact.ins.op0_register()).expect("JMP or CALL r64");
        if is_taken(number) {
            self.asm.load(S0, Mem::Gs(at::reg(number)));
        } else {
            self.asm.mov(S0, number);
        }
    }

    /// A call of what is not canonical is the interpreter's: it must fail before it pushes.
    pub(super) fn check_target(&mut self, index: usize) {
        if !self.is_wide() {
            return;
        }
        self.clobber(index);
        let site = self.site(SiteKind::Interpret, index);
        self.asm.mov(S1, S0);
        let from = self.asm.unless_canonical(S1);
        self.stubs.push(Stub::Leave { from, site });
    }

    /// JMP r/m64.
    pub(super) fn jump_indirect(&mut self, index: usize, fact: &Fact) {
        self.load_target(index, fact);
        self.spend(index + 1);
        self.go_to_target(index, 0);
    }

    /// CALL r/m64.
    pub(super) fn call_indirect(&mut self, index: usize, fact: &Fact) {
        if self.source.gates.windows {
            return self.call_quietly(index, fact);
        }
        self.load_target(index, fact);
        self.check_target(index);
        self.asm.store(Mem::Gs(at::TEMP), S0);
        self.push_return(index, fact);
        self.move_rsp(-self.word());
        self.asm.load(S0, Mem::Gs(at::TEMP));
        self.spend(index + 1);
        self.go_to_target(index, -self.word());
    }

    /// RET.
    pub(super) fn ret(&mut self, index: usize, fact: &Fact) {
        self.load_top(index);
        let extra = if fact.ins.op_count() == 1 { fact.ins.immediate(0) as i32 } else { 0 };
        let by = self.word() + extra;
        self.move_rsp(by);
        self.spend(index + 1);
        self.go_to_target(index, by);
    }

    /// Goes to the linear address in S0 by way of the jump cache.
    pub(super) fn go_to_target(&mut self, index: usize, rsp_move: i32) {
        self.restore_names();
        self.settle();
        let unsaved = matches!(self.place, Place::Native { recipe: None, saved: false });
        if self.source.gates.windows && (self.source.path.is_none() || unsaved) {
            return self.go_quietly(index, rsp_move);
        }
        self.clobber_at_end();
        let offset = self.facts[index].offset;
        let site = self.site_at(SiteKind::Target { rsp_move }, offset, 0);
        self.asm.mov(S1, S0);
        self.asm.jump_entry(S1, S0);
        self.asm.rm(true, &[0x3b], S0, Mem::GsIndex(S1, JUMPS as i32));
        if self.is_cold {
            let known = self.asm.jcc(cond::EQUAL);
            self.asm.store(Mem::Gs(at::TARGET), S0);
            self.go_out(site, false);
            self.asm.land(known);
        } else {
            let from = self.asm.jcc(cond::NOT_EQUAL);
            self.stubs.push(Stub::Target { from, site });
        }
        if !self.source.gates.windows {
            // Also where this block does not use it: the target may lie in the lower half.
            self.asm.alu_imm(true, Alu::And, S0, !0xfff);
            self.asm.store(Mem::Gs(at::RIP_BASE), S0);
        }
        let code = Mem::GsIndex(S1, JUMPS as i32 + 8);
        if matches!(self.place, Place::Native { .. }) {
            self.asm.jmp_mem(code);
            return;
        }
        self.asm.load(S0, code);
        self.want_native();
        self.asm.jmp_reg(S0);
    }

    /// Whether the way out of the block looks at the budget by itself.
    pub(super) fn polls_at_end(&self) -> bool {
        let last = self.facts[self.facts.len() - 1].kind;
        self.source.gates.windows
            && matches!(last, Kind::JumpIndirect | Kind::CallIndirect | Kind::Return)
    }

    /// Frees the host's flags where no instruction of the block follows: the exits ask for them.
    pub(super) fn clobber_at_end(&mut self) {
        let Place::Native { recipe, saved } = self.place else { return };
        self.place = match recipe {
            _ if saved => Place::Saved,
            Some(recipe) => Place::Recipe(recipe),
            None => {
                self.save_flags();
                Place::Saved
            }
        };
    }

    /// Leaves at a site.
    pub(super) fn go_out(&mut self, site: u32, native: bool) {
        self.asm.constant(S1, u64::from(site));
        let to = if native { self.shared.leave_native } else { self.shared.leave };
        self.go_shared(to);
    }

    /// Jumps to code that all blocks share.
    pub(super) fn go_shared(&mut self, to: u32) {
        let from = self.asm.jmp();
        self.asm.land_far(from, i64::from(to) - i64::from(self.base()));
    }

    /// Place of the code that is being written.
    pub(super) fn base(&self) -> u32 {
        if self.is_cold { self.numbers.cold_place } else { self.numbers.place }
    }

    /// Completes a jump in line: it goes to here, out of line.
    pub(super) fn land_here(&mut self, from: Hole) {
        let here = i64::from(self.numbers.cold_place) + self.asm.here() as i64;
        self.other.land_far(from, here - i64::from(self.numbers.place));
    }

    /// Jumps from out of line to a place in line.
    pub(super) fn go_back(&mut self, place: usize) {
        let from = self.asm.jmp();
        let to = i64::from(self.numbers.place) + place as i64;
        self.asm.land_far(from, to - i64::from(self.numbers.cold_place));
    }

    /// Everything that the block's own code jumps away to.
    pub(super) fn out_of_line(&mut self) {
        std::mem::swap(&mut self.asm, &mut self.other);
        self.is_cold = true;
        let mut next = 0;
        while next < self.stubs.len() {
            let stub = std::mem::replace(&mut self.stubs[next], Stub::Done);
            next += 1;
            self.is_renamed = self.renaming != Renaming::default();
            self.stood = None;
            assert!(self.lag == 0, "blocks are left with RSP in its place");
            match stub {
                Stub::Done => {}
                Stub::Miss { from, back, site, write } => {
                    self.land_here(from);
                    let tag = super::memory::tag(usize::from(write));
                    self.asm.rm(true, &[0x33], S0, Mem::GsIndex(S1, tag));
                    // S1 points at the site's number; behind it is the way back.
                    self.asm.point_behind_jump(S1);
                    self.go_shared(if write {
                        self.shared.miss_write
                    } else {
                        self.shared.miss_read
                    });
                    self.asm.bytes.extend(site.to_le_bytes());
                    self.go_back(back);
                }
                Stub::LookUp { from, back } => {
                    self.land_here(from);
                    self.find_window();
                    self.go_back(back);
                }
                Stub::Leave { from, site } => {
                    self.land_here(from);
                    self.go_out(site, false);
                }
                Stub::Target { from, site } => {
                    self.land_here(from);
                    self.asm.store(Mem::Gs(at::TARGET), S0);
                    self.go_out(site, false);
                }
                Stub::Unlinked { from, link } => {
                    self.land_here(from);
                    self.leave_unlinked(link);
                }
                Stub::Aside { from, target, executed, polled, lag } => {
                    self.land_here(from);
                    self.lag = lag;
                    self.settle();
                    // The flags are the branch's own, in the host's.
                    self.place = Place::Native { recipe: None, saved: false };
                    self.spend(executed);
                    if !polled {
                        self.poll_aside(target);
                    }
                    self.jump_to(target);
                }
                Stub::Elsewhere { from, index, rsp_move, place, polled, lag } => {
                    self.land_here(from);
                    if matches!(place, Place::Native { .. }) {
                        self.asm.mov(RCX, S1);
                    }
                    self.lag = lag;
                    self.place = place;
                    self.elsewhere(index, rsp_move, polled);
                }
                Stub::Unexpected { from, back, site, native } => {
                    self.land_here(from);
                    self.leave_unless_canonical(site, native, back);
                }
                Stub::Cross { from, target } => {
                    self.land_here(from);
                    self.jump_to(target);
                }
                Stub::Quiet { from, site, rcx } => {
                    self.land_here(from);
                    self.leave_quietly(site, rcx);
                }
                Stub::Late { from, site, kept } => self.leave_late(from, site, kept),
                Stub::Unit { from, back, x87 } => {
                    self.land_here(from);
                    let shared = if x87 { self.shared.load_x87 } else { self.shared.load_vectors };
                    self.asm.point_behind_jump(S1);
                    self.go_shared(shared);
                    self.go_back(back);
                }
            }
        }
    }
}
