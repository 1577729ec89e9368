//! What is known of registers.

use iced_x86::code_asm::*;
use iced_x86::{IcedError, code_asm::CodeAssembler};

use super::super::values::Values;
use super::facts;

/// Bits that RCX fits behind these instructions; 64 where nothing is known.
fn width(body: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> u8 {
    let mut values = Values::new();
    facts(body).iter().for_each(|fact| values.follow(fact));
    values.width(1)
}

#[test]
fn results_of_32_bits_and_what_is_made_from_them_are_narrow() {
    assert_eq!(width(|asm| asm.mov(ecx, eax)), 33);
    assert_eq!(width(|asm| asm.movsxd(rcx, eax)), 32);
    assert_eq!(width(|asm| asm.movzx(ecx, al)), 9);
    assert_eq!(width(|asm| asm.movsx(rcx, ax)), 16);
    assert_eq!(width(|asm| asm.mov(rcx, -129i64)), 9);
    assert_eq!(width(|asm| asm.and(rcx, 0xff)), 9);
    assert_eq!(width(|asm| asm.shr(ecx, 3)), 30);
    assert_eq!(width(|asm| asm.and(ecx, 0x7f)), 8);
    assert_eq!(width(|asm| asm.and(ecx, -1)), 33);
    assert_eq!(width(|asm| asm.mov(ecx, 0x73_ad00)), 24);
    assert_eq!(width(|asm| asm.shr(rcx, 40)), 25);
    let sum = |asm: &mut CodeAssembler| {
        asm.mov(ecx, dword_ptr(rax))?;
        asm.movzx(edx, bl)?;
        asm.add(rcx, rdx)?;
        asm.shl(rcx, 2)
    };
    assert_eq!(width(sum), 36);
    let lea = |asm: &mut CodeAssembler| {
        asm.movzx(edx, bl)?;
        asm.cdqe()?;
        asm.lea(rcx, qword_ptr(rax + rdx * 8 + 5))
    };
    assert_eq!(width(lea), 34);
    let kept = |asm: &mut CodeAssembler| {
        asm.mov(ecx, dword_ptr(rax))?;
        asm.mov(rdx, rcx)?;
        asm.add(rax, rcx)
    };
    assert_eq!(width(kept), 33);
}

#[test]
fn nothing_is_known_of_other_results() {
    assert_eq!(width(|asm| asm.nop()), 64);
    assert_eq!(width(|asm| asm.mov(rcx, rax)), 64);
    assert_eq!(width(|asm| asm.and(rcx, -256)), 64);
    // The count may be 0, and the register as it was.
    assert_eq!(width(|asm| asm.shl(ecx, cl)), 64);
    assert_eq!(width(|asm| asm.bsf(ecx, eax)), 64);
    assert_eq!(width(|asm| asm.lea(rcx, qword_ptr(rcx + 1))), 64);
    let part = |asm: &mut CodeAssembler| {
        asm.mov(ecx, eax)?;
        asm.mov(cl, al)
    };
    assert_eq!(width(part), 64);
    let popped = |asm: &mut CodeAssembler| {
        asm.mov(ecx, eax)?;
        asm.pop(rcx)
    };
    assert_eq!(width(popped), 64);
}
