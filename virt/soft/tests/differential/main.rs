//! The interpreter against the host processor: random instructions, random state, same result.
//!
//! Every unprivileged instruction that the guest's CPUID announces, in 64-bit and 32-bit code, is
//! generated from iced's opcode tables with random operands, run natively in a forked child that
//! returns to it through a signal frame, and run by the interpreter. Registers, defined flags, x87, MMX,
//! XMM and YMM registers, MXCSR, memory and exceptions must agree.
//!
//! `ONEROOF_DIFF_COUNT` sets how many cases run, `ONEROOF_DIFF_SEED` where they start, and
//! `ONEROOF_DIFF_ONLY` limits them to mnemonics that start with it.

mod case;
mod compare;
mod generate;
mod interpret;
mod machine;
mod operands;
mod random;
mod select;
mod sys;

use std::collections::BTreeMap;

use iced_x86::Code;

use case::Case;
use generate::Generator;
use interpret::Interpreter;
use sys::native;

const DEFAULT_COUNT: u64 = 100_000;
const DEFAULT_SEED: u64 = 1;
/// How many different instructions' failures are shown.
const SHOWN: usize = 40;

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

struct Failure {
    count: u64,
    first: String,
}

fn run(bitness: u32) {
    let first = setting("ONEROOF_DIFF_SEED").unwrap_or(DEFAULT_SEED);
    let count = setting("ONEROOF_DIFF_COUNT").unwrap_or(DEFAULT_COUNT);
    let only = std::env::var("ONEROOF_DIFF_ONLY").unwrap_or_default();
    let codes = select::codes(bitness, &only);
    assert!(!codes.is_empty(), "no instruction matches {only:?}");
    let mut interpreter = Interpreter::new();
    let generator = Generator::new(bitness, &codes);
    let mut failures: BTreeMap<Code, Failure> = BTreeMap::new();
    let mut executed = 0;
    let mut seed = first;
    while seed < first + count {
        let mut cases: Vec<Case> = Vec::with_capacity(native::BATCH);
        while cases.len() < native::BATCH && seed < first + count {
            // A generated operand combination may have no encoding: the next seed then.
            cases.extend(generator.case(seed));
            seed += 1;
        }
        let outcomes = native::run(&cases);
        for (case, outcome) in cases.iter().zip(&outcomes) {
            executed += 1;
            let ours = interpreter.run(case);
            if let Some(difference) = compare::differences(case, outcome, &ours) {
                let code = case.instructions[0].code();
                let failure =
                    failures.entry(code).or_insert_with(|| Failure { count: 0, first: difference });
                failure.count += 1;
            }
        }
    }
    println!("{bitness}-bit: {executed} cases over {} instructions", codes.len());
    let total: u64 = failures.values().map(|failure| failure.count).sum();
    for (code, failure) in failures.iter().take(SHOWN) {
        println!("{code:?}: {} times, first:\n{}", failure.count, failure.first);
    }
    let names: Vec<_> =
        failures.iter().map(|(code, failure)| format!("{code:?} {}", failure.count)).collect();
    assert_eq!(total, 0, "{} instructions differ: {}", failures.len(), names.join(", "));
    assert!(executed * 10 > count * 6, "most generated cases must be encodable");
}

#[test]
fn long_mode_agrees_with_the_host() {
    run(64);
}

#[test]
fn compatibility_mode_agrees_with_the_host() {
    run(32);
}
