//! Code that changes: by itself, through another name, by another processor (SDM vol. 3, 8.1.3,
//! 11.6).

use iced_x86::code_asm::*;

use crate::kit::{Assembled, Guest, page};
use crate::layout;
use crate::payload::Payload;

/// MOV EAX, imm32; RET at a place of its own; the immediate is aligned to 4.
const ROUTINE: u64 = layout::DATA + 3;
const IMMEDIATE: u64 = ROUTINE + 1;

fn place_routine(g: &mut Guest, value: u32) {
    let mut code = vec![0xb8];
    code.extend(value.to_le_bytes());
    code.push(0xc3);
    g.place(ROUTINE, &code);
}

fn call_routine(g: &mut Guest, expected: u32) -> Assembled {
    g.mov(ebx, ROUTINE as u32)?;
    g.call(rbx)?;
    g.report(expected)
}

pub(super) fn same_page() -> Payload {
    Guest::long("an instruction of the running page changes, also one already executed", |g| {
        let (mut patched, mut again, mut done) =
            (g.create_label(), g.create_label(), g.create_label());
        g.lea(rbx, ptr(patched))?;
        g.xor(ecx, ecx)?;
        g.set_label(&mut again)?;
        g.inc(ecx)?;
        // MOV EAX, imm32 whose immediate is what the loop wrote the round before.
        for round in 0..4 {
            g.expect(if round == 0 { 0x1111 } else { 0x2000 + round });
        }
        g.set_label(&mut patched)?;
        g.mov(eax, 0x1111)?;
        g.out(i32::from(crate::ports::REPORT), eax)?;
        g.lea(eax, ptr(rcx + 0x2000))?;
        g.mov(dword_ptr(rbx + 1), eax)?;
        g.cmp(ecx, 4)?;
        g.jne(again)?;
        g.jmp(done)?;
        g.set_label(&mut done)?;
        g.nop()
    })
}

pub(super) fn next_instruction() -> Payload {
    Guest::long("a store changes the very next instruction, in the same block", |g| {
        let mut target = g.create_label();
        g.lea(rbx, ptr(target))?;
        g.mov(ecx, 0x4321)?;
        g.mov(dword_ptr(rbx + 1), ecx)?;
        g.set_label(&mut target)?;
        g.mov(eax, 0x1234)?;
        g.report(0x4321)?;
        // A string store over the next two instructions: INC EDX twice becomes NOPs.
        let mut target = g.create_label();
        g.lea(rdi, ptr(target))?;
        g.xor(edx, edx)?;
        g.mov(al, 0x90)?;
        g.mov(ecx, 4)?;
        g.rep().stosb()?;
        g.set_label(&mut target)?;
        g.inc(edx)?;
        g.inc(edx)?;
        g.mov(eax, edx)?;
        g.report(0)
    })
}

pub(super) fn other_page() -> Payload {
    Guest::long("a routine in another page is rewritten by stores of every width", |g| {
        place_routine(g, 0x100);
        call_routine(g, 0x100)?;
        g.mov(byte_ptr(IMMEDIATE), 1)?;
        call_routine(g, 0x101)?;
        g.mov(word_ptr(IMMEDIATE), 0x222)?;
        call_routine(g, 0x222)?;
        g.mov(dword_ptr(IMMEDIATE), 0x3333)?;
        call_routine(g, 0x3333)?;
        g.lock().add(dword_ptr(IMMEDIATE), 1)?;
        call_routine(g, 0x3334)?;
        g.mov(eax, 0x44)?;
        g.xchg(byte_ptr(IMMEDIATE), al)?;
        call_routine(g, 0x3344)?;
        g.mov(eax, 0x5555)?;
        g.movd(xmm0, eax)?;
        g.movd(dword_ptr(IMMEDIATE), xmm0)?;
        call_routine(g, 0x5555)?;
        g.mov(rax, 0xc3_0000_6666u64)?;
        g.mov(qword_ptr(IMMEDIATE), rax)?;
        call_routine(g, 0x6666)?;
        // MOVS into code.
        g.push(0x77)?;
        g.pop(qword_ptr(layout::DATA + 0x100))?;
        g.mov(esi, layout::DATA as u32 + 0x100)?;
        g.mov(edi, IMMEDIATE as u32)?;
        g.movsb()?;
        call_routine(g, 0x6677)?;
        // CMPXCHG that succeeds.
        g.mov(eax, 0x6677)?;
        g.mov(ecx, 0x8888)?;
        g.cmpxchg(dword_ptr(IMMEDIATE), ecx)?;
        call_routine(g, 0x8888)
    })
}

