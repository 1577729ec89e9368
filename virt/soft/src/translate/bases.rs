//! Segment bases, control registers, protection keys, DF: state that is copied to where translated
//! code finds it, and back.

use iced_x86::{Instruction, Register};

use super::asm::{Alu, Mem, cond};
use super::emit::{Emitter, Stub};
use super::facts::{Fact, gpr_of};
use super::memory::Address;
use super::registers::{RAX, S0, S1, is_taken};
use super::site::SiteKind;
use crate::cache::state::at;

const RCX: u8 = 1;
const RDX: u8 = 2;
/// RFLAGS.DF.
const DF: i32 = 1 << 10;

/// FS's or GS's base.
fn base_of(ins: &Instruction) -> Mem {
    use iced_x86::Mnemonic as M;
    let gs = matches!(ins.mnemonic(), M::Rdgsbase | M::Wrgsbase);
    Mem::Gs(at::segment_base(u8::from(gs)))
}

impl Emitter<'_> {
    /// A register of the guest = S1.
    fn set_from_s1(&mut self, number: u8) {
        if is_taken(number) {
            self.asm.store(Mem::Gs(at::reg(number)), S1);
        } else {
            self.asm.mov(number, S1);
        }
    }

    /// RDFSBASE, RDGSBASE.
    pub(super) fn read_base(&mut self, fact: &Fact) {
        let (number, size) = gpr_of(fact.ins.op0_register()).expect("a general register");
        if size == 8 {
            self.asm.load(S1, base_of(&fact.ins));
        } else {
            self.asm.load32(S1, base_of(&fact.ins));
        }
        self.set_from_s1(number);
    }

    /// WRFSBASE, WRGSBASE; what is not canonical is the interpreter's.
    pub(super) fn write_base(&mut self, index: usize, fact: &Fact) {
        let (number, size) = gpr_of(fact.ins.op0_register()).expect("a general register");
        self.held = None;
        self.clobber(index);
        let site = self.site(SiteKind::Interpret, index);
        if is_taken(number) {
            self.asm.load(S1, Mem::Gs(at::reg(number)));
        } else {
            self.asm.mov(S1, number);
        }
        if size == 8 {
            self.asm.mov(S0, S1);
            let from = self.asm.unless_canonical(S0);
            self.stubs.push(Stub::Leave { from, site });
        } else {
            self.asm.mov32(S1, S1);
        }
        self.asm.store(base_of(&fact.ins), S1);
    }

    /// MOV from a control register.
    pub(super) fn read_control(&mut self, fact: &Fact) {
        let (number, _) = gpr_of(fact.ins.op0_register()).expect("a general register");
        let control = match fact.ins.op1_register() {
            Register::CR0 => 0,
            Register::CR2 => 2,
            Register::CR3 => 3,
            Register::CR4 => 4,
            other => unreachable!("{other:?} is left to the interpreter"),
        };
        self.load_word(S1, Mem::Gs(at::control(control)));
        self.set_from_s1(number);
    }

    /// RDPKRU, with ECX = 0.
    pub(super) fn read_keys(&mut self, index: usize) {
        self.clobber(index);
        let site = self.site(SiteKind::Interpret, index);
        self.asm.rr(false, &[0x85], RCX, RCX);
        let from = self.asm.jcc(cond::NOT_EQUAL);
        self.stubs.push(Stub::Leave { from, site });
        self.asm.load32(RAX, Mem::Gs(at::PKRU));
        self.asm.constant(RDX, 0);
    }

    /// CLD.
    pub(super) fn clear_direction(&mut self, index: usize) {
        self.clobber(index);
        self.asm.load(S1, Mem::Gs(at::OTHER_FLAGS));
        self.asm.alu_imm(true, Alu::And, S1, !DF);
        self.asm.store(Mem::Gs(at::OTHER_FLAGS), S1);
    }

    /// MOV m16 from a segment register.
    pub(super) fn store_selector(&mut self, index: usize, fact: &Fact) {
        let segment = fact.ins.op1_register().number() as u8;
        let data = self.data(index, Address::Operand(&fact.ins), true, 2);
        let data = self.free_s1(data);
        self.asm.load32(S1, Mem::Gs(at::selector(segment)));
        self.touch();
        self.asm.bytes.push(0x66);
        self.asm.rm(false, &[0x89], S1, data.mem());
    }
}
