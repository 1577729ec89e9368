//! Operating modes and the ways between them (SDM vol. 3, 9.8, 9.9, 20.1, 20.2).

use iced_x86::code_asm::*;

use crate::kit::{Assembled, Guest, far_jump_16, long_mode_bits, vector};
use crate::layout::{self, selector};
use crate::payload::{Fact, Payload};

const EFER: u32 = 0xc000_0080;
/// Places below 64 KiB for code that 16-bit segments reach.
const LOW: u64 = 0xd000;
const LOW_2: u64 = 0xd200;
const PART_64: u64 = 0x1_4000;
const PART_32: u64 = 0x1_5000;
const GDT_POINTER: u64 = layout::VARIABLES + 0x80;

pub(super) fn real_mode() -> Payload {
    Guest::real("segments, interrupts and limits of real mode", |g| {
        g.mov(eax, 0x1234_5678)?;
        g.report(0x1234_5678)?;
        g.mov(ax, 0x2fff)?;
        g.mov(es, eax)?;
        g.mov(dword_ptr(0x20u32).es(), 0x600d_f00d)?;
        g.mov(ax, 0x3000)?;
        g.mov(es, eax)?;
        g.mov(eax, dword_ptr(0x10u32).es())?;
        g.report(0x600d_f00d)?;
        g.xor(bx, bx)?;
        g.fault(vector::DE, 0, |g| g.div(bl))?;
        g.fault(vector::GP, 0, |g| g.mov(ax, word_ptr(0xffffu32)))?;
        g.mov(bp, 0xffff)?;
        g.fault(vector::SS, 0, |g| g.mov(ax, word_ptr(bp)))?;
        g.mov(ebx, 0x1_0000)?;
        g.fault(vector::GP, 0, |g| g.mov(ax, word_ptr(ebx)))?;
        g.fault(vector::UD, 0, |g| g.ud2())?;
        let (mut handler, mut over) = (g.create_label(), g.create_label());
        g.set_gate(0x21, handler)?;
        g.jmp(over)?;
        g.set_label(&mut handler)?;
        g.mov(bp, sp)?;
        g.movzx(eax, word_ptr(bp + 4))?;
        g.and(eax, 0x200)?;
        g.report(0x200)?;
        g.report_flags(0x200, 0)?;
        g.mov(cx, 0x21)?;
        g.iret()?;
        g.set_label(&mut over)?;
        g.sti()?;
        g.int(0x21)?;
        g.cli()?;
        g.movzx(eax, cx)?;
        g.report(0x21)
    })
}

/// Calls a sequence that leaves real mode and comes back with RETF.
fn excursion(g: &mut Guest, leave: impl FnOnce(&mut Guest) -> Assembled) -> Assembled {
    let mut pointer = (layout::GDT_BYTES - 1).to_le_bytes().to_vec();
    pointer.extend((layout::GDT as u32).to_le_bytes());
    g.place(GDT_POINTER, &pointer);
    let (mut sequence, mut done) = (g.create_label(), g.create_label());
    g.push(cs)?;
    g.call(sequence)?;
    g.jmp(done)?;
    g.set_label(&mut sequence)?;
    g.lgdt(dword_ptr(GDT_POINTER))?;
    leave(g)?;
    g.set_label(&mut done)?;
    g.mov(eax, cr0)?;
    g.and(eax, 0x8000_0001u32)?;
    g.report(0)
}

fn far_jump_32(g: &mut Guest, selector: u16, offset: u32) -> Assembled {
    g.db(&[0xea])?;
    g.db(&offset.to_le_bytes())?;
    g.db(&selector.to_le_bytes())
}

/// 16-bit protected mode at `LOW`, then real mode, then RETF to the caller of `excursion`.
fn back_to_real(g: &mut Guest) -> Assembled {
    g.part(16, LOW, LOW, |g| {
        g.mov(ax, i32::from(selector::DATA16))?;
        g.mov(ds, eax)?;
        g.mov(es, eax)?;
        g.mov(ss, eax)?;
        g.xor(eax, eax)?;
        g.mov(eax, cs)?;
        g.report(selector::CODE16.into())?;
        g.mov(eax, cr0)?;
        g.and(eax, -2)?;
        g.mov(cr0, eax)?;
        // JMP FAR 0:LOW_2.
        g.db(&[0xea])?;
        g.db(&(LOW_2 as u16).to_le_bytes())?;
        g.db(&[0, 0])
    })?;
    g.part(16, LOW_2, LOW_2, |g| {
        g.xor(eax, eax)?;
        g.mov(ds, eax)?;
        g.mov(es, eax)?;
        g.mov(ss, eax)?;
        g.mov(eax, cs)?;
        g.report(0)?;
        g.retf()
    })
}

fn load_data_segments(g: &mut Guest) -> Assembled {
    g.mov(eax, i32::from(selector::DATA))?;
    g.mov(ds, eax)?;
    g.mov(es, eax)?;
    g.mov(ss, eax)
}

