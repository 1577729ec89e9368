//! The harness itself: on an engine that replays a script, it sees every way to be wrong.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use engine::{
    Budget, Capabilities, Engine, EngineError, Exit, GuestIo, Kick, MsiMessage, ShutdownCause,
    Vcpu, VmConfig,
};
use payloads::{Access, Action, Direction, End, Fact, Feature, Payload, Start, ports};
use x86::cpuid::CpuidEntry;
use x86::{CpuState, GuestPhys};

use crate::exceptions::{self, Exception, Host};
use crate::{Ended, Outcome, RunError, compare, run, verify};

/// What the scripted processor does next.
#[derive(Clone, Debug)]
enum Step {
    Out(u16, u8),
    Read(u64),
    Store(u64, u64),
    Return(Exit),
    /// Waits for a kick.
    Wait,
}

struct Scripted {
    steps: Vec<Vec<Step>>,
    config: VmConfig,
    capabilities: Capabilities,
    messages: Mutex<Vec<MsiMessage>>,
}

struct ScriptedVcpu {
    steps: VecDeque<Step>,
    config: VmConfig,
    state: CpuState,
    kicked: Arc<Kicked>,
}

#[derive(Default)]
struct Kicked(AtomicBool);

impl Kick for Kicked {
    fn kick(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Engine for Scripted {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn cpuid(&self) -> &[CpuidEntry] {
        &[]
    }

    fn create_vcpu(&self, index: u32) -> Result<Box<dyn Vcpu>, EngineError> {
        let steps = self.steps.get(index as usize).cloned().unwrap_or_default();
        Ok(Box::new(ScriptedVcpu {
            steps: steps.into(),
            config: self.config.clone(),
            state: CpuState::reset(index),
            kicked: Arc::default(),
        }))
    }

    fn signal_msi(&self, message: MsiMessage) -> Result<(), EngineError> {
        self.messages.lock().unwrap().push(message);
        Ok(())
    }

    fn set_pic_output(&self, _high: bool) {}

    fn inject_nmi(&self, _index: u32) -> Result<(), EngineError> {
        Err(EngineError::Unsupported { engine: "scripted", what: "NMI" })
    }
}

impl Vcpu for ScriptedVcpu {
    fn run(&mut self, io: &mut dyn GuestIo, _until: Budget) -> Result<Exit, EngineError> {
        loop {
            if self.kicked.0.swap(false, Ordering::AcqRel) {
                return Ok(Exit::Interrupted);
            }
            match self.steps.pop_front() {
                Some(Step::Out(port, value)) => io.port_out(port, &[value]),
                Some(Step::Read(address)) => {
                    let mut data = [0; 4];
                    io.mmio_read(GuestPhys(address), &mut data);
                    self.state.gpr[0] = u32::from_le_bytes(data).into();
                }
                Some(Step::Store(address, value)) => self
                    .config
                    .memory
                    .write_physical(GuestPhys(address), &value.to_le_bytes())
                    .expect("tests store to RAM"),
                Some(Step::Return(exit)) => return Ok(exit),
                Some(Step::Wait) | None => std::thread::yield_now(),
            }
        }
    }

    fn state(&mut self) -> Result<CpuState, EngineError> {
        Ok(self.state.clone())
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), EngineError> {
        self.state = state.clone();
        Ok(())
    }

    fn retired(&self) -> Option<u64> {
        None
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        self.kicked.clone()
    }
}

fn payload(cpus: u32) -> Payload {
    Payload {
        name: "test::scripted",
        description: "",
        segments: Vec::new(),
        start: Start::Real { segment: 0, offset: 0 },
        memory_bytes: 0x1000,
        cpus,
        needs: Vec::new(),
        actions: Vec::new(),
        traces: vec![vec![out(0x80, 7), out(ports::EXIT, 0)]],
        facts: Vec::new(),
        end: End::Exit(0),
    }
}

fn out(port: u16, value: u8) -> Access {
    let direction = Direction::PortOut;
    Access { direction, address: port.into(), width: 1, value: value.into() }
}

fn outcome(payload: &Payload, steps: &[Vec<Step>]) -> Result<Outcome, RunError> {
    let factory = |config: VmConfig| -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(Scripted {
            steps: steps.to_vec(),
            config,
            capabilities: Capabilities { name: "scripted", tsc_khz: 1, instruction_budget: false },
            messages: Mutex::default(),
        }))
    };
    run(payload, &factory).map(|outcome| outcome.expect("no feature is needed"))
}

