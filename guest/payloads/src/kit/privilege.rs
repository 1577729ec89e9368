//! To CPL 3 and back.

use iced_x86::code_asm::*;

use super::guest::{Assembled, Guest, jump_address, variable};
use super::image::page;
use super::vector;
use crate::layout::{self, selector};

impl Guest {
    /// Writes an MSR; RAX, RCX and RDX are lost.
    pub(crate) fn write_msr(&mut self, msr: u32, value: u64) -> Assembled {
        self.mov(ecx, msr)?;
        self.mov(eax, value as u32)?;
        self.mov(edx, (value >> 32) as u32)?;
        self.wrmsr()
    }

    /// Runs code at CPL 3 with these flags (IF = 0), 64 or 32 bits as the payload is. Its code and
    /// the user stack become user pages. RAX is lost.
    pub(crate) fn user(
        &mut self,
        flags: u32,
        body: impl FnOnce(&mut Self) -> Assembled,
    ) -> Assembled {
        if self.bits() == 64 {
            for number in 0..16 {
                self.map_with(layout::CODE + number * 0x1000, page::U);
            }
            self.map_with(layout::STACK_USER - 0x1000, page::U);
            self.user_64(selector::USER_CODE64, flags, body)
        } else {
            self.user_32(flags, body)
        }
    }

    fn user_64(
        &mut self,
        code: u16,
        flags: u32,
        body: impl FnOnce(&mut Self) -> Assembled,
    ) -> Assembled {
        let (mut inside, mut back) = (self.create_label(), self.create_label());
        self.lea(r13, ptr(back))?;
        self.mov(qword_ptr(variable::KERNEL_STACK), rsp)?;
        self.push(i32::from(selector::USER_DATA))?;
        self.push(layout::STACK_USER as i32)?;
        self.push((flags | 2) as i32)?;
        self.push(i32::from(code))?;
        self.lea(rax, ptr(inside))?;
        self.push(rax)?;
        self.iretq()?;
        self.set_label(&mut inside)?;
        body(self)?;
        self.int(i32::from(vector::LEAVE))?;
        self.set_label(&mut back)?;
        self.nop()
    }

    fn user_32(&mut self, flags: u32, body: impl FnOnce(&mut Self) -> Assembled) -> Assembled {
        let (mut inside, mut back) = (self.create_label(), self.create_label());
        jump_address(self, back)?;
        self.pop(dword_ptr(variable::KERNEL_RETURN))?;
        self.mov(dword_ptr(variable::KERNEL_STACK), esp)?;
        self.mov(eax, i32::from(selector::USER_DATA))?;
        self.mov(ds, eax)?;
        self.mov(es, eax)?;
        self.push(i32::from(selector::USER_DATA))?;
        self.push(layout::STACK_USER as i32)?;
        self.push((flags | 2) as i32)?;
        self.push(i32::from(selector::USER_CODE32))?;
        jump_address(self, inside)?;
        self.iretd()?;
        self.set_label(&mut inside)?;
        body(self)?;
        self.int(i32::from(vector::LEAVE))?;
        self.set_label(&mut back)?;
        self.nop()
    }
}
