//! Recipes against what the host processor makes of the same operands, and the look ahead.

use std::arch::asm;

use iced_x86::code_asm::*;

use super::super::emit::note_poll;
use super::super::facts::Fact;
use super::super::flags::{Fate, Place, Recipe, fate, from_saved, serves, to_saved};
use super::facts;

/// Carry, parity, zero, sign, overflow: what every one of them defines.
const DEFINED: u64 = 0x8c5;
const ADJUST: u64 = 0x10;
const RBX: usize = 3;
const RCX: usize = 1;

/// Runs an instruction on two values; returns the first one's register after it, and RFLAGS.
macro_rules! host {
    ($what:literal, $modifier:literal, $a:expr, $b:expr) => {{
        let (mut a, flags): (u64, u64);
        a = $a;
        // SAFETY: arithmetic between registers, and a push and pop of the flags.
        unsafe {
            asm!(
                concat!($what, " {a", $modifier, "}, {b", $modifier, "}"),
                "pushfq",
                "pop {flags}",
                a = inout(reg_abcd) a,
                b = in(reg_abcd) $b,
                flags = lateout(reg) flags,
            );
        }
        (a, flags)
    }};
}

type Host = fn(u64, u64) -> (u64, u64);

macro_rules! hosts {
    ($($what:literal)*) => {
        [$((
            $what,
            [
                (|a, b| host!($what, ":l", a, b)) as Host,
                (|a, b| host!($what, ":x", a, b)) as Host,
                (|a, b| host!($what, ":e", a, b)) as Host,
                (|a, b| host!($what, ":r", a, b)) as Host,
            ],
        ),)*]
    };
}

const VALUES: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff_8000,
    0x7fff_ffff,
    0x8000_0000,
    u64::MAX >> 1,
    1 << 63,
    u64::MAX,
];

/// The same instruction on BL, BX, EBX, RBX and CL to RCX.
fn instruction(what: &str, width: usize) -> Fact {
    let mut all = facts(|asm| {
        macro_rules! all {
            ($($name:literal $method:ident)*) => {
                match what {
                    $($name => {
                        asm.$method(bl, cl)?;
                        asm.$method(bx, cx)?;
                        asm.$method(ebx, ecx)?;
                        asm.$method(rbx, rcx)
                    })*
                    other => panic!("{other}"),
                }
            };
        }
        all!("cmp" cmp "test" test "add" add "sub" sub "and" and "or" or "xor" xor)
    });
    all.swap_remove(width)
}

#[test]
fn recipes_make_the_flags_that_the_host_makes() {
    for (what, widths) in hosts!("cmp" "test" "add" "sub" "and" "or" "xor") {
        for (width, host) in widths.into_iter().enumerate() {
            let fact = instruction(what, width);
            let recipe = Recipe::of(&fact.ins).expect("two registers are enough");
            assert_eq!(recipe.size, 1 << width);
            let logic = matches!(what, "test" | "and" | "or" | "xor");
            let compared = if logic { DEFINED } else { DEFINED | ADJUST };
            for a in VALUES {
                for b in VALUES {
                    let (after, flags) = host(a, b);
                    let mut regs = [0x5555_5555_5555_5555; 16];
                    regs[RBX] = after;
                    regs[RCX] = b;
                    let made = recipe.evaluate(&regs, 0);
                    let wrong = (made ^ flags) & compared;
                    assert_eq!(wrong, 0, "{what} {a:#x}, {b:#x}: {made:#x}, host {flags:#x}");
                }
            }
        }
    }
}

#[test]
fn immediates_are_sign_extended() {
    let all = facts(|asm| {
        asm.cmp(rbx, -1)?;
        asm.cmp(bx, -1)?;
        asm.sub(rbx, -128)
    });
    let mut regs = [0; 16];
    regs[RBX] = u64::MAX;
    const ZERO: u64 = 0x40;
    for fact in &all[..2] {
        let recipe = Recipe::of(&fact.ins).expect("a register and an immediate");
        assert_ne!(recipe.evaluate(&regs, 0) & ZERO, 0, "{:?}", fact.ins.code());
    }
    let (after, flags) = host!("sub", ":r", 5u64, -128i64 as u64);
    regs[RBX] = after;
    let recipe = Recipe::of(&all[2].ins).expect("a register and an immediate");
    assert_eq!((recipe.evaluate(&regs, 0) ^ flags) & (DEFINED | ADJUST), 0);
}

#[test]
fn no_recipe_where_operands_are_lost() {
    let all = facts(|asm| {
        asm.add(rax, rax)?;
        asm.sub(rcx, rcx)?;
        asm.add(qword_ptr(rax), rcx)?;
        asm.add(rcx, qword_ptr(rax))?;
        asm.cmp(ah, cl)?;
        asm.cmp(cl, ah)?;
        asm.cmp(rax, rsp)?;
        asm.cmp(sp, 1)?;
        asm.adc(rax, rcx)?;
        asm.inc(rax)?;
        asm.shl(rax, 3)
    });
    for fact in all {
        assert_eq!(Recipe::of(&fact.ins), None, "{:?}", fact.ins.code());
    }
}

#[test]
fn values_read_from_memory_serve_comparisons() {
    let all = facts(|asm| {
        asm.cmp(dword_ptr(rax), ecx)?;
        asm.cmp(ecx, dword_ptr(rax))?;
        asm.test(byte_ptr(rax), 0x80)?;
        asm.cmp(qword_ptr(rax), r10)
    });
    let mut regs = [0; 16];
    regs[RCX] = 7;
    let recipe = |at: usize| Recipe::with_memory(&all[at].ins);
    const CARRY: u64 = 1;
    const SIGN: u64 = 0x80;
    let evaluate = |at: usize, kept| recipe(at).expect("it is kept").evaluate(&regs, kept);
    assert_eq!(evaluate(0, 6) & CARRY, 1);
    assert_eq!(evaluate(1, 6) & CARRY, 0);
    assert_ne!(evaluate(2, 0x80) & SIGN, 0);
    assert_eq!(recipe(3), None, "the register is not in the host's");
}

