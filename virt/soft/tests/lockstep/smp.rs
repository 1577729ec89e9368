//! Two processors: one writes code that the other runs, and both count with atomics.
//!
//! The writer changes the immediate of `mov eax, imm32` and says so; the runner serialises by
//! CPUID, as cross-modifying code must (SDM vol. 3, 8.1.3), calls the code often enough that it is
//! translated, and must see the value that was announced, and no other.
//!
//! Two variations: a writer that never waits, so that its stores meet every moment of decoding (the
//! runner must never see less than what was announced before it serialised), and a runner that
//! stays in the changed code without serialising and must leave it all the same.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{Budget, Engine, Exit, Kick, Vcpu, VmConfig};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use memory::GuestMemory;
use soft::{Execution, SoftEngine, SoftOptions};
use x86::{Activity, GuestPhys};

use crate::handler;
use crate::layout::{self, CR3, DATA, IMAGES, PAGE, Places, RAM};
use crate::random::Random;
use crate::run::{Nothing, bare};

/// Values the changed code goes through.
const ROUNDS: i32 = 150;
/// Calls of the code for each.
const CALLS: i32 = 12;
/// Calls while the writer does not wait.
const DOUBTS: i32 = 2000;
/// What each processor adds to the counters.
const STEPS: i32 = 20_000;
const TIMEOUT: Duration = Duration::from_secs(120);

const IMAGE: u64 = IMAGES[0];
/// Offsets of the changed code and of each processor's start.
const CHANGED: u64 = 2 * PAGE + 0x123;
const STARTS: [u64; 2] = [0, PAGE];
/// Shared variables, each in a cache line of its own.
const ANNOUNCED: u64 = DATA;
const SEEN: u64 = DATA + 64;
const WRONG: u64 = DATA + 128;
const COUNTERS: [u64; 5] = [DATA + 192, DATA + 256, DATA + 320, DATA + 384, DATA + PAGE + 62];
const LOCK: u64 = DATA + 512;

fn at(offset: u64) -> AsmMemoryOperand {
    ptr(IMAGE + offset)
}

/// Counts both processors do at once, each in another atomic way.
fn count(asm: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut again = asm.create_label();
    let (mut retry, mut taken) = (asm.create_label(), asm.create_label());
    asm.mov(ecx, STEPS)?;
    asm.set_label(&mut again)?;
    asm.lock().inc(dword_ptr(at(COUNTERS[0])))?;
    asm.mov(eax, 1)?;
    asm.lock().xadd(at(COUNTERS[1]), eax)?;
    asm.mov(eax, dword_ptr(at(COUNTERS[2])))?;
    asm.set_label(&mut retry)?;
    asm.lea(edx, dword_ptr(eax + 1))?;
    asm.lock().cmpxchg(at(COUNTERS[2]), edx)?;
    asm.jne(retry)?;
    asm.set_label(&mut taken)?;
    asm.mov(eax, 1)?;
    asm.xchg(at(LOCK), eax)?;
    asm.test(eax, eax)?;
    asm.jne(taken)?;
    asm.inc(dword_ptr(at(COUNTERS[3])))?;
    asm.mov(dword_ptr(at(LOCK)), 0)?;
    // Across a cache line.
    asm.lock().add(qword_ptr(at(COUNTERS[4])), 1)?;
    asm.dec(ecx)?;
    asm.jne(again)
}

/// Announces every value, once the one before was seen.
fn writer(asm: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut next, mut wait) = (asm.create_label(), asm.create_label());
    asm.mov(ebx, 1)?;
    asm.set_label(&mut next)?;
    asm.mov(dword_ptr(at(CHANGED + 1)), ebx)?;
    asm.mov(dword_ptr(at(ANNOUNCED)), ebx)?;
    asm.set_label(&mut wait)?;
    asm.pause()?;
    asm.cmp(dword_ptr(at(SEEN)), ebx)?;
    asm.jne(wait)?;
    asm.inc(ebx)?;
    asm.cmp(ebx, ROUNDS)?;
    asm.jbe(next)?;
    count(asm)?;
    asm.hlt()
}

