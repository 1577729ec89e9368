//! Hot user code whose pointers are wild now and then: not canonical in each way there is, at the
//! edges of both halves, and such that a look-up among windows finds other tables than theirs.

use std::sync::Arc;

use engine::Exit;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use iced_x86::{Decoder, DecoderOptions};
use memory::GuestMemory;
use soft::{Execution, SoftOptions};
use x86::GuestPhys;

use crate::handler::{self, MOST_FAULTS};
use crate::layout::{self, DATA, IMAGES, LENGTHS, LOG, PAGE, Places, RAM};
use crate::random::Random;
use crate::run::run_user;

const ROUNDS: i32 = 6_000;
const POINTERS: u64 = 512;
/// So many of them are wild.
const WILD: u64 = 48;

/// In each round a pointer from the table, and what it points at: read, read with an index, changed,
/// and read once more so that one look-up serves two. RBX is the sum of it all.
fn program(at: u64) -> Result<Vec<u8>, IcedError> {
    let mut asm = CodeAssembler::new(64)?;
    let mut round = asm.create_label();
    asm.xor(ebx, ebx)?;
    asm.xor(r8d, r8d)?;
    asm.xor(edi, edi)?;
    asm.mov(rbp, at + DATA)?;
    asm.mov(r12d, ROUNDS)?;
    asm.set_label(&mut round)?;
    asm.mov(eax, r12d)?;
    asm.and(eax, POINTERS as i32 - 1)?;
    asm.mov(rsi, qword_ptr(rbp + rax * 8))?;
    asm.mov(ecx, r12d)?;
    asm.and(ecx, 7)?;
    asm.mov(r8, qword_ptr(rsi + 0x18))?;
    asm.xor(rbx, r8)?;
    asm.mov(rdx, qword_ptr(rsi + rcx * 8 - 0x20))?;
    asm.add(rbx, rdx)?;
    asm.add(qword_ptr(rsi), r12)?;
    asm.mov(edi, dword_ptr(rsi + 4))?;
    asm.lea(rbx, qword_ptr(rbx + rdi * 2 + 1))?;
    asm.dec(r12d)?;
    asm.jne(round)?;
    asm.ud2()?;
    asm.assemble(at)
}

/// An address that is not one of the guest's, made of one that is.
fn wild(random: &mut Random, sound: u64) -> u64 {
    match random.below(6) {
        0 => sound ^ 1 << (47 + random.below(17)),
        1 => sound ^ random.below(1 << 17) << 47,
        2 => (1 << 47) - random.below(64),
        3 => (0x1_ffff << 47) - random.below(64),
        // What bits 60:32 find lies in front of the middle of the windows' table.
        4 => (0x2000_0000 - random.below(1 << 21)) << 32 ^ random.below(8) << 61 | sound & 0xffff,
        _ => random.below(1 << 32) << 32 | sound,
    }
}

fn run(options: SoftOptions, seed: u64) -> (Exit, [u64; 16], u64, Vec<u8>) {
    let memory = Arc::new(GuestMemory::new(&[(GuestPhys(0), RAM)]).expect("it is little"));
    let mut random = Random::new(seed);
    let places = Places::new(&mut random);
    layout::page_tables(&memory, &places, &mut random, false);
    handler::install(&memory, &places);
    let image = IMAGES[0];
    let code = program(image).expect("valid instructions");
    places.write(&memory, 0, &code);
    for instruction in &mut Decoder::with_ip(64, &code, 0, DecoderOptions::NONE) {
        layout::write(&memory, LENGTHS + instruction.ip(), &[instruction.len() as u8]);
    }
    for index in 0..POINTERS {
        // One in four is in another stretch of 4 GiB than most.
        let image = if random.below(4) == 0 { IMAGES[3] } else { image };
        let sound = image + DATA + PAGE + 0x40 + random.below(400) * 8;
        let is_wild = index % (POINTERS / WILD) == 3;
        let pointer = if is_wild { wild(&mut random, sound) } else { sound };
        places.write(&memory, DATA + index * 8, &pointer.to_le_bytes());
    }
    let (exit, gpr, retired) = run_user(options, &memory, image, image + DATA + 3 * PAGE);
    let mut log = vec![0; 0x1000];
    memory.read_physical(GuestPhys(LOG), &mut log).expect("it lies in RAM");
    (exit, gpr, retired, log)
}

#[test]
fn wild_pointers_fault_as_they_should() {
    for seed in 0..24 {
        let interpret = SoftOptions { execution: Execution::Interpret, ..SoftOptions::default() };
        let interpreted = run(interpret, seed);
        assert_eq!(interpreted.0, Exit::Halted);
        let faults = u64::from_le_bytes(interpreted.3[..8].try_into().expect("eight bytes"));
        assert!((1_000..MOST_FAULTS as u64).contains(&faults), "{faults} faults");
        for hurried in [false, true] {
            let ended = run(SoftOptions { hurried, ..SoftOptions::default() }, seed);
            assert!(ended == interpreted, "seed {seed}, hurried {hurried}: {:x?}", ended.1);
        }
    }
}
