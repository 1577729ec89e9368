//! Ends told apart; pausing, looking, stopping.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use engine::{EngineError, Exit, GuestIo, ShutdownCause};
use x86::Exception;

use super::{LIMIT, eventually};
use crate::fake::{Ports, Program, Step, machine, once};
use crate::{Machine, MachineConfig, MachineError, Outcome, ResetSource};

fn end_of(program: Program) -> Outcome {
    let (_, mut machine) = machine(vec![program], MachineConfig::default());
    machine.start().expect("starts");
    machine.wait(Some(LIMIT)).expect("ends")
}

fn end_of_writes(writes: &'static [(u16, u8)]) -> Outcome {
    end_of(once(move |io| writes.iter().for_each(|&(port, value)| io.outb(port, value))))
}

fn reset_by(outcome: &Outcome) -> Option<ResetSource> {
    if let Outcome::Reset { by } = outcome { Some(*by) } else { None }
}

#[test]
fn power_off_by_acpi() {
    let outcome = end_of(once(|io| io.outw(0x604, 5 << 10 | 1 << 13)));
    assert!(matches!(outcome, Outcome::PowerOff), "{outcome}");
}

#[test]
fn four_ways_to_reset() {
    let keyboard = Some(ResetSource::KeyboardController);
    assert_eq!(reset_by(&end_of_writes(&[(0x64, 0xfe)])), keyboard);
    assert_eq!(reset_by(&end_of_writes(&[(0x64, 0xd1), (0x60, 0xfe)])), keyboard);
    assert_eq!(reset_by(&end_of_writes(&[(0x92, 1)])), Some(ResetSource::PortA));
    let writes = &[(0xcf9, 2), (0xcf9, 6)];
    assert_eq!(reset_by(&end_of_writes(writes)), Some(ResetSource::ResetControl));
}

#[test]
fn debug_exit_and_panic() {
    let outcome = end_of(once(|io| io.outd(0xf4, 5)));
    assert!(matches!(outcome, Outcome::DebugExit(11)), "{outcome}");
    assert!(matches!(end_of_writes(&[(0xf4, 0)]), Outcome::DebugExit(1)));
    assert!(matches!(end_of_writes(&[(0x505, 2), (0x505, 1)]), Outcome::Panic));
}

fn leaving(exit: impl Fn() -> Result<Exit, EngineError> + Send + 'static) -> Outcome {
    end_of(Box::new(move |_: &mut dyn GuestIo| Step::Leave(exit())))
}

#[test]
fn ends_that_engines_report() {
    let shutdown = ShutdownCause::TripleFault(Some(Exception::GP0));
    match leaving(move || Ok(Exit::Shutdown(shutdown))) {
        Outcome::TripleFault { cpu: 0, exception: Some(Exception::GP0), summary } => {
            assert!(summary.contains("RIP f000:"), "{summary}");
        }
        other => panic!("{other}"),
    }
    assert!(matches!(leaving(|| Ok(Exit::Halted)), Outcome::Halted));
    match leaving(|| Ok(Exit::Unsupported { rip: 7, bytes: [0x0f; 15], length: 2 })) {
        Outcome::Unsupported { rip: 7, bytes, .. } => assert_eq!(bytes, [0x0f; 2]),
        other => panic!("{other}"),
    }
    let failed = leaving(|| Err(EngineError::Internal { rip: 1, reason: "broken".into() }));
    assert!(matches!(failed, Outcome::EngineFailed { cpu: 0, .. }));
    assert!(failed.to_string().contains("broken"));
}

#[test]
fn a_panicking_engine_is_an_outcome() {
    match end_of(Box::new(|_: &mut dyn GuestIo| panic!("engine bug"))) {
        Outcome::EngineFailed { error, .. } => assert!(error.to_string().contains("engine bug")),
        other => panic!("{other}"),
    }
}

