//! Code that all blocks share: the way in, the ways out, missed checks, unit state.
//!
//! Only here the host's own registers are saved and its stack is used.

use super::asm::{Alu, Asm, Hole, Mem, cond};
use super::registers::{BUDGET, RSP, S0, S1, is_taken};
use super::string::Run;
use crate::cache::layout::{
    PRIVATE, TLB, TLB_ENTRIES, TLB_ENTRY, TLB_ENTRY_SHIFT, TLB_HOST, VICTIM_ENTRIES, VICTIMS,
};
use crate::cache::state::at;
use x86::xsave::{XMM_OFFSET, YMM_HI_OFFSET};

/// Places of the shared code in code memory.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stubs {
    /// `extern "sysv64" fn(gs_base) -> site`.
    pub(crate) enter: u32,
    /// Leaves at the site in S1; flags are saved or made by a recipe.
    pub(crate) leave: u32,
    /// Leaves at the site in S1 and saves the host's flags.
    pub(crate) leave_native: u32,
    /// An indirect branch's target, in S0, is not where it is looked for first (see `quiet`).
    pub(crate) look_again: u32,
    /// A check of a load missed: linear address in S0, address of the site's number in S1.
    pub(crate) miss_read: u32,
    /// A check of a store missed.
    pub(crate) miss_write: u32,
    /// INVLPG of the linear address in S0; address of the site's number in S1.
    pub(crate) invalidate: u32,
    /// Loads XMM, YMM and MXCSR, then goes to the address in S1.
    pub(crate) load_vectors: u32,
    /// Loads x87 and MMX, then goes to the address in S1.
    pub(crate) load_x87: u32,
    /// SYSCALL and SYSRET (see `syscall`).
    pub(crate) system_call: u32,
    pub(crate) system_return: u32,
    /// REP STOS and REP MOVS by log2 of the element's size (see `string`).
    pub(crate) fill: [Run; 4],
    pub(crate) copy: [Run; 4],
    /// Where a host signal's handler goes.
    pub(crate) trap: u32,
    /// Where it goes when memory could not be accessed.
    pub(crate) fault: u32,
}

/// What `enter` returns where a signal came.
pub(crate) const TRAP_SITE: u32 = u32::MAX;

const RAX: u8 = 0;
const RCX: u8 = 1;
const RDX: u8 = 2;
const RBX: u8 = 3;
const RBP: u8 = 5;
const RSI: u8 = 6;
const RDI: u8 = 7;
const R8: u8 = 8;

/// The host's callee-saved registers, in the order they are pushed.
const CALLEE_SAVED: [u8; 6] = [RBX, RBP, 12, 13, 14, 15];
/// Guest registers that a call of ours may change.
const CALLER_SAVED: [u8; 6] = [RAX, RCX, RDX, RSI, RDI, R8];

/// The shared code for the start of code memory (place 0). `avx`: the host has YMM registers.
pub(crate) fn shared(avx: bool) -> (Vec<u8>, Stubs) {
    let mut asm = Asm::default();
    let mut stubs = Stubs { enter: 0, ..Stubs::default() };
    enter(&mut asm);

    stubs.trap = align(&mut asm);
    asm.constant(S1, u64::from(TRAP_SITE));
    let trap = asm.jmp();

    stubs.leave_native = align(&mut asm);
    asm.store(Mem::Gs(at::reg(RAX)), RAX);
    asm.flags_to_ax();
    asm.store(Mem::Gs(at::FLAGS), RAX);
    asm.load(RAX, Mem::Gs(at::reg(RAX)));
    asm.land(trap);
    stubs.leave = asm.here() as u32;
    leave(&mut asm, avx);

    stubs.look_again = align(&mut asm);
    super::quiet::look_again(&mut asm, stubs.leave_native);

    stubs.miss_read = align(&mut asm);
    let slow_read = probe_victims(&mut asm, 0);
    stubs.miss_write = align(&mut asm);
    let slow_write = probe_victims(&mut asm, 1);
    for hole in slow_read.into_iter().chain(slow_write) {
        asm.land(hole);
    }
    ask(&mut asm, avx, at::MISS);

    stubs.invalidate = align(&mut asm);
    asm.store(Mem::Gs(at::RETRY), S1);
    asm.store(Mem::Gs(at::reg(RAX)), RAX);
    asm.store(Mem::Gs(at::reg(RCX)), RCX);
    ask(&mut asm, avx, at::INVALIDATE);

    stubs.fault = align(&mut asm);
    window_fault(&mut asm, avx);

    stubs.load_vectors = align(&mut asm);
    load_vectors(&mut asm, avx);
    asm.store_imm32(Mem::Gs(at::VECTORS_LIVE), 1);
    asm.jmp_reg(S1);

    stubs.load_x87 = align(&mut asm);
    load_x87(&mut asm);
    asm.jmp_reg(S1);

    stubs.system_call = align(&mut asm);
    let mut leaving = super::syscall::system_call(&mut asm);
    stubs.system_return = align(&mut asm);
    leaving.extend(super::syscall::system_return(&mut asm));
    for hole in leaving {
        asm.land_far(hole, i64::from(stubs.leave));
    }
    super::string::shared(&mut asm, &mut stubs);
    (asm.bytes, stubs)
}

