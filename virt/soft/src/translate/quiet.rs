//! Polls and indirect branches that leave the flags alone, where accesses go through windows.
//!
//! A window's check costs no flags, so in such code it is the looks at the budget and at the jump
//! cache that would have to save them. JRCXZ compares without them; RCX gives way for a moment:
//!
//! ```text
//! mov   gs:[TEMP], rcx
//! rorx  r11, r10, 16             the target's entry, ...
//! lea   ecx, [r10 + r11]
//! rorx  rcx, rcx, 2
//! movzx ecx, cx
//! rorx  r11, r9, 48              0 while there is a budget, else 65535
//! movzx r11d, r11w
//! lea   r11, [r11 + rcx]         ... or one beyond the table that no target has
//! lea   r11, [r11 + r11]
//! mov   rcx, gs:[r11*8 + JUMPS]
//! not   rcx
//! lea   rcx, [rcx + r10 + 1]     target - the entry's
//! jrcxz known
//! ```
//!
//! What is not there may be in the place's second entry, which code that all blocks share looks at.

use super::asm::{Asm, Hole, Mem};
use super::emit::{Emitter, Stub};
use super::facts::Fact;
use super::flags::{Place, serves};
use super::registers::{BUDGET, RCX, S0, S1};
use super::site::SiteKind;
use crate::cache::layout::{JUMP_GRAIN, JUMP_SECOND, JUMP_SHIFT, JUMPS};
use crate::cache::state::at;

/// Where the guest's RCX is meanwhile.
#[derive(Clone, Copy)]
pub(super) enum Rcx {
    /// At a poll.
    S1,
    /// At an indirect call that has not been executed.
    Temp,
    /// At an indirect branch, whose target is in S0.
    Target,
}

impl Emitter<'_> {
    /// Whether the flags would have to be saved before the host may use its own.
    pub(super) fn would_save(&self, index: usize) -> bool {
        match self.place {
            Place::Native { recipe, saved: false } => {
                !recipe.is_some_and(|recipe| serves(recipe, self.facts, index))
            }
            _ => false,
        }
    }

    /// Looks at the budget before an instruction, the flags being only in the host's.
    pub(super) fn poll_quietly(&mut self, index: usize) {
        let site = self.site(SiteKind::Poll, index);
        self.asm.mov(S1, RCX);
        budget_to_rcx(&mut self.asm);
        let from = self.asm.jump_unless_rcx_is_0();
        self.stubs.push(Stub::Quiet { from, site, rcx: Rcx::S1 });
        self.asm.mov(RCX, S1);
    }

    /// Out of line: leaves at a site if the budget is spent. Changes S1.
    pub(super) fn look_quietly(&mut self, site: u32) {
        self.asm.mov(S1, RCX);
        budget_to_rcx(&mut self.asm);
        let goes_on = self.asm.jrcxz();
        self.leave_quietly(site, Rcx::S1);
        self.asm.land_short(goes_on);
        self.asm.mov(RCX, S1);
    }

    /// Out of line: goes back if the target in S0 is canonical, else leaves at a site. Where the flags
    /// are the host's, RCX is in S1; else S1 stays what it is.
    pub(super) fn leave_unless_canonical(&mut self, site: u32, native: bool, back: usize) {
        self.asm.store(Mem::Gs(at::TEMP), if native { S1 } else { RCX });
        // Bits 63:47 are equal: plus one, there is nothing above the lowest of them.
        self.asm.rorx(RCX, S0, 47);
        self.asm.lea(true, RCX, Some(RCX), None, 1);
        self.asm.rorx(RCX, RCX, 1);
        self.asm.rr(false, &[0x0f, 0xb7], RCX, RCX);
        let canonical = self.asm.jrcxz();
        self.leave_quietly(site, Rcx::Temp);
        self.asm.land_short(canonical);
        self.asm.load(RCX, Mem::Gs(at::TEMP));
        self.go_back(back);
    }

    /// Jumps if S0 is another address; RCX is in S1 both there and behind.
    pub(super) fn differs_quietly(&mut self, expected: u64) -> Hole {
        self.asm.mov(S1, RCX);
        match i32::try_from(expected.wrapping_neg() as i64) {
            Ok(short) => self.asm.lea(true, RCX, Some(S0), None, short),
            Err(_) => {
                self.asm.constant(RCX, expected.wrapping_neg());
                self.asm.lea(true, RCX, Some(RCX), Some((S0, 0)), 0);
            }
        }
        self.asm.jump_unless_rcx_is_0()
    }

    /// Goes to the linear address in S0 by way of the jump cache.
    pub(super) fn go_quietly(&mut self, index: usize, rsp_move: i32) {
        self.want_native();
        let offset = self.facts[index].offset;
        let site = self.site_at(SiteKind::Target { rsp_move }, offset, 0);
        if self.is_cold {
            let known = self.probe();
            self.leave_quietly(site, Rcx::Target);
            self.asm.land_short(known);
        } else {
            self.probe_or_leave(site, Rcx::Target);
        }
        self.asm.load(RCX, Mem::Gs(at::TEMP));
        self.asm.jmp_mem(Mem::Table(S1, JUMPS as i32 + 8));
    }

    /// CALL r/m64: looks its target up first, because what the jump cache has is canonical. Who is
    /// not there is the interpreter's, before anything is pushed.
    pub(super) fn call_quietly(&mut self, index: usize, fact: &Fact) {
        self.load_target(index, fact);
        let site = self.site(SiteKind::Interpret, index);
        self.probe_or_leave(site, Rcx::Temp);
        self.asm.load(S0, Mem::Table(S1, JUMPS as i32 + 8));
        self.asm.load(RCX, Mem::Gs(at::TEMP));
        self.asm.store(Mem::Gs(at::TARGET), S0);
        self.push_return(index, fact);
        self.move_rsp(-self.word());
        self.restore_names();
        self.want_native();
        self.settle();
        self.spend(index + 1);
        self.asm.jmp_mem(Mem::Gs(at::TARGET));
    }

    /// Looks S0 up; `known` is where S1 * 8 leads to its entry.
    fn probe(&mut self) -> Hole {
        self.stood = None;
        self.asm.store(Mem::Gs(at::TEMP), RCX);
        jump_entry_to_rcx(&mut self.asm);
        self.asm.rorx(S1, BUDGET, 48);
        self.asm.rr(false, &[0x0f, 0xb7], S1, S1);
        self.asm.lea(true, S1, Some(S1), Some((RCX, 0)), 0);
        self.asm.lea(true, S1, Some(S1), Some((S1, 0)), 0);
        difference_to_rcx(&mut self.asm, JUMPS as i32);
        self.asm.jrcxz()
    }

    fn probe_or_leave(&mut self, site: u32, rcx: Rcx) {
        let known = self.probe();
        let from = self.asm.jmp();
        self.stubs.push(Stub::Quiet { from, site, rcx });
        self.asm.land_short(known);
    }

    /// Out of line: leaves at a site.
    pub(super) fn leave_quietly(&mut self, site: u32, rcx: Rcx) {
        match rcx {
            Rcx::S1 => self.asm.mov(RCX, S1),
            Rcx::Temp => self.asm.load(RCX, Mem::Gs(at::TEMP)),
            Rcx::Target => {
                self.asm.constant(S1, u64::from(site));
                return self.go_shared(self.shared.look_again);
            }
        }
        let flags = self.sites[(site - self.numbers.first_site) as usize].flags;
        self.go_out(site, matches!(flags, Place::Native { .. }));
    }
}

