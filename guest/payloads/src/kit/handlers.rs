//! Handlers that report what they got: `vector << 16 | error code`, then how far the saved
//! instruction pointer is from where the payload expected it, then CR2 after #PF.
//!
//! In long mode the payload keeps the expected address in R14 and where to go on in R15; elsewhere
//! they are variables. Resuming at 0 means: where the frame says.

use iced_x86::code_asm::*;

use super::guest::{Assembled, Guest, variable};
use super::vector;
use crate::layout::{self, selector};
use crate::ports;

const ERROR_CODES: [u8; 8] =
    [vector::DF, vector::TS, vector::NP, vector::SS, vector::GP, vector::PF, vector::AC, 21];
const EOI: u32 = 0xfee0_00b0;

/// Assembles the handlers for a mode and points the vectors at them.
pub(super) fn install(guest: &mut Guest) -> Assembled {
    let bits = guest.bits();
    let mut asm = CodeAssembler::new(bits)?;
    let mut common = asm.create_label();
    let mut interrupt = asm.create_label();
    let mut leave = asm.create_label();
    let mut entries = Vec::new();
    let last = if bits == 16 { 0x7f } else { 0xff };
    for number in 0..=last {
        let mut entry = asm.create_label();
        asm.set_label(&mut entry)?;
        entries.push(entry);
        let has_code = bits != 16 && ERROR_CODES.contains(&number);
        if number < 32 && !has_code {
            asm.push(0)?;
        }
        asm.push(i32::from(number))?;
        match number {
            0..32 => asm.jmp(common)?,
            vector::LEAVE => asm.jmp(leave)?,
            _ => asm.jmp(interrupt)?,
        }
    }
    match bits {
        64 => {
            exception_64(&mut asm, &mut common)?;
            interrupt_64(&mut asm, &mut interrupt)?;
            asm.set_label(&mut leave)?;
            asm.mov(rsp, qword_ptr(variable::KERNEL_STACK))?;
            asm.jmp(r13)?;
        }
        32 => {
            exception_32(&mut asm, &mut common)?;
            interrupt_32(&mut asm, &mut interrupt)?;
            asm.set_label(&mut leave)?;
            asm.mov(eax, i32::from(selector::DATA))?;
            asm.mov(ds, eax)?;
            asm.mov(es, eax)?;
            asm.mov(esp, dword_ptr(variable::KERNEL_STACK))?;
            asm.jmp(dword_ptr(variable::KERNEL_RETURN))?;
        }
        _ => {
            exception_16(&mut asm, &mut common)?;
            asm.set_label(&mut interrupt)?;
            asm.nop()?;
            asm.set_label(&mut leave)?;
            asm.add(sp, 2)?;
            asm.iret()?;
        }
    }
    let code = super::guest::assemble(&mut asm, layout::HANDLERS)?;
    assert!(code.bytes.len() < 0x1000, "the handlers fill {:#x} bytes", code.bytes.len());
    guest.image.put(layout::HANDLERS, &code.bytes);
    for (number, entry) in entries.iter().enumerate() {
        let number = number as u8;
        let open = matches!(number, vector::BP | vector::OF | vector::LEAVE);
        let ist = u8::from(number == vector::DF);
        guest.image.gate(bits, number, code.address(entry) as u32, if open { 3 } else { 0 }, ist);
    }
    Ok(())
}

fn exception_64(asm: &mut CodeAssembler, entry: &mut CodeLabel) -> Assembled {
    let (mut no_cr2, mut keep, mut end) =
        (asm.create_label(), asm.create_label(), asm.create_label());
    asm.set_label(entry)?;
    asm.push(rax)?;
    // RAX, vector, error code, RIP.
    asm.mov(eax, dword_ptr(rsp + 8))?;
    asm.shl(eax, 16)?;
    asm.or(eax, dword_ptr(rsp + 16))?;
    asm.out(i32::from(ports::REPORT), eax)?;
    asm.cmp(dword_ptr(rsp + 8), i32::from(vector::DF))?;
    asm.je(no_cr2)?;
    asm.mov(rax, qword_ptr(rsp + 24))?;
    asm.sub(rax, r14)?;
    asm.out(i32::from(ports::REPORT), eax)?;
    asm.cmp(dword_ptr(rsp + 8), i32::from(vector::PF))?;
    asm.jne(no_cr2)?;
    asm.mov(rax, cr2)?;
    asm.out(i32::from(ports::REPORT), eax)?;
    asm.set_label(&mut no_cr2)?;
    asm.test(r15, r15)?;
    asm.je(keep)?;
    asm.mov(qword_ptr(rsp + 24), r15)?;
    asm.jmp(end)?;
    asm.set_label(&mut keep)?;
    asm.nop()?;
    asm.set_label(&mut end)?;
    asm.pop(rax)?;
    asm.add(rsp, 16)?;
    asm.iretq()
}

