//! SYSCALL, SYSRET, STAC, CLAC: to another context of the same address space without leaving
//! translated code (SDM vol. 2, SYSCALL, SYSRET, STAC, CLAC).
//!
//! Where the other context's area is not known, or anything else is unusual, the interpreter has
//! the instruction. What changes (the side, CS and SS, RFLAGS) stands in the state page, where
//! `take_state` finds it.

use x86::Flags;

use super::asm::{Alu, Asm, Hole, Mem, cond};
use super::emit::{Emitter, Stub};
use super::facts::Fact;
use super::flags::Place;
use super::registers::{BUDGET, RAX, S0, S1};
use super::site::SiteKind;
use crate::bus::peers::Side;
use crate::cache::layout::JUMPS;
use crate::cache::state::at;

const RCX: u8 = 1;
const R11: u8 = 11;
/// CF, PF, AF, ZF, SF, as LAHF has them in AH.
const LOW_FLAGS: i32 = 0xd5;
const STATUS: i32 = Flags::STATUS.bits() as i32;
const IF: i32 = Flags::IF.bits() as i32;
const AC: i32 = Flags::AC.bits() as i32;
const ID: i32 = Flags::ID.bits() as i32;
/// Bit 1, which is always set.
const FIXED: i32 = 2;
/// What SYSRET takes from R11.
const RETURNED: i32 = 0x3c_7fd7;

impl Emitter<'_> {
    /// STAC and CLAC.
    pub(super) fn access_flag(&mut self, index: usize, set: bool) {
        self.held = None;
        self.clobber(index);
        let site = self.site(SiteKind::Interpret, index);
        let side = if set { Side::Access } else { Side::Kernel };
        self.asm.load(S0, Mem::Gs(at::area(side as usize)));
        self.asm.rr(true, &[0x85], S0, S0);
        let from = self.asm.jcc(cond::EQUAL);
        self.stubs.push(Stub::Leave { from, site });
        self.asm.store_imm(Mem::Gs(at::ACCESS), if set { AC } else { 0 });
        self.asm.store_imm(Mem::Gs(at::SIDE), side as i32);
        self.asm.write_gs_base(S0);
    }

    /// SYSCALL.
    pub(super) fn system_call(&mut self, index: usize, fact: &Fact) {
        let next = fact.offset + fact.ins.len() as i32;
        self.load_rip(S0, next);
        self.asm.store(Mem::Gs(at::TEMP), S0);
        self.transfer(index, self.shared.system_call);
    }

    /// SYSRET.
    pub(super) fn system_return(&mut self, index: usize) {
        self.transfer(index, self.shared.system_return);
    }

    /// Goes to shared code that ends the block with the instruction, or leaves at the site in S1.
    /// The site behind it is for where the instruction's target is not known.
    fn transfer(&mut self, index: usize, to: u32) {
        self.want_native();
        self.save_flags();
        self.place = Place::Saved;
        self.spend(index);
        let offset = self.facts[index].offset;
        let site = self.site_at(SiteKind::Interpret, offset, 0);
        self.site_at(SiteKind::Target { rsp_move: 0 }, offset, 0);
        self.asm.constant(S1, u64::from(site));
        self.go_shared(to);
    }
}

/// SYSCALL: site in S1, address of the next instruction in TEMP, flags saved.
pub(super) fn system_call(asm: &mut Asm) -> Vec<Hole> {
    asm.load(S0, Mem::Gs(at::SYSCALL_AREA));
    asm.rr(true, &[0x85], S0, S0);
    let fails = asm.jcc(cond::EQUAL);
    asm.store(Mem::Gs(at::reg(RAX)), RAX);
    // RFLAGS, whole.
    asm.load(RAX, Mem::Gs(at::FLAGS));
    asm.mov32(RCX, RAX);
    asm.shr(RAX, 8);
    asm.alu_imm(false, Alu::And, RAX, LOW_FLAGS);
    asm.alu_imm(false, Alu::And, RCX, 1);
    asm.shl(RCX, 11);
    asm.rr(false, &[0x09], RCX, RAX);
    for other in [at::OTHER_FLAGS, at::INTERRUPTS, at::ACCESS].map(Mem::Gs) {
        asm.rm(true, &[0x0b], RAX, other);
    }
    asm.store(Mem::Gs(at::reg(R11)), RAX);
    // NOT RCX
    asm.load(RCX, Mem::Gs(at::SYSCALL_MASK));
    asm.rr(true, &[0xf7], 2, RCX);
    asm.rr(true, &[0x21], RCX, RAX);
    split_flags(asm, !(STATUS | IF | AC));
    arrive(asm, Side::Kernel, 1);
    asm.load(RCX, Mem::Gs(at::TEMP));
    asm.write_gs_base(S0);
    asm.load(S0, Mem::Gs(at::LSTAR));
    let missing = go(asm);
    vec![fails, missing]
}