#[test]
fn recipes_end_with_their_operands_and_follow_the_stack() {
    let all = facts(|asm| {
        asm.cmp(rbx, rcx)?;
        asm.mov(rax, rbx)?;
        asm.mov(ecx, 1)?;
        asm.mov(bl, 1)?;
        asm.sub(rsp, 64)?;
        asm.push(rax)?;
        asm.push(1)?;
        asm.pop(rax)
    });
    let compare = Recipe::of(&all[0].ins).expect("two registers");
    assert_eq!(compare.after(&all[1]), Some(compare));
    assert_eq!(compare.after(&all[2]), None);
    assert_eq!(compare.after(&all[3]), None);
    let moved = Recipe::of(&all[4].ins).expect("RSP and an immediate");
    assert_eq!(moved.after(&all[0]), Some(moved));
    let pushed = moved.after(&all[5]).and_then(|recipe| recipe.after(&all[6])).expect("follows");
    assert_eq!(pushed.drift, -16);
    let popped = pushed.after(&all[7]).expect("follows");
    assert_eq!(popped.drift, -8);
    let mut regs = [0; 16];
    regs[4] = 0x1000 - 16;
    let mut before = regs;
    before[4] = 0x1000;
    assert_eq!(pushed.evaluate(&regs, 0), moved.evaluate(&before, 0));
}

#[test]
fn the_next_reader_or_maker_decides_the_fate() {
    let all = facts(|asm| {
        asm.cmp(rbx, rcx)?;
        asm.mov(rax, qword_ptr(rdx))?;
        asm.lea(rax, qword_ptr(rdx + 8))?;
        asm.inc(rax)?;
        asm.test(rax, rax)?;
        asm.mov(rbx, rax)
    });
    // INC keeps CF: it counts as a reader.
    assert_eq!(fate(&all, 1), Fate { at: 3, read: true });
    assert_eq!(fate(&all, 4), Fate { at: 4, read: false });
    assert_eq!(fate(&all, 5), Fate { at: 6, read: true });
}

#[test]
fn a_recipe_serves_until_the_last_way_out() {
    let overwritten = facts(|asm| {
        asm.cmp(rbx, rcx)?;
        asm.mov(rax, qword_ptr(rdx))?;
        asm.mov(rbx, rax)?;
        asm.test(rax, rax)
    });
    let recipe = Recipe::of(&overwritten[0].ins).expect("two registers");
    assert!(serves(recipe, &overwritten, 1), "nothing leaves after RBX has changed");
    let left = facts(|asm| {
        asm.cmp(rbx, rcx)?;
        asm.mov(rax, qword_ptr(rdx))?;
        asm.mov(rbx, rax)?;
        asm.mov(rax, qword_ptr(rdx))?;
        asm.test(rax, rax)
    });
    assert!(!serves(recipe, &left, 1), "the second access may leave");
    let read = facts(|asm| {
        asm.cmp(rbx, rcx)?;
        asm.mov(rcx, qword_ptr(rdx))?;
        asm.adc(rax, rax)
    });
    assert!(!serves(recipe, &read, 1), "its operand is lost before they are read");
}

#[test]
fn saved_flags_keep_every_status_flag() {
    for flags in 0..64u64 {
        let spread = flags & 1 | (flags & 2) << 1 | (flags & 4) << 2 | (flags & 0x18) << 3;
        let spread = spread | (flags & 0x20) << 6;
        assert_eq!(from_saved(to_saved(spread)), spread, "{spread:#x}");
    }
}

/// CMP with RSP in front of a RET that left the flags in the host's: the exit made them again from
/// RSP as it was after it.
#[test]
fn recipes_of_rsp_follow_it_wherever_the_flags_are() {
    let compare = facts(|a| a.cmp(rsp, rax));
    let recipe = Recipe::of(&compare[0].ins).expect("two registers");
    let mut regs = [0; 16];
    regs[4] = 0x1000;
    let before = recipe.evaluate(&regs, 0);
    for place in [Place::Recipe(recipe), Place::Native { recipe: Some(recipe), saved: false }] {
        let mut place = place;
        place.rsp_moved(8);
        regs[4] = 0x1008;
        let (Place::Recipe(after) | Place::Native { recipe: Some(after), .. }) = place else {
            panic!("{place:?}");
        };
        assert_eq!(after.evaluate(&regs, 0), before);
        assert_ne!(recipe.evaluate(&regs, 0), before);
    }
}

/// A poll in front of the TEST that overwrites flags left with what a check of the store before it
/// had made of the host's: LEA had ended the recipe, and nobody but the poll asked.
#[test]
fn a_recipe_serves_until_the_poll() {
    let mut block = facts(|a| {
        let mut back = a.create_label();
        a.set_label(&mut back)?;
        a.test(r14, r14)?;
        a.mov(qword_ptr(rdi), rbx)?;
        a.lea(r14, r14 - 1)?;
        a.test(rcx, rcx)?;
        a.jne(back)
    });
    let recipe = Recipe::of(&block[0].ins).expect("two registers");
    assert!(serves(recipe, &block, 1), "if nothing leaves at the second TEST");
    note_poll(&mut block, false);
    assert!(block[3].can_leave);
    assert!(!serves(recipe, &block, 1));
}
