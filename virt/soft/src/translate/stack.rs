//! PUSH, POP, LEAVE: the guest's RSP is the host's, so no host stack instruction may touch it.
//!
//! RSP changes last, after the access that can fault.

use iced_x86::OpKind;

use super::asm::Mem;
use super::emit::Emitter;
use super::facts::{Fact, gpr_of};
use super::memory::{Address, Data};
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
                let data = self.push_slot(index);
                if is_taken(number) {
                    let data = self.free_s1(data);
                    self.asm.load(S1, Mem::Gs(at::reg(number)));
                    self.touch();
                    self.store_word(data.mem(), S1);
                } else {
                    self.touch();
                    self.store_word(data.mem(), number);
                }
            }
            OpKind::Memory => {
                self.load_operand(index, fact, S0);
                self.asm.store(Mem::Gs(at::TEMP), S0);
                let data = self.push_slot(index);
                let data = self.free_s1(data);
                self.asm.load(S1, Mem::Gs(at::TEMP));
                self.touch();
                self.store_word(data.mem(), S1);
            }
            _ => {
                let data = self.push_slot(index);
                self.touch();
                self.store_word_imm(data.mem(), ins.immediate(0) as i64 as i32);
            }
        }
        self.move_stack(-self.word());
    }

    /// The element below the top of the stack.
    pub(super) fn push_slot(&mut self, index: usize) -> Data {
        let word = self.word();
        self.data(index, Address::Stack(-word), true, word as u32)
    }

    /// A register = the memory operand, as large as a stack element.
    pub(super) fn load_operand(&mut self, index: usize, fact: &Fact, to: u8) {
        let data = self.data(index, Address::Operand(&fact.ins), false, self.word() as u32);
        self.load_data(to, data);
    }

    /// A register = a stack element of data.
    fn load_data(&mut self, to: u8, data: Data) {
        self.touch();
        self.load_word(to, data.mem());
        if to == S0 {
            self.held = None;
        }
    }

    /// S0 = the element at the top of the stack.
    pub(super) fn load_top(&mut self, index: usize) {
        let data = self.data(index, Address::Stack(0), false, self.word() as u32);
        self.load_data(S0, data);
    }

    /// POP to a register other than RSP.
    pub(super) fn pop(&mut self, index: usize, fact: &Fact) {
        let (number, _) = gpr_of(fact.ins.op0_register()).expect("POP r64");
        let data = self.data(index, Address::Stack(0), false, self.word() as u32);
        if is_taken(number) {
            self.load_data(S1, data);
            self.asm.store(Mem::Gs(at::reg(number)), S1);
        } else {
            self.load_data(number, data);
        }
        self.move_stack(self.word());
    }

    /// LEAVE.
    pub(super) fn leave(&mut self, index: usize) {
        let word = self.word();
        let data = self.data(index, Address::Frame, false, word as u32);
        self.load_data(S1, data);
        let wide = self.is_wide();
        self.asm.lea(wide, RSP, Some(RBP), None, word);
        self.lag = 0;
        self.asm.mov(RBP, S1);
    }
}
