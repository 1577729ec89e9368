//! 32-bit instructions as those of 64-bit mode.

use iced_x86::{
    Code, Decoder, DecoderOptions, EncodingKind, Instruction, InstructionInfoFactory, Mnemonic,
    OpKind, Register,
};

use super::super::facts::{DECODING, Fact, Gates, Kind, examine};
use super::super::flat::widened;

const FLAT: Gates =
    Gates { flat: true, fs: false, gs: true, kernel: true, bases: false, ..Gates::ALL };

/// The fact of the one instruction in these bytes, 32-bit code.
fn fact_of(bytes: &[u8]) -> Fact {
    let ins = Decoder::with_ip(32, bytes, 0, DECODING).decode();
    assert_eq!(ins.len(), bytes.len(), "{bytes:02x?}");
    examine(&mut InstructionInfoFactory::new(), &ins, 0, FLAT, true)
}

#[test]
fn what_64_bit_mode_lacks_is_replaced_or_left_to_the_interpreter() {
    let mut factory = InstructionInfoFactory::new();
    let (mut replaced, mut left) = (0, 0);
    for code in Code::values() {
        let info = code.op_code();
        let legacy = matches!(code.encoding(), EncodingKind::Legacy | EncodingKind::VEX);
        // Operands tell addresses of 16 bits.
        let narrow = info.address_size() == 16;
        let optional = info.decoder_option() != DecoderOptions::NONE;
        if !info.is_instruction() || !legacy || !info.mode32() || narrow || optional {
            continue;
        }
        let mut ins = Instruction::new();
        ins.set_code(code);
        ins.set_code_size(iced_x86::CodeSize::Code32);
        ins.set_len(2);
        if code.is_jcc_short_or_near() || code.is_jmp_short_or_near() || code.is_call_near() {
            ins.set_op0_kind(match info.operand_size() {
                16 => OpKind::NearBranch16,
                _ => OpKind::NearBranch32,
            });
        }
        if ins.mnemonic() == Mnemonic::Lea {
            ins.set_op0_register(Register::EAX);
        }
        let Some(wide) = widened(&ins, FLAT) else {
            assert!(
                !info.mode64()
                    || code.is_jcc_short_or_near()
                    || info.is_privileged()
                    || matches!(code, Code::Syscall | Code::VEX_Vzeroall),
                "{code:?} is there in 64-bit mode"
            );
            left += 1;
            continue;
        };
        let kind = examine(&mut factory, &ins, 0, FLAT, true).kind;
        if kind != Kind::Interpret {
            assert!(wide.code().op_code().mode64(), "{code:?} as {:?}", wide.code());
            replaced += u32::from(wide.code() != code);
        }
    }
    assert!(replaced > 40 && left > 20, "{replaced} replaced, {left} left");
}

#[test]
fn the_same_bytes_mean_something_else() {
    let known: [(&[u8], Kind); 24] = [
        (&[0x40], Kind::Plain),                          // inc eax
        (&[0x4f], Kind::Plain),                          // dec edi
        (&[0x82, 0xc0, 1], Kind::Plain),                 // add al, 1
        (&[0xa1, 0, 0x10, 0, 0x80], Kind::Plain),        // mov eax, [0x80001000]
        (&[0x8b, 0x05, 0, 0x10, 0, 0x80], Kind::Plain),  // the same, by ModRM
        (&[0x65, 0xa1, 0x14, 0, 0, 0], Kind::Plain),     // mov eax, gs:[0x14]
        (&[0x64, 0xa1, 0x14, 0, 0, 0], Kind::Interpret), // mov eax, fs:[0x14]
        (&[0x2e, 0x8b, 0x03], Kind::Interpret),          // mov eax, cs:[ebx]
        (&[0x67, 0x8b, 0x07], Kind::Interpret),          // mov eax, [bx]
        (&[0x63, 0xc3], Kind::Interpret),                // arpl bx, ax
        (&[0x27], Kind::Interpret),                      // daa
        (&[0xd4, 10], Kind::Interpret),                  // aam
        (&[0x60], Kind::Interpret),                      // pushad
        (&[0x06], Kind::Interpret),                      // push es
        (&[0x66, 0x50], Kind::Interpret),                // push ax
        (&[0xc5, 0x03], Kind::Interpret),                // lds eax, [ebx]
        (&[0x9a, 0, 0, 0, 0, 0x23, 0], Kind::Interpret), // call 0x23:0
        (&[0x0f, 0x05], Kind::Interpret),                // syscall
        (&[0x0f, 0x34], Kind::Interpret),                // sysenter
        (&[0xcd, 0x80], Kind::Interpret),                // int 0x80
        (&[0x66, 0xe8, 0, 1], Kind::Interpret),          // call by operand size 16
        (&[0x9c], Kind::PushFlags),
        (&[0x9d], Kind::PopFlags),
        (&[0xf3, 0xa5], Kind::RepeatedString),
    ];
    for (bytes, kind) in known {
        assert_eq!(fact_of(bytes).kind, kind, "{bytes:02x?}");
    }
}

#[test]
fn stack_elements_have_four_bytes() {
    let push = fact_of(&[0x53]);
    assert_eq!((push.kind, push.stack_move), (Kind::Push, Some(-4)));
    assert_eq!(push.ins.op0_register(), Register::RBX);
    let push = fact_of(&[0xff, 0x33]);
    assert_eq!((push.kind, push.access.map(|access| access.size)), (Kind::Push, Some(4)));
    let jump = fact_of(&[0xff, 0x24, 0x85, 0, 0, 0, 0x10]);
    assert_eq!((jump.kind, jump.access.map(|access| access.size)), (Kind::JumpIndirect, Some(4)));
}

#[test]
fn branches_wrap() {
    let jump = fact_of(&[0xe9, 0, 0, 0, 0x80]);
    assert_eq!(jump.ins.near_branch_target() as i64, i64::from(i32::MIN) + 5);
    let branch = fact_of(&[0x0f, 0x8f, 0xf0, 0xff, 0xff, 0xff]);
    assert_eq!((branch.kind, branch.ins.near_branch_target() as i64), (Kind::Branch(15), -10));
}
