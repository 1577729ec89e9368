//! Every emitter, read back by a decoder.

use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

use super::super::asm::{Alu, Asm, Mem, cond};

const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];
const NAMES32: [&str; 16] = [
    "eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "r8d", "r9d", "r10d", "r11d", "r12d",
    "r13d", "r14d", "r15d",
];
const NAMES16: [&str; 16] = [
    "ax", "cx", "dx", "bx", "sp", "bp", "si", "di", "r8w", "r9w", "r10w", "r11w", "r12w", "r13w",
    "r14w", "r15w",
];
const NAMES8: [&str; 16] = [
    "al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil", "r8b", "r9b", "r10b", "r11b", "r12b",
    "r13b", "r14b", "r15b",
];

/// What was emitted, as text: every byte belongs to an instruction.
fn read(bytes: &[u8]) -> String {
    let mut formatter = IntelFormatter::new();
    formatter.options_mut().set_hex_prefix("0x");
    formatter.options_mut().set_hex_suffix("");
    formatter.options_mut().set_uppercase_hex(false);
    formatter.options_mut().set_gas_show_mnemonic_size_suffix(false);
    formatter.options_mut().set_rip_relative_addresses(true);
    formatter.options_mut().set_show_branch_size(false);
    let mut lines = Vec::new();
    for ins in &mut Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE) {
        assert!(!ins.is_invalid(), "{bytes:x?}");
        let mut line = String::new();
        formatter.format(&ins, &mut line);
        lines.push(line);
    }
    lines.join("; ")
}

fn check(emit: impl FnOnce(&mut Asm), expected: &str) {
    let mut asm = Asm::default();
    emit(&mut asm);
    assert_eq!(read(&asm.bytes), expected, "{:x?}", asm.bytes);
}

#[test]
fn moves_between_all_registers() {
    for from in 0..16u8 {
        for to in 0..16u8 {
            let (a, b) = (usize::from(to), usize::from(from));
            check(|asm| asm.mov(to, from), &format!("mov {},{}", NAMES[a], NAMES[b]));
            check(|asm| asm.mov32(to, from), &format!("mov {},{}", NAMES32[a], NAMES32[b]));
            let rotated = format!("rorx {},{},0x20", NAMES[a], NAMES[b]);
            check(|asm| asm.rorx(to, from, 32), &rotated);
            let xor = format!("xor {},{}", NAMES[b], NAMES[a]);
            check(|asm| asm.rr(true, &[0x31], to, from), &xor);
        }
    }
}

#[test]
fn memory_by_every_register() {
    for base in 0..16u8 {
        let name = NAMES[usize::from(base)];
        let cases = [(0, String::new()), (8, "+8".into()), (-0x80, "-0x80".into())];
        for (disp, text) in cases.into_iter().chain([(0x1234, "+0x1234".into())]) {
            // RBP and R13 cannot go without a displacement.
            let text = if disp == 0 { String::new() } else { text };
            check(|asm| asm.load(9, Mem::Base(base, disp)), &format!("mov r9,[{name}{text}]"));
            let store = format!("mov [{name}{text}],ebp");
            check(|asm| asm.rm(false, &[0x89], 5, Mem::Base(base, disp)), &store);
            let gs = format!("mov rbx,gs:[{name}{text}]");
            check(|asm| asm.load(3, Mem::GsIndex(base, disp)), &gs);
        }
        check(
            |asm| asm.store(Mem::Gs(-0x100), base),
            &format!("mov gs:[0xffffffffffffff00],{name}"),
        );
        if base != 4 {
            let (r11, index) = (Mem::ShortTable(base, 0x1234), NAMES32[usize::from(base)]);
            check(|asm| asm.load(11, r11), &format!("mov r11,gs:[{index}*8+0x1234]"));
        }
        if base & 7 != 5 {
            check(|asm| asm.load(base, Mem::Sum(base, 11, 0)), &format!("mov {name},[{name}+r11]"));
        }
    }
}

#[test]
fn constants_in_the_shortest_form() {
    for register in 0..16u8 {
        let (wide, narrow) = (NAMES[usize::from(register)], NAMES32[usize::from(register)]);
        check(|asm| asm.constant(register, 0x1234), &format!("mov {narrow},0x1234"));
        check(|asm| asm.constant(register, 0xffff_ffff), &format!("mov {narrow},0xffffffff"));
        let negative = format!("mov {wide},0xffffffff80000000");
        check(|asm| asm.constant(register, 0xffff_ffff_8000_0000), &negative);
        let whole = format!("mov {wide},0x1234567890abcdef");
        check(|asm| asm.constant(register, 0x1234_5678_90ab_cdef), &whole);
    }
    check(|asm| asm.store_imm(Mem::Base(12, 0), -1), "mov qword ptr [r12],0xffffffffffffffff");
    check(|asm| asm.store_imm32(Mem::Base(13, 0), 1), "mov dword ptr [r13],1");
}