fn good() -> Vec<Step> {
    vec![Step::Out(0x80, 7), Step::Out(ports::EXIT, 0)]
}

#[test]
fn a_run_as_expected_has_no_complaints() {
    let payload = payload(1);
    let outcome = outcome(&payload, &[good()]).unwrap();
    assert_eq!(outcome.ended, Ended::Exit(0));
    assert_eq!(verify(&payload, &outcome, None), Vec::<String>::new());
}

#[test]
fn wrong_values_missing_and_extra_accesses_are_seen() {
    let payload = payload(1);
    for steps in [
        vec![Step::Out(0x80, 8), Step::Out(ports::EXIT, 0)],
        vec![Step::Out(ports::EXIT, 0)],
        vec![Step::Out(0x80, 7), Step::Out(0x80, 7), Step::Out(ports::EXIT, 0)],
        vec![Step::Out(0x80, 7), Step::Read(0xd000_0000), Step::Out(ports::EXIT, 0)],
    ] {
        let outcome = outcome(&payload, &[steps]).unwrap();
        let wrong = verify(&payload, &outcome, None);
        assert!(wrong.len() == 1 && wrong[0].starts_with("vCPU 0, access"), "{wrong:?}");
    }
}

#[test]
fn another_end_is_seen() {
    let payload = payload(1);
    let ends = [
        (Step::Out(ports::EXIT, 3), Ended::Exit(3)),
        (Step::Return(Exit::Halted), Ended::Halted),
        (Step::Return(Exit::Shutdown(ShutdownCause::TripleFault(None))), Ended::Shutdown),
        (
            Step::Return(Exit::Unsupported { rip: 1, bytes: [9; 15], length: 2 }),
            Ended::Unsupported { cpu: 0, rip: 1, bytes: vec![9, 9] },
        ),
    ];
    for (last, ended) in ends {
        let outcome = outcome(&payload, &[vec![Step::Out(0x80, 7), last]]).unwrap();
        assert_eq!(outcome.ended, ended);
        assert!(!verify(&payload, &outcome, None).is_empty());
    }
}

#[test]
fn the_exit_port_stops_every_processor() {
    let payload = payload(2);
    let outcome = outcome(&payload, &[good(), vec![Step::Wait]]).unwrap();
    assert_eq!(outcome.ended, Ended::Exit(0));
    assert_eq!(outcome.states.len(), 2);
    assert_eq!(verify(&payload, &outcome, None), Vec::<String>::new());
}

#[test]
fn a_shutdown_of_one_processor_ends_the_run() {
    let payload = payload(2);
    let shutdown = Exit::Shutdown(ShutdownCause::TripleFault(None));
    let outcome = outcome(&payload, &[vec![Step::Wait], vec![Step::Return(shutdown)]]).unwrap();
    assert_eq!(outcome.ended, Ended::Shutdown);
}

#[test]
fn facts_about_memory_and_registers_are_judged() {
    let mut payload = payload(1);
    payload.facts = vec![
        Fact::Memory { address: 0x100, value: 5 },
        Fact::Register { number: 0, value: 0x1811_0a03 },
    ];
    let steps = |value| {
        let mut steps = vec![Step::Store(0x100, value), Step::Out(0x80, 7)];
        steps.extend([Step::Read(0xd000_0000), Step::Out(ports::EXIT, 0)]);
        steps
    };
    payload.traces[0].insert(
        1,
        Access {
            direction: Direction::MmioRead,
            address: 0xd000_0000,
            width: 4,
            value: 0x1811_0a03,
        },
    );
    let right = outcome(&payload, &[steps(5)]).unwrap();
    assert_eq!(verify(&payload, &right, None), Vec::<String>::new());
    let wrong = outcome(&payload, &[steps(6)]).unwrap();
    assert_eq!(verify(&payload, &wrong, None).len(), 1);
    let differences = compare(&payload, &right, &wrong, None);
    assert!(differences.len() == 1 && differences[0].starts_with("memory"), "{differences:?}");
}

