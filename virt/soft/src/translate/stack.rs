//! PUSH, POP, LEAVE: the guest's RSP is the host's, so no host stack instruction may touch it.
//!
//! RSP changes last, after the access that can fault.

use iced_x86::OpKind;

use super::asm::Mem;
use super::emit::Emitter;
use super::facts::{Fact, gpr_of};
use super::registers::{RSP, S0, S1, is_taken};
use crate::cache::state::at;

/// RBP.
const RBP: u8 = 5;

impl Emitter<'_> {
    /// PUSH.
    pub(super) fn push(&mut self, index: usize, fact: &Fact) {
        let ins = &fact.ins;
        match ins.op0_kind() {
            OpKind::Register => {
                let (number, _) = gpr_of(ins.op0_register()).expect("PUSH r64");
                self.push_slot(index);
                if is_taken(number) {
                    self.join_address();
                    self.asm.load(S1, Mem::Gs(at::reg(number)));
                    self.asm.store(Mem::Base(S0, 0), S1);
                } else {
                    self.asm.store(Mem::Pair(S0, S1), number);
                }
            }
            OpKind::Memory => {
                self.load_operand(index, fact);
                self.asm.store(Mem::Gs(at::TEMP), S0);
                self.push_slot(index);
                self.join_address();
                self.asm.load(S1, Mem::Gs(at::TEMP));
                self.asm.store(Mem::Base(S0, 0), S1);
            }
            _ => {
                self.push_slot(index);
                self.asm.store_imm(Mem::Pair(S0, S1), ins.immediate(0) as i64 as i32);
            }
        }
        self.asm.add_quietly(RSP, -8);
    }

    /// [S0 + S1] = the eight bytes below the top of the stack.
    pub(super) fn push_slot(&mut self, index: usize) {
        self.asm.lea(true, S0, Some(RSP), None, -8);
        self.check(index, true, 8);
    }

    /// S0 = the eight bytes of the memory operand.
    pub(super) fn load_operand(&mut self, index: usize, fact: &Fact) {
        self.linear_address(&fact.ins);
        self.check(index, false, 8);
        self.asm.load(S0, Mem::Pair(S0, S1));
    }

    /// S0 = the eight bytes at the top of the stack.
    pub(super) fn load_top(&mut self, index: usize) {
        self.asm.mov(S0, RSP);
        self.check(index, false, 8);
        self.asm.load(S0, Mem::Pair(S0, S1));
    }

    /// POP to a register other than RSP.
    pub(super) fn pop(&mut self, index: usize, fact: &Fact) {
        let (number, _) = gpr_of(fact.ins.op0_register()).expect("POP r64");
        self.asm.mov(S0, RSP);
        self.check(index, false, 8);
        if is_taken(number) {
            self.asm.load(S0, Mem::Pair(S0, S1));
            self.asm.store(Mem::Gs(at::reg(number)), S0);
        } else {
            self.asm.load(number, Mem::Pair(S0, S1));
        }
        self.asm.add_quietly(RSP, 8);
    }

    /// LEAVE.
    pub(super) fn leave(&mut self, index: usize) {
        self.asm.mov(S0, RBP);
        self.check(index, false, 8);
        self.asm.load(S0, Mem::Pair(S0, S1));
        self.asm.lea(true, RSP, Some(RBP), None, 8);
        self.asm.mov(RBP, S0);
    }
}
