//! Accesses that share a check.

use iced_x86::code_asm::*;

use super::super::group::{Groups, find};
use super::facts;

/// By instruction: number of its group and offset in it.
fn members(groups: &Groups) -> Vec<Option<(usize, i32)>> {
    groups.members.iter().map(|member| member.map(|member| (member.group, member.offset))).collect()
}

#[test]
fn constant_distances_from_a_register_make_a_group() {
    let groups = find(&facts(|asm| {
        asm.mov(rax, qword_ptr(rbx + 64))?;
        asm.mov(dword_ptr(rbx + 8), ecx)?;
        asm.mov(rdx, qword_ptr(rsi))?;
        asm.movups(xmm0, xmmword_ptr(rbx + 80))
    }));
    assert_eq!(members(&groups), [Some((0, 56)), Some((0, 0)), None, Some((0, 72))]);
    let group = groups.groups[0];
    assert_eq!((group.first, group.low, group.size, group.write), (0, -56, 88, true));
}

#[test]
fn reads_alone_make_a_group_that_is_only_read() {
    let groups = find(&facts(|asm| {
        asm.mov(rax, qword_ptr(rbx))?;
        asm.cmp(rcx, qword_ptr(rbx + 8))
    }));
    assert!(!groups.groups[0].write);
}

#[test]
fn a_register_is_followed_through_constants_and_copies() {
    let groups = find(&facts(|asm| {
        asm.mov(rax, qword_ptr(rbx))?;
        asm.add(rbx, 16)?;
        asm.mov(rax, qword_ptr(rbx))?;
        asm.lea(rcx, qword_ptr(rbx + 8))?;
        asm.mov(rdx, qword_ptr(rcx))?;
        asm.mov(rsi, rcx)?;
        asm.dec(rsi)?;
        asm.mov(rdx, qword_ptr(rsi))?;
        asm.sub(rbx, 8)?;
        asm.mov(rdx, qword_ptr(rbx))
    }));
    let expected = [Some(0), None, Some(16), None, Some(24), None, None, Some(23), None, Some(8)];
    assert_eq!(members(&groups), expected.map(|offset| offset.map(|offset| (0, offset))));
    assert_eq!(groups.groups[0].size, 32);
}

#[test]
fn what_is_not_known_makes_another_symbol() {
    type Change = fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>;
    let breaks: [Change; 6] = [
        |asm| asm.mov(rbx, qword_ptr(rbx + 8)),
        |asm| asm.add(ebx, 8),
        |asm| asm.add(rbx, rcx),
        |asm| asm.xor(rbx, 8),
        |asm| asm.mov(bl, 1),
        |asm| asm.xchg(rbx, rcx),
    ];
    for (number, change) in breaks.into_iter().enumerate() {
        let groups = find(&facts(|asm| {
            asm.mov(rax, qword_ptr(rbx))?;
            change(asm)?;
            asm.mov(rax, qword_ptr(rbx + 16))
        }));
        assert!(groups.members[2].is_none(), "change {number}");
    }
}

#[test]
fn symbols_of_other_kinds_stay_apart() {
    let groups = find(&facts(|asm| {
        asm.mov(rdx, qword_ptr(rbx))?;
        asm.mov(rdx, qword_ptr(0x100u64))?;
        asm.mov(rdx, qword_ptr(0x100u64).fs())?;
        asm.mov(rdx, qword_ptr(0x108u64).gs())?;
        asm.mov(rdx, qword_ptr(rbx).fs())?;
        asm.mov(rdx, qword_ptr(rbx + rcx))?;
        asm.mov(edx, dword_ptr(ebx))?;
        asm.mov(rdx, qword_ptr(0x110u64).gs())
    }));
    let alone = [None, None, None, Some((0, 0)), None, None, None, Some((0, 8))];
    assert_eq!(members(&groups), alone);
}

#[test]
fn the_range_is_bounded() {
    let groups = find(&facts(|asm| {
        asm.mov(rax, qword_ptr(rbx))?;
        asm.mov(rax, qword_ptr(rbx + 376))?;
        asm.mov(rax, qword_ptr(rbx + 377))?;
        asm.mov(rax, qword_ptr(rbx - 8))
    }));
    assert_eq!(members(&groups), [Some((0, 0)), Some((0, 376)), None, None]);
    assert_eq!(groups.groups[0].size, 384);
}

#[test]
fn the_stack_makes_groups_across_pushes_and_pops() {
    let groups = find(&facts(|asm| {
        asm.push(rax)?;
        asm.push(1)?;
        asm.mov(rcx, qword_ptr(rsp + 8))?;
        asm.pop(rdx)?;
        asm.pop(rax)?;
        asm.ret()
    }));
    let offsets = [8, 0, 8, 0, 8, 16].map(|offset| Some((0, offset)));
    assert_eq!(members(&groups), offsets);
    let group = groups.groups[0];
    assert_eq!((group.low, group.size, group.write), (-8, 24, true));
}

#[test]
fn a_push_of_memory_has_two_accesses_and_no_group() {
    let groups = find(&facts(|asm| {
        asm.push(qword_ptr(rbx))?;
        asm.mov(rax, qword_ptr(rbx + 8))?;
        asm.mov(rax, qword_ptr(rbx + 16))
    }));
    assert_eq!(members(&groups), [None, Some((0, 0)), Some((0, 8))]);
}

#[test]
fn leave_takes_the_stack_from_the_frame() {
    let groups = find(&facts(|asm| {
        asm.mov(rax, qword_ptr(rbp - 8))?;
        asm.leave()?;
        asm.ret()
    }));
    assert_eq!(members(&groups), [Some((0, 0)), Some((0, 8)), Some((0, 16))]);
}