#[test]
fn actions_reach_the_engine_and_their_failures_the_report() {
    let mut payload = payload(1);
    payload.actions = vec![Action::NmiLater { cpu: 0 }];
    let steps = vec![Step::Out(ports::ACTION, 0), Step::Out(ports::EXIT, 0)];
    let failed = outcome(&payload, &[steps]);
    assert!(matches!(failed, Err(RunError::Harness(what)) if what.contains("NMI")));
    let steps = vec![Step::Out(ports::ACTION, 9), Step::Out(ports::EXIT, 0)];
    assert!(matches!(outcome(&payload, &[steps]), Err(RunError::Harness(_))));
}

#[test]
fn a_missing_feature_is_no_failure() {
    let mut payload = payload(1);
    payload.needs = vec![Feature { leaf: 1, subleaf: 0, register: 2, bit: 0, name: "SSE3" }];
    let factory = |config: VmConfig| -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(Scripted {
            steps: Vec::new(),
            config,
            capabilities: Capabilities { name: "scripted", tsc_khz: 1, instruction_budget: false },
            messages: Mutex::default(),
        }))
    };
    let missing = run(&payload, &factory).unwrap().unwrap_err();
    assert_eq!(missing.name, "SSE3");
}

#[test]
fn the_start_is_what_the_payload_says() {
    let payload = payload(1);
    let mut outcome = outcome(&payload, &[good()]).unwrap();
    let state = outcome.states.remove(0);
    assert_eq!((state.rip, state.cr0, state.segments[1].base), (0, 0x10, 0));
    assert_eq!(state.gpr[4], u64::from(payloads::layout::STACK16));
}

#[test]
fn exceptions_name_payloads_and_accesses_that_exist() {
    for exception in exceptions::PAYLOADS {
        let payload = payloads::by_name(exception.payload).expect(exception.payload);
        let accesses = payload.traces[0].len();
        assert!(
            exception.from.is_none_or(|from| from < accesses || from == exceptions::STATE_ONLY),
            "{}",
            exception.payload
        );
    }
}

#[test]
fn an_exception_holds_where_it_says_and_from_where_it_says() {
    let tcg = Host::new("kvm", u32::from_le_bytes(*b"Auth"), u32::from_le_bytes(*b"TCGT"));
    let intel = Host::new("kvm", u32::from_le_bytes(*b"Genu"), 0);
    let soft = Host { kvm: false, ..tcg };
    let holds = |host| exceptions::of("faults::alignment", host).is_some();
    assert_eq!([tcg, intel, soft].map(holds), [true, false, false]);
    let holds = |host| exceptions::of("io::string_ports", host).is_some();
    assert_eq!([tcg, intel, soft].map(holds), [true, true, false]);

    let payload = payload(1);
    let from = |from| Exception { from: Some(from), ..exceptions::PAYLOADS[0] };
    let wrong = outcome(&payload, &[vec![Step::Out(0x80, 8), Step::Out(ports::EXIT, 3)]]).unwrap();
    assert_eq!(verify(&payload, &wrong, Some(&from(0))), Vec::<String>::new());
    assert_eq!(verify(&payload, &wrong, Some(&from(1))).len(), 1);
    let right = outcome(&payload, &[good()]).unwrap();
    assert_eq!(compare(&payload, &right, &wrong, Some(&from(0))), Vec::<String>::new());
    assert_eq!(compare(&payload, &right, &wrong, Some(&from(1))).len(), 1);
}

#[test]
fn the_catalogue_is_deterministic_and_its_names_are_unique() {
    let (first, second) = (payloads::all(), payloads::all());
    let mut names = std::collections::HashSet::new();
    for (one, other) in first.iter().zip(&second) {
        assert_eq!(one.segments, other.segments, "{}", one.name);
        assert_eq!(one.traces, other.traces, "{}", one.name);
        assert!(names.insert(one.name), "{} is there twice", one.name);
    }
}
