//! What is known of registers.

use iced_x86::code_asm::*;
use iced_x86::{IcedError, code_asm::CodeAssembler};

use super::super::values::Values;
use super::facts;

/// Whether RCX is known to hold a 32-bit number behind these instructions.
fn narrow(body: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> bool {
    let mut values = Values::new();
    facts(body).iter().for_each(|fact| values.follow(fact));
    values.is_narrow(1)
}

#[test]
fn results_of_32_bits_and_what_is_extended_from_them_are_narrow() {
    assert!(!narrow(|asm| asm.nop()));
    assert!(narrow(|asm| asm.mov(ecx, eax)));
    assert!(narrow(|asm| asm.movsxd(rcx, eax)));
    assert!(narrow(|asm| asm.movzx(ecx, al)));
    assert!(narrow(|asm| asm.and(rcx, 0xff)));
    assert!(narrow(|asm| asm.shr(ecx, 3)));
    assert!(narrow(|asm| {
        asm.mov(ecx, dword_ptr(rax))?;
        asm.mov(rdx, rcx)?;
        asm.add(rax, rcx)
    }));
}

#[test]
fn other_results_are_not_narrow() {
    assert!(!narrow(|asm| asm.mov(rcx, rax)));
    assert!(!narrow(|asm| asm.and(rcx, -256)));
    // The count may be 0, and the register as it was.
    assert!(!narrow(|asm| asm.shl(ecx, cl)));
    assert!(!narrow(|asm| asm.bsf(ecx, eax)));
    assert!(!narrow(|asm| {
        asm.mov(ecx, eax)?;
        asm.add(rcx, 1)
    }));
    assert!(!narrow(|asm| {
        asm.mov(ecx, eax)?;
        asm.mov(cl, al)
    }));
    assert!(!narrow(|asm| {
        asm.mov(ecx, eax)?;
        asm.pop(rcx)
    }));
}
