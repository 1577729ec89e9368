//! The guest's own exception handler: notes what it was told, repairs or skips, returns.
//!
//! Status flags that are undefined where the fault came up are cleared, by a table. Vector, error
//! code, RIP, RFLAGS, CR2 and RSP go into a ring and into a running hash. #UD ends the
//! program; #NM clears CR0.TS; #MF clears the x87 exceptions; #DE exchanges two data pages, which are clean
//! then, and the code page's twin; a write to the read-only page is sometimes allowed. What is not repaired is
//! skipped: a table says how long each instruction is.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use memory::GuestMemory;

use crate::layout::{
    DIRECT, GDT, HANDLER, HANDLER_STACK, IDT, IMAGE_TABLE, LENGTHS, LOG, Places, READ_ONLY, TSS,
    TWIN, UNDEFINED, UNDEFINED_OF, write,
};

/// Faults after which the program ends.
pub(crate) const MOST_FAULTS: i32 = 3000;
const VECTORS: u64 = 32;
/// All but the dirty bit of an entry.
const CLEAN: i32 = !0x40;
/// Present interrupt gates with IST 1.
const GATE: u64 = 0x8e01;

/// Writes handler, IDT, GDT and TSS.
pub(crate) fn install(memory: &GuestMemory, places: &Places) {
    let (code, entries) = assemble(places).expect("the handler's instructions are valid");
    write(memory, HANDLER, &code);
    for (vector, entry) in (0..).zip(entries) {
        let low = entry & 0xffff | 8 << 16 | GATE << 32 | (entry >> 16 & 0xffff) << 48;
        write(memory, IDT + vector * 16, &low.to_le_bytes());
        write(memory, IDT + vector * 16 + 8, &(entry >> 32).to_le_bytes());
    }
    let tss = DIRECT + TSS;
    let descriptors = [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        0x0000_8b00_0000_0067 | (tss & 0xff_ffff) << 16 | (tss >> 24 & 0xff) << 56,
        tss >> 32,
    ];
    let descriptors = descriptors.into_iter().chain(crate::flat::DESCRIPTORS);
    let bytes: Vec<u8> = descriptors.flat_map(u64::to_le_bytes).collect();
    write(memory, GDT, &bytes);
    let stack = (DIRECT + HANDLER_STACK).to_le_bytes();
    write(memory, TSS + 4, &stack);
    write(memory, TSS + 0x24, &stack);
}

fn has_error_code(vector: u64) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21)
}

/// An entry for each vector, which pushes its number, and an error code if the processor has not;
/// what follows is common to all.
pub(crate) fn stubs(asm: &mut CodeAssembler) -> Result<Vec<CodeLabel>, IcedError> {
    let mut common = asm.create_label();
    let mut stubs = Vec::new();
    for vector in 0..VECTORS {
        let mut stub = asm.create_label();
        asm.set_label(&mut stub)?;
        if !has_error_code(vector) {
            asm.push(0)?;
        }
        asm.push(vector as i32)?;
        asm.jmp(common)?;
        stubs.push(stub);
    }
    asm.set_label(&mut common)?;
    Ok(stubs)
}

/// The code, and where each vector's begins.
fn assemble(places: &Places) -> Result<(Vec<u8>, Vec<u64>), IcedError> {
    let mut asm = CodeAssembler::new(64)?;
    let stubs = stubs(&mut asm)?;
    note(&mut asm)?;
    dispatch(&mut asm, places)?;
    let options = iced_x86::BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS;
    let base = DIRECT + HANDLER;
    let result = asm.assemble_options(base, options)?;
    let entries = stubs.iter().map(|stub| result.label_ip(stub)).collect::<Result<_, _>>()?;
    Ok((result.inner.code_buffer, entries))
}

/// Saves four registers and notes the fault. Then RSP + 32 is the vector, + 40 the error code, + 48
/// RIP, + 64 RFLAGS, + 72 RSP.
fn note(asm: &mut CodeAssembler) -> Result<(), IcedError> {
    asm.push(rax)?;
    asm.push(rcx)?;
    asm.push(rdx)?;
    asm.push(rsi)?;
    asm.movzx(eax, word_ptr(rsp + 48))?;
    asm.mov(rdx, DIRECT + UNDEFINED)?;
    asm.movzx(eax, byte_ptr(rdx + rax))?;
    clear_undefined(asm, 64)?;
    asm.mov(rsi, DIRECT + LOG)?;
    asm.mov(rdx, qword_ptr(rsi))?;
    asm.inc(qword_ptr(rsi))?;
    asm.and(edx, 63)?;
    asm.shl(edx, 6)?;
    asm.mov(rcx, qword_ptr(rsi + 8))?;
    let keep = |asm: &mut CodeAssembler, at: i32| -> Result<(), IcedError> {
        asm.mov(qword_ptr(rsi + rdx + 64 + at), rax)?;
        asm.rol(rcx, 7)?;
        asm.xor(rcx, rax)
    };
    for (number, from) in [32, 40, 48, 64, 72].into_iter().enumerate() {
        asm.mov(rax, qword_ptr(rsp + from))?;
        keep(asm, number as i32 * 8)?;
    }
    asm.mov(rax, cr2)?;
    keep(asm, 40)?;
    asm.mov(qword_ptr(rsi + 8), rcx)
}

