//! Instructions that can name a taken register's slot as their operand: one host instruction instead
//! of a load and the copy. While the value is in S0 anyway, that is read instead: a store just before
//! would make a load wait.

use iced_x86::{Mnemonic, OpKind};

use super::asm::Mem;
use super::emit::Emitter;
use super::facts::{Fact, gpr_of};
use super::registers::is_taken;
use crate::cache::state::at;

impl Emitter<'_> {
    /// Emits an instruction without memory operand on a slot; false if it is not of such a kind. The
    /// flags that it reads are in the host's.
    pub(super) fn on_slot(&mut self, fact: &Fact) -> bool {
        let ins = &fact.ins;
        if fact.access.is_some() || ins.op_count() != 2 || ins.op0_kind() != OpKind::Register {
            return false;
        }
        let Some((first, size)) = gpr_of(ins.op0_register()) else { return false };
        let second = match ins.op1_kind() {
            OpKind::Register => match gpr_of(ins.op1_register()) {
                Some((number, other)) if other == size => Some(number),
                _ => return false,
            },
            _ => None,
        };
        match second {
            Some(second) if is_taken(second) && !is_taken(first) => {
                self.read_slot(ins.mnemonic(), size, first, second)
            }
            Some(second) if is_taken(first) && !is_taken(second) => {
                self.with_slot(ins.mnemonic(), size, first, second)
            }
            None if is_taken(first) => ins
                .try_immediate(1)
                .is_ok_and(|value| self.compare_slot(ins.mnemonic(), size, first, value as i32)),
            _ => false,
        }
    }

    /// A register OP= a taken one.
    fn read_slot(&mut self, mnemonic: Mnemonic, size: u8, register: u8, taken: u8) -> bool {
        let opcode = match mnemonic {
            Mnemonic::Mov => 0x8a,
            Mnemonic::Test => 0x84,
            other => match digit(other) {
                Some(digit) => digit << 3 | 2,
                None => return false,
            },
        };
        if size < 4 || self.is_in_s0(taken) {
            return false;
        }
        self.slot_operand(opcode, size, register, at::reg(taken));
        true
    }

    /// A taken register = another one, or compared with it.
    fn with_slot(&mut self, mnemonic: Mnemonic, size: u8, taken: u8, register: u8) -> bool {
        let opcode = match (mnemonic, size) {
            // A narrower one would leave the upper half.
            (Mnemonic::Mov, 8) => {
                self.store_taken(taken, register);
                return true;
            }
            (Mnemonic::Cmp, 4 | 8) => 0x38,
            (Mnemonic::Test, 4 | 8) => 0x84,
            _ => return false,
        };
        if self.is_in_s0(taken) {
            return false;
        }
        self.slot_operand(opcode, size, register, at::reg(taken));
        true
    }

    /// A taken register compared with a number.
    fn compare_slot(&mut self, mnemonic: Mnemonic, size: u8, taken: u8, value: i32) -> bool {
        let slot = Mem::Gs(at::reg(taken));
        if !matches!(size, 4 | 8) || self.is_in_s0(taken) {
            return false;
        }
        match (mnemonic, i8::try_from(value)) {
            (Mnemonic::Cmp, Ok(short)) => {
                self.asm.rm(size == 8, &[0x83], 7, slot);
                self.asm.bytes.push(short as u8);
            }
            (Mnemonic::Cmp, Err(_)) => {
                self.asm.rm(size == 8, &[0x81], 7, slot);
                self.asm.bytes.extend(value.to_le_bytes());
            }
            (Mnemonic::Test, _) => {
                self.asm.rm(size == 8, &[0xf7], 0, slot);
                self.asm.bytes.extend(value.to_le_bytes());
            }
            _ => return false,
        }
        true
    }
}

/// The number of a basic operation in its opcodes.
fn digit(mnemonic: Mnemonic) -> Option<u8> {
    Some(match mnemonic {
        Mnemonic::Add => 0,
        Mnemonic::Or => 1,
        Mnemonic::Adc => 2,
        Mnemonic::Sbb => 3,
        Mnemonic::And => 4,
        Mnemonic::Sub => 5,
        Mnemonic::Xor => 6,
        Mnemonic::Cmp => 7,
        _ => return None,
    })
}
