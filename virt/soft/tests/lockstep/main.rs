//! The translator against the interpreter: random guest programs, on a bare processor.
//!
//! Each program is a nest of loops over random instructions, calls, jumps, faults that its own
//! handler repairs or skips, and stores into its own code, at CPL 0 or 3, in the lower or upper
//! half. Two judgements: every block agrees in lockstep (`Execution::Check` panics otherwise), and
//! whole runs (translated, linked, specialised) end as interpreted ones do: registers, flags,
//! vector and x87 state, memory, the handler's record, and the very instruction a budget ends at.
//!
//! `ONEROOF_LOCKSTEP_CASES` sets how many programs run, `ONEROOF_LOCKSTEP_SEED` where they start.

mod code;
mod dirty;
mod flat;
mod handler;
mod kernel;
mod large;
mod layout;
mod opcodes;
mod operand;
mod paths;
mod polls;
mod program;
mod run;
mod smp;
mod steps;
mod wild;

#[path = "../differential/case.rs"]
#[allow(dead_code, reason = "shared with the differential test, which uses the rest")]
mod case;
#[path = "../differential/machine.rs"]
mod numbers;
#[path = "../differential/random.rs"]
mod random;
#[path = "../differential/select.rs"]
mod select;

/// Random registers, numbers and vectors, as the differential test has them.
mod machine {
    pub(crate) use crate::case::Machine as Start;
    pub(crate) use crate::numbers::random;
}

use opcodes::Opcodes;
use random::Random;
use run::{Case, MOST_INSTRUCTIONS};
use soft::{Execution, SoftOptions};

const DEFAULT_CASES: u64 = 60;
const DEFAULT_SEED: u64 = 1;
/// Granularity of counting what the interpreter ran.
const SLICE: u64 = 64;

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

/// Says which case it was if its end is a panic.
struct Announce(String);

impl Drop for Announce {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in the case of {}", self.0);
        }
    }
}

fn how_many() -> u64 {
    setting("ONEROOF_LOCKSTEP_CASES").unwrap_or(DEFAULT_CASES)
}

/// Judges the programs of 64-bit code.
fn cases(judge: fn(&Case, &mut Random) -> u64) {
    cases_of(64, how_many(), Case::new, judge);
}

/// Judges the programs of 32-bit code.
fn flat_cases(judge: fn(&Case, &mut Random) -> u64) {
    cases_of(32, how_many(), Case::flat, judge);
}

fn cases_of(
    bits: u32,
    count: u64,
    make: fn(u64, &Opcodes) -> Option<Case>,
    judge: fn(&Case, &mut Random) -> u64,
) {
    let opcodes = Opcodes::new(bits);
    let first = setting("ONEROOF_LOCKSTEP_SEED").unwrap_or(DEFAULT_SEED);
    let (mut ran, mut instructions) = (0, 0);
    for seed in first..first + count {
        let Some(case) = make(seed, &opcodes) else { continue };
        let _announce = Announce(case.describe());
        instructions += judge(&case, &mut Random::new(!seed));
        ran += 1;
    }
    println!("{ran} programs, about {instructions} instructions");
    assert!(ran * 10 > count * 8, "most generated programs must fit");
}

/// Whole runs.
fn whole(case: &Case, random: &mut Random) -> u64 {
    let (interpreted, slices) = case.run(Execution::Interpret, MOST_INSTRUCTIONS, SLICE);
    let slice = if random.once_in(3) { 5000 + random.below(30_000) } else { u64::MAX };
    let (translated, _) = case.run(Execution::Translate, MOST_INSTRUCTIONS, slice);
    if let Some(text) = case.differences(&interpreted, &translated) {
        report(case, Execution::Translate, slices * SLICE, &text);
    }
    // A few blocks fill a region, so code is dropped all the time.
    let cramped = SoftOptions { code_bytes: Some(4_280_000), ..SoftOptions::default() };
    let (translated, _) = case.run_with(cramped, MOST_INSTRUCTIONS, &mut || u64::MAX);
    if let Some(text) = case.differences(&interpreted, &translated) {
        panic!("with little room for code:\n{text}");
    }
    let budget = 1 + random.below(slices * SLICE);
    let (interpreted, _) = case.run(Execution::Interpret, budget, u64::MAX);
    let (translated, _) = case.run(Execution::Translate, budget, u64::MAX);
    if let Some(text) = case.differences(&interpreted, &translated) {
        report(case, Execution::Translate, budget, &text);
    }
    slices * SLICE
}