#[test]
fn addresses_of_every_shape() {
    for register in 0..16u8 {
        let name = NAMES[usize::from(register)];
        let based = |disp: i32| move |asm: &mut Asm| asm.lea(true, 10, Some(register), None, disp);
        check(based(0), &format!("lea r10,[{name}]"));
        check(based(-8), &format!("lea r10,[{name}-8]"));
        check(based(0x1000), &format!("lea r10,[{name}+0x1000]"));
        check(|asm| asm.add_quietly(register, 1), &format!("lea {name},[{name}+1]"));
        let indexed = format!("lea {name},[{name}+r11*4]");
        check(|asm| asm.lea(true, register, Some(register), Some((11, 2)), 0), &indexed);
        let near = format!("lea {name},[{name}+r11-1]");
        check(|asm| asm.lea(true, register, Some(register), Some((11, 0)), -1), &near);
        if register != 4 {
            let bare = format!("lea r10d,[{name}*8+0x10]");
            check(|asm| asm.lea(false, 10, None, Some((register, 3)), 16), &bare);
        }
    }
}

#[test]
fn arithmetic_on_every_register() {
    for register in 0..16u8 {
        let (wide, narrow) = (NAMES[usize::from(register)], NAMES32[usize::from(register)]);
        check(|asm| asm.shr(register, 7), &format!("shr {wide},7"));
        check(|asm| asm.shl(register, 4), &format!("shl {wide},4"));
        check(|asm| asm.sar(register, 6), &format!("sar {wide},6"));
        let and = format!("and {narrow},0x3fe0");
        check(|asm| asm.alu_imm(false, Alu::And, register, 0x3fe0), &and);
        check(|asm| asm.alu_imm(true, Alu::Xor, register, 1), &format!("xor {wide},1"));
        let cmp = format!("cmp {wide},0xff8");
        check(|asm| asm.alu_imm(true, Alu::Cmp, register, 4088), &cmp);
    }
    check(|asm| asm.cmp_mem32(Mem::GsIndex(11, 8), 0), "cmp dword ptr gs:[r11+8],0");
}

#[test]
fn operations_of_every_width() {
    let names = [(1, NAMES8), (2, NAMES16), (4, NAMES32), (8, NAMES)];
    let operations = ["add", "or", "adc", "sbb", "and", "sub", "xor", "cmp"];
    for (size, names) in names {
        for register in 0..16u8 {
            let name = names[usize::from(register)];
            for (digit, what) in (0..8u8).zip(operations) {
                let operand = names[usize::from(15 - register)];
                let text = format!("{what} {name},{operand}");
                check(|asm| asm.sized_rr(size, digit << 3, register, 15 - register), &text);
                let text = format!("{what} {name},0x12");
                check(|asm| asm.sized_imm(size, digit, register, 0x12), &text);
            }
            check(|asm| asm.test_imm(size, register, 0x21), &format!("test {name},0x21"));
            let load = format!("test gs:[0x40],{name}");
            let opcode = [0x84 | u8::from(size != 1)];
            if size != 2 {
                let place = Mem::Gs(0x40);
                check(|asm| asm.rm_byte(size == 8, size == 1, &opcode, register, place), &load);
            }
        }
    }
}

#[test]
fn jumps_land_where_they_were_told() {
    let mut asm = Asm::default();
    let forward = asm.jcc(cond::ABOVE);
    let far = asm.jmp();
    asm.mov(0, 1);
    asm.land(forward);
    asm.land_far(far, -0x10);
    assert_eq!(Asm::distance_at(far), 7);
    assert_eq!(read(&asm.bytes), "ja 0x000000000000000e; jmp 0xfffffffffffffff0; mov rax,rcx");
    check(|asm| asm.jmp_reg(10), "jmp r10");
    check(|asm| asm.jmp_mem(Mem::Gs(0x10)), "jmp qword ptr gs:[0x10]");
    check(|asm| asm.call_mem(Mem::Base(3, 8)), "call qword ptr [rbx+8]");
    check(|asm| asm.point_behind_jump(11), "lea r11,[rip+5]");
}

#[test]
fn flags_pass_through_ax() {
    check(Asm::flags_to_ax, "lahf; seto al");
    check(Asm::flags_from_ax, "add al,0x7f; sahf");
}
