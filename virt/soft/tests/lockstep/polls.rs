//! Budgets hold in loops that a superblock is always left from.

use std::sync::Arc;

use engine::{Budget, Engine, Exit, VmConfig};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use memory::GuestMemory;
use soft::SoftEngine;
use x86::GuestPhys;

use crate::handler;
use crate::layout::{self, CR3, IMAGES, Places, RAM};
use crate::random::Random;
use crate::run::{Nothing, bare, enter_user};

const IMAGE: u64 = IMAGES[0];
/// Rounds in which the inner branch is not taken: enough samples for a path.
const TRAINING: i64 = 2_000_000;
/// Rounds in which nothing else is.
const AFTERWARDS: i64 = 300_000_000;
/// Ends in the midst of those.
const BUDGET: u64 = 4 * TRAINING as u64 + 10_000_001;

/// The path goes on behind the first branch; later that branch leads back to the path's start. No
/// instruction overwrites all flags, where a look at the budget would be free.
fn program() -> Result<Vec<u8>, IcedError> {
    let mut asm = CodeAssembler::new(64)?;
    let mut head = asm.create_label();
    asm.mov(r12, TRAINING)?;
    asm.mov(ecx, 1)?;
    asm.set_label(&mut head)?;
    asm.dec(rcx)?;
    asm.jne(head)?;
    asm.mov(ecx, 1)?;
    asm.dec(r12)?;
    asm.jne(head)?;
    asm.mov(rcx, AFTERWARDS)?;
    asm.jmp(head)?;
    asm.assemble(IMAGE)
}

#[test]
fn a_path_that_is_left_for_its_own_start_looks_at_the_budget() {
    let memory = Arc::new(GuestMemory::new(&[(GuestPhys(0), RAM)]).expect("1 MiB can be had"));
    let mut random = Random::new(7);
    let places = Places::new(&mut random);
    layout::page_tables(&memory, &places, &mut random, false);
    handler::install(&memory, &places);
    places.write(&memory, 0, &program().expect("valid instructions"));
    let engine = SoftEngine::new(VmConfig { memory, cpus: 1 }).expect("one is allowed");
    let mut vcpu = engine.create_vcpu(0).expect("the first is there");
    let before = vcpu.state().expect("a stopped processor has a state");
    let mut state = bare();
    (state.lapic, state.msrs.apic_base) = (before.lapic, before.msrs.apic_base);
    enter_user(&mut state);
    state.cr3 = CR3;
    state.rip = IMAGE;
    vcpu.set_state(&state).expect("it is a sound state");
    let exit = vcpu.run(&mut Nothing, Budget::Instructions(BUDGET)).expect("a sound host");
    assert_eq!((exit, vcpu.retired()), (Exit::BudgetSpent, Some(BUDGET)));
}
