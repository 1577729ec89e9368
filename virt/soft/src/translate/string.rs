//! REP MOVS and REP STOS by runs within pages, by the host's own (SDM vol. 2, REP).
//!
//! Both ends of a run are checked in the TLB; between runs RCX, RSI and RDI are exact, so a miss
//! may leave there, and the interpreter goes on. It also has what goes down, what is long enough
//! that somebody may want attention meanwhile, and elements across pages. Overlapping ends need no
//! care: the host's instruction means what the guest's does.

use iced_x86::{Code, Instruction, OpKind, Register};

use super::asm::{Alu, Asm, Mem, cond};
use super::emit::{Emitter, Stub};
use super::facts::Fact;
use super::flags::Place;
use super::memory::{INDEX_MASK, tag};
use super::registers::{S0, S1};
use super::site::SiteKind;
use super::stubs::Stubs;
use crate::cache::layout::{TLB, TLB_ENTRY_SHIFT, TLB_HOST};
use crate::cache::state::at;

const RCX: u8 = 1;
const RSI: u8 = 6;
const RDI: u8 = 7;
/// RFLAGS.DF.
const DF: i32 = 1 << 10;
/// Most bytes of one instruction that nobody interrupts.
const MOST_BYTES: i32 = 1 << 16;
/// Bytes of a site's number with the jump behind it, in an instruction's code.
const WAY: i32 = 9;

/// Places of the code for one kind of them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Run {
    start: u32,
    /// Where it goes on when the store's page has been filled. The load's has been looked up then,
    /// and may have lost its entry: both can want the same.
    resume: u32,
}

/// Whether an instruction is one of these.
pub(super) fn is_run(ins: &Instruction) -> bool {
    let repeated = ins.has_rep_prefix() || ins.has_repne_prefix();
    let wide = (0..ins.op_count()).all(|index| match ins.op_kind(index) {
        OpKind::MemoryESRDI | OpKind::Register => true,
        OpKind::MemorySegRSI => !matches!(ins.memory_segment(), Register::FS | Register::GS),
        _ => false,
    });
    repeated && wide && run(ins).is_some()
}

/// log2 of the element's size, and whether it is MOVS.
fn run(ins: &Instruction) -> Option<(u8, bool)> {
    Some(match ins.code() {
        Code::Stosb_m8_AL => (0, false),
        Code::Stosw_m16_AX => (1, false),
        Code::Stosd_m32_EAX => (2, false),
        Code::Stosq_m64_RAX => (3, false),
        Code::Movsb_m8_m8 => (0, true),
        Code::Movsw_m16_m16 => (1, true),
        Code::Movsd_m32_m32 => (2, true),
        Code::Movsq_m64_m64 => (3, true),
        _ => return None,
    })
}

impl Emitter<'_> {
    /// REP MOVS, REP STOS.
    pub(super) fn repeated_string(&mut self, index: usize, fact: &Fact) {
        let (shift, copies) = run(&fact.ins).expect("nothing else is of this kind");
        self.held = None;
        // A recipe may name a register that is half way when the block is left.
        self.want_native();
        self.save_flags();
        self.place = Place::Saved;
        if !self.is_wide() {
            self.leave_if_wrapping(index, shift, copies);
        }
        let access = |write| SiteKind::Access { write, size: 1, grouped: false };
        let sites = [self.site(access(true), index), self.site(access(false), index)];
        let stubs = if copies { self.shared.copy } else { self.shared.fill };
        let Run { start, resume } = stubs[usize::from(shift)];
        let again = self.asm.here() as i64;
        self.asm.point_behind_jump(S1);
        self.asm.note_change(S1);
        self.go_shared(start);
        self.asm.bytes.extend(sites[0].to_le_bytes());
        self.go_shared(resume);
        self.asm.bytes.extend(sites[1].to_le_bytes());
        let from = self.asm.jmp();
        self.asm.land_far(from, again);
    }
}

impl Emitter<'_> {
    /// Leaves a run that reaches the end of 4 GiB, where indices wrap, to the interpreter.
    fn leave_if_wrapping(&mut self, index: usize, shift: u8, copies: bool) {
        let site = self.site(SiteKind::Interpret, index);
        for register in if copies { &[RDI, RSI][..] } else { &[RDI] } {
            self.asm.lea(true, S0, Some(*register), Some((RCX, shift)), 0);
            self.asm.shr(S0, 32);
            let from = self.asm.jcc(cond::NOT_EQUAL);
            self.stubs.push(Stub::Leave { from, site });
        }
    }
}

/// The code for every size: S1 points at the sites' numbers.
pub(super) fn shared(asm: &mut Asm, stubs: &mut Stubs) {
    for shift in 0..4 {
        stubs.fill[usize::from(shift)] = run_pages(asm, stubs, shift, false);
        stubs.copy[usize::from(shift)] = run_pages(asm, stubs, shift, true);
    }
}

