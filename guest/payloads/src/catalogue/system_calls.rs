//! SYSCALL, SYSENTER and SWAPGS (SDM vol. 3, 5.8.7, 5.8.8).

use iced_x86::code_asm::*;

use crate::kit::{Guest, page, vector};
use crate::layout::{self, selector};
use crate::payload::Payload;

const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const SFMASK: u32 = 0xc000_0084;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const ENTRY: u64 = 0x2_0000;

pub(super) fn syscall() -> Payload {
    Guest::long("SYSCALL and SYSRET: RCX, R11, SFMASK, segments, EFER.SCE, SWAPGS", |g| {
        g.fault(vector::UD, 0, |g| g.syscall())?;
        g.fault(vector::UD, 0, |g| g.db(&[0x48, 0x0f, 0x07]))?;
        let star = u64::from(selector::USER_CODE32) << 48 | u64::from(selector::SYSCALL) << 32;
        g.write_msr(STAR, star)?;
        g.write_msr(LSTAR, ENTRY)?;
        g.write_msr(SFMASK, 0x4_7501)?; // AC NT DF TF CF and more
        g.write_msr(EFER, 0xd01)?;
        g.write_msr(GS_BASE, 0x1000)?;
        g.write_msr(KERNEL_GS_BASE, layout::DATA)?;
        g.place_u64(layout::DATA + 8, 0xfeed);
        let mut after = g.create_label();
        g.user(3 << 12, |g| {
            g.lea(r12, ptr(after))?;
            g.std()?;
            g.stc()?;
            g.syscall()?;
            g.set_label(&mut after)?;
            g.pushfq()?;
            g.cld()?;
            // Expected below, behind the kernel's part.
            g.pop(rax)?;
            g.and(eax, 0x401)?;
            g.out(i32::from(crate::ports::REPORT), eax)?;
            g.mov(eax, cs)?;
            g.out(i32::from(crate::ports::REPORT), eax)?;
            g.mov(eax, ss)?;
            g.out(i32::from(crate::ports::REPORT), eax)?;
            g.nop()
        })?;
        g.part(64, ENTRY, ENTRY, |g| {
            g.swapgs()?;
            g.mov(eax, dword_ptr(8u32).gs())?;
            g.report(0xfeed)?;
            g.mov(eax, cs)?;
            g.report(selector::SYSCALL.into())?;
            g.mov(eax, ss)?;
            g.report(u32::from(selector::SYSCALL) + 8)?;
            g.mov(rax, rcx)?;
            g.sub(rax, r12)?;
            g.report(0)?;
            // The stack is still the user's.
            g.mov(eax, esp)?;
            g.report(layout::STACK_USER as u32)?;
            g.mov(eax, r11d)?;
            g.and(eax, 0x401)?;
            g.report(0x401)?;
            g.pushfq()?;
            g.pop(rax)?;
            g.and(eax, 0x401)?;
            g.report(0)?;
            g.swapgs()?;
            g.db(&[0x48, 0x0f, 0x07])
        })?;
        g.expect(0x401);
        g.expect(selector::USER_CODE64.into());
        g.expect(selector::USER_DATA.into());
        g.write_msr(GS_BASE, 0)?;
        g.write_msr(KERNEL_GS_BASE, 0)
    })
}

pub(super) fn sysenter() -> Payload {
    Guest::protected("SYSENTER and SYSEXIT in 32-bit mode", |g| {
        g.fault(vector::GP, 0, |g| g.db(&[0x0f, 0x34]))?;
        g.write_msr(0x174, selector::SYSENTER.into())?;
        g.write_msr(0x175, 0x8_4000)?;
        g.write_msr(0x176, ENTRY)?;
        g.user(3 << 12, |g| {
            let mut back = g.create_label();
            // ECX and EDX are what SYSEXIT takes: the stack and where to go on.
            g.mov(ecx, esp)?;
            crate::kit::jump_address(g, back)?;
            g.pop(edx)?;
            g.stc()?;
            g.db(&[0x0f, 0x34])?;
            g.set_label(&mut back)?;
            g.mov(eax, cs)?;
            g.out(i32::from(crate::ports::REPORT), eax)?;
            g.mov(eax, ss)?;
            g.out(i32::from(crate::ports::REPORT), eax)?;
            g.mov(eax, esp)?;
            g.out(i32::from(crate::ports::REPORT), eax)
        })?;
        g.part(32, ENTRY, ENTRY, |g| {
            g.mov(eax, cs)?;
            g.report(selector::SYSENTER.into())?;
            g.mov(eax, ss)?;
            g.report(u32::from(selector::SYSENTER) + 8)?;
            g.mov(eax, esp)?;
            g.report(0x8_4000)?;
            g.report_flags(0x201, 1)?;
            g.db(&[0x0f, 0x35])
        })?;
        g.expect(u32::from(selector::SYSENTER) + 16 + 3);
        g.expect(u32::from(selector::SYSENTER) + 24 + 3);
        g.expect(layout::STACK_USER as u32);
        g.user(0, |g| g.fault(vector::GP, 0, |g| g.db(&[0x0f, 0x35])))?;
        g.write_msr(0x174, 0)?;
        g.fault(vector::GP, 0, |g| g.db(&[0x0f, 0x35]))
    })
}

pub(super) fn gates_between_rings() -> Payload {
    Guest::long("INT from CPL 3: RSP0, the frame, IRET back with flags", |g| {
        let (mut handler, mut over) = (g.create_label(), g.create_label());
        let number = vector::REPORTED + 2;
        g.set_gate(number, handler)?;
        g.mov(byte_ptr(layout::IDT + u64::from(number) * 16 + 5), 0xeeu32 as i32)?;
        g.map_with(layout::DATA, page::U);
        g.jmp(over)?;
        g.set_label(&mut handler)?;
        g.without_expectations(|g| {
            g.mov(eax, esp)?;
            g.report(0x8_4000 - 40)?;
            g.mov(eax, dword_ptr(rsp + 8))?;
            g.report(selector::USER_CODE64.into())?;
            g.mov(eax, dword_ptr(rsp + 16))?;
            g.and(eax, 0x3001)?;
            g.report(0x3001)?;
            g.mov(eax, dword_ptr(rsp + 24))?;
            g.report(layout::STACK_USER as u32 - 8)?;
            g.mov(eax, dword_ptr(rsp + 32))?;
            g.report(selector::USER_DATA.into())
        })?;
        g.iretq()?;
        g.set_label(&mut over)?;
        g.user(3 << 12, |g| {
            g.push(0x77)?;
            g.stc()?;
            for value in [
                0x8_4000 - 40,
                selector::USER_CODE64.into(),
                0x3001,
                layout::STACK_USER as u32 - 8,
                selector::USER_DATA.into(),
            ] {
                g.expect(value);
            }
            g.int(i32::from(number))?;
            g.report_flags(0x1, 1)?;
            g.pop(rax)?;
            g.report(0x77)
        })
    })
}
