//! A user that calls a kernel, under SMAP: what translated code does between the two by itself.
//!
//! The user moves and fills runs across pages, some of which fault, and makes a system call; the
//! kernel touches the user's pages with and without STAC, reads and writes what only kernels do,
//! and returns: now and then with TF or AC set, or to an address that is not canonical. Runs that
//! are translated must end as interpreted ones do, whatever SYSCALL clears.

use std::fmt::Write;

use engine::{Budget, Engine, Exit, VmConfig};
use iced_x86::code_asm::*;
use iced_x86::{Decoder, DecoderOptions, IcedError};
use memory::GuestMemory;
use soft::{Execution, SoftEngine, SoftOptions};
use x86::{CpuState, Cr4, Flags};

use crate::handler;
use crate::layout::{
    self, ACCESSED_DIRTY, DATA, DIRECT, HANDLER, HANDLER_STACK, IMAGES, LENGTHS, PAGE, Places,
    STACK,
};
use crate::random::Random;
use crate::run::{
    CODE_RIGHTS, DATA_RIGHTS, Ended, Nothing, RING3, bare, contents, flat, new_memory, take,
};

const USER: u64 = IMAGES[0];
const KERNEL: u64 = IMAGES[2];
/// Offset of the kernel's code in the image.
const ENTRY: u64 = 2 * PAGE;
const SEEDS: u64 = 12;
const STATUS: u64 = Flags::STATUS.bits();

/// IA32_FMASK: as Linux has it; leaving AC; leaving TF, IF and the status flags as well.
const MASKS: [u64; 3] = [0x25_7fd5, 0x20_7fd5, 0x400];

/// Draws the next number into R8; the flags are defined after it.
fn draw(asm: &mut CodeAssembler) -> Result<(), IcedError> {
    asm.mov(rax, 0x5851_f42d_4c95_7f2du64)?;
    asm.imul_2(r8, rax)?;
    asm.add(r8, 0x1405_7b7e)
}

/// RDI or RSI = somewhere in the data; RCX = a count.
fn somewhere(asm: &mut CodeAssembler, to: AsmRegister64, shift: u32) -> Result<(), IcedError> {
    asm.mov(to, r8)?;
    asm.shr(to, shift)?;
    asm.and(to, 0x3fff)?;
    asm.add(to, (USER + DATA) as i32)
}

fn count(asm: &mut CodeAssembler, mask: i32) -> Result<(), IcedError> {
    asm.mov(rcx, r8)?;
    asm.shr(rcx, 33)?;
    asm.and(rcx, mask)
}

fn user(asm: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut again, mut own) = (asm.create_label(), asm.create_label());
    asm.set_label(&mut again)?;
    for round in 0..5 {
        draw(asm)?;
        somewhere(asm, rsi, 11)?;
        somewhere(asm, rdi, 37)?;
        count(asm, if round == 3 { 0x1fff } else { 0x1f })?;
        asm.test(r8, r8)?;
        match round {
            0 => asm.rep().movsb()?,
            1 => asm.rep().stosq()?,
            2 => {
                asm.std()?;
                asm.rep().movsd()?;
                asm.cld()?;
            }
            3 => asm.rep().stosb()?,
            _ => asm.rep().movsq()?,
        }
        // The flags from before must have come through.
        asm.adc(r12, rcx)?;
    }
    // Into its own code, which stays as it is.
    asm.lea(rsi, ptr(own))?;
    asm.mov(rdi, rsi)?;
    asm.mov(ecx, 3)?;
    asm.rep().movsb()?;
    asm.set_label(&mut own)?;
    asm.add(r12, rdi)?;
    draw(asm)?;
    somewhere(asm, rbp, 23)?;
    somewhere(asm, rdi, 9)?;
    asm.mov(rsi, rbp)?;
    asm.cmp(r8, rdi)?;
    asm.syscall()?;
    asm.adc(r12, r11)?;
    asm.rol(r12, 3)?;
    asm.add(r12, r14)?;
    asm.push(r12)?;
    asm.pop(r10)?;
    asm.jmp(again)
}

fn kernel(asm: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut closed, mut plain, mut sound, mut aligned) =
        (asm.create_label(), asm.create_label(), asm.create_label(), asm.create_label());
    asm.mov(r13, rcx)?;
    asm.swapgs()?;
    asm.test(r8d, 0x10)?;
    asm.je(closed)?;
    asm.stac()?;
    asm.set_label(&mut closed)?;
    asm.mov(rax, qword_ptr(rbp))?;
    asm.add(qword_ptr(rbp + 8), rax)?;
    count(asm, 0x3f)?;
    asm.rep().movsb()?;
    asm.mov(word_ptr(rbp + 24), ss)?;
    asm.clac()?;
    asm.mov(r10, qword_ptr(rbp + 8))?;
    asm.mov(r15, rsp)?;
    asm.mov(rsp, DIRECT + HANDLER_STACK + 0x800)?;
    asm.pushfq()?;
    asm.pop(r14)?;
    asm.mov(rsp, r15)?;
    asm.mov(rdx, cr2)?;
    asm.xor(r14, rdx)?;
    asm.mov(rdx, cr3)?;
    asm.add(r14, rdx)?;
    asm.mov(r10w, cs)?;
    asm.wrfsbase(r8)?;
    asm.rdfsbase(r10)?;
    asm.xor(ecx, ecx)?;
    asm.rdpkru()?;
    asm.swapgs()?;
    asm.test(r8d, 0x3f00)?;
    asm.jne(plain)?;
    asm.or(r11, 0x100)?;
    asm.set_label(&mut plain)?;
    asm.test(r8d, 0x3_8000)?;
    asm.jne(aligned)?;
    asm.or(r11, 0x4_0000)?;
    asm.set_label(&mut aligned)?;
    asm.test(r8d, 0x7c_0000)?;
    asm.jne(sound)?;
    asm.mov(rcx, 1u64 << 47)?;
    asm.sysretq()?;
    asm.set_label(&mut sound)?;
    asm.mov(rcx, r13)?;
    asm.sysretq()
}

