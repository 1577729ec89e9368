//! Runs one payload on one engine: a thread per vCPU, ended by the exit port, a halt, a shutdown
//! or the clock.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use engine::{Budget, Engine, EngineError, Exit, GuestEvent, Vcpu, VmConfig};
use memory::{GuestMemory, MemoryError};
use payloads::{Access, Fact, Feature, Payload};
use thiserror::Error;
use x86::cpuid::lookup;
use x86::{CpuState, GuestPhys};

use crate::io::{Bench, BenchIo};
use crate::start;

/// Makes a VM.
pub type Factory<'a> = &'a dyn Fn(VmConfig) -> Result<Box<dyn Engine>, EngineError>;

/// Longer than any payload takes on a loaded machine with an unoptimised engine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Why a run came to an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The guest wrote this to the exit port.
    Exit(u8),
    /// Every vCPU halted for good.
    Halted,
    /// A triple fault.
    Shutdown,
    /// The engine met an instruction it does not implement.
    Unsupported {
        /// On which vCPU.
        cpu: u32,
        /// Where.
        rip: u64,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// Nothing of this within the time.
    TimedOut,
}

/// What a run left behind.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Why it ended.
    pub ended: Ended,
    /// Each vCPU's accesses in order.
    pub traces: Vec<Vec<Access>>,
    /// Each vCPU's final state.
    pub states: Vec<CpuState>,
    /// Each vCPU's events, where the engine lives in virtual time.
    pub events: Vec<Vec<GuestEvent>>,
    /// Instructions that each vCPU retired; `None` where the engine does not count.
    pub retired: Vec<Option<u64>>,
    /// The values of the payload's memory facts, in their order.
    pub memory: Vec<u64>,
}

/// A payload could not be run.
#[derive(Debug, Error)]
pub enum RunError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// No RAM, or the payload does not fit it.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The harness failed.
    #[error("the harness: {0}")]
    Harness(String),
}

/// The first CPUID bit that the payload needs and the engine does not show.
pub fn missing_feature(payload: &Payload, engine: &dyn Engine) -> Option<Feature> {
    payload.needs.iter().copied().find(|feature| {
        let leaf = lookup(engine.cpuid(), feature.leaf, feature.subleaf);
        let register = [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx][usize::from(feature.register & 3)];
        register >> feature.bit & 1 == 0
    })
}

/// Runs a payload to its end. `Ok(Err(feature))`: the engine lacks a feature that it needs.
pub fn run(payload: &Payload, factory: Factory<'_>) -> Result<Result<Outcome, Feature>, RunError> {
    let memory = Arc::new(GuestMemory::new(&[(GuestPhys(0), payload.memory_bytes)])?);
    for segment in &payload.segments {
        memory.write_physical(GuestPhys(segment.address), &segment.bytes)?;
    }
    let engine = factory(VmConfig { memory: memory.clone(), cpus: payload.cpus })?;
    if let Some(feature) = missing_feature(payload, &*engine) {
        return Ok(Err(feature));
    }
    let bench = Arc::new(Bench::new(engine, payload.actions.clone()));
    let mut vcpus = Vec::new();
    for index in 0..payload.cpus {
        let mut vcpu = bench.engine.create_vcpu(index)?;
        if index == 0 {
            let state = start::state(vcpu.state()?, payload.start);
            vcpu.set_state(&state)?;
        }
        bench.add_kicker(vcpu.kicker());
        vcpus.push(vcpu);
    }
    let (ended, finished) = run_all(&bench, vcpus)?;
    let complaints = bench.close();
    if let Some(first) = complaints.into_iter().next() {
        return Err(RunError::Harness(first));
    }
    let retired = finished.iter().map(|one| one.retired).collect();
    let (events, rest): (_, Vec<_>) =
        finished.into_iter().map(|one| (one.events, (one.trace, one.state))).unzip();
    let (traces, states) = rest.into_iter().unzip();
    let memory = payload.facts.iter().filter_map(|fact| match fact {
        Fact::Memory { address, .. } => Some(read_u64(&memory, *address)),
        Fact::Register { .. } | Fact::Xmm { .. } => None,
    });
    let memory = memory.collect::<Result<_, _>>()?;
    Ok(Ok(Outcome { ended, traces, states, events, retired, memory }))
}