#[test]
fn the_first_end_counts_and_is_told_once() {
    let told = Arc::new(AtomicU32::new(0));
    let count = told.clone();
    let config = MachineConfig {
        on_end: Some(Box::new(move |outcome| {
            assert!(matches!(outcome, Outcome::DebugExit(3)));
            count.fetch_add(1, Ordering::Relaxed);
        })),
        ..MachineConfig::default()
    };
    let program = once(|io| {
        io.outb(0xf4, 1);
        io.outb(0x64, 0xfe);
    });
    let (_, mut machine) = machine(vec![program, once(|_| {})], config);
    machine.start().expect("starts");
    assert!(matches!(machine.wait(Some(LIMIT)), Some(Outcome::DebugExit(3))));
    assert!(matches!(machine.stop(), Outcome::DebugExit(3)));
    assert_eq!(told.load(Ordering::Relaxed), 1);
}

#[test]
fn stopping_and_dropping_never_hang() {
    let start = Instant::now();
    let spin = || -> Program { Box::new(|_: &mut dyn GuestIo| Step::Again) };
    let (_, mut running) = machine(vec![spin(), once(|_| {}), spin()], MachineConfig::default());
    running.start().expect("starts");
    assert!(running.wait(Some(Duration::from_millis(5))).is_none());
    assert!(matches!(running.stop(), Outcome::Stopped));
    assert!(matches!(running.stop(), Outcome::Stopped));
    let (_, mut dropped) = machine(vec![spin()], MachineConfig::default());
    dropped.start().expect("starts");
    drop(dropped);
    drop(machine(vec![spin()], MachineConfig::default()));
    assert!(start.elapsed() < LIMIT);
}

#[test]
fn pausing_stops_every_processor() {
    let count = Arc::new(AtomicU32::new(0));
    let counter = |count: &Arc<AtomicU32>| -> Program {
        let count = count.clone();
        Box::new(move |_: &mut dyn GuestIo| {
            count.fetch_add(1, Ordering::Relaxed);
            Step::Again
        })
    };
    let programs = vec![counter(&count), counter(&count), once(|_| {})];
    let (_, mut machine) = machine(programs, MachineConfig::default());
    assert!(matches!(machine.pause(), Err(MachineError::NotStarted)));
    machine.start().expect("starts");
    machine.pause().expect("they stop");
    let before = count.load(Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(count.load(Ordering::Relaxed), before);
    let states = machine.cpu_states().expect("still paused");
    assert!(states.iter().all(Option::is_some));
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(count.load(Ordering::Relaxed), before, "looking does not resume");
    machine.resume();
    eventually("they go on", || count.load(Ordering::Relaxed) > before);
    let states = machine.cpu_states().expect("a look while running");
    assert_eq!(states.len(), 3);
    machine.pause().expect("they stop again");
    assert!(matches!(machine.stop(), Outcome::Stopped), "a paused machine stops too");
}

#[test]
fn states_are_there_after_the_end() {
    let (_, mut machine) =
        machine(vec![once(|io| io.outb(0xf4, 0)), once(|_| {})], MachineConfig::default());
    machine.start().expect("starts");
    machine.wait(Some(LIMIT)).expect("ends");
    let states = machine.cpu_states().expect("it is over");
    assert!(states.iter().all(Option::is_some));
    assert!(matches!(machine.start(), Err(MachineError::Started)));
}

#[test]
fn unsound_machines_are_refused() {
    let engine = crate::fake::FakeEngine::new(vec![]);
    let runs = [(x86::GuestPhys(0), 0x1000), (x86::GuestPhys(0x2000), 0x1000)];
    let memory = Arc::new(memory::GuestMemory::new(&runs).expect("two pages"));
    let config = || MachineConfig { cpus: 0, ..MachineConfig::default() };
    let refused = Machine::new(engine.clone(), memory.clone(), config());
    assert!(matches!(refused, Err(MachineError::Cpus { cpus: 0 })));
    let refused = Machine::new(engine, memory, MachineConfig::default());
    assert!(matches!(refused, Err(MachineError::Layout)));
}