/// Here, after padding.
pub(super) fn align(asm: &mut Asm) -> u32 {
    while !asm.here().is_multiple_of(16) {
        asm.bytes.push(0x90);
    }
    asm.here() as u32
}

fn push(asm: &mut Asm, register: u8) {
    if register >= 8 {
        asm.bytes.push(0x41);
    }
    asm.bytes.push(0x50 | register & 7);
}

fn pop(asm: &mut Asm, register: u8) {
    if register >= 8 {
        asm.bytes.push(0x41);
    }
    asm.bytes.push(0x58 | register & 7);
}

fn enter(asm: &mut Asm) {
    for register in CALLEE_SAVED {
        push(asm, register);
    }
    // Aligns the stack for calls: return address, six registers, this.
    asm.lea(true, RSP, Some(RSP), None, -8);
    // WRGSBASE RDI
    asm.bytes.extend([0xf3, 0x48, 0x0f, 0xae, 0xdf]);
    asm.store(Mem::Gs(at::HOST_RSP), RSP);
    // STMXCSR gs:[HOST_MXCSR]
    asm.rm(false, &[0x0f, 0xae], 3, Mem::Gs(at::HOST_MXCSR));
    asm.load(RAX, Mem::Gs(at::FLAGS));
    asm.flags_from_ax();
    for register in 0..16 {
        if !is_taken(register) {
            asm.load(register, Mem::Gs(at::reg(register)));
        }
    }
    asm.load(BUDGET, Mem::Gs(at::BUDGET));
    asm.jmp_mem(Mem::Gs(at::ENTRY));
}

fn leave(asm: &mut Asm, avx: bool) {
    for register in 0..16 {
        if !is_taken(register) {
            asm.store(Mem::Gs(at::reg(register)), register);
        }
    }
    asm.store(Mem::Gs(at::BUDGET), BUDGET);
    asm.load(RSP, Mem::Gs(at::HOST_RSP));
    leave_with_registers_saved(asm, avx);
}

/// S1 = site; every guest register is in its slot, RSP is the host's.
fn leave_with_registers_saved(asm: &mut Asm, avx: bool) {
    asm.mov(RAX, S1);
    asm.cmp_mem32(Mem::Gs(at::VECTORS_LIVE), 0);
    let clean = asm.jcc(cond::EQUAL);
    save_vectors(asm, avx);
    asm.store_imm32(Mem::Gs(at::VECTORS_LIVE), 0);
    asm.land(clean);
    asm.cmp_mem32(Mem::Gs(at::X87_LIVE), 0);
    let clean = asm.jcc(cond::EQUAL);
    save_x87(asm);
    asm.land(clean);
    asm.lea(true, RSP, Some(RSP), None, 8);
    for register in CALLEE_SAVED.iter().rev() {
        pop(asm, *register);
    }
    asm.bytes.push(0xc3);
}

