//! What the threads of a machine share: how it ended, whether it is paused; and a vCPU's thread.
//!
//! ```text
//! vCPU thread:  gate -> run -> (kicked) -> gate ...      over: leave
//!                 `- paused: publish the state, wait
//! ```
//!
//! Invariants: a machine ends once; after [`Ending::finish`] every vCPU is kicked until it leaves;
//! a parked vCPU has published its state.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use engine::{Budget, EngineError, Exit, Kick, ShutdownCause, Vcpu};
use x86::CpuState;

use crate::error::MachineError;
use crate::io::VcpuIo;
use crate::irq::lock;
use crate::outcome::{Outcome, summary};
use crate::timers::{Timed, Timers};

/// A kick may be lost in an engine's own wait; it is repeated this often.
const KICK_AGAIN: Duration = Duration::from_millis(5);
/// A vCPU that waits for the reader of its output cannot be paused.
const PAUSE_LIMIT: Duration = Duration::from_secs(5);

/// Called once with the outcome.
pub type OnEnd = Box<dyn FnOnce(&Outcome) + Send>;

/// How the machine ended, once it has.
pub(crate) struct Ending {
    outcome: Mutex<Option<Outcome>>,
    changed: Condvar,
    over: AtomicBool,
    kicks: OnceLock<Vec<Arc<dyn Kick>>>,
    on_end: Mutex<Option<OnEnd>>,
}

impl Ending {
    pub(crate) fn new(on_end: Option<OnEnd>) -> Arc<Self> {
        Arc::new(Self {
            outcome: Mutex::new(None),
            changed: Condvar::new(),
            over: AtomicBool::new(false),
            kicks: OnceLock::new(),
            on_end: Mutex::new(on_end),
        })
    }

    /// The vCPUs to stop, told once.
    pub(crate) fn set_kicks(&self, kicks: Vec<Arc<dyn Kick>>) {
        assert!(self.kicks.set(kicks).is_ok(), "a machine has one set of processors");
    }