/// Clears flags in RFLAGS' image on the stack: EAX has them as the table has. Loses ECX.
pub(crate) fn clear_undefined(asm: &mut CodeAssembler, rflags: i32) -> Result<(), IcedError> {
    let wide = asm.bitness() == 64;
    asm.mov(ecx, eax)?;
    asm.and(eax, !i32::from(UNDEFINED_OF))?;
    asm.and(ecx, i32::from(UNDEFINED_OF))?;
    asm.shl(ecx, 8)?;
    asm.or(eax, ecx)?;
    asm.not(eax)?;
    match wide {
        true => asm.and(dword_ptr(rsp + rflags), eax),
        false => asm.and(dword_ptr(esp + rflags), eax),
    }
}

fn dispatch(asm: &mut CodeAssembler, places: &Places) -> Result<(), IcedError> {
    let mut stop = asm.create_label();
    let mut skip = asm.create_label();
    let mut out = asm.create_label();
    let mut flush_and_skip = asm.create_label();
    let mut flush_and_out = asm.create_label();
    let (mut fault, mut divide) = (asm.create_label(), asm.create_label());
    let (mut unit, mut x87) = (asm.create_label(), asm.create_label());
    let mut deny = asm.create_label();
    asm.mov(rax, qword_ptr(rsi))?;
    asm.cmp(rax, MOST_FAULTS)?;
    asm.ja(stop)?;
    asm.mov(eax, dword_ptr(rsp + 32))?;
    for (vector, label) in [(6, stop), (14, fault), (0, divide), (7, unit), (16, x87)] {
        asm.cmp(eax, vector)?;
        asm.je(label)?;
    }
    asm.jmp(skip)?;

    asm.set_label(&mut stop)?;
    asm.pop(rsi)?;
    asm.pop(rdx)?;
    asm.pop(rcx)?;
    asm.pop(rax)?;
    asm.hlt()?;

    asm.set_label(&mut unit)?;
    asm.clts()?;
    asm.jmp(out)?;

    asm.set_label(&mut x87)?;
    asm.fnclex()?;
    asm.jmp(skip)?;

    asm.set_label(&mut divide)?;
    asm.mov(rdx, DIRECT + IMAGE_TABLE)?;
    asm.mov(rax, qword_ptr(rdx + 9 * 8))?;
    asm.and(rax, CLEAN)?;
    asm.xchg(qword_ptr(rdx + 10 * 8), rax)?;
    asm.and(rax, CLEAN)?;
    asm.mov(qword_ptr(rdx + 9 * 8), rax)?;
    asm.xor(qword_ptr(rdx + TWIN as i32 * 8), places.twin_difference() as i32)?;
    asm.jmp(flush_and_skip)?;

    asm.set_label(&mut fault)?;
    asm.mov(rax, cr2)?;
    asm.and(eax, 0xf000)?;
    asm.cmp(eax, READ_ONLY as i32)?;
    asm.jne(skip)?;
    asm.test(byte_ptr(rsp + 40), 2)?;
    asm.jz(skip)?;
    asm.mov(rdx, DIRECT + IMAGE_TABLE)?;
    asm.test(byte_ptr(rsi), 3)?;
    asm.jnz(deny)?;
    asm.or(qword_ptr(rdx + 12 * 8), 2)?;
    asm.set_label(&mut flush_and_out)?;
    asm.mov(rax, cr3)?;
    asm.mov(cr3, rax)?;
    asm.jmp(out)?;
    asm.set_label(&mut deny)?;
    asm.and(qword_ptr(rdx + 12 * 8), !2)?;

    asm.set_label(&mut flush_and_skip)?;
    asm.mov(rax, cr3)?;
    asm.mov(cr3, rax)?;
    asm.set_label(&mut skip)?;
    asm.movzx(eax, word_ptr(rsp + 48))?;
    asm.mov(rdx, DIRECT + LENGTHS)?;
    asm.movzx(eax, byte_ptr(rdx + rax))?;
    asm.add(qword_ptr(rsp + 48), rax)?;
    asm.set_label(&mut out)?;
    asm.pop(rsi)?;
    asm.pop(rdx)?;
    asm.pop(rcx)?;
    asm.pop(rax)?;
    asm.add(rsp, 16)?;
    asm.iretq()
}
