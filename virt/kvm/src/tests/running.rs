//! Running, stopping and failing: kicks, budgets, shutdown, processors by start-up IPI.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use engine::{Budget, Engine, EngineError, Exit, ShutdownCause, Vcpu};
use x86::cpuid::lookup;
use x86::{Activity, TableRegister};

use super::support::{Access, CODE, Recorder, hardware, machine, real_mode, run, with_x2apic};
use crate::probe::enter_long_mode;

const SPIN: [u8; 2] = [0xeb, 0xfe];

#[test]
fn a_kick_before_the_run_ends_it_at_once() {
    let Some(machine) = machine(1) else { return };
    let mut vcpu = machine.boot(&SPIN);
    vcpu.kicker().kick();
    assert_eq!(run(&mut *vcpu, &mut Recorder::default()), Exit::Interrupted);
}

#[test]
fn kicks_from_another_thread_are_never_lost() {
    let Some(machine) = machine(1) else { return };
    let mut vcpu = machine.boot(&SPIN);
    let kick = vcpu.kicker();
    let rounds = if hardware() { 2000 } else { 300 };
    let (ask, asked) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // Somewhere around the entry into the guest, earlier or later each time.
            for (round, ()) in asked.iter().enumerate() {
                for _ in 0..(round * 37) % 4000 {
                    std::hint::spin_loop();
                }
                kick.kick();
            }
        });
        for _ in 0..rounds {
            ask.send(()).unwrap();
            let exit = vcpu.run(&mut Recorder::default(), Budget::Unlimited).unwrap();
            assert_eq!(exit, Exit::Interrupted);
        }
        drop(ask);
    });
    assert_eq!(vcpu.state().unwrap().rip, CODE);
}

#[test]
fn a_kick_ends_a_halt() {
    let Some(machine) = machine(1) else { return };
    let mut vcpu = machine.boot(&[0xfb, 0xf4, 0xeb, 0xfd]);
    let kick = vcpu.kicker();
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(60));
        kick.kick();
    });
    assert_eq!(run(&mut *vcpu, &mut Recorder::default()), Exit::Interrupted);
    stopper.join().unwrap();
    let state = vcpu.state().unwrap();
    assert_eq!((state.activity, state.rip), (Activity::Halted, CODE + 2));
}

#[test]
fn a_vcpu_runs_on_whatever_thread_has_it() {
    let Some(machine) = machine(1) else { return };
    let mut vcpu = machine.boot(&[0xe6, 0x80, 0xeb, 0xfc]);
    for round in 1..4 {
        let mut io = Recorder { stop: Some((0x80, vcpu.kicker())), ..Recorder::default() };
        vcpu = std::thread::spawn(move || {
            assert_eq!(run(&mut *vcpu, &mut io), Exit::Interrupted, "round {round}");
            vcpu
        })
        .join()
        .unwrap();
    }
}

#[test]
fn budgets_other_than_one_are_refused() {
    let Some(machine) = machine(1) else { return };
    let mut vcpu = machine.boot(&SPIN);
    let mut io = Recorder::default();
    assert!(!machine.engine.capabilities().instruction_budget);
    let none = vcpu.run(&mut io, Budget::Instructions(0)).unwrap();
    assert_eq!(none, Exit::BudgetSpent);
    let many = vcpu.run(&mut io, Budget::Instructions(2));
    assert!(matches!(many, Err(EngineError::Unsupported { .. })));
}

#[test]
fn each_index_once() {
    let Some(machine) = machine(2) else { return };
    assert!(machine.engine.create_vcpu(1).is_ok());
    assert!(machine.engine.create_vcpu(1).is_err());
    assert!(machine.engine.create_vcpu(2).is_err());
    assert!(machine.engine.create_vcpu(0).is_ok());
}

#[test]
fn a_triple_fault_shuts_down_until_the_state_is_replaced() {
    let Some(machine) = machine(1) else { return };
    let mut vcpu = machine.boot(&[0x0f, 0x0b]);
    let mut state = real_mode(CODE);
    enter_long_mode(&mut state, &machine.memory);
    machine.write(0x8000, &[0x0f, 0x0b]);
    state.rip = 0x8000;
    state.idtr = TableRegister::default();
    vcpu.set_state(&state).unwrap();
    let mut io = Recorder::default();
    let shutdown = Exit::Shutdown(ShutdownCause::TripleFault(None));
    assert_eq!(run(&mut *vcpu, &mut io), shutdown);
    assert_eq!(run(&mut *vcpu, &mut io), shutdown);
    assert_eq!(vcpu.state().unwrap().activity, Activity::Shutdown);
    machine.write(CODE, &[0xfa, 0xf4]);
    vcpu.set_state(&real_mode(CODE)).unwrap();
    assert_eq!(run(&mut *vcpu, &mut io), Exit::Halted);
}

