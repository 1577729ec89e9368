//! Payloads in virtual time: the same run twice, translated, interpreted or both in lockstep, gives
//! the same instruction count at every event, and the same state at the end.

use std::sync::Arc;

use conformance::{Outcome, run, verify};
use engine::{Engine, EngineError, VirtualTime, VmConfig};
use payloads::{Action, Payload};
use soft::{Execution, SoftEngine, SoftOptions};

fn run_in(payload: &Payload, execution: Execution) -> Option<Outcome> {
    let factory = |config: VmConfig| -> Result<Box<dyn Engine>, EngineError> {
        let virtual_time = Some(Arc::new(VirtualTime::new(0, 1)));
        let options = SoftOptions { execution, virtual_time, ..SoftOptions::default() };
        Ok(Box::new(SoftEngine::with_options(config, options)?))
    };
    match run(payload, &factory).expect("the software engine runs payloads") {
        Ok(outcome) => Some(outcome),
        Err(feature) => {
            println!("{} is skipped: the host lacks {}", payload.name, feature.name);
            None
        }
    }
}

/// What the host does later is later by the host's clock.
fn is_timed_by_the_host(payload: &Payload) -> bool {
    payload
        .actions
        .iter()
        .any(|action| matches!(action, Action::MsiLater { .. } | Action::NmiLater { .. }))
}

fn difference(one: &Outcome, other: &Outcome) -> Option<String> {
    let (events, others) = (&one.events[0], &other.events[0]);
    let first = events.iter().zip(others).find(|(a, b)| a != b);
    if let Some((a, b)) = first {
        return Some(format!("{a:x?} and {b:x?}"));
    }
    if events.len() != others.len() || one.retired != other.retired {
        let (one, other) = (&one.retired, &other.retired);
        return Some(format!(
            "{} and {} events, {one:?} and {other:?}",
            events.len(),
            others.len()
        ));
    }
    if one.traces != other.traces || one.ended != other.ended {
        return Some("what was accessed".into());
    }
    let state = |outcome: &Outcome| {
        let mut state = outcome.states[0].clone();
        // Translated code leaves FOP, FIP and FDP alone; MXCSR_MASK and the header are the engine's
        // bookkeeping.
        for range in [6..24, 28..32, 512..576] {
            state.xsave.0[range].fill(0);
        }
        state
    };
    let (a, b) = (state(one), state(other));
    let bytes = a.xsave.0.iter().zip(&b.xsave.0).enumerate();
    let differ: Vec<_> = bytes.filter(|(_, (a, b))| a != b).collect();
    if !differ.is_empty() {
        return Some(format!("XSAVE image: {differ:x?}"));
    }
    (a != b).then(|| format!("states: {a:x?}\n{b:x?}"))
}

#[test]
fn every_run_is_the_same_run() {
    let (mut compared, mut interrupts, mut wrong) = (0, 0, Vec::new());
    for payload in payloads::all() {
        if payload.cpus > 1 || is_timed_by_the_host(&payload) {
            continue;
        }
        let Some(first) = run_in(&payload, Execution::Translate) else { continue };
        let failed = verify(&payload, &first, None);
        assert!(failed.is_empty(), "{} in virtual time:\n{}", payload.name, failed.join("\n"));
        for execution in [Execution::Translate, Execution::Interpret, Execution::Check] {
            let again = run_in(&payload, execution).expect("the same host");
            let found = difference(&first, &again);
            wrong.extend(found.map(|what| format!("{} {execution:?}: {what}", payload.name)));
        }
        let is_interrupt =
            |event: &&engine::GuestEvent| matches!(event.kind, engine::EventKind::Interrupt { .. });
        interrupts += first.events[0].iter().filter(is_interrupt).count();
        compared += 1;
    }
    println!("{compared} payloads, {interrupts} interrupts");
    assert!(compared > 80 && interrupts > 10, "{compared} payloads, {interrupts} interrupts");
    assert!(wrong.is_empty(), "runs differ:\n{}", wrong.join("\n"));
}
