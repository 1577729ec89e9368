//! Two processors: one writes code that the other runs, and both count with atomics.
//!
//! The writer changes the immediate of `mov eax, imm32` and says so; the runner serialises by
//! CPUID, as cross-modifying code must (SDM vol. 3, 8.1.3), calls the code often enough that it is
//! translated, and must see the value that was announced, and no other.

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

fn assemble(
    offset: u64,
    body: fn(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Result<Vec<u8>, IcedError> {
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

fn cross_modify(execution: Execution) {
    let memory = Arc::new(GuestMemory::new(&[(GuestPhys(0), RAM)]).expect("1 MiB can be had"));
    let mut random = Random::new(7);
    let places = Places::new(&mut random);
    layout::page_tables(&memory, &places, &mut random, true);
    handler::install(&memory, &places);
    let programs =
        [(STARTS[0], writer as fn(&mut _) -> _), (STARTS[1], runner), (CHANGED, changed)];
    for (offset, body) in programs {
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
    let value = |offset| u32::from_le_bytes(places.read(&memory, offset));
    assert_eq!(value(SEEN), ROUNDS as u32);
    assert_eq!(value(WRONG), 0, "the runner saw values that had been replaced");
    for counter in COUNTERS {
        assert_eq!(value(counter), 2 * STEPS as u32, "counter at {counter:#x}");
    }
}

#[test]
fn code_that_another_processor_writes_is_seen() {
    cross_modify(Execution::Translate);
}