#[test]
fn the_guest_sees_the_table_that_the_engine_shows() {
    let Some(machine) = machine(3) else { return };
    // mov eax, 1; cpuid; out 0x80, al; the other two processors never run, so no dead halt.
    let mut vcpu = machine.boot(&[0x66, 0xb8, 1, 0, 0, 0, 0x0f, 0xa2, 0xe6, 0x80]);
    let mut io = Recorder { stop: Some((0x80, vcpu.kicker())), ..Recorder::default() };
    assert_eq!(run(&mut *vcpu, &mut io), Exit::Interrupted);
    let state = vcpu.state().unwrap();
    let table = machine.engine.cpuid();
    let one = lookup(table, 1, 0);
    assert_eq!(state.gpr[0] as u32, one.eax);
    assert_eq!(state.gpr[3] as u32, one.ebx);
    assert_eq!(one.ecx & (1 << 5 | 1 << 21 | 1 << 31), 1 << 21 | 1 << 31, "x2APIC, no VMX");
    if hardware() {
        // Elsewhere the feature bits may be the host's own.
        assert_eq!((state.gpr[1] as u32, state.gpr[2] as u32), (one.ecx, one.edx));
    }
    assert_eq!(one.ebx >> 16 & 0xff, 3);
    assert!(lookup(table, 0xd, 0).ecx <= 4096);
    let khz = machine.engine.capabilities().tsc_khz;
    assert_eq!(lookup(table, 0x4000_0010, 0).eax, khz);
    assert!(khz > 100_000, "{khz} kHz");
}

/// Sends INIT and a start-up IPI for page 2 to APIC id 1 through the x2APIC's ICR.
#[rustfmt::skip]
const START_SECOND: &[u8] = &[
    0x66, 0xb9, 0x30, 0x08, 0x00, 0x00,       // mov ecx, 0x830
    0x66, 0xba, 0x01, 0x00, 0x00, 0x00,       // mov edx, 1
    0x66, 0xb8, 0x00, 0x45, 0x00, 0x00,       // mov eax, 0x4500
    0x0f, 0x30,                               // wrmsr
    0x66, 0xb8, 0x02, 0x46, 0x00, 0x00,       // mov eax, 0x4602
    0x0f, 0x30,                               // wrmsr
    0xf3, 0x90,                               // pause
    0x80, 0x3e, 0x00, 0x30, 0x01,             // cmp byte [0x3000], 1
    0x75, 0xf7,                               // jne -9
    0xe6, 0x90,                               // out 0x90, al
    0xfa, 0xf4,                               // cli; hlt
];

#[test]
fn a_second_processor_starts_and_a_dead_pair_is_noticed() {
    let Some(machine) = machine(2) else { return };
    machine.write(CODE, START_SECOND);
    // inc byte [0x3000] by linear address 0x3000: DS is 0 after INIT; out 0x91, al; cli; hlt
    machine.write(0x2000, &[0xfe, 0x06, 0x00, 0x30, 0xe6, 0x91, 0xfa, 0xf4]);
    let mut first = machine.engine.create_vcpu(0).unwrap();
    first.set_state(&with_x2apic(real_mode(CODE), 0)).unwrap();
    let mut second = machine.engine.create_vcpu(1).unwrap();
    assert_eq!(second.state().unwrap().activity, Activity::WaitForSipi);
    let over = Arc::new(AtomicBool::new(false));
    let kick = second.kicker();
    let application = {
        let over = over.clone();
        std::thread::spawn(move || {
            let mut io = Recorder::default();
            while !over.load(Ordering::SeqCst) {
                second.run(&mut io, Budget::Unlimited).unwrap();
            }
            (io.trace, second.state().unwrap())
        })
    };
    let mut io = Recorder::default();
    let begun = Instant::now();
    assert_eq!(run(&mut *first, &mut io), Exit::Halted);
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(io.trace.len(), 1);
    over.store(true, Ordering::SeqCst);
    kick.kick();
    let (trace, state) = application.join().unwrap();
    assert_eq!(trace, [Access::Out(0x91, vec![0])]);
    assert_eq!((state.activity, state.rip, state.segments[1].base), (Activity::Halted, 8, 0x2000));
}

#[test]
fn compare_and_exchange_of_sixteen_bytes_in_kernel_mode() {
    if !hardware() {
        return;
    }
    assert!(crate::probe().is_hardware());
}

#[test]
fn a_failing_host_is_an_error_with_its_words() {
    let Some(machine) = machine(1) else { return };
    if hardware() {
        println!("skipped: this host emulates nothing");
        return;
    }
    let mut vcpu = machine.boot(&SPIN);
    let mut state = real_mode(CODE);
    enter_long_mode(&mut state, &machine.memory);
    // lock cmpxchg16b [0x9000]
    machine.write(0x8000, &[0xf0, 0x48, 0x0f, 0xc7, 0x0c, 0x25, 0, 0x90, 0, 0, 0xf4]);
    state.rip = 0x8000;
    vcpu.set_state(&state).unwrap();
    match vcpu.run(&mut Recorder::default(), Budget::Unlimited) {
        Err(EngineError::Internal { rip, reason }) => {
            assert_eq!(rip, 0x8000);
            assert!(reason.contains("cannot emulate"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

fn _vcpus_move_between_threads(vcpu: Box<dyn Vcpu>) -> impl Send {
    vcpu
}
