//! Superblocks that call by address: where the target is another one than when the path was recorded,
//! where the path ends in the call, with flags that are live or dead, and with renamed registers.

use std::sync::Arc;

use engine::Exit;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use memory::GuestMemory;
use soft::{Execution, SoftOptions};
use x86::GuestPhys;

use crate::handler::{self, MOST_FAULTS};
use crate::layout::{self, DATA, IMAGES, LOG, Places, RAM};
use crate::random::Random;
use crate::run::run_user;

const ROUNDS: i32 = 20_000;

/// Calls one of two functions in each round, mostly the first, by what lies where the call is about
/// to push, with flags that are dead; and one of two others by a register, with CF live. The first of
/// these begins with a loop, so that it has a superblock of its own, at which the paths of its callers
/// end. RBX is the sum of it all.
fn program(at: u64) -> Result<Vec<u8>, IcedError> {
    let mut asm = CodeAssembler::new(64)?;
    let mut round = asm.create_label();
    let (mut first, mut second) = (asm.create_label(), asm.create_label());
    let (mut third, mut fourth) = (asm.create_label(), asm.create_label());
    let mut inner = asm.create_label();
    asm.xor(ebx, ebx)?;
    asm.mov(r12d, ROUNDS)?;
    asm.set_label(&mut round)?;
    asm.lea(rcx, qword_ptr(third))?;
    asm.lea(rdx, qword_ptr(fourth))?;
    asm.test(r12d, 3)?;
    asm.cmove(rcx, rdx)?;
    asm.mov(qword_ptr(rsp - 8), rcx)?;
    asm.call(qword_ptr(rsp - 8))?;
    asm.xor(rbx, r11)?;
    for number in 0..12 {
        asm.lea(r9, qword_ptr(r10 + r11 * 4 + number))?;
        asm.xor(r10, r9)?;
        asm.add(r11, r10)?;
    }
    asm.lea(rcx, qword_ptr(first))?;
    asm.lea(rdx, qword_ptr(second))?;
    asm.test(r12d, 7)?;
    asm.cmove(rcx, rdx)?;
    asm.bt(r12d, 0)?;
    asm.call(rcx)?;
    asm.adc(rbx, rax)?;
    asm.dec(r12d)?;
    asm.jne(round)?;
    asm.ud2()?;
    asm.set_label(&mut first)?;
    asm.mov(eax, 4)?;
    asm.set_label(&mut inner)?;
    asm.lea(rsi, qword_ptr(rsi + rax * 2 + 1))?;
    asm.lea(eax, dword_ptr(rax - 1))?;
    asm.mov(r8, rcx)?;
    asm.mov(ecx, eax)?;
    let mut done = asm.create_label();
    asm.jrcxz(done)?;
    asm.mov(rcx, r8)?;
    asm.jmp(inner)?;
    asm.set_label(&mut done)?;
    asm.mov(rcx, r8)?;
    asm.ret()?;
    asm.set_label(&mut second)?;
    asm.lea(rax, qword_ptr(r9 + 3))?;
    asm.ret()?;
    asm.set_label(&mut third)?;
    asm.add(rbx, 5)?;
    asm.ret()?;
    asm.set_label(&mut fourth)?;
    asm.sub(rbx, r9)?;
    asm.ret()?;
    asm.assemble(at)
}

fn run(options: SoftOptions) -> (Exit, [u64; 16], u64, Vec<u8>) {
    let memory = Arc::new(GuestMemory::new(&[(GuestPhys(0), RAM)]).expect("it is little"));
    let places = Places::new(&mut Random::new(5));
    layout::page_tables(&memory, &places, &mut Random::new(3), false);
    handler::install(&memory, &places);
    layout::put(&memory, LOG, MOST_FAULTS as u64);
    let image = IMAGES[0];
    places.write(&memory, 0, &program(image).expect("valid instructions"));
    let (exit, gpr, retired) = run_user(options, &memory, image, image + DATA + 0x800);
    let mut stack = vec![0; 0x1000];
    let bottom = GuestPhys(places.physical(DATA));
    memory.read_physical(bottom, &mut stack).expect("it lies in RAM");
    (exit, gpr, retired, stack)
}

#[test]
fn calls_by_address_in_superblocks() {
    let interpret = SoftOptions { execution: Execution::Interpret, ..SoftOptions::default() };
    let interpreted = run(interpret);
    assert_eq!(interpreted.0, Exit::Halted);
    for execution in [Execution::Translate, Execution::Check] {
        for hurried in [false, true] {
            let ended = run(SoftOptions { execution, hurried, ..SoftOptions::default() });
            assert!(ended == interpreted, "{execution:?}, hurried {hurried}: {:x?}", ended.1);
        }
    }
}
