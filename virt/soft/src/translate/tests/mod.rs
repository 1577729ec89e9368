//! The translator's parts by themselves: what they know of instructions, and what they emit.

mod asm;
mod flags;
mod flat;
mod forecast;
mod group;
mod values;

use iced_x86::code_asm::CodeAssembler;
use iced_x86::{Decoder, IcedError, InstructionInfoFactory};

use super::facts::{DECODING, Fact, Gates, Kind, examine};

/// The facts of a few instructions, at the start of a page.
fn facts(body: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Vec<Fact> {
    let mut assembler = CodeAssembler::new(64).expect("64-bit code");
    body(&mut assembler).expect("valid instructions");
    facts_of(&assembler.assemble(0).expect("they can be encoded"))
}

/// The facts of the instructions in these bytes.
fn facts_of(bytes: &[u8]) -> Vec<Fact> {
    let mut factory = InstructionInfoFactory::new();
    Decoder::with_ip(64, bytes, 0, DECODING)
        .into_iter()
        .map(|ins| examine(&mut factory, &ins, ins.ip() as i32, Gates::ALL, true))
        .collect()
}

#[test]
fn what_hosts_differ_on_is_left_to_the_interpreter() {
    let differ: [&[u8]; 13] = [
        &[0x66, 0xc3],                   // ret, by operand size 16 on AMD
        &[0x66, 0xc2, 8, 0],             // ret 8
        &[0x66, 0xeb, 0x10],             // jmp
        &[0x66, 0xe8, 0, 1],             // call
        &[0x66, 0x74, 0x10],             // je
        &[0x66, 0xff, 0xe0],             // jmp rax
        &[0x66, 0xff, 0xd0],             // call rax
        &[0x0f, 0x0d, 0xc8],             // prefetchw eax, if there were such
        &[0x0f, 0x38, 0xcc, 0x07],       // sha256msg1 xmm0, [rdi]
        &[0x66, 0x0f, 0xa4, 0xd8, 0x11], // shld ax, bx, 17
        &[0x0f, 0xae, 0x17],             // ldmxcsr [rdi]
        &[0xc0, 0xd0, 9],                // rcl al, 9: all the way round
        &[0x66, 0x0f, 0x2d, 0x07],       // cvtpd2pi mm0, [rdi]
    ];
    for bytes in differ {
        assert_eq!(facts_of(bytes)[0].kind, Kind::Interpret, "{bytes:02x?}");
    }
    let agree: [(&[u8], Kind); 6] = [
        (&[0xc3], Kind::Return),
        (&[0x66, 0x48, 0xe8, 0, 1, 0, 0], Kind::Call),
        (&[0x0f, 0x0d, 0x0f], Kind::Nothing),
        (&[0x0f, 0x38, 0xcc, 0xc1], Kind::Plain),
        (&[0x0f, 0xa4, 0xd8, 0x11], Kind::Plain),
        (&[0xc0, 0xd0, 1], Kind::Plain),
    ];
    for (bytes, kind) in agree {
        assert_eq!(facts_of(bytes)[0].kind, kind, "{bytes:02x?}");
    }
}

#[test]
fn what_no_guest_has_is_not_copied() {
    let foreign: [&[u8]; 8] = [
        &[0x0f, 0xa7, 0xc0],             // xstore
        &[0xf3, 0x0f, 0xa6, 0xe8],       // xsha512
        &[0x0f, 0x01, 0xd6],             // xtest
        &[0xf3, 0x0f, 0x38, 0xdc, 0x07], // aesenc128kl
        &[0x0f, 0xb2, 0x07],             // lss
        &[0x0f, 0xb4, 0x07],             // lfs
        &[0x0f, 0xb5, 0x07],             // lgs
        &[0x48, 0x0f, 0xb5, 0x07],       // lgs, 64 bits
    ];
    for bytes in foreign {
        assert_eq!(facts_of(bytes)[0].kind, Kind::Interpret, "{bytes:02x?}");
    }
}
