//! The exception handler of protected mode: notes what it was told, skips or ends.
//!
//! As the 64-bit one, without its repairs: vector, error code, EIP, EFLAGS and CR2 go into a running
//! hash; #UD ends the program, #NM clears CR0.TS, #MF the x87 exceptions; whatever else it is, the
//! instruction is skipped, by the table of lengths.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use memory::GuestMemory;

use super::DESCRIPTORS;
use crate::handler::{MOST_FAULTS, clear_undefined, stubs};
use crate::layout::{GDT, HANDLER, HANDLER_STACK, IDT, LENGTHS, LOG, TSS, UNDEFINED, write};

/// Where the frame begins, behind what the handler pushes: DS and eight registers.
const FRAME: i32 = 36;

/// Writes handler, IDT, GDT and TSS for a direct map there.
pub(super) fn install(memory: &GuestMemory, direct: u64) {
    let (code, entries) = assemble(direct as u32).expect("the handler's instructions are valid");
    write(memory, HANDLER, &code);
    for (vector, entry) in (0..).zip(entries) {
        let gate = entry & 0xffff | 8 << 16 | 0x8e00 << 32 | (entry >> 16) << 48;
        write(memory, IDT + vector * 8, &gate.to_le_bytes());
    }
    let tss = direct + TSS;
    let first = [
        0,
        0x00cf_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00cf_fb00_0000_ffff,
        0x0000_8b00_0000_0067 | (tss & 0xff_ffff) << 16 | (tss >> 24 & 0xff) << 56,
        0,
    ];
    let bytes: Vec<u8> = first.into_iter().chain(DESCRIPTORS).flat_map(u64::to_le_bytes).collect();
    write(memory, GDT, &bytes);
    let stack = (direct + HANDLER_STACK) as u32;
    write(memory, TSS + 4, &stack.to_le_bytes());
    write(memory, TSS + 8, &[0x10, 0]);
}

/// The code, and where each vector's begins.
fn assemble(direct: u32) -> Result<(Vec<u8>, Vec<u64>), IcedError> {
    let mut asm = CodeAssembler::new(32)?;
    let stubs = stubs(&mut asm)?;
    asm.pushad()?;
    asm.push(ds)?;
    asm.mov(eax, 0x10)?;
    asm.mov(ds, ax)?;
    note(&mut asm, direct)?;
    dispatch(&mut asm, direct)?;
    let options = iced_x86::BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS;
    let result = asm.assemble_options(u64::from(direct) + HANDLER, options)?;
    let entries = stubs.iter().map(|stub| result.label_ip(stub)).collect::<Result<_, _>>()?;
    Ok((result.inner.code_buffer, entries))
}

fn note(asm: &mut CodeAssembler, direct: u32) -> Result<(), IcedError> {
    asm.movzx(eax, word_ptr(esp + FRAME + 8))?;
    asm.movzx(eax, byte_ptr(eax + (direct + UNDEFINED as u32)))?;
    clear_undefined(asm, FRAME + 16)?;
    asm.mov(esi, direct + LOG as u32)?;
    asm.inc(dword_ptr(esi))?;
    asm.mov(ecx, dword_ptr(esi + 8))?;
    // Vector, error code, EIP, EFLAGS.
    for from in [0, 4, 8, 16] {
        asm.rol(ecx, 7)?;
        asm.xor(ecx, dword_ptr(esp + FRAME + from))?;
    }
    asm.mov(eax, cr2)?;
    asm.rol(ecx, 7)?;
    asm.xor(ecx, eax)?;
    asm.mov(dword_ptr(esi + 8), ecx)
}

fn dispatch(asm: &mut CodeAssembler, direct: u32) -> Result<(), IcedError> {
    let (mut stop, mut unit, mut x87) =
        (asm.create_label(), asm.create_label(), asm.create_label());
    let (mut skip, mut out) = (asm.create_label(), asm.create_label());
    asm.cmp(dword_ptr(esi), MOST_FAULTS)?;
    asm.ja(stop)?;
    asm.mov(eax, dword_ptr(esp + FRAME))?;
    for (vector, label) in [(6, stop), (7, unit), (16, x87)] {
        asm.cmp(eax, vector)?;
        asm.je(label)?;
    }
    asm.jmp(skip)?;

    asm.set_label(&mut stop)?;
    asm.pop(ds)?;
    asm.popad()?;
    asm.hlt()?;

    asm.set_label(&mut unit)?;
    asm.clts()?;
    asm.jmp(out)?;

    asm.set_label(&mut x87)?;
    asm.fnclex()?;
    asm.set_label(&mut skip)?;
    asm.movzx(eax, word_ptr(esp + FRAME + 8))?;
    asm.movzx(eax, byte_ptr(eax + (direct + LENGTHS as u32)))?;
    asm.add(dword_ptr(esp + FRAME + 8), eax)?;
    asm.set_label(&mut out)?;
    asm.pop(ds)?;
    asm.popad()?;
    asm.add(esp, 8)?;
    asm.iretd()
}
