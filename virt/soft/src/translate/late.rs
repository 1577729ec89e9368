//! Where a block ends with a comparison and a branch, the look at the budget lies between them: the
//! comparison is made behind it, so that no flags are lost and none need be saved.
//!
//! ```text
//! sub   r9, n             instructions of the block
//! js    leave             in front of the branch, as if the comparison had been made
//! cmp   rax, 5
//! jne   elsewhere
//! ```

use super::asm::{Alu, Hole, cond};
use super::emit::{Emitter, Stub};
use super::facts::{Fact, Kind};
use super::flags::{Maker, Place, Recipe};
use super::memory::Address;
use super::registers::{BUDGET, S1};
use super::site::SiteKind;

/// The comparison that waits for the branch.
#[derive(Clone, Copy, Debug)]
pub(super) enum Late {
    /// Of registers, or to be made again from them.
    Registers,
    /// Of memory, whose value is in S1.
    Memory(Recipe),
}

impl Emitter<'_> {
    /// Lets the poll before an instruction that makes the flags wait for the branch at the block's
    /// end, if that costs less. Whether the instruction has been dealt with, too.
    pub(super) fn poll_late(&mut self, index: usize) -> Option<bool> {
        let facts: &[Fact] = self.facts;
        let last = facts.len() - 1;
        let between = facts.get(index + 1..last)?;
        let branches = matches!(facts[last].kind, Kind::Branch(_));
        if !branches || between.iter().any(|fact| fact.reads_flags || fact.changes_flags) {
            return None;
        }
        let fact = &facts[index];
        if let Some(recipe) = Recipe::of(&fact.ins).filter(|_| fact.makes_flags) {
            let mut kept = Some(recipe);
            for fact in between {
                kept = kept.and_then(|recipe| recipe.after(fact));
            }
            kept?;
            let alone = fact.access.is_none() && matches!(recipe.maker, Maker::Cmp | Maker::Test);
            if !alone && !self.would_save(index) {
                return None;
            }
            self.late = Some(Late::Registers);
            if alone {
                self.settle_before(fact);
                self.entry_flags = false;
                self.place = Place::Recipe(recipe);
                self.values.follow(fact);
            }
            return Some(alone);
        }
        let read = fact.access.filter(|access| !access.write && self.source.gates.windows)?;
        let recipe = Recipe::with_memory(&fact.ins)?;
        if !between.is_empty() || read.size != u32::from(recipe.size) {
            return None;
        }
        self.settle_before(fact);
        self.load_compared(index, fact, recipe);
        self.entry_flags = false;
        self.place = Place::Recipe(recipe);
        self.late = Some(Late::Memory(recipe));
        self.values.follow(fact);
        Some(true)
    }

    /// S1 = the memory operand of a comparison.
    fn load_compared(&mut self, index: usize, fact: &Fact, recipe: Recipe) {
        let data = self.data(index, Address::Operand(&fact.ins), false, u32::from(recipe.size));
        self.touch();
        self.load_sized(recipe.size, S1, data.mem());
    }

    /// The poll that waited, the instructions taken off the budget, then the comparison.
    pub(super) fn end_late(&mut self, late: Late, index: usize) {
        self.settle();
        self.clobber(index);
        let site = self.site_at(SiteKind::Poll, self.facts[index].offset, 0);
        self.asm.alu_imm(true, Alu::Sub, BUDGET, index as i32 + 1);
        let from = self.asm.jcc(cond::SIGN);
        let kept = matches!(late, Late::Memory(_));
        self.stubs.push(Stub::Late { from, site, kept });
        match late {
            Late::Registers => self.want_native(),
            Late::Memory(recipe) => {
                self.compare_kept(recipe);
                // The value is kept in memory only for who leaves: nobody else can make them again.
                self.place = Place::Native { recipe: None, saved: false };
            }
        }
    }

    /// Out of line: leaves in front of the branch, which has not been executed.
    pub(super) fn leave_late(&mut self, from: Hole, site: u32, kept: bool) {
        self.land_here(from);
        if kept {
            self.keep_compared();
        }
        self.asm.add_quietly(BUDGET, 1);
        self.go_out(site, false);
    }
}