fn read_u64(memory: &GuestMemory, address: u64) -> Result<u64, MemoryError> {
    let mut bytes = [0; 8];
    memory.read_physical(GuestPhys(address), &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// One vCPU after its thread.
struct Finished {
    index: usize,
    ended: Option<Ended>,
    trace: Vec<Access>,
    state: CpuState,
    events: Vec<GuestEvent>,
    retired: Option<u64>,
}

fn run_all(
    bench: &Arc<Bench>,
    vcpus: Vec<Box<dyn Vcpu>>,
) -> Result<(Ended, Vec<Finished>), RunError> {
    let count = vcpus.len();
    let (sender, receiver) = channel();
    std::thread::scope(|scope| {
        for (index, vcpu) in vcpus.into_iter().enumerate() {
            let (bench, sender) = (bench.clone(), sender.clone());
            scope.spawn(move || run_one(&bench, index, vcpu, &sender));
        }
        drop(sender);
        collect(bench, count, &receiver)
    })
}

/// Waits for every vCPU; the first that ends for a reason of its own ends the others.
fn collect(
    bench: &Bench,
    count: usize,
    receiver: &Receiver<Result<Finished, EngineError>>,
) -> Result<(Ended, Vec<Finished>), RunError> {
    let deadline = Instant::now() + TIMEOUT;
    let (mut finished, mut failed, mut timed_out) = (Vec::new(), None, false);
    let mut left = count;
    while left > 0 {
        let wait = deadline.saturating_duration_since(Instant::now());
        let wait = if timed_out { TIMEOUT } else { wait };
        match receiver.recv_timeout(wait) {
            Ok(Ok(one)) => finished.push(one),
            Ok(Err(error)) => failed = Some(error),
            Err(_) if timed_out => {
                return Err(RunError::Harness("a vCPU does not react to kicks".into()));
            }
            Err(_) => {
                timed_out = true;
                bench.stop_all();
                continue;
            }
        }
        left -= 1;
        let halted = finished.iter().filter(|one| one.ended == Some(Ended::Halted)).count();
        let own_end = finished.iter().any(|one| !matches!(one.ended, None | Some(Ended::Halted)));
        if failed.is_some() || own_end || halted == count {
            bench.stop_all();
        }
    }
    if let Some(error) = failed {
        return Err(error.into());
    }
    finished.sort_by_key(|one| one.index);
    let ended = match bench.exit_status() {
        Some(status) => Ended::Exit(status),
        None if timed_out => Ended::TimedOut,
        None => {
            let mut ends = finished.iter().filter_map(|one| one.ended.clone());
            let last = ends.clone().next_back();
            ends.find(|end| *end != Ended::Halted).or(last).unwrap_or(Ended::TimedOut)
        }
    };
    Ok((ended, finished))
}

fn run_one(
    bench: &Arc<Bench>,
    index: usize,
    mut vcpu: Box<dyn Vcpu>,
    sender: &Sender<Result<Finished, EngineError>>,
) {
    let mut io = BenchIo::new(bench.clone());
    let ended = loop {
        match vcpu.run(&mut io, Budget::Unlimited) {
            Ok(Exit::Halted) => break Ok(Some(Ended::Halted)),
            Ok(Exit::Shutdown(_)) => break Ok(Some(Ended::Shutdown)),
            Ok(Exit::Unsupported { rip, bytes, length }) => {
                let bytes = bytes[..usize::from(length)].to_vec();
                break Ok(Some(Ended::Unsupported { cpu: index as u32, rip, bytes }));
            }
            Ok(Exit::Interrupted | Exit::BudgetSpent | Exit::Deadline | Exit::Debug(_)) => {
                if bench.stop.load(Ordering::Acquire) {
                    break Ok(None);
                }
            }
            Err(error) => break Err(error),
        }
    };
    let finished = ended.and_then(|ended| {
        let state = vcpu.state()?;
        let (events, retired) = (io.events, vcpu.retired());
        Ok(Finished { index, ended, trace: io.trace, state, events, retired })
    });
    // The receiver is gone only after it gave this vCPU up.
    let _ = sender.send(finished);
}
