//! What one retired instruction is, by examples (the rule stands in virt/engine): real-mode programs
//! on a bare processor, interpreted, instruction counts written down by hand.

use std::sync::Arc;

use engine::{Budget, Engine, Exit, GuestIo, ShutdownCause, Vcpu, VmConfig};
use memory::GuestMemory;
use soft::SoftEngine;
use x86::{Activity, CpuState, Flags, GuestPhys};

const CODE: u64 = 0x1000;
/// The handler of every exception.
const HANDLER: u64 = 0x2000;
const STACK: u64 = 0x8000;

struct Nothing;

impl GuestIo for Nothing {
    fn port_in(&mut self, _: u16, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn port_out(&mut self, _: u16, _: &[u8]) {}
    fn mmio_read(&mut self, _: GuestPhys, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn mmio_write(&mut self, _: GuestPhys, _: &[u8]) {}
    fn end_of_interrupt(&mut self, _: u8) {}
    fn acknowledge_pic(&mut self) -> Option<u8> {
        None
    }
}

/// A processor about to run `code`, with a handler for all exceptions, RCX and more of RFLAGS.
fn processor(code: &[u8], handler: &[u8], rcx: u64, flags: Flags) -> Box<dyn Vcpu> {
    let memory = Arc::new(GuestMemory::new(&[(GuestPhys(0), 1 << 20)]).expect("a mebibyte"));
    let put = |at: u64, bytes: &[u8]| memory.write_physical(GuestPhys(at), bytes).expect("RAM");
    for vector in 0..32 {
        put(vector * 4, &(HANDLER as u32).to_le_bytes());
    }
    put(CODE, code);
    put(HANDLER, handler);
    let config = VmConfig { memory, cpus: 1 };
    let engine = SoftEngine::new(config).expect("one processor is allowed");
    let mut vcpu = engine.create_vcpu(0).expect("the first is there");
    let mut state: CpuState = vcpu.state().expect("a stopped processor has a state");
    state.segments[1].base = 0;
    state.segments[1].selector = 0;
    state.rip = CODE;
    state.gpr[1] = rcx;
    state.gpr[4] = STACK;
    state.gpr[7] = 0x3000;
    state.idtr.limit = 0x3ff;
    state.rflags |= flags.bits();
    vcpu.set_state(&state).expect("it is a sound state");
    vcpu
}

/// How a run ends, and the counter then.
fn run(vcpu: &mut dyn Vcpu, until: Budget) -> (Exit, u64) {
    let exit = vcpu.run(&mut Nothing, until).expect("the host is sound");
    (exit, vcpu.retired().expect("the engine counts"))
}

fn rip(vcpu: &mut dyn Vcpu) -> u64 {
    vcpu.state().expect("a stopped processor has a state").rip
}

const NOP: u8 = 0x90;
const HLT: u8 = 0xf4;
const INT3: u8 = 0xcc;
const IRET: u8 = 0xcf;
const UD2: [u8; 2] = [0x0f, 0x0b];
const REP_STOSB: [u8; 2] = [0xf3, 0xaa];

#[test]
fn hlt_counts_and_a_spent_budget_does_not_wait() {
    let mut vcpu = processor(&[NOP, NOP, HLT, NOP], &[IRET], 0, Flags::IF);
    // With interrupts on it would wait for ever.
    assert_eq!(run(&mut *vcpu, Budget::Instructions(3)), (Exit::BudgetSpent, 3));
    let state = vcpu.state().expect("a state");
    assert_eq!((state.rip, state.activity), (CODE + 3, Activity::Halted));
    let mut vcpu = processor(&[NOP, NOP, HLT], &[IRET], 0, Flags::empty());
    assert_eq!(run(&mut *vcpu, Budget::Instructions(100)), (Exit::Halted, 3));
}

#[test]
fn a_repeated_string_instruction_is_one() {
    for rcx in [0, 1, 3, 40_000] {
        let mut vcpu =
            processor(&[NOP, REP_STOSB[0], REP_STOSB[1], HLT], &[IRET], rcx, Flags::empty());
        assert_eq!(run(&mut *vcpu, Budget::Instructions(2)), (Exit::BudgetSpent, 2), "{rcx}");
        let state = vcpu.state().expect("a state");
        assert_eq!((state.rip, state.gpr[1]), (CODE + 3, 0));
        assert_eq!(run(&mut *vcpu, Budget::Unlimited), (Exit::Halted, 3));
    }
}

#[test]
fn a_repetition_that_is_trapped_is_none_until_the_last() {
    let mut vcpu = processor(&REP_STOSB, &[IRET], 3, Flags::TF);
    let seen: Vec<(u64, u64)> = (0..4)
        .map(|_| {
            assert_eq!(run(&mut *vcpu, Budget::Instructions(1)).0, Exit::BudgetSpent);
            let state = vcpu.state().expect("a state");
            (state.rip, state.gpr[1])
        })
        .collect();
    // IRET after the first, IRET after the second, the whole with its trap, IRET.
    assert_eq!(seen, [(CODE, 2), (CODE, 1), (HANDLER, 0), (CODE + 2, 0)]);
}

#[test]
fn what_faults_counts_when_it_completes() {
    // DIV CL by 0; the handler: MOV CL, 1; IRET.
    let mut vcpu = processor(&[0xf6, 0xf1, HLT], &[0xb1, 1, IRET], 0, Flags::empty());
    assert_eq!(run(&mut *vcpu, Budget::Instructions(1)), (Exit::BudgetSpent, 1));
    assert_eq!(rip(&mut *vcpu), HANDLER + 2, "the handler's first is the first");
    assert_eq!(run(&mut *vcpu, Budget::Instructions(2)), (Exit::BudgetSpent, 3));
    assert_eq!(rip(&mut *vcpu), CODE + 2);
    assert_eq!(run(&mut *vcpu, Budget::Unlimited), (Exit::Halted, 4));
}

#[test]
fn a_trap_comes_behind_its_instruction() {
    let mut vcpu = processor(&[INT3, NOP, HLT], &[IRET], 0, Flags::empty());
    assert_eq!(run(&mut *vcpu, Budget::Instructions(1)), (Exit::BudgetSpent, 1));
    assert_eq!(rip(&mut *vcpu), HANDLER);
    assert_eq!(run(&mut *vcpu, Budget::Unlimited), (Exit::Halted, 4));
}

#[test]
fn nothing_counts_that_shuts_the_processor_down() {
    let mut vcpu = processor(&[NOP, UD2[0], UD2[1]], &[IRET], 0, Flags::empty());
    let mut state = vcpu.state().expect("a state");
    // No vector lies within the limit.
    state.idtr.limit = 0;
    vcpu.set_state(&state).expect("it is a sound state");
    let (exit, retired) = run(&mut *vcpu, Budget::Instructions(10));
    assert!(matches!(exit, Exit::Shutdown(ShutdownCause::TripleFault(_))), "{exit:?}");
    assert_eq!(retired, 1);
}