/// Looks a missed page up among the victims and copies it to the TLB; RAX and RCX are in their
/// slots wherever it gives up.
fn probe_victims(asm: &mut Asm, kind: usize) -> [Hole; 2] {
    let tag = (TLB + kind * 8) as i32;
    let victim_tag = (VICTIMS + kind * 8) as i32;
    asm.store(Mem::Gs(at::RETRY), S1);
    asm.store(Mem::Gs(at::reg(RAX)), RAX);
    asm.store(Mem::Gs(at::reg(RCX)), RCX);
    asm.mov(RAX, S0);
    asm.alu_imm(true, Alu::And, RAX, !0xfff);
    asm.mov(S1, S0);
    asm.shr(S1, 12 - TLB_ENTRY_SHIFT);
    asm.mov32(RCX, S1);
    asm.alu_imm(false, Alu::And, S1, ((TLB_ENTRIES - 1) << TLB_ENTRY_SHIFT) as i32);
    asm.alu_imm(false, Alu::And, RCX, ((VICTIM_ENTRIES - 1) << TLB_ENTRY_SHIFT) as i32);
    // The entry is there: the access crosses into the next page.
    asm.rm(true, &[0x3b], RAX, Mem::GsIndex(S1, tag));
    let crossing = asm.jcc(cond::EQUAL);
    asm.rm(true, &[0x0b], RAX, Mem::Gs(PRIVATE as i32));
    asm.rm(true, &[0x3b], RAX, Mem::GsIndex(RCX, victim_tag));
    let missing = asm.jcc(cond::NOT_EQUAL);
    asm.load(RCX, Mem::GsIndex(RCX, (VICTIMS + TLB_HOST) as i32));
    asm.rm(true, &[0x3b], RCX, Mem::GsIndex(S1, (TLB + TLB_HOST) as i32));
    let same = asm.jcc(cond::EQUAL);
    asm.store(Mem::GsIndex(S1, (TLB + TLB_HOST) as i32), RCX);
    // Tags that this entry can never hold.
    asm.mov(RCX, S1);
    asm.alu_imm(false, Alu::Xor, RCX, TLB_ENTRY as i32);
    asm.shl(RCX, 12 - TLB_ENTRY_SHIFT);
    for kind in 0..3 {
        asm.store(Mem::GsIndex(S1, (TLB + kind * 8) as i32), RCX);
    }
    asm.land(same);
    asm.alu_imm(true, Alu::And, RAX, !0xfff);
    asm.store(Mem::GsIndex(S1, tag), RAX);
    asm.load(RAX, Mem::Gs(at::reg(RAX)));
    asm.load(RCX, Mem::Gs(at::reg(RCX)));
    try_again(asm);
    [crossing, missing]
}

/// Goes behind the site's number, which S1 or the slot points at, with the address in S0.
fn try_again(asm: &mut Asm) {
    asm.load(S1, Mem::Gs(at::RETRY));
    asm.add_quietly(S1, 4);
    asm.jmp_reg(S1);
}

/// Asks the engine to do something about the linear address in S0, and goes on or leaves. RAX and RCX are in
/// their slots.
fn ask(asm: &mut Asm, avx: bool, function: i32) {
    asm.store(Mem::Gs(at::LINEAR), S0);
    go_to_host(asm, avx);
    asm.load(RSI, Mem::Gs(at::LINEAR));
    asm.load(RDX, Mem::Gs(at::RETRY));
    asm.load32(RDX, Mem::Base(RDX, 0));
    asm.call_mem(Mem::Gs(function));
    asm.rr(false, &[0x85], RAX, RAX);
    let fails = asm.jcc(cond::EQUAL);
    come_back(asm, avx);
    asm.load(S0, Mem::Gs(at::LINEAR));
    try_again(asm);
    asm.land(fails);
    asm.load(S1, Mem::Gs(at::RETRY));
    asm.load32(S1, Mem::Base(S1, 0));
    leave_from_host(asm, avx);
}

/// Asks the engine to show what an access could not reach; then the access is tried again, or
/// the block is left.
fn window_fault(asm: &mut Asm, avx: bool) {
    asm.store(Mem::Gs(at::scratch(0)), S0);
    asm.store(Mem::Gs(at::scratch(1)), S1);
    asm.store(Mem::Gs(at::reg(RAX)), RAX);
    asm.store(Mem::Gs(at::reg(RCX)), RCX);
    go_to_host(asm, avx);
    asm.call_mem(Mem::Gs(at::WINDOW_FAULT));
    asm.rr(false, &[0x85], RAX, RAX);
    let fails = asm.jcc(cond::EQUAL);
    come_back(asm, avx);
    asm.load(S0, Mem::Gs(at::scratch(0)));
    asm.load(S1, Mem::Gs(at::scratch(1)));
    asm.load(RAX, Mem::Gs(at::RESUME_FLAGS));
    asm.flags_from_ax();
    asm.load(RAX, Mem::Gs(at::reg(RAX)));
    asm.jmp_mem(Mem::Gs(at::RESUME));
    asm.land(fails);
    asm.constant(S1, u64::from(TRAP_SITE));
    leave_from_host(asm, avx);
}