/// User code of which all is hot soon: superblocks, and windows in all of its blocks.
fn hurried(case: &Case, random: &mut Random) -> u64 {
    if !case.is_user() {
        return 0;
    }
    let (interpreted, _) = case.run(Execution::Interpret, MOST_INSTRUCTIONS, u64::MAX);
    let piece = if random.once_in(3) { 5000 + random.below(30_000) } else { u64::MAX };
    for code_bytes in [None, Some(4_280_000)] {
        let options = SoftOptions { hurried: true, code_bytes, ..SoftOptions::default() };
        let (translated, _) = case.run_with(options, MOST_INSTRUCTIONS, &mut || piece);
        if let Some(text) = case.differences(&interpreted, &translated) {
            panic!("with code that counts as hot at once, {code_bytes:?} bytes of it:\n{text}");
        }
    }
    interpreted.retired
}

/// Looks for the first instruction count at which runs differ, and shows what came before.
fn report(case: &Case, execution: Execution, most: u64, text: &str) -> ! {
    let differs = |budget| {
        let (interpreted, _) = case.run(Execution::Interpret, budget, u64::MAX);
        let (translated, _) = case.run(execution, budget, u64::MAX);
        case.differences(&interpreted, &translated)
    };
    let (mut good, mut bad) = (0, most);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if differs(middle).is_some() { bad = middle } else { good = middle }
    }
    let first = differs(bad).unwrap_or_else(|| "nowhere but at the end".into());
    // The last instructions before a budget is spent are always interpreted.
    const TAIL: u64 = 4096 + 128 + 2 * 400;
    let trace = case.trace(bad.saturating_sub(TAIL + 30), 60);
    panic!(
        "the interpreter and {execution:?} differ:\n{text}\nfirst with a budget of {bad}:\n{first}\n\
         around the last translated instructions:\n{trace}"
    );
}

/// Stops at many instructions, in one go and in pieces of odd sizes.
fn stops(case: &Case, random: &mut Random) -> u64 {
    let (interpreted, slices) = case.run(Execution::Interpret, MOST_INSTRUCTIONS, SLICE);
    let most = interpreted.retired.max(1);
    for _ in 0..4 {
        let budget = 1 + random.below(most);
        let (expected, _) = case.run(Execution::Interpret, budget, u64::MAX);
        for execution in [Execution::Translate, Execution::Check] {
            // Around where translated code is left for the interpreter, and far beyond it.
            let sizes = [1, 2, 61, 4224, 4225, 4288, 9001, 24_225, 50_000];
            let mut pieces = Random::new(budget);
            let mut piece = || sizes[pieces.below(sizes.len() as u64) as usize];
            let (stopped, _) = case.run_with(
                SoftOptions { execution, ..SoftOptions::default() },
                budget,
                &mut piece,
            );
            if let Some(text) = case.differences(&expected, &stopped) {
                report(case, execution, budget, &text);
            }
        }
    }
    slices * SLICE
}

#[test]
fn budgets_end_at_the_very_instruction() {
    cases(stops);
}

#[test]
fn whole_runs_agree() {
    cases(whole);
}

#[test]
fn whole_runs_of_user_code_that_is_hot_at_once_agree() {
    // Half of them are user code, and these runs are short.
    cases_of(64, 8 * how_many(), Case::new, hurried);
}

/// Block by block.
fn blocks(case: &Case, _: &mut Random) -> u64 {
    let (interpreted, slices) = case.run(Execution::Interpret, MOST_INSTRUCTIONS, SLICE);
    let (checked, _) = case.run(Execution::Check, MOST_INSTRUCTIONS, u64::MAX);
    if let Some(text) = case.differences(&interpreted, &checked) {
        report(case, Execution::Check, slices * SLICE, &text);
    }
    slices * SLICE
}

#[test]
fn every_block_agrees() {
    cases(blocks);
}

#[test]
fn flat_budgets_end_at_the_very_instruction() {
    flat_cases(stops);
}

#[test]
fn whole_runs_of_flat_code_agree() {
    flat_cases(whole);
}

#[test]
fn every_block_of_flat_code_agrees() {
    flat_cases(blocks);
}
