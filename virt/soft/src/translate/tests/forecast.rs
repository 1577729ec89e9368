//! Where accesses will probably be.

use iced_x86::code_asm::*;
use iced_x86::{Decoder, IcedError, Instruction, Mnemonic, Register};

use super::super::emit::{Draft, Numbers, Source, Tools, translate};
use super::super::facts::{DECODING, Gates};
use super::super::forecast::{foresee, note_chains, stretch};
use super::super::stubs::Stubs;
use super::facts;
use crate::cache::layout::{WINDOWS, WINDOWS_MIDDLE, window_entry};

/// Where code out of line begins.
const COLD: u32 = 0x10_0000;
const RBX: u64 = 0x5591_0000_1000;

/// The stretches foreseen for a block with this value in RBX and 0 in the other registers, where memory
/// holds at each address that address and a stretch.
fn foreseen(body: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Vec<Option<u32>> {
    let mut facts = facts(body);
    let mut registers = [0; 16];
    registers[3] = RBX;
    foresee(&mut facts, &registers, &|linear| Some(linear + (1 << 32)));
    facts.iter().map(|fact| fact.stretch).collect()
}

#[test]
fn pointers_are_followed_through_loads() {
    let list = foreseen(|asm| {
        asm.mov(rax, qword_ptr(rbx + 8))?;
        asm.lea(rcx, qword_ptr(rax + 0x10))?;
        asm.mov(rdx, qword_ptr(rcx))?;
        asm.mov(rsi, rdx)?;
        asm.mov(qword_ptr(rsi + rdi * 8), rax)
    });
    assert_eq!(list, [Some(0x5591), None, Some(0x5592), None, Some(0x5593)]);
}

#[test]
fn what_is_not_foreseen_is_not_guessed() {
    let lost = foreseen(|asm| {
        asm.imul_2(rbx, rcx)?;
        asm.mov(rax, qword_ptr(rbx))?;
        asm.mov(rcx, qword_ptr(rax))?;
        asm.mov(edx, dword_ptr(0x1000))?;
        asm.mov(rdx, qword_ptr(0x10).fs())
    });
    assert_eq!(lost, [None; 5]);
    // An index of which nothing is known is small beside a pointer.
    let index = foreseen(|asm| {
        asm.imul_2(rcx, rdx)?;
        asm.mov(rax, qword_ptr(rbx + rcx * 8))?;
        asm.mov(rax, qword_ptr(rax))
    });
    assert_eq!(index, [None, Some(0x5591), None]);
}

#[test]
fn a_path_s_operands_are_where_their_registers_were() {
    let operand = |body: fn(&mut CodeAssembler) -> Result<(), IcedError>| {
        let mut registers = [0; 16];
        (registers[3], registers[6]) = (RBX, u64::MAX);
        stretch(&facts(body)[0].ins, &registers)
    };
    assert_eq!(operand(|asm| asm.inc(dword_ptr(rbx + rsi * 4))), Some(0x5591));
    assert_eq!(operand(|asm| asm.inc(dword_ptr(rsi * 8 - 0x1000))), Some(0xffff_ffff));
    assert_eq!(operand(|asm| asm.inc(dword_ptr(ebx))), None);
}

#[test]
fn only_addresses_out_of_memory_are_expected_somewhere() {
    let chained = |closes, body: fn(&mut CodeAssembler) -> Result<(), IcedError>| {
        let mut facts = facts(body);
        note_chains(&mut facts, closes);
        facts.iter().map(|fact| fact.is_chained).collect::<Vec<_>>()
    };
    let table = |asm: &mut CodeAssembler| {
        asm.mov(rax, qword_ptr(rbx + rcx * 8))?;
        asm.add(rax, rdx)?;
        asm.mov(rsi, qword_ptr(rax))?;
        asm.mov(eax, 5)?;
        asm.mov(rdi, qword_ptr(rax))
    };
    assert_eq!(chained(false, table), [false, false, true, false, false]);
    let list = |asm: &mut CodeAssembler| {
        asm.add(rdx, qword_ptr(rax + 8))?;
        asm.mov(rax, qword_ptr(rax))
    };
    assert_eq!(chained(false, list), [false, false]);
    assert_eq!(chained(true, list), [true, true]);
}

/// A block's code through windows, in line and out of line.
fn emitted(
    body: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> (Draft, Vec<Instruction>, Vec<Instruction>) {
    let mut asm = CodeAssembler::new(64).expect("64-bit code");
    body(&mut asm).expect("valid instructions");
    asm.ud2().expect("valid");
    let bytes = asm.assemble(0).expect("it can be encoded");
    let mut registers = [0; 16];
    registers[3] = RBX;
    let source = Source {
        bytes: &bytes,
        offset: 0,
        page: Some(0x40_0000),
        second_page: None,
        gates: Gates { windows: true, path: false, flat: false, ..Gates::ALL },
        entry: None,
        registers: Some(&registers),
        path: None,
        closes: false,
        pages: &[],
    };
    let numbers = Numbers {
        block: 0,
        first_site: 0,
        first_link: 0,
        first_slot: 0,
        place: 0,
        cold_place: COLD,
    };
    let peek = |linear| Some(linear + (1 << 32));
    let (stubs, mut tools) = (Stubs::default(), Tools::new());
    let draft = translate(&source, numbers, &stubs, &mut tools, &mut |_| true, &peek);
    let decode = |code: &[u8], at: u32| {
        Decoder::with_ip(64, code, u64::from(at), DECODING).into_iter().collect::<Vec<_>>()
    };
    let (line, cold) = (decode(&draft.code, 0), decode(&draft.cold, COLD));
    (draft, line, cold)
}

#[test]
fn a_pointer_that_was_loaded_is_compared_and_looked_up_where_it_is_elsewhere() {
    let (draft, line, cold) = emitted(|asm| {
        asm.cmp(rsi, rdi)?;
        asm.mov(rax, qword_ptr(rbx))?;
        asm.mov(rcx, qword_ptr(rax + 8))
    });
    let at = |ip: u64| {
        let at = cold.iter().position(|ins| ins.ip() == ip).expect("an instruction out of line");
        &cold[at..]
    };
    let compared = line
        .windows(4)
        .find(|code| {
            code[1].mnemonic() == Mnemonic::Cmp && code[1].op0_register() == Register::R11D
        })
        .expect("a comparison of ours");
    let [shifted, compare, branch, known] = compared else { unreachable!("four instructions") };
    assert_eq!((shifted.mnemonic(), shifted.op1_register()), (Mnemonic::Rorx, Register::RAX));
    assert_eq!(compare.immediate32(), 0x5592);
    assert_eq!(branch.mnemonic(), Mnemonic::Jne);
    assert_eq!(known.memory_displacement64() as usize, WINDOWS + window_entry(0x5592) * 8);
    // The access that follows has a site, whichever way it was come to.
    assert!(draft.traps.iter().any(|trap| u64::from(trap.0) == known.next_ip()));
    let [look_up, back, ..] = at(branch.near_branch_target()) else { unreachable!("two and more") };
    assert_eq!(look_up.memory_index(), Register::R11D);
    assert_eq!(look_up.memory_displacement32() as usize, WINDOWS_MIDDLE);
    assert_eq!(back.near_branch_target(), known.next_ip());
    // [RBX] is known early: it is looked up.
    let count = line.iter().filter(|ins| ins.memory_index() == Register::R11D).count();
    assert_eq!(count, 1);
}

#[test]
fn elements_of_tables_at_known_places_need_no_look_up() {
    let elements = |body: fn(&mut CodeAssembler) -> Result<(), IcedError>| {
        let (_, line, _) = emitted(body);
        let led = line.iter().filter(|ins| ins.memory_base() == Register::R11);
        let led = led.map(|ins| (ins.memory_index(), ins.memory_displacement64())).collect();
        let looked_up = line.iter().any(|ins| ins.memory_index() == Register::R11D);
        (led, looked_up)
    };
    let found: (Vec<_>, bool) = elements(|asm| {
        asm.movzx(ecx, al)?;
        asm.mov(rdx, qword_ptr(rcx * 8 + 0x73_af00))?;
        asm.mov(esi, 0x40_0000)?;
        asm.mov(r9, qword_ptr(rsi + 0x10))
    });
    assert_eq!(found, (vec![(Register::RCX, 0x73_af00), (Register::RSI, 0x10)], false));
    // In front of the table, or so far behind it that it may be another one.
    let (led, looked_up) = elements(|asm| {
        asm.movzx(ecx, al)?;
        asm.mov(rdx, qword_ptr(rcx - 8))?;
        asm.mov(edx, edx)?;
        asm.mov(rsi, qword_ptr(rdx * 8 + 0x73_af00))
    });
    assert_eq!((led, looked_up), (vec![], true));
}