/// Readies a call of ours: what it may change is saved, RSP is the host's, RDI the owner. RAX and
/// RCX are in their slots.
fn go_to_host(asm: &mut Asm, avx: bool) {
    for register in CALLER_SAVED {
        if register != RAX && register != RCX {
            asm.store(Mem::Gs(at::reg(register)), register);
        }
    }
    asm.store(Mem::Gs(at::BUDGET), BUDGET);
    asm.store(Mem::Gs(at::reg(RSP)), RSP);
    asm.load(RSP, Mem::Gs(at::HOST_RSP));
    asm.cmp_mem32(Mem::Gs(at::VECTORS_LIVE), 0);
    let clean = asm.jcc(cond::EQUAL);
    save_vectors(asm, avx);
    asm.land(clean);
    asm.load(RDI, Mem::Gs(at::OWNER));
}

/// Goes on after a call of ours.
fn come_back(asm: &mut Asm, avx: bool) {
    asm.cmp_mem32(Mem::Gs(at::VECTORS_LIVE), 0);
    let clean = asm.jcc(cond::EQUAL);
    load_vectors(asm, avx);
    asm.land(clean);
    for register in CALLER_SAVED {
        asm.load(register, Mem::Gs(at::reg(register)));
    }
    asm.load(BUDGET, Mem::Gs(at::BUDGET));
    asm.load(RSP, Mem::Gs(at::reg(RSP)));
}

/// Leaves after a call of ours, at the site in S1.
fn leave_from_host(asm: &mut Asm, avx: bool) {
    for register in CALLEE_SAVED {
        asm.store(Mem::Gs(at::reg(register)), register);
    }
    // The image has the vectors, but the host's may have changed in the call.
    asm.store_imm32(Mem::Gs(at::VECTORS_LIVE), 0);
    leave_with_registers_saved(asm, avx);
}

/// A VEX-encoded instruction between a vector register and [base + disp].
#[derive(Clone, Copy)]
struct Vex {
    map: u8,
    wide: bool,
    prefix: u8,
    opcode: u8,
}

/// VMOVDQU to memory, 16 bytes.
const STORE: Vex = Vex { map: 1, wide: false, prefix: 2, opcode: 0x7f };
/// VMOVDQU from memory, 16 bytes.
const LOAD: Vex = Vex { map: 1, wide: false, prefix: 2, opcode: 0x6f };
/// VMOVDQU from memory, 32 bytes.
const LOAD_WIDE: Vex = Vex { map: 1, wide: true, prefix: 2, opcode: 0x6f };
/// VORPS, 32 bytes.
const OR_WIDE: Vex = Vex { map: 1, wide: true, prefix: 0, opcode: 0x56 };
/// VEXTRACTF128.
const EXTRACT: Vex = Vex { map: 3, wide: true, prefix: 1, opcode: 0x19 };
/// VINSERTF128.
const INSERT: Vex = Vex { map: 3, wide: true, prefix: 1, opcode: 0x18 };

impl Vex {
    /// `second` is the other source, 0 where there is none.
    fn emit(self, asm: &mut Asm, register: u8, second: u8, base: u8, disp: i32) {
        let r = u8::from(register < 8) << 7;
        let b = u8::from(base < 8) << 5;
        asm.bytes.extend([0xc4, r | 0x40 | b | self.map]);
        asm.bytes.push((!second & 15) << 3 | u8::from(self.wide) << 2 | self.prefix);
        asm.bytes.extend([self.opcode, 0x80 | (register & 7) << 3 | base & 7]);
        asm.bytes.extend(disp.to_le_bytes());
    }
}

/// Stores XMM, YMM and MXCSR to the image and loads the host's MXCSR; changes RDI.
fn save_vectors(asm: &mut Asm, avx: bool) {
    asm.load(RDI, Mem::Gs(at::XSAVE));
    for register in 0..16 {
        let low = XMM_OFFSET as i32 + i32::from(register) * 16;
        if avx {
            // VMOVDQU; VEXTRACTF128 ..., 1
            STORE.emit(asm, register, 0, RDI, low);
            let high = YMM_HI_OFFSET as i32 + i32::from(register) * 16;
            EXTRACT.emit(asm, register, 0, RDI, high);
            asm.bytes.push(1);
        } else {
            asm.bytes.push(0x66);
            asm.rm(false, &[0x0f, 0x7f], register, Mem::Base(RDI, low));
        }
    }
    asm.rm(false, &[0x0f, 0xae], 3, Mem::Base(RDI, 24));
    asm.rm(false, &[0x0f, 0xae], 2, Mem::Gs(at::HOST_MXCSR));
    if avx {
        asm.bytes.extend([0xc5, 0xf8, 0x77]);
    }
}