/// SYSRET: site in S1.
pub(super) fn system_return(asm: &mut Asm) -> Vec<Hole> {
    asm.mov(S0, RCX);
    let odd_target = asm.unless_canonical(S0);
    asm.load(S0, Mem::Gs(at::reg(R11)));
    asm.test_imm(4, S0, RETURNED & !(STATUS | IF | ID | FIXED));
    let odd_flags = asm.jcc(cond::NOT_EQUAL);
    asm.test_imm(4, S0, IF);
    let masked = asm.jcc(cond::EQUAL);
    asm.cmp_mem32(Mem::Gs(at::PENDING), 0);
    let pending = asm.jcc(cond::NOT_EQUAL);
    asm.land(masked);
    asm.load(S0, Mem::Gs(at::SYSRET_AREA));
    asm.rr(true, &[0x85], S0, S0);
    let unknown = asm.jcc(cond::EQUAL);
    asm.store(Mem::Gs(at::reg(RAX)), RAX);
    asm.store(Mem::Gs(at::TEMP), RCX);
    asm.load(RAX, Mem::Gs(at::reg(R11)));
    split_flags(asm, ID);
    arrive(asm, Side::User, 2);
    asm.load(RCX, Mem::Gs(at::TEMP));
    asm.write_gs_base(S0);
    asm.mov(S0, RCX);
    let missing = go(asm);
    vec![odd_target, odd_flags, pending, unknown, missing]
}

/// RFLAGS in RAX to their places, of the others those under `kept`; changes RCX.
fn split_flags(asm: &mut Asm, kept: i32) {
    asm.mov32(RCX, RAX);
    asm.alu_imm(false, Alu::And, RCX, IF);
    asm.store(Mem::Gs(at::INTERRUPTS), RCX);
    asm.mov32(RCX, RAX);
    asm.alu_imm(false, Alu::And, RCX, kept & !FIXED);
    // Bit 1 is clear here: LEA sets it.
    asm.add_quietly(RCX, FIXED);
    asm.store(Mem::Gs(at::OTHER_FLAGS), RCX);
    asm.mov32(RCX, RAX);
    asm.shr(RCX, 11);
    asm.alu_imm(false, Alu::And, RCX, 1);
    asm.alu_imm(false, Alu::And, RAX, LOW_FLAGS);
    asm.shl(RAX, 8);
    asm.rr(false, &[0x09], RCX, RAX);
    asm.store(Mem::Gs(at::FLAGS), RAX);
}

/// Notes the side and what CS and SS now are; changes RAX. AC is clear on both.
fn arrive(asm: &mut Asm, side: Side, segments: i32) {
    asm.store_imm(Mem::Gs(at::ACCESS), 0);
    asm.store_imm(Mem::Gs(at::SIDE), side as i32);
    asm.store_imm(Mem::Gs(at::LOADED_SEGMENTS), segments);
    asm.load(RAX, Mem::Gs(at::star(segments as usize - 1)));
    asm.store(Mem::Gs(at::selector(1)), RAX);
}

/// Goes to the linear address in S0, with flags and RAX in their slots; without code for it, to
/// the site behind that in S1.
fn go(asm: &mut Asm) -> Hole {
    asm.add_quietly(BUDGET, -1);
    asm.mov(RAX, S0);
    asm.jump_entry(RAX, S0);
    asm.rm(true, &[0x3b], S0, Mem::GsIndex(RAX, JUMPS as i32));
    let missing = asm.jcc(cond::NOT_EQUAL);
    asm.alu_imm(true, Alu::And, S0, !0xfff);
    asm.store(Mem::Gs(at::RIP_BASE), S0);
    asm.load(S0, Mem::GsIndex(RAX, JUMPS as i32 + 8));
    asm.load(RAX, Mem::Gs(at::FLAGS));
    asm.flags_from_ax();
    asm.load(RAX, Mem::Gs(at::reg(RAX)));
    asm.jmp_reg(S0);
    asm.land(missing);
    asm.store(Mem::Gs(at::TARGET), S0);
    asm.load(RAX, Mem::Gs(at::reg(RAX)));
    asm.add_quietly(S1, 1);
    asm.jmp()
}