pub(super) fn alias() -> Payload {
    Guest::long("code written through another linear address of its page", |g| {
        const NAME: u64 = 0x5_0000;
        place_routine(g, 1);
        g.place_u64(Guest::entry_of(NAME), layout::DATA | page::P | page::W);
        let through = NAME + (IMMEDIATE & 0xfff);
        for value in 1..6u32 {
            call_routine(g, value)?;
            g.mov(dword_ptr(through), (value + 1) as i32)?;
        }
        // And executed through the other name.
        g.mov(ebx, (NAME + (ROUTINE & 0xfff)) as u32)?;
        g.call(rbx)?;
        g.report(6)?;
        g.mov(dword_ptr(IMMEDIATE), 0x77)?;
        g.call(rbx)?;
        g.report(0x77)
    })
}

pub(super) fn remapped() -> Payload {
    Guest::long("another frame under the code's address; code across two pages", |g| {
        const NAME: u64 = 0x5_0000;
        let kernel = page::P | page::W;
        // MOV EAX, imm32 with two bytes in each page.
        let start = NAME + 0xffd;
        g.place_u64(Guest::entry_of(NAME), 0x4_0000 | kernel);
        g.place_u64(Guest::entry_of(NAME + 0x1000), 0x4_1000 | kernel);
        g.place(0x4_0ffd, &[0xb8, 0x11, 0x22, 0x33, 0x44, 0xc3]);
        g.place(0x4_2000, &[0x55, 0x66, 0xc3]);
        g.mov(ebx, start as u32)?;
        g.call(rbx)?;
        g.report(0x4433_2211)?;
        g.mov(qword_ptr(Guest::entry_of(NAME + 0x1000)), (0x4_2000 | kernel) as i32)?;
        g.mov(eax, (NAME + 0x1000) as u32)?;
        g.invlpg(byte_ptr(rax))?;
        g.call(rbx)?;
        g.report(0x6655_2211)?;
        // The second page's bytes change in place.
        g.mov(byte_ptr(0x4_2000u32), 0x99u32 as i32)?;
        g.call(rbx)?;
        g.report(0x6699_2211)?;
        // And the first frame's.
        g.mov(byte_ptr(0x4_0ffeu32), 0x12)?;
        g.call(rbx)?;
        g.report(0x6699_2212)
    })
}

pub(super) fn cross_modifying() -> Payload {
    Guest::long("one processor patches what the other executes and serialises between", |g| {
        const ROUNDS: u32 = 200;
        const SEEN: u64 = layout::DATA + 0x1000;
        place_routine(g, 0);
        g.second(|g| {
            let mut again = g.create_label();
            g.mov(ebp, ROUTINE as u32)?;
            g.set_label(&mut again)?;
            g.xor(eax, eax)?;
            g.xor(ecx, ecx)?;
            g.cpuid()?;
            g.call(rbp)?;
            g.mov(dword_ptr(SEEN), eax)?;
            g.cmp(eax, ROUNDS as i32)?;
            g.jne(again)
        })?;
        g.xor(ebx, ebx)?;
        let (mut next, mut wait) = (g.create_label(), g.create_label());
        g.set_label(&mut next)?;
        g.inc(ebx)?;
        g.mov(dword_ptr(IMMEDIATE), ebx)?;
        g.set_label(&mut wait)?;
        g.pause()?;
        g.cmp(dword_ptr(SEEN), ebx)?;
        g.jne(wait)?;
        g.cmp(ebx, ROUNDS as i32)?;
        g.jne(next)?;
        g.mov(eax, dword_ptr(SEEN))?;
        g.report(ROUNDS)
    })
}