/// Loads XMM, YMM and MXCSR from the image; changes S0 and the flags. High halves that are all
/// zero are left in their initial state, because some hosts slow down legacy SSE otherwise.
fn load_vectors(asm: &mut Asm, avx: bool) {
    asm.load(S0, Mem::Gs(at::XSAVE));
    asm.rm(false, &[0x0f, 0xae], 2, Mem::Base(S0, 24));
    let low = |register: u8| XMM_OFFSET as i32 + i32::from(register) * 16;
    if !avx {
        for register in 0..16 {
            asm.bytes.push(0xf3);
            asm.rm(false, &[0x0f, 0x6f], register, Mem::Base(S0, low(register)));
        }
        return;
    }
    // VMOVDQU YMM0; seven times VPOR-like VORPS (AVX1); VPTEST.
    LOAD_WIDE.emit(asm, 0, 0, S0, YMM_HI_OFFSET as i32);
    for pair in 1..8 {
        OR_WIDE.emit(asm, 0, 0, S0, YMM_HI_OFFSET as i32 + pair * 32);
    }
    asm.bytes.extend([0xc4, 0xe2, 0x7d, 0x17, 0xc0]);
    let zero = asm.jcc(cond::EQUAL);
    for register in 0..16 {
        LOAD.emit(asm, register, 0, S0, low(register));
        let high = YMM_HI_OFFSET as i32 + i32::from(register) * 16;
        INSERT.emit(asm, register, register, S0, high);
        asm.bytes.push(1);
    }
    let done = asm.jmp();
    asm.land(zero);
    asm.bytes.extend([0xc5, 0xf8, 0x77]);
    for register in 0..16 {
        LOAD.emit(asm, register, 0, S0, low(register));
    }
    asm.land(done);
}

/// Stores x87 state to the image. FOP, FIP and FDP there stay: the host's name host code.
fn save_x87(asm: &mut Asm) {
    asm.store_imm32(Mem::Gs(at::X87_LIVE), 0);
    asm.mov(R8, RAX);
    asm.load(RDI, Mem::Gs(at::XSAVE));
    asm.rm(false, &[0x0f, 0xb7], RSI, Mem::Base(RDI, 6));
    asm.load(S0, Mem::Base(RDI, 8));
    asm.load(S1, Mem::Base(RDI, 16));
    asm.constant(RAX, 1);
    asm.constant(RDX, 0);
    // XSAVE64 [RDI]; then the three fields as they were.
    asm.rm(true, &[0x0f, 0xae], 4, Mem::Base(RDI, 0));
    asm.bytes.push(0x66);
    asm.rm(false, &[0x89], RSI, Mem::Base(RDI, 6));
    asm.store(Mem::Base(RDI, 8), S0);
    asm.store(Mem::Base(RDI, 16), S1);
    // FNINIT: the host's code finds an empty stack.
    asm.bytes.extend([0xdb, 0xe3]);
    asm.mov(RAX, R8);
}

/// Loads x87 state from the image; changes S0 and flags.
fn load_x87(asm: &mut Asm) {
    asm.load(S0, Mem::Gs(at::XSAVE));
    // The image's bytes are the truth whatever XSTATE_BV says: OR byte [S0 + 512], 1.
    asm.rm(false, &[0x80], 1, Mem::Base(S0, 512));
    asm.bytes.push(1);
    asm.store(Mem::Gs(at::TEMP), RDX);
    asm.store(Mem::Gs(at::JUMP), RAX);
    asm.constant(RAX, 1);
    asm.constant(RDX, 0);
    // XRSTOR64 [S0]
    asm.rm(true, &[0x0f, 0xae], 5, Mem::Base(S0, 0));
    asm.load(RDX, Mem::Gs(at::TEMP));
    asm.load(RAX, Mem::Gs(at::JUMP));
    asm.store_imm32(Mem::Gs(at::X87_LIVE), 1);
}
