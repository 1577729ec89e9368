//! The translator's parts by themselves: what they know of instructions, and what they emit.

mod asm;
mod flags;
mod group;

use iced_x86::code_asm::CodeAssembler;
use iced_x86::{Decoder, DecoderOptions, IcedError, InstructionInfoFactory};

use super::facts::{Fact, Gates, examine};

/// The facts of a few instructions, at the start of a page.
fn facts(body: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Vec<Fact> {
    let mut assembler = CodeAssembler::new(64).expect("64-bit code");
    body(&mut assembler).expect("valid instructions");
    let bytes = assembler.assemble(0).expect("they can be encoded");
    let gates = Gates {
        sse: true,
        avx: true,
        x87: true,
        time: true,
        counted_time: false,
        kernel: false,
        bases: true,
        keys: false,
        unchecked: true,
        grouped: true,
        windows: false,
        path: false,
    };
    let mut factory = InstructionInfoFactory::new();
    Decoder::with_ip(64, &bytes, 0, DecoderOptions::NONE)
        .into_iter()
        .map(|ins| examine(&mut factory, &ins, ins.ip() as i32, gates, true))
        .collect()
}