/// Calls the code whenever a new value was announced.
fn runner(asm: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut next = asm.create_label();
    let (mut call, mut right) = (asm.create_label(), asm.create_label());
    asm.mov(esi, 1)?;
    asm.set_label(&mut next)?;
    asm.pause()?;
    asm.cmp(dword_ptr(at(ANNOUNCED)), esi)?;
    asm.jne(next)?;
    asm.xor(eax, eax)?;
    asm.cpuid()?;
    asm.mov(edi, CALLS)?;
    asm.set_label(&mut call)?;
    asm.call(IMAGE + CHANGED)?;
    asm.cmp(eax, esi)?;
    asm.je(right)?;
    asm.inc(dword_ptr(at(WRONG)))?;
    asm.set_label(&mut right)?;
    asm.dec(edi)?;
    asm.jne(call)?;
    asm.mov(dword_ptr(at(SEEN)), esi)?;
    asm.inc(esi)?;
    asm.cmp(esi, ROUNDS)?;
    asm.jbe(next)?;
    count(asm)?;
    asm.hlt()
}

/// Announces one value after another, without waiting, until the runner has seen enough.
fn restless_writer(asm: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut next = asm.create_label();
    asm.xor(ebx, ebx)?;
    asm.set_label(&mut next)?;
    asm.inc(ebx)?;
    asm.mov(dword_ptr(at(CHANGED + 1)), ebx)?;
    asm.mov(dword_ptr(at(ANNOUNCED)), ebx)?;
    asm.cmp(dword_ptr(at(SEEN)), ROUNDS)?;
    asm.jne(next)?;
    asm.hlt()
}

/// Whatever it calls must be at least as new as what was announced before it serialised.
fn doubting_runner(asm: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut next, mut right) = (asm.create_label(), asm.create_label());
    asm.xor(edi, edi)?;
    asm.set_label(&mut next)?;
    asm.mov(esi, dword_ptr(at(ANNOUNCED)))?;
    asm.xor(eax, eax)?;
    asm.cpuid()?;
    asm.call(IMAGE + CHANGED)?;
    asm.cmp(eax, esi)?;
    asm.jae(right)?;
    asm.inc(dword_ptr(at(WRONG)))?;
    asm.set_label(&mut right)?;
    asm.inc(edi)?;
    asm.cmp(edi, DOUBTS)?;
    asm.jb(next)?;
    asm.mov(dword_ptr(at(SEEN)), ROUNDS)?;
    asm.hlt()
}

/// Changes an endless loop into one that ends, and back, whenever the runner is in it.
fn releasing_writer(asm: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut next, mut left) = (asm.create_label(), asm.create_label());
    asm.mov(ebx, 1)?;
    asm.set_label(&mut next)?;
    asm.pause()?;
    asm.cmp(dword_ptr(at(ANNOUNCED)), ebx)?;
    asm.jne(next)?;
    // RET; then wait until it was reached.
    asm.mov(byte_ptr(at(CHANGED)), 0xc3)?;
    asm.set_label(&mut left)?;
    asm.pause()?;
    asm.cmp(dword_ptr(at(SEEN)), ebx)?;
    asm.jne(left)?;
    asm.mov(byte_ptr(at(CHANGED)), 0xeb)?;
    asm.mov(dword_ptr(at(LOCK)), ebx)?;
    asm.inc(ebx)?;
    asm.cmp(ebx, ROUNDS)?;
    asm.jbe(next)?;
    asm.hlt()
}

/// Enters the endless loop again and again.
fn trapped_runner(asm: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut next, mut wait) = (asm.create_label(), asm.create_label());
    asm.mov(esi, 1)?;
    asm.set_label(&mut next)?;
    asm.mov(dword_ptr(at(ANNOUNCED)), esi)?;
    asm.call(IMAGE + CHANGED)?;
    asm.mov(dword_ptr(at(SEEN)), esi)?;
    asm.set_label(&mut wait)?;
    asm.pause()?;
    asm.cmp(dword_ptr(at(LOCK)), esi)?;
    asm.jne(wait)?;
    asm.xor(eax, eax)?;
    asm.cpuid()?;
    asm.inc(esi)?;
    asm.cmp(esi, ROUNDS)?;
    asm.jbe(next)?;
    asm.hlt()
}

fn endless(asm: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut here = asm.create_label();
    asm.set_label(&mut here)?;
    asm.jmp(here)
}

