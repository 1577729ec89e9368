//! A page gets dirty by a store, not by the check that a store shares with an earlier load.

use engine::Exit;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use soft::Execution;
use x86::Flags;

use crate::handler::{self, MOST_FAULTS};
use crate::kernel::run;
use crate::layout::{self, ACCESSED, ACCESSED_DIRTY, DATA, IMAGE_TABLE, IMAGES, LOG, PAGE, Places};
use crate::random::Random;
use crate::run::{bare, contents, new_memory};

/// Times that nothing faults.
const TRAINING: i32 = 20_000;
/// The data page that is clean.
const CLEAN: u64 = 9;
/// What is not there.
const ABSENT: u64 = 13;

/// A load and a store at distances from RSI, and between them a load from R9, which fails the last
/// time: then the store does not come.
fn program(image: u64) -> Result<Vec<u8>, IcedError> {
    let mut asm = CodeAssembler::new(64)?;
    let mut again = asm.create_label();
    asm.mov(rsi, image + DATA)?;
    asm.mov(rdi, image + CLEAN * PAGE)?;
    asm.mov(r8, image + ABSENT * PAGE)?;
    asm.mov(r9, rsi)?;
    asm.mov(r12d, TRAINING)?;
    asm.set_label(&mut again)?;
    asm.mov(rbx, qword_ptr(rsi))?;
    asm.mov(rax, qword_ptr(r9))?;
    asm.mov(qword_ptr(rsi + 8), rbx)?;
    asm.dec(r12)?;
    asm.cmovle(rsi, rdi)?;
    asm.cmovle(r9, r8)?;
    asm.jmp(again)?;
    asm.assemble(image)
}

#[test]
fn a_shared_check_does_not_make_a_page_dirty_that_is_only_read() {
    let entry = IMAGE_TABLE + CLEAN * 8;
    for image in IMAGES {
        let memory = new_memory();
        let places = Places::new(&mut Random::new(image));
        layout::page_tables(&memory, &places, &mut Random::new(3), false);
        handler::install(&memory, &places);
        let clean = places.physical(CLEAN * PAGE) | layout::rights(CLEAN, false) | ACCESSED;
        layout::put(&memory, entry, clean);
        // The first fault ends the program.
        layout::put(&memory, LOG, MOST_FAULTS as u64);
        places.write(&memory, 0, &program(image).expect("valid instructions"));
        let mut state = bare();
        state.rip = image;
        state.rflags = Flags::FIXED.bits();
        let ram = contents(&memory);
        for execution in [Execution::Interpret, Execution::Translate, Execution::Check] {
            let ended = run(&ram, &state, execution, 1_000_000);
            assert_eq!(ended.exit, Exit::Halted, "{execution:?} at {image:#x}");
            let used = u64::from(ended.ram[entry as usize]) & ACCESSED_DIRTY;
            assert_eq!(used, ACCESSED, "{execution:?} at {image:#x}");
        }
    }
}