/// Writes code into the image, and how long each instruction is.
fn install(
    memory: &GuestMemory,
    places: &Places,
    (image, offset): (u64, u64),
    body: fn(&mut CodeAssembler) -> Result<(), IcedError>,
) {
    let mut asm = CodeAssembler::new(64).expect("64-bit code");
    body(&mut asm).expect("valid instructions");
    let bytes = asm.assemble(image + offset).expect("valid instructions");
    places.write(memory, offset, &bytes);
    for ins in Decoder::with_ip(64, &bytes, offset, DecoderOptions::NONE).iter() {
        layout::write(memory, LENGTHS + ins.ip(), &[ins.len() as u8]);
    }
}

/// RAM and state at the start.
fn prepare(seed: u64) -> (Vec<u8>, CpuState) {
    let memory = new_memory();
    let mut random = Random::new(seed);
    let places = Places::new(&mut random);
    layout::page_tables(&memory, &places, &mut random, true);
    handler::install(&memory, &places);
    install(&memory, &places, (USER, 0), user);
    install(&memory, &places, (KERNEL, ENTRY), kernel);
    let mut state = bare();
    state.segments = [flat(0x1b, DATA_RIGHTS | RING3); 6];
    state.segments[1] = flat(0x23, CODE_RIGHTS | RING3);
    state.cr4 |= (Cr4::SMAP | Cr4::PKE).bits();
    state.msrs.star = 0x10 << 48 | 0x08 << 32;
    state.msrs.lstar = KERNEL + ENTRY;
    state.msrs.sfmask = MASKS[(seed % 3) as usize];
    state.msrs.kernel_gs_base = DIRECT;
    state.rip = USER;
    state.gpr[4] = USER + STACK + PAGE;
    state.gpr[5] = USER + DATA;
    state.gpr[8] = random.next();
    let identified = if seed.is_multiple_of(2) { Flags::ID } else { Flags::empty() };
    state.rflags = (Flags::FIXED | Flags::IF | identified).bits();
    (contents(&memory), state)
}

pub(crate) fn run(ram: &[u8], start: &CpuState, execution: Execution, budget: u64) -> Ended {
    let memory = new_memory();
    layout::write(&memory, 0, ram);
    let config = VmConfig { memory: memory.clone(), cpus: 1 };
    let options = SoftOptions { execution, ..SoftOptions::default() };
    let engine = SoftEngine::with_options(config, options).expect("one processor is allowed");
    let mut vcpu = engine.create_vcpu(0).expect("the first is there");
    let mut state = vcpu.state().expect("a stopped processor has a state");
    take(&mut state, start);
    vcpu.set_state(&state).expect("it is a sound state");
    let exit = vcpu.run(&mut Nothing, Budget::Instructions(budget)).expect("the host is sound");
    let state = vcpu.state().expect("a stopped processor has a state");
    let retired = vcpu.retired().expect("the engine counts");
    Ended { exit, state, ram: contents(&memory), retired }
}

pub(crate) fn differences(one: &Ended, other: &Ended) -> String {
    let mut text = String::new();
    let mut note = |name: &str, a: u64, b: u64| {
        if a != b {
            let _ = writeln!(text, "{name}: {a:#x}, {b:#x}");
        }
    };
    note("retired", one.retired, other.retired);
    let (a, b) = (&one.state, &other.state);
    for number in 0..16 {
        note(&format!("r{number}"), a.gpr[number], b.gpr[number]);
    }
    note("rip", a.rip, b.rip);
    note("rflags", a.rflags & !STATUS, b.rflags & !STATUS);
    note("cr2", a.cr2, b.cr2);
    note("kernel_gs_base", a.msrs.kernel_gs_base, b.msrs.kernel_gs_base);
    for at in (0..one.ram.len()).step_by(8) {
        let word = |ram: &[u8]| u64::from_le_bytes(ram[at..at + 8].try_into().expect("eight"));
        let ignored = if (at as u64) < HANDLER { ACCESSED_DIRTY } else { 0 };
        note(&format!("ram[{at:#x}]"), word(&one.ram) & !ignored, word(&other.ram) & !ignored);
    }
    if a.segments != b.segments {
        let _ = writeln!(text, "segments {:?}\n{:?}", a.segments, b.segments);
    }
    if one.exit != other.exit {
        let _ = writeln!(text, "exit {:?}, {:?}", one.exit, other.exit);
    }
    text
}

fn agree(execution: Execution, budgets: &[u64]) {
    for seed in 1..=SEEDS {
        let (ram, state) = prepare(seed);
        let mut ran = 0;
        for &budget in budgets {
            let interpreted = run(&ram, &state, Execution::Interpret, budget);
            let other = run(&ram, &state, execution, budget);
            let text = differences(&interpreted, &other);
            assert!(text.is_empty(), "seed {seed}, {budget} instructions:\n{text}");
            ran += u64::from(interpreted.exit == Exit::BudgetSpent);
        }
        assert!(ran > 0, "seed {seed}: faults end the program too early");
    }
}

#[test]
fn system_calls_agree() {
    agree(Execution::Translate, &[9_000, 20_011, 60_007, 150_001]);
}

#[test]
fn system_calls_agree_in_lockstep() {
    agree(Execution::Check, &[12_000]);
}
