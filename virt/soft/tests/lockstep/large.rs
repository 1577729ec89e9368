//! A program's large pages: shown whole in its window, as far as they are RAM; what lies beyond is a
//! device, and code in them stays protected.

use std::sync::Arc;

use engine::Exit;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use memory::GuestMemory;
use soft::{Execution, SoftOptions};
use x86::GuestPhys;

use crate::handler::{self, MOST_FAULTS};
use crate::layout::{self, ACCESSED_DIRTY, IMAGES, LARGE, LOG, PRESENT, Places, USER, WRITABLE};
use crate::random::Random;
use crate::run::run_user;

/// RAM: of the third large page only the first half.
const RAM: u64 = 5 << 20;
/// Linear addresses of the second and the third.
const WHOLE: u64 = 0x60_0000;
const HALF: u64 = 0x80_0000;
/// Times round, enough for superblocks.
const ROUNDS: i32 = 300;
/// Where in the second page a function lies that is written over while it is used.
const FUNCTION: u64 = WHOLE + 0x12_3000;

/// Goes through both pages, adding one to a word of each small page, and calls a function in the
/// first of them, whose constant changes each round. RAX is the sum of what it returns.
fn program(at: u64) -> Result<Vec<u8>, IcedError> {
    let mut asm = CodeAssembler::new(64)?;
    let (mut round, mut page) = (asm.create_label(), asm.create_label());
    asm.xor(eax, eax)?;
    asm.mov(r12d, ROUNDS)?;
    asm.set_label(&mut round)?;
    asm.mov(rbx, WHOLE)?;
    asm.mov(ecx, (RAM as i32 - 0x20_0000) >> 12)?;
    asm.set_label(&mut page)?;
    asm.add(qword_ptr(rbx + 8), 1)?;
    asm.add(rbx, 4096)?;
    asm.dec(ecx)?;
    asm.jne(page)?;
    // MOV EDX, imm32; RET
    asm.mov(rsi, FUNCTION)?;
    asm.mov(byte_ptr(rsi), 0xba)?;
    asm.mov(dword_ptr(rsi + 1), r12d)?;
    asm.mov(byte_ptr(rsi + 5), 0xc3)?;
    asm.call(rsi)?;
    asm.add(rax, rdx)?;
    asm.dec(r12d)?;
    asm.jne(round)?;
    // Beyond RAM there is nothing.
    asm.mov(rbp, qword_ptr(rbx))?;
    asm.ud2()?;
    asm.assemble(at)
}

fn run(execution: Execution) -> (Exit, [u64; 16], u64, Vec<u8>) {
    let memory = Arc::new(GuestMemory::new(&[(GuestPhys(0), RAM)]).expect("5 MiB can be had"));
    let places = Places::new(&mut Random::new(5));
    layout::page_tables(&memory, &places, &mut Random::new(3), false);
    let entry = |table: u64, index: u64| {
        let mut bytes = [0; 8];
        memory.read_physical(GuestPhys(table + index * 8), &mut bytes).expect("it lies in RAM");
        u64::from_le_bytes(bytes) & !0xfff
    };
    let directory = entry(entry(layout::PML4, 0), 0);
    let rights = PRESENT | WRITABLE | USER | ACCESSED_DIRTY | LARGE;
    for (linear, physical) in [(WHOLE, 0x20_0000), (HALF, 0x40_0000)] {
        layout::put(&memory, directory + (linear >> 21) * 8, physical | rights);
    }
    handler::install(&memory, &places);
    layout::put(&memory, LOG, MOST_FAULTS as u64);
    let image = IMAGES[0];
    places.write(&memory, 0, &program(image).expect("valid instructions"));
    let options = SoftOptions { execution, ..SoftOptions::default() };
    let (exit, gpr, retired) = run_user(options, &memory, image, WHOLE + 0x1f_0000);
    let mut ram = vec![0; (RAM - 0x20_0000) as usize];
    memory.read_physical(GuestPhys(0x20_0000), &mut ram).expect("it lies in RAM");
    (exit, gpr, retired, ram)
}

#[test]
fn large_pages_are_shown_as_far_as_they_are_ram() {
    let interpreted = run(Execution::Interpret);
    assert_eq!(interpreted.0, Exit::Halted);
    assert_eq!(interpreted.1[0], (1..=ROUNDS as u64).sum::<u64>());
    assert_eq!(interpreted.3[8..16], (ROUNDS as u64).to_le_bytes());
    for execution in [Execution::Translate, Execution::Check] {
        let ended = run(execution);
        assert_eq!((&ended.0, ended.1, ended.2), (&interpreted.0, interpreted.1, interpreted.2));
        assert!(ended.3 == interpreted.3, "{execution:?}");
    }
}