type Body = fn(&mut CodeAssembler) -> Result<(), IcedError>;

fn assemble(offset: u64, body: Body) -> Result<Vec<u8>, IcedError> {
    let mut asm = CodeAssembler::new(64)?;
    body(&mut asm)?;
    asm.assemble(IMAGE + offset)
}

fn changed(asm: &mut CodeAssembler) -> Result<(), IcedError> {
    asm.mov(eax, 0)?;
    asm.ret()
}

/// Runs a processor until it has halted; whoever halts last ends the others' wait.
fn run(mut vcpu: Box<dyn Vcpu>, kickers: &[Arc<dyn Kick>]) {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let exit = vcpu.run(&mut Nothing, Budget::Instructions(5_000_000)).expect("a sound host");
        match exit {
            Exit::Halted => return kickers.iter().for_each(|kicker| kicker.kick()),
            Exit::Interrupted => {
                let state = vcpu.state().expect("a stopped processor has a state");
                assert_eq!(state.activity, Activity::Halted, "kicked while it runs");
                return;
            }
            Exit::BudgetSpent => {}
            other => panic!("{other:?}"),
        }
        assert!(Instant::now() < deadline, "the processors wait for each other");
    }
}

/// Runs both; returns how to read what they left.
fn cross_modify(execution: Execution, bodies: [Body; 3]) -> impl Fn(u64) -> u32 {
    let memory = Arc::new(GuestMemory::new(&[(GuestPhys(0), RAM)]).expect("1 MiB can be had"));
    let mut random = Random::new(7);
    let places = Places::new(&mut random);
    layout::page_tables(&memory, &places, &mut random, true);
    handler::install(&memory, &places);
    for (offset, body) in [STARTS[0], STARTS[1], CHANGED].into_iter().zip(bodies) {
        places.write(&memory, offset, &assemble(offset, body).expect("valid instructions"));
    }
    let config = VmConfig { memory: memory.clone(), cpus: 2 };
    let options = SoftOptions { execution, ..SoftOptions::default() };
    let engine = SoftEngine::with_options(config, options).expect("two processors are allowed");
    let vcpus: Vec<_> = (0..2)
        .map(|index| {
            let mut vcpu = engine.create_vcpu(index).expect("there are two");
            let mut state = vcpu.state().expect("a stopped processor has a state");
            let (lapic, apic_base) = (state.lapic.clone(), state.msrs.apic_base);
            state = bare();
            (state.lapic, state.msrs.apic_base) = (lapic, apic_base);
            state.cr3 = CR3;
            state.rip = IMAGE + STARTS[index as usize];
            state.gpr[4] = IMAGE + layout::STACK + (u64::from(index) + 1) * PAGE;
            vcpu.set_state(&state).expect("it is a sound state");
            vcpu
        })
        .collect();
    let kickers: Vec<_> = vcpus.iter().map(|vcpu| vcpu.kicker()).collect();
    std::thread::scope(|scope| {
        for vcpu in vcpus {
            let kickers = &kickers;
            scope.spawn(move || run(vcpu, kickers));
        }
    });
    move |offset| u32::from_le_bytes(places.read(&memory, offset))
}

#[test]
fn code_that_another_processor_writes_is_seen() {
    let value = cross_modify(Execution::Translate, [writer, runner, changed]);
    assert_eq!(value(SEEN), ROUNDS as u32);
    assert_eq!(value(WRONG), 0, "the runner saw values that had been replaced");
    for counter in COUNTERS {
        assert_eq!(value(counter), 2 * STEPS as u32, "counter at {counter:#x}");
    }
}

#[test]
fn no_store_goes_unseen_while_its_page_is_decoded() {
    for execution in [Execution::Translate, Execution::Interpret] {
        let value = cross_modify(execution, [restless_writer, doubting_runner, changed]);
        assert_eq!(value(SEEN), ROUNDS as u32);
        assert_eq!(value(WRONG), 0, "{execution:?}: older than what had been announced");
    }
}

#[test]
fn a_loop_is_left_when_another_processor_changes_it() {
    for execution in [Execution::Translate, Execution::Interpret] {
        let value = cross_modify(execution, [releasing_writer, trapped_runner, endless]);
        assert_eq!(value(SEEN), ROUNDS as u32, "{execution:?}");
    }
}
