//! An outcome against the payload's own expectations.

use payloads::{Access, End, Fact, Payload};

use crate::exceptions::{Exception, STATE_ONLY};
use crate::run::{Ended, Outcome};

/// Sentences on what is not as the payload expects, up to where an exception begins; none when
/// all is.
pub fn verify(payload: &Payload, outcome: &Outcome, exception: Option<&Exception>) -> Vec<String> {
    let mut wrong = Vec::new();
    if let Some(exception) = exception.filter(|one| one.from != Some(STATE_ONLY)) {
        let expected = payload.traces.first().map_or(&[][..], |trace| trace);
        wrong.extend(first_difference_before(exception, expected, &outcome.traces[0]));
        return wrong;
    }
    let expected = match payload.end {
        End::Exit(status) => Ended::Exit(status),
        End::Halted => Ended::Halted,
        End::Shutdown => Ended::Shutdown,
    };
    if outcome.ended != expected {
        let rip = outcome.states.iter().map(|state| format!("{:#x}", state.rip));
        let rip = rip.collect::<Vec<_>>().join(", ");
        wrong.push(format!("ended by {:x?} instead of {expected:?}; rip {rip}", outcome.ended));
    }
    for (cpu, trace) in outcome.traces.iter().enumerate() {
        let expected = payload.traces.get(cpu).map_or(&[][..], |trace| trace);
        wrong.extend(first_difference(cpu, expected, trace));
    }
    let mut memory = outcome.memory.iter();
    for fact in &payload.facts {
        let (found, expected) = match *fact {
            Fact::Register { number, value } => {
                (outcome.states[0].gpr[usize::from(number & 15)].into(), u128::from(value))
            }
            Fact::Memory { value, .. } => {
                let found = memory.next().expect("one value for each memory fact");
                (u128::from(*found), u128::from(value))
            }
            Fact::Xmm { number, value } => {
                (outcome.states[0].xsave.xmm(usize::from(number)), value)
            }
        };
        if found != expected {
            wrong.push(format!("{fact:x?}: found {found:#x}"));
        }
    }
    wrong
}

/// The same for what vCPU 0 did before an exception begins.
pub(crate) fn first_difference_before(
    exception: &Exception,
    expected: &[Access],
    found: &[Access],
) -> Option<String> {
    let until = exception.from?;
    let judged = |trace: &[Access]| trace[..trace.len().min(until)].to_vec();
    first_difference(0, &judged(expected), &judged(found))
}

/// Where two traces part, with a few accesses before.
pub(crate) fn first_difference(
    cpu: usize,
    expected: &[Access],
    found: &[Access],
) -> Option<String> {
    let same = expected.iter().zip(found).take_while(|(a, b)| a == b).count();
    if same == expected.len() && same == found.len() {
        return None;
    }
    Some(format!(
        "vCPU {cpu}, access {same} of {}: expected {:?}, found {:?}; before it {:?}, after it {:?}",
        expected.len(),
        expected.get(same),
        found.get(same),
        &found[same.saturating_sub(3)..same],
        found.iter().skip(same + 1).take(3).collect::<Vec<_>>(),
    ))
}
