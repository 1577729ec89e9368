//! What the fuzzers found, each by the name of the bug.

use hostile::instructions;

/// Input for [`instructions`]: 32-bit protected mode, plain tables, registers 0, this code.
fn protected(code: &[u8]) -> Vec<u8> {
    let mut input = vec![2, 0];
    input.resize(18, 0);
    input.extend_from_slice(code);
    input
}

#[test]
fn a_locked_change_of_a_device_that_never_repeats_itself_ends() {
    // mov ebx, 0x600000 (no RAM); xchg [ebx], eax; lock inc dword [ebx]; hlt
    instructions(&protected(&[0xbb, 0, 0, 0x60, 0, 0x87, 0x03, 0xf0, 0xff, 0x03, 0xf4]));
}