fn interrupt_64(asm: &mut CodeAssembler, entry: &mut CodeLabel) -> Assembled {
    let (mut silent, mut end) = (asm.create_label(), asm.create_label());
    asm.set_label(entry)?;
    asm.push(rax)?;
    asm.mov(eax, dword_ptr(rsp + 8))?;
    asm.cmp(eax, i32::from(vector::COUNTED))?;
    asm.jae(silent)?;
    asm.or(eax, Guest::INTERRUPT as i32)?;
    asm.out(i32::from(ports::REPORT), eax)?;
    asm.jmp(end)?;
    asm.set_label(&mut silent)?;
    asm.lock().inc(dword_ptr(rax * 4 + variable::COUNTS))?;
    asm.set_label(&mut end)?;
    asm.mov(eax, EOI)?;
    asm.mov(dword_ptr(rax), 0)?;
    asm.pop(rax)?;
    asm.add(rsp, 8)?;
    asm.iretq()
}

fn exception_32(asm: &mut CodeAssembler, entry: &mut CodeLabel) -> Assembled {
    let (mut no_cr2, mut keep) = (asm.create_label(), asm.create_label());
    asm.set_label(entry)?;
    asm.push(ds)?;
    asm.push(eax)?;
    asm.mov(eax, i32::from(selector::DATA))?;
    asm.mov(ds, eax)?;
    // EAX, DS, vector, error code, EIP.
    asm.mov(eax, dword_ptr(esp + 8))?;
    asm.shl(eax, 16)?;
    asm.or(eax, dword_ptr(esp + 12))?;
    asm.out(i32::from(ports::REPORT), eax)?;
    asm.mov(eax, dword_ptr(esp + 16))?;
    asm.sub(eax, dword_ptr(variable::FAULT))?;
    asm.out(i32::from(ports::REPORT), eax)?;
    asm.cmp(dword_ptr(esp + 8), i32::from(vector::PF))?;
    asm.jne(no_cr2)?;
    asm.mov(eax, cr2)?;
    asm.out(i32::from(ports::REPORT), eax)?;
    asm.set_label(&mut no_cr2)?;
    asm.mov(eax, dword_ptr(variable::RESUME))?;
    asm.test(eax, eax)?;
    asm.je(keep)?;
    asm.mov(dword_ptr(esp + 16), eax)?;
    asm.set_label(&mut keep)?;
    asm.pop(eax)?;
    asm.pop(ds)?;
    asm.add(esp, 8)?;
    asm.iretd()
}

fn interrupt_32(asm: &mut CodeAssembler, entry: &mut CodeLabel) -> Assembled {
    asm.set_label(entry)?;
    asm.push(eax)?;
    asm.mov(eax, dword_ptr(esp + 4))?;
    asm.or(eax, Guest::INTERRUPT as i32)?;
    asm.out(i32::from(ports::REPORT), eax)?;
    asm.pop(eax)?;
    asm.add(esp, 4)?;
    asm.iretd()
}

fn exception_16(asm: &mut CodeAssembler, entry: &mut CodeLabel) -> Assembled {
    asm.set_label(entry)?;
    asm.push(bp)?;
    asm.mov(bp, sp)?;
    asm.push(eax)?;
    // BP, vector, zero, IP.
    asm.movzx(eax, word_ptr(bp + 2))?;
    asm.shl(eax, 16)?;
    asm.out(i32::from(ports::REPORT), eax)?;
    asm.movzx(eax, word_ptr(bp + 6))?;
    asm.sub(ax, word_ptr(variable::FAULT).cs())?;
    asm.out(i32::from(ports::REPORT), eax)?;
    asm.mov(ax, word_ptr(variable::RESUME).cs())?;
    asm.mov(word_ptr(bp + 6), ax)?;
    asm.pop(eax)?;
    asm.pop(bp)?;
    asm.add(sp, 4)?;
    asm.iret()
}
