//! The same bytes at the same place as 32-bit and as 64-bit code, by turns: what is translated for
//! one must never run as the other.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use soft::Execution;
use x86::Flags;
use x86::segment::attr;

use super::World;
use crate::kernel::{differences, run};
use crate::layout::{self, IMAGES, LENGTHS, LOG, PAGE, STACK};
use crate::random::Random;
use crate::run::{CODE_RIGHTS, contents, flat, new_memory};

/// Both call this: DEC EAX or a REX prefix; ARPL or MOVSXD; then RET of either size.
const SHARED: [u8; 9] = [0x48, 0x01, 0xd8, 0x63, 0xcb, 0x41, 0x89, 0xc2, 0xc3];
const AT: u64 = 0x800;
const STUB: u64 = 0x900;

fn caller(asm: &mut CodeAssembler, image: u64) -> Result<(), IcedError> {
    let mut again = asm.create_label();
    asm.mov(esi, 3000)?;
    // By way of the jump cache, which goes by linear address.
    asm.mov(edi, (image + AT) as u32)?;
    asm.set_label(&mut again)?;
    asm.call(edi)?;
    asm.call_far_at(image)?;
    asm.dec(esi)?;
    asm.jnz(again)?;
    asm.ud2()
}

trait FarCall {
    /// CALL 8:stub
    fn call_far_at(&mut self, image: u64) -> Result<(), IcedError>;
}

impl FarCall for CodeAssembler {
    fn call_far_at(&mut self, image: u64) -> Result<(), IcedError> {
        let ins = iced_x86::Instruction::with_far_branch(
            iced_x86::Code::Call_ptr1632,
            8,
            (image + STUB) as u32,
        )?;
        self.add_instruction(ins)
    }
}

fn stub(asm: &mut CodeAssembler, image: u64) -> Result<(), IcedError> {
    asm.call(rdi)?;
    asm.call(image + AT)?;
    // RETF of 32 bits.
    asm.db(&[0xcb])
}

fn judge(seed: u64) {
    let memory = new_memory();
    let mut random = Random::new(seed);
    let places = World::Compatibility.surroundings(&memory, &mut random, true);
    let image = IMAGES[(seed % 2) as usize];
    type Body = fn(&mut CodeAssembler, u64) -> Result<(), IcedError>;
    let parts: [(u32, u64, Body); 2] = [(32, 0, caller), (64, STUB, stub)];
    for (bits, offset, body) in parts {
        let mut asm = CodeAssembler::new(bits).expect("a code size");
        body(&mut asm, image).expect("valid instructions");
        let bytes = asm.assemble(image + offset).expect("valid instructions");
        places.write(&memory, offset, &bytes);
    }
    places.write(&memory, AT, &SHARED);
    layout::write(&memory, LENGTHS, &[0; 16]);
    let mut state = crate::run::bare();
    state.segments[1] = flat(0x38, CODE_RIGHTS & !attr::LONG | attr::DB);
    state.rip = image;
    state.gpr = [0; 16];
    // Few enough that sums stay below 4 GiB: 32-bit code with high halves is interpreted.
    state.gpr[0] = 0x1000;
    state.gpr[3] = 1 + random.below(0xffff);
    state.gpr[4] = image + STACK + PAGE;
    state.rflags = Flags::FIXED.bits();
    let ram = contents(&memory);
    for budget in [7_000, 60_000] {
        let interpreted = run(&ram, &state, Execution::Interpret, budget);
        assert_eq!(interpreted.ram[LOG as usize], 0, "nothing faults");
        for execution in [Execution::Translate, Execution::Check] {
            let other = run(&ram, &state, execution, budget);
            let text = differences(&interpreted, &other);
            assert!(text.is_empty(), "seed {seed}, {execution:?}, {budget}:\n{text}");
        }
    }
}

#[test]
fn the_same_bytes_run_in_two_modes() {
    (0..4).for_each(judge);
}