    /// Ends the machine; only the first end counts. From any thread.
    pub(crate) fn finish(&self, outcome: Outcome) {
        let mut slot = lock(&self.outcome);
        if slot.is_some() {
            return;
        }
        *slot = Some(outcome.clone());
        drop(slot);
        self.over.store(true, Ordering::Release);
        self.changed.notify_all();
        self.kick_all();
        let on_end = lock(&self.on_end).take();
        if let Some(on_end) = on_end {
            on_end(&outcome);
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    pub(crate) fn outcome(&self) -> Option<Outcome> {
        lock(&self.outcome).clone()
    }

    pub(crate) fn kick_all(&self) {
        for kick in self.kicks.get().into_iter().flatten() {
            kick.kick();
        }
    }

    /// Waits for the end, at most for `timeout`.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> Option<Outcome> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut outcome = lock(&self.outcome);
        while outcome.is_none() {
            outcome = match deadline {
                None => self.changed.wait(outcome).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break;
                    }
                    let waited = self.changed.wait_timeout(outcome, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        outcome.clone()
    }
}

#[derive(Default)]
struct GateState {
    paused: bool,
    parked: usize,
    /// vCPU threads that have not left.
    alive: usize,
    /// By vCPU, as of its last park or its end.
    states: Vec<Option<CpuState>>,
    /// Likewise.
    retired: Vec<Option<u64>>,
}

/// Where vCPU threads wait while the machine is paused.
pub(crate) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

impl Gate {
    pub(crate) fn new(cpus: usize) -> Arc<Self> {
        let (states, retired) = (vec![None; cpus], vec![None; cpus]);
        let state = GateState { alive: cpus, states, retired, ..GateState::default() };
        Arc::new(Self { state: Mutex::new(state), changed: Condvar::new() })
    }

    /// Passes a vCPU on, after a pause if there is one; false: the machine is over.
    fn pass(&self, cpu: usize, vcpu: &mut dyn Vcpu, ending: &Ending) -> bool {
        if ending.is_over() {
            return false;
        }
        let mut state = lock(&self.state);
        if !state.paused {
            return true;
        }
        state.states[cpu] = vcpu.state().ok();
        state.retired[cpu] = vcpu.retired();
        state.parked += 1;
        self.changed.notify_all();
        while state.paused && !ending.is_over() {
            let waited = self.changed.wait_timeout(state, KICK_AGAIN * 4);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.parked -= 1;
        !ending.is_over()
    }

    fn leave(&self, cpu: usize, last: Option<CpuState>, retired: Option<u64>) {
        let mut state = lock(&self.state);
        state.states[cpu] = last;
        state.retired[cpu] = retired;
        state.alive -= 1;
        self.changed.notify_all();
    }

    /// Stops all vCPUs at an instruction boundary; returns when they are.
    pub(crate) fn pause(&self, ending: &Ending) -> Result<(), MachineError> {
        let limit = Instant::now() + PAUSE_LIMIT;
        let mut state = lock(&self.state);
        state.paused = true;
        while state.parked < state.alive && !ending.is_over() {
            ending.kick_all();
            let waited = self.changed.wait_timeout(state, KICK_AGAIN);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if Instant::now() > limit {
                state.paused = false;
                self.changed.notify_all();
                return Err(MachineError::Stuck);
            }
        }
        Ok(())
    }

    pub(crate) fn resume(&self) {
        lock(&self.state).paused = false;
        self.changed.notify_all();
    }

    pub(crate) fn is_paused(&self) -> bool {
        lock(&self.state).paused
    }

    pub(crate) fn states(&self) -> Vec<Option<CpuState>> {
        lock(&self.state).states.clone()
    }

    pub(crate) fn retired(&self) -> Vec<Option<u64>> {
        lock(&self.state).retired.clone()
    }

    /// Whether all vCPU threads have left.
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.state).alive == 0
    }
}

/// Devices to be served on a vCPU's thread.
pub(crate) struct Deadlines {
    pub(crate) timers: Arc<Timers>,
    pub(crate) devices: Vec<Arc<dyn Timed>>,
}

/// A vCPU's thread.
pub(crate) struct VcpuThread {
    pub(crate) cpu: u32,
    pub(crate) vcpu: Box<dyn Vcpu>,
    pub(crate) io: VcpuIo,
    pub(crate) ending: Arc<Ending>,
    pub(crate) gate: Arc<Gate>,
    /// In virtual time: what to serve when a deadline is reached.
    pub(crate) deadlines: Option<Deadlines>,
}

impl VcpuThread {
    /// Runs until the machine is over.
    pub(crate) fn run(mut self) {
        let ran = catch_unwind(AssertUnwindSafe(|| self.go()));
        if let Err(panic) = ran {
            let reason = format!("its thread panicked: {}", words(panic.as_ref()));
            let error = Arc::new(EngineError::Internal { rip: 0, reason });
            self.ending.finish(Outcome::EngineFailed { cpu: self.cpu, error });
        }
        let last = catch_unwind(AssertUnwindSafe(|| self.vcpu.state().ok())).unwrap_or(None);
        self.gate.leave(self.cpu as usize, last, self.vcpu.retired());
    }

    fn go(&mut self) {
        while self.gate.pass(self.cpu as usize, self.vcpu.as_mut(), &self.ending) {
            let exit = self.vcpu.run(&mut self.io, Budget::Unlimited);
            if matches!(exit, Ok(Exit::Deadline)) {
                self.serve_deadline();
                continue;
            }
            if let Some(outcome) = self.judge(exit) {
                self.ending.finish(outcome);
            }
        }
    }

    fn serve_deadline(&self) {
        let Some(Deadlines { timers, devices }) = &self.deadlines else { return };
        if let Some(log) = &self.io.0.log {
            log.deadline();
        }
        timers.serve(devices);
    }

    /// What an exit means for the machine; `None`: go on.
    fn judge(&mut self, exit: Result<Exit, EngineError>) -> Option<Outcome> {
        let cpu = self.cpu;
        Some(match exit {
            Ok(Exit::Interrupted | Exit::BudgetSpent | Exit::Deadline | Exit::Debug(_)) => {
                return None;
            }
            // Engines return it only when no processor of the machine can wake another.
            Ok(Exit::Halted) => Outcome::Halted,
            Ok(Exit::Shutdown(ShutdownCause::TripleFault(exception))) => {
                Outcome::TripleFault { cpu, exception, summary: self.summary() }
            }
            Ok(Exit::Unsupported { rip, bytes, length }) => {
                let bytes = bytes[..usize::from(length).min(bytes.len())].to_vec();
                Outcome::Unsupported { cpu, rip, bytes, summary: self.summary() }
            }
            Err(error) => Outcome::EngineFailed { cpu, error: Arc::new(error) },
        })
    }

    fn summary(&mut self) -> String {
        self.vcpu.state().map_or_else(|error| error.to_string(), |state| summary(&state))
    }
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without words")
}