fn run_pages(asm: &mut Asm, stubs: &Stubs, shift: u8, copies: bool) -> Run {
    let start = super::stubs::align(asm);
    asm.load(S0, Mem::Gs(at::OTHER_FLAGS));
    asm.test_imm(4, S0, DF);
    let down = asm.jcc(cond::NOT_EQUAL);
    asm.alu_imm(true, Alu::Cmp, RCX, MOST_BYTES >> shift);
    let long = asm.jcc(cond::ABOVE);
    let again = asm.here() as i64;
    asm.rr(true, &[0x85], RCX, RCX);
    let done = asm.jcc(cond::EQUAL);
    // The number of the store's site; for the load's, S1 moves on.
    asm.store(Mem::Gs(at::RETRY), S1);
    let unread = copies.then(|| {
        let miss = look_up(asm, RSI, 0);
        asm.store(Mem::Gs(at::TEMP), S0);
        miss
    });
    let resume = asm.here() as u32;
    let unwritten = look_up(asm, RDI, 1);
    // S1 = elements to the end of the page, of the nearer one.
    asm.store(Mem::Gs(at::reg(RDI)), RDI);
    asm.alu_imm(false, Alu::And, RDI, 0xfff);
    if copies {
        asm.store(Mem::Gs(at::reg(RSI)), RSI);
        asm.alu_imm(false, Alu::And, RSI, 0xfff);
        // CMP RDI, RSI; CMOVB RDI, RSI
        asm.rr(true, &[0x39], RSI, RDI);
        asm.rr(true, &[0x0f, 0x42], RDI, RSI);
    }
    asm.constant(S1, 4096);
    asm.rr(true, &[0x29], RDI, S1);
    asm.shr(S1, shift);
    let crossing = (shift > 0).then(|| {
        // Also where `shr` by 0 would set no flag.
        asm.rr(true, &[0x85], S1, S1);
        asm.jcc(cond::EQUAL)
    });
    asm.store(Mem::Gs(at::reg(RCX)), RCX);
    // CMP RCX, S1; CMOVA RCX, S1
    asm.rr(true, &[0x39], S1, RCX);
    asm.rr(true, &[0x0f, 0x47], RCX, S1);
    asm.mov(RDI, S0);
    asm.mov(S0, RCX);
    if copies {
        asm.load(RSI, Mem::Gs(at::TEMP));
    }
    element(asm, shift, copies);
    for register in if copies { &[RDI, RSI][..] } else { &[RDI] } {
        asm.load(*register, Mem::Gs(at::reg(*register)));
        asm.lea(true, *register, Some(*register), Some((S0, shift)), 0);
    }
    asm.load(RCX, Mem::Gs(at::reg(RCX)));
    asm.rr(true, &[0x29], S0, RCX);
    asm.load(S1, Mem::Gs(at::RETRY));
    let next = asm.jmp();
    asm.land_far(next, again);

    asm.land(done);
    asm.add_quietly(S1, 2 * WAY);
    asm.jmp_reg(S1);
    for (miss, register, way, to) in
        [(Some(unwritten), RDI, 0, stubs.miss_write), (unread, RSI, WAY, stubs.miss_read)]
    {
        let Some(miss) = miss else { continue };
        asm.land(miss);
        asm.mov(S0, register);
        asm.load(S1, Mem::Gs(at::RETRY));
        asm.add_quietly(S1, way);
        let from = asm.jmp();
        asm.land_far(from, i64::from(to));
    }
    if let Some(crossing) = crossing {
        asm.land(crossing);
        asm.load(RDI, Mem::Gs(at::reg(RDI)));
        if copies {
            asm.load(RSI, Mem::Gs(at::reg(RSI)));
        }
        asm.load(S1, Mem::Gs(at::RETRY));
    }
    asm.land(down);
    asm.land(long);
    asm.load32(S1, Mem::Base(S1, 0));
    let from = asm.jmp();
    asm.land_far(from, i64::from(stubs.leave));
    Run { start, resume }
}

/// S0 = host address behind a register; changes S1.
fn look_up(asm: &mut Asm, register: u8, kind: usize) -> super::asm::Hole {
    asm.mov(S0, register);
    asm.mov(S1, S0);
    asm.shr(S1, 12 - TLB_ENTRY_SHIFT);
    asm.alu_imm(false, Alu::And, S1, INDEX_MASK);
    asm.rm(true, &[0x33], S0, Mem::GsIndex(S1, tag(kind)));
    asm.alu_imm(true, Alu::Cmp, S0, 4095);
    let miss = asm.jcc(cond::ABOVE);
    asm.rm(true, &[0x03], S0, Mem::GsIndex(S1, (TLB + TLB_HOST) as i32));
    miss
}

/// REP MOVS or REP STOS.
fn element(asm: &mut Asm, shift: u8, copies: bool) {
    if shift == 1 {
        asm.bytes.push(0x66);
    }
    asm.bytes.push(0xf3);
    if shift == 3 {
        asm.bytes.push(0x48);
    }
    let opcode = if copies { 0xa4 } else { 0xaa };
    asm.bytes.push(opcode | u8::from(shift > 0));
}