pub(super) fn real_protected_real() -> Payload {
    Guest::real("real mode to 32-bit and 16-bit protected mode and back", |g| {
        g.place_u64(0x20_0000, 0xfeed);
        excursion(g, |g| {
            g.mov(eax, cr0)?;
            g.or(eax, 1)?;
            g.mov(cr0, eax)?;
            far_jump_16(g, selector::CODE32, PART_32 as u32)?;
            g.part(32, PART_32, PART_32, |g| {
                load_data_segments(g)?;
                g.mov(eax, cs)?;
                g.report(selector::CODE32.into())?;
                g.mov(eax, dword_ptr(0x20_0000))?;
                g.report(0xfeed)?;
                // PUSH moves ESP by 4.
                g.mov(ecx, esp)?;
                g.push(eax)?;
                g.mov(eax, ecx)?;
                g.sub(eax, esp)?;
                g.mov(esp, ecx)?;
                g.report(4)?;
                far_jump_32(g, selector::CODE16, LOW as u32)
            })?;
            back_to_real(g)
        })
    })
}

pub(super) fn real_long_real() -> Payload {
    Guest::real("real mode to long mode at once, compatibility mode, and all the way back", |g| {
        g.image.identity_map();
        excursion(g, |g| {
            long_mode_bits(g)?;
            far_jump_16(g, selector::CODE64, PART_64 as u32)?;
            g.part(64, PART_64, PART_64, |g| {
                load_data_segments(g)?;
                g.mov(rbx, 0x1122_3344_5566_7788u64)?;
                g.report64(rbx, 0x1122_3344_5566_7788)?;
                g.push(i32::from(selector::CODE32))?;
                g.push(PART_32 as i32)?;
                g.db(&[0x48, 0xcb])
            })?;
            g.part(32, PART_32, PART_32, |g| {
                g.mov(eax, 5)?;
                g.db(&[0x40])?; // INC EAX here, a REX prefix in 64-bit mode
                g.report(6)?;
                g.mov(eax, cr0)?;
                g.and(eax, 0x7fff_ffff)?;
                g.mov(cr0, eax)?;
                g.mov(ecx, EFER)?;
                g.rdmsr()?;
                g.and(eax, 0x500)?;
                g.report(0x100)?;
                g.rdmsr()?;
                g.and(eax, !0x100)?;
                g.wrmsr()?;
                g.mov(eax, cr4)?;
                g.and(eax, !0x20)?;
                g.mov(cr4, eax)?;
                far_jump_32(g, selector::CODE16, LOW as u32)
            })?;
            back_to_real(g)
        })
    })
}

pub(super) fn unreal_mode() -> Payload {
    Guest::real("a segment limit loaded in protected mode stays in real mode", |g| {
        g.place_u64(0x20_0000, 0x0123_4567);
        excursion(g, |g| {
            g.mov(eax, cr0)?;
            g.or(eax, 1)?;
            g.mov(cr0, eax)?;
            g.mov(bx, i32::from(selector::DATA))?;
            g.mov(fs, ebx)?;
            g.and(eax, -2)?;
            g.mov(cr0, eax)?;
            g.mov(ebx, 0x20_0000)?;
            g.mov(eax, dword_ptr(ebx).fs())?;
            g.report(0x0123_4567)?;
            g.retf()
        })
    })
}

pub(super) fn compatibility_mode() -> Payload {
    Guest::long("32-bit code in long mode: addresses wrap, faults reach 64-bit handlers", |g| {
        let back_at = layout::VARIABLES + 0x90;
        let mut back = g.create_label();
        g.place_u64(layout::DATA + 0x10, 0xabcd_1234);
        g.lea(rax, ptr(back))?;
        g.mov(qword_ptr(back_at), rax)?;
        g.mov(rbx, 0xffff_ffff_0000_0007u64)?;
        g.mov(r14, PART_32)?;
        g.mov(r15, PART_32 + 2)?;
        g.push(i32::from(selector::CODE32))?;
        g.push(PART_32 as i32)?;
        g.db(&[0x48, 0xcb])?;
        g.part(32, PART_32, PART_32, |g| {
            g.expect_exception(vector::UD, 0, 0, None);
            g.ud2()?;
            g.mov(eax, ebx)?;
            g.report(7)?;
            g.mov(ebx, 0xffff_fff0u32)?;
            g.mov(eax, dword_ptr(ebx + (layout::DATA as i32 + 0x20)))?;
            g.report(0xabcd_1234)?;
            g.mov(ecx, esp)?;
            g.push(eax)?;
            g.mov(eax, ecx)?;
            g.sub(eax, esp)?;
            g.mov(esp, ecx)?;
            g.report(4)?;
            // SS is not asked for its limit in 64-bit mode, but DS is here.
            g.mov(eax, i32::from(selector::SMALL))?;
            g.mov(ds, eax)?;
            g.mov(eax, dword_ptr(0xffc))?;
            g.report(0)?;
            g.mov(eax, i32::from(selector::DATA))?;
            g.mov(ds, eax)?;
            g.push(i32::from(selector::CODE64))?;
            g.push(dword_ptr(back_at))?;
            g.retf()
        })?;
        g.set_label(&mut back)?;
        g.mov(eax, cs)?;
        g.report(selector::CODE64.into())?;
        // A 32-bit write clears the upper half, in whatever mode it was made.
        g.report64(rbx, 0xffff_fff0)?;
        g.fact(Fact::Register { number: 3, value: 0xffff_fff0 });
        Ok(())
    })
}