/// RCX = 0 while there is a budget.
fn budget_to_rcx(asm: &mut Asm) {
    asm.rorx(RCX, BUDGET, 48);
    asm.rr(false, &[0x0f, 0xb7], RCX, RCX);
}

/// RCX = the number of the jump cache's entry for the target in S0; changes S1.
fn jump_entry_to_rcx(asm: &mut Asm) {
    asm.rorx(S1, S0, JUMP_SHIFT);
    asm.lea(false, RCX, Some(S0), Some((S1, 0)), 0);
    asm.rorx(RCX, RCX, JUMP_GRAIN);
    asm.rr(false, &[0x0f, 0xb7], RCX, RCX);
}

/// RCX = the target in S0 less the address of the entry that S1 * 8 leads to from there.
fn difference_to_rcx(asm: &mut Asm, from: i32) {
    asm.load(RCX, Mem::Table(S1, from));
    asm.not(RCX);
    asm.lea(true, RCX, Some(RCX), Some((S0, 0)), 1);
}

/// Shared code: leaves an indirect branch at the site in S1, unless the target in S0 is in the
/// second of its entries of the jump cache and there is a budget. RCX is in its slot.
pub(super) fn look_again(asm: &mut Asm, leave_native: u32) {
    asm.store(Mem::Gs(at::TARGET), S0);
    asm.store(Mem::Gs(at::scratch(0)), S1);
    budget_to_rcx(asm);
    let spent = asm.jump_unless_rcx_is_0();
    jump_entry_to_rcx(asm);
    asm.lea(true, S1, Some(RCX), Some((RCX, 0)), 0);
    let second = (JUMPS + JUMP_SECOND * 16) as i32;
    difference_to_rcx(asm, second);
    let unknown = asm.jump_unless_rcx_is_0();
    asm.load(RCX, Mem::Gs(at::TEMP));
    asm.jmp_mem(Mem::Table(S1, second + 8));
    asm.land(spent);
    asm.land(unknown);
    asm.load(RCX, Mem::Gs(at::TEMP));
    asm.load(S1, Mem::Gs(at::scratch(0)));
    let out = asm.jmp();
    asm.land_far(out, i64::from(leave_native));
}
