//! Effective addresses: the guest's operand into S0, changing no flag.

use iced_x86::{Instruction, Register};

use super::asm::Mem;
use super::emit::Emitter;
use super::facts::Fact;
use super::registers::{S0, S1, is_taken};
use crate::cache::state::at;

impl Emitter<'_> {
    /// `to` = linear address of a place in the block's page.
    pub(super) fn load_rip(&mut self, to: u8, offset: i32) {
        match self.source.page {
            Some(page) => self.asm.constant(to, page.wrapping_add(offset as i64 as u64)),
            None => {
                self.asm.load(to, Mem::Gs(at::RIP_BASE));
                self.asm.add_quietly(to, offset);
            }
        }
    }

    /// S0 = linear address of the memory operand, moved by a constant; changes S1.
    pub(super) fn linear_address(&mut self, ins: &Instruction, by: i32) {
        if !self.is_wide() {
            return self.flat_address(ins, by);
        }
        let segment = match ins.memory_segment() {
            Register::FS => Some(0),
            Register::GS => Some(1),
            _ => None,
        };
        let bare = ins.memory_base() == Register::None && ins.memory_index() == Register::None;
        match segment {
            Some(segment) if bare && !is_narrow(ins) => {
                self.asm.load(S0, Mem::Gs(at::segment_base(segment)));
                let disp = ins.memory_displacement64() as i32;
                if disp != 0 {
                    self.asm.add_quietly(S0, disp);
                }
                if by != 0 {
                    self.asm.add_quietly(S0, by);
                }
            }
            _ => {
                match (ins.memory_displacement64() as i32).checked_add(by) {
                    Some(disp) if by != 0 && !ins.is_ip_rel_memory_operand() => {
                        let mut moved = *ins;
                        moved.set_memory_displacement64(disp as i64 as u64);
                        self.offset_in_segment(&moved, S0, true);
                    }
                    _ => {
                        self.offset_in_segment(ins, S0, true);
                        if by != 0 {
                            self.asm.add_quietly(S0, by);
                        }
                    }
                }
                if let Some(segment) = segment {
                    self.asm.load(S1, Mem::Gs(at::segment_base(segment)));
                    self.join_address();
                }
            }
        }
    }

    /// `to` (S0, or a register that is not taken) = offset of the memory operand; changes S0, S1.
    fn offset_in_segment(&mut self, ins: &Instruction, to: u8, wide: bool) {
        if !self.is_wide() {
            return self.flat_offset(ins, to, 0);
        }
        if ins.is_ip_rel_memory_operand() {
            self.load_rip(to, ins.memory_displacement64() as i64 as i32);
            if !wide {
                self.asm.mov32(to, to);
            }
            return;
        }
        let disp = ins.memory_displacement64() as i32;
        let narrow = is_narrow(ins);
        let base = self.address_register(ins.memory_base(), S0);
        let index = self.address_register(ins.memory_index(), S1);
        let index = index.map(|register| (register, ins.memory_index_scale().ilog2() as u8));
        if base.is_none() && index.is_none() {
            let value = if narrow { u64::from(disp as u32) } else { disp as i64 as u64 };
            self.asm.constant(to, if wide { value } else { u64::from(value as u32) });
        } else {
            self.asm.lea(wide && !narrow, to, base, index, disp);
        }
    }

    /// The host register that holds an address register, loading it if it is taken.
    fn address_register(&mut self, register: Register, scratch: u8) -> Option<u8> {
        if register == Register::None {
            return None;
        }
        let number = register.full_register().number() as u8;
        if is_taken(number) {
            self.load_taken(scratch, number);
            return Some(scratch);
        }
        Some(number)
    }

    /// LEA of the guest.
    pub(super) fn load_address(&mut self, fact: &Fact) {
        self.held = None;
        let register = fact.ins.op0_register();
        let (number, size) = (register.full_register().number() as u8, register.size());
        if size >= 4 {
            let to = if is_taken(number) { S0 } else { number };
            self.offset_in_segment(&fact.ins, to, size == 8);
            if to == S0 {
                self.asm.store(Mem::Gs(at::reg(number)), S0);
            }
            return;
        }
        self.offset_in_segment(&fact.ins, S0, false);
        self.asm.bytes.push(0x66);
        if is_taken(number) {
            self.asm.rm(false, &[0x89], S0, Mem::Gs(at::reg(number)));
        } else {
            self.asm.rr(false, &[0x89], S0, number);
        }
    }
}

/// Whether addresses are 32 bits wide.
fn is_narrow(ins: &Instruction) -> bool {
    let register = |register: Register| register != Register::None && register.size() == 4;
    let bare = ins.memory_base() == Register::None && ins.memory_index() == Register::None;
    register(ins.memory_base())
        || register(ins.memory_index())
        || bare && ins.memory_displ_size() == 4
}
