//! What kernels do all the time that touches no more than the vCPU's own state: interrupt flag,
//! RFLAGS to and from the stack, SWAPGS, selectors, the time-stamp counter.
//!
//! Whatever would let a waiting interrupt in is left to the interpreter while one waits.

use x86::Flags;

use super::asm::{Alu, Mem, cond};
use super::emit::{Emitter, Stub};
use super::facts::{Fact, gpr_of};
use super::flags::Place;
use super::memory::Address;
use super::registers::{BUDGET, RAX, RSP, S0, S1, is_taken};
use super::site::SiteKind;
use crate::cache::state::at;

const RCX: u8 = 1;
const RDX: u8 = 2;
/// CF, PF, AF, ZF, SF, as LAHF has them in AH.
const LOW_FLAGS: i32 = 0xd5;
/// RFLAGS.IF.
const IF: i32 = Flags::IF.bits() as i32;
/// What POPF may change here: the status flags and IF. Bit 1 is always set.
const POPPED: i32 = LOW_FLAGS | 1 << 11 | IF | 2;

impl Emitter<'_> {
    /// RDTSC, RDTSCP: plus the guest's offset, changing no flag.
    pub(super) fn time_stamp(&mut self, index: usize, fact: &Fact) {
        self.held = None;
        if self.source.gates.counted_time {
            return self.counted_time(index, fact);
        }
        // The host's own instruction keeps the order that the guest's asks for.
        self.asm.bytes.extend(if fact.writes >> RCX & 1 != 0 {
            &[0x0f, 0x01, 0xf9][..]
        } else {
            &[0x0f, 0x31][..]
        });
        self.asm.rorx(RDX, RDX, 32);
        self.asm.lea(true, RAX, Some(RAX), Some((RDX, 0)), 0);
        self.asm.load(S0, Mem::Gs(at::TSC_OFFSET));
        self.asm.lea(true, RAX, Some(RAX), Some((S0, 0)), 0);
        self.asm.rorx(RDX, RAX, 32);
        self.asm.mov32(RDX, RDX);
        self.asm.mov32(RAX, RAX);
        if fact.writes >> RCX & 1 != 0 {
            self.asm.load32(RCX, Mem::Gs(at::TSC_AUX));
        }
    }

    /// RDTSC, RDTSCP in virtual time: the offset (which counts the whole budget as spent) less what
    /// is left of it before the block, plus the instructions of the block so far. Changes no flag.
    fn counted_time(&mut self, index: usize, fact: &Fact) {
        self.asm.mov(S0, BUDGET);
        self.asm.not(S0);
        self.asm.load(S1, Mem::Gs(at::TSC_OFFSET));
        self.asm.lea(true, RAX, Some(S0), Some((S1, 0)), index as i32 + 1);
        self.asm.rorx(RDX, RAX, 32);
        self.asm.mov32(RDX, RDX);
        self.asm.mov32(RAX, RAX);
        if fact.writes >> RCX & 1 != 0 {
            self.asm.load32(RCX, Mem::Gs(at::TSC_AUX));
        }
    }

    /// CLI.
    pub(super) fn disable_interrupts(&mut self) {
        self.asm.store_imm(Mem::Gs(at::INTERRUPTS), 0);
    }

    /// STI. Its shadow matters only to what waits, and then the interpreter has it.
    pub(super) fn enable_interrupts(&mut self, index: usize) {
        self.clobber(index);
        let site = self.site(SiteKind::Interpret, index);
        self.leave_if_pending(site);
        self.asm.store_imm(Mem::Gs(at::INTERRUPTS), IF);
    }

    pub(super) fn leave_if_pending(&mut self, site: u32) {
        self.asm.cmp_mem32(Mem::Gs(at::PENDING), 0);
        let from = self.asm.jcc(cond::NOT_EQUAL);
        self.stubs.push(Stub::Leave { from, site });
    }

    /// SWAPGS.
    pub(super) fn swap_gs(&mut self) {
        self.held = None;
        self.asm.load(S0, Mem::Gs(at::segment_base(1)));
        self.asm.load(S1, Mem::Gs(at::KERNEL_GS_BASE));
        self.asm.store(Mem::Gs(at::segment_base(1)), S1);
        self.asm.store(Mem::Gs(at::KERNEL_GS_BASE), S0);
    }

    /// INVLPG: a call, behind which another block begins. What this one knows of pages may be wrong.
    pub(super) fn invalidate_page(&mut self, index: usize, fact: &Fact) {
        self.held = None;
        self.clobber(index);
        let site = self.site(SiteKind::Interpret, index);
        self.linear_address(&fact.ins, 0);
        self.asm.point_behind_jump(S1);
        self.asm.note_change(S1);
        self.go_shared(self.shared.invalidate);
        self.asm.bytes.extend(site.to_le_bytes());
        self.want_native();
        self.spend(index + 1);
        self.jump_to(fact.offset + fact.ins.len() as i32);
    }

    /// MOV from a segment register.
    pub(super) fn selector(&mut self, fact: &Fact) {
        let (number, size) = gpr_of(fact.ins.op0_register()).expect("a general register");
        let segment = fact.ins.op1_register().number() as u8;
        if size == 2 {
            self.asm.load32(S1, Mem::Gs(at::selector(segment)));
            self.asm.bytes.push(0x66);
            match is_taken(number) {
                true => self.asm.rm(false, &[0x89], S1, Mem::Gs(at::reg(number))),
                false => self.asm.rr(false, &[0x89], S1, number),
            }
            return;
        }
        let to = if is_taken(number) { S1 } else { number };
        self.asm.load32(to, Mem::Gs(at::selector(segment)));
        if is_taken(number) {
            self.asm.store(Mem::Gs(at::reg(number)), S1);
        }
    }

    /// POP RSP.
    pub(super) fn pop_stack_pointer(&mut self, index: usize) {
        let data = self.data(index, Address::Stack(0), false, self.word() as u32);
        self.touch();
        self.load_word(RSP, data.mem());
    }

    /// PUSHFQ.
    pub(super) fn push_flags(&mut self, index: usize) {
        self.want_native();
        self.save_flags();
        self.place = Place::Saved;
        self.held = None;
        self.asm.load(S0, Mem::Gs(at::FLAGS));
        self.asm.mov(S1, S0);
        self.asm.shr(S1, 8);
        self.asm.alu_imm(false, Alu::And, S1, LOW_FLAGS);
        self.asm.alu_imm(false, Alu::And, S0, 1);
        self.asm.shl(S0, 11);
        for other in [at::OTHER_FLAGS, at::INTERRUPTS, at::ACCESS].map(Mem::Gs) {
            self.asm.rm(true, &[0x0b], S1, other);
        }
        self.join_address();
        self.asm.store(Mem::Gs(at::TEMP), S0);
        let data = self.push_slot(index);
        let data = self.free_s1(data);
        self.asm.load(S1, Mem::Gs(at::TEMP));
        self.touch();
        self.store_word(data.mem(), S1);
        self.move_stack(-self.word());
    }

    /// POPFQ: of what changes nothing but status flags and IF.
    pub(super) fn pop_flags(&mut self, index: usize) {
        // Before S1 holds anything: saving flags changes it.
        self.clobber(index);
        let data = self.data(index, Address::Stack(0), false, self.word() as u32);
        self.touch();
        self.load_word(S1, data.mem());
        self.held = None;
        let site = self.site(SiteKind::Interpret, index);
        self.asm.load(S0, Mem::Gs(at::OTHER_FLAGS));
        self.asm.rm(true, &[0x0b], S0, Mem::Gs(at::ACCESS));
        self.asm.rr(true, &[0x31], S1, S0);
        self.asm.test_imm(4, S0, !POPPED);
        let from = self.asm.jcc(cond::NOT_EQUAL);
        self.stubs.push(Stub::Leave { from, site });
        self.leave_if_pending(site);
        self.asm.mov(S0, S1);
        self.asm.alu_imm(false, Alu::And, S0, IF);
        self.asm.store(Mem::Gs(at::INTERRUPTS), S0);
        self.asm.mov(S0, S1);
        self.asm.shr(S0, 11);
        self.asm.alu_imm(false, Alu::And, S0, 1);
        self.asm.alu_imm(false, Alu::And, S1, LOW_FLAGS);
        self.asm.shl(S1, 8);
        self.join_address();
        self.asm.store(Mem::Gs(at::FLAGS), S0);
        self.move_stack(self.word());
    }
}