pub(super) fn far_transfers() -> Payload {
    Guest::long("far calls and returns in 64-bit mode, and what they refuse", |g| {
        let pointer = layout::DATA;
        let (mut target, mut after) = (g.create_label(), g.create_label());
        g.lea(rax, ptr(target))?;
        g.mov(rbx, rsp)?;
        // FF /3 [disp32]: CALL m16:32, which vendors agree on; m16:64 is Intel's only.
        g.mov(dword_ptr(pointer + 0x10), eax)?;
        g.mov(word_ptr(pointer + 0x14), i32::from(selector::CODE64))?;
        g.db(&[0xff, 0x1c, 0x25])?;
        g.db(&(pointer as u32 + 0x10).to_le_bytes())?;
        g.jmp(after)?;
        g.set_label(&mut target)?;
        g.mov(rax, rbx)?;
        g.sub(rax, rsp)?;
        g.report(8)?;
        g.mov(eax, dword_ptr(rsp + 4))?;
        g.report(selector::CODE64.into())?;
        g.db(&[0xcb])?;
        g.set_label(&mut after)?;
        g.cmp(rbx, rsp)?;
        g.report_if(|a| a.sete(al))?;
        // To data and beyond the table: #GP(selector). To nothing: #GP(0).
        for (selector, vector) in [
            (selector::DATA, vector::GP),
            (0, vector::GP),
            (selector::BEYOND, vector::GP),
        ] {
            g.mov(word_ptr(pointer + 0x14), i32::from(selector))?;
            g.fault(vector, selector.into(), |g| {
                g.db(&[0xff, 0x2c, 0x25])?;
                g.db(&(pointer as u32 + 0x10).to_le_bytes())
            })?;
        }
        Ok(())
    })
}

const VM_FLAG: u32 = 1 << 17;
const VM86_SEGMENT: u32 = 0x2000;

pub(super) fn vm86() -> Payload {
    Guest::protected("virtual-8086 mode: IOPL, the I/O bitmap, faults to protected mode", |g| {
        // Room for the bitmap of ports 0-0xff behind the TSS; 0xf0-0xf7 are forbidden.
        g.place(layout::TSS + 0x68 + 0x1e, &[0xff]);
        g.place(layout::TSS + 0x68 + 0x20, &[0xff]);
        let descriptor = layout::GDT + u64::from(selector::TSS);
        g.mov(word_ptr(descriptor), 0x88)?;
        g.mov(byte_ptr(descriptor + 5), 0x89)?;
        g.mov(eax, i32::from(selector::TSS))?;
        g.ltr(ax)?;
        let mut leave = g.create_label();
        g.set_gate(vector::UD, leave)?;
        g.mov(ebx, esp)?;
        for segment in [0, 0, 0, 0x3000, 0] {
            g.push(segment)?; // GS, FS, DS, ES, SS
        }
        g.push(0xe000)?;
        g.push((VM_FLAG | 2) as i32)?;
        g.push(VM86_SEGMENT as i32)?;
        g.push(0)?;
        g.iretd()?;
        g.part(16, u64::from(VM86_SEGMENT) << 4, 0, |g| {
            g.mov(dword_ptr(0x10u32).es(), 0x5e95)?;
            g.mov(eax, dword_ptr(0x10u32).es())?;
            g.report(0x5e95)?;
            g.fault(vector::GP, 0, |g| g.cli())?;
            g.fault(vector::GP, 0, |g| g.pushf())?;
            g.fault(vector::GP, 0, |g| g.int(0x21))?;
            g.fault(vector::GP, 0, |g| g.out(0xf0, al))?;
            g.fault(vector::GP, 0, |g| g.hlt())?;
            g.fault(vector::GP, 0, |g| g.mov(eax, cr0))?;
            g.ud2()
        })?;
        g.set_label(&mut leave)?;
        g.mov(eax, i32::from(selector::DATA))?;
        g.mov(ds, eax)?;
        g.mov(es, eax)?;
        // The frame of a fault in vm86: EIP CS EFLAGS ESP SS ES DS FS GS.
        g.mov(eax, dword_ptr(esp + 4))?;
        g.report(VM86_SEGMENT)?;
        g.mov(eax, dword_ptr(esp + 8))?;
        g.and(eax, VM_FLAG as i32)?;
        g.report(VM_FLAG)?;
        g.mov(eax, dword_ptr(esp + 20))?;
        g.report(0x3000)?;
        g.mov(eax, esp)?;
        g.report(0x8_4000 - 36)?;
        g.mov(esp, ebx)?;
        Ok(())
    })
}
