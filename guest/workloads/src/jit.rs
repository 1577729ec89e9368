//! A compiler's day: fresh small functions, each run some hundred times and thrown away, at ever
//! other addresses, in memory that is writable and executable at once, by turns, or in two places.
//!
//! Invariant: what runs is held against what the same steps mean in Rust.

use std::io::Error;

use crate::catalogue::Failure;
use crate::random::{Random, fold};
use crate::sys::jit::{Access, Arena, Entry, Function, REGISTERS, Step, TABLE};

/// Bytes of an arena.
const ARENA: usize = 256 << 10;
/// Times that an arena is filled before it is given back.
const FILLINGS: u32 = 4;
/// Calls of each function.
const CALLS: u64 = 200;
/// Of them, those whose result is looked at.
const CHECKED: u64 = 4;

/// Compiles and runs `amount` x 1000 functions.
pub(crate) fn run(amount: u64) -> Result<u64, Failure> {
    let mut random = Random::new(11);
    let mut table = [0; TABLE];
    table.iter_mut().for_each(|word| *word = random.next());
    let mut expected = table;
    let mut places = [Access::Both, Access::Turns, Access::Twice].map(Place::new);
    let mut sum = 0;
    for index in 0..amount * 1000 {
        let [outer, inner] = [(); 2].map(|()| function(&mut random));
        let calls_inner = random.below(2) == 0;
        let place = &mut places[index as usize % 3];
        let (arena, entry) = place.add(&outer, calls_inner.then_some(&inner), &mut random)?;
        for call in 0..CALLS {
            let (first, second) = (random.next(), call);
            // Unchecked calls leave the table as it was.
            if call % (CALLS / CHECKED) != 0 {
                let mut table = table;
                sum = fold(sum, arena.call(entry, first, second, &mut table));
                continue;
            }
            let result = arena.call(entry, first, second, &mut table);
            let mut wanted = evaluate(&outer, [first, second], &mut expected);
            if calls_inner {
                wanted = evaluate(&inner, [wanted[0], wanted[1]], &mut expected);
            }
            if result != wanted[0] || table != expected {
                let text = format!("function {index}: {result:#x}, not {:#x}", wanted[0]);
                return Err(Error::other(text).into());
            }
            sum = fold(sum, result);
        }
    }
    Ok(sum)
}

/// Where functions go: an arena that is filled some times and then replaced.
struct Place {
    access: Access,
    arena: Option<Arena>,
    fillings: u32,
}

impl Place {
    fn new(access: Access) -> Self {
        Self { access, arena: None, fillings: 0 }
    }

    /// Compiles a function, and one it calls.
    fn add(
        &mut self,
        outer: &Function,
        inner: Option<&Function>,
        random: &mut Random,
    ) -> Result<(&Arena, Entry), Error> {
        loop {
            let arena = match &mut self.arena {
                Some(arena) => arena,
                none => none.insert(Arena::new(self.access, ARENA)?),
            };
            let callee = match inner {
                Some(inner) => arena.add(inner, None, random.below(64) as usize)?,
                None => None,
            };
            if inner.is_some() == callee.is_some()
                && let Some(entry) = arena.add(outer, callee, random.below(512) as usize)?
            {
                let arena = self.arena.as_ref().expect("it was just filled");
                return Ok((arena, entry));
            }
            arena.clear();
            self.fillings += 1;
            if self.fillings.is_multiple_of(FILLINGS) {
                self.arena = None;
            }
        }
    }
}

/// A function of 10 to 50 steps.
fn function(random: &mut Random) -> Function {
    let mut steps = |least: u64, more: u64| {
        (0..least + random.below(more)).map(|_| step(random)).collect::<Vec<_>>()
    };
    let (body, tail) = (steps(6, 24), steps(4, 16));
    Function { body, tail, rounds: 1 + random.below(4) as u32 }
}

fn step(random: &mut Random) -> Step {
    let to = random.below(REGISTERS as u64) as usize;
    let from = random.below(REGISTERS as u64) as usize;
    let word = random.below(TABLE as u64) as usize;
    match random.below(10) {
        0 => Step::Add(to, from),
        1 => Step::Subtract(to, from),
        2 => Step::ExclusiveOr(to, from),
        3 => Step::Multiply(to, from),
        4 => Step::AddConstant(to, random.next() as i32),
        5 => Step::Rotate(to, random.below(63) as u8 + 1),
        6 | 7 => Step::Load(to, word),
        8 => Step::Store(word, from),
        _ => Step::IfOdd(to),
    }
}

/// What a function does to its two arguments, RAX and RCX.
fn evaluate(function: &Function, [first, second]: [u64; 2], table: &mut [u64; TABLE]) -> [u64; 2] {
    let mut registers = [first, second, 0, 0, 0];
    for _ in 0..function.rounds {
        perform(&function.body, &mut registers, table);
    }
    perform(&function.tail, &mut registers, table);
    [registers[0], registers[1]]
}

fn perform(steps: &[Step], registers: &mut [u64; REGISTERS], table: &mut [u64; TABLE]) {
    let mut skipped = false;
    for step in steps {
        if std::mem::take(&mut skipped) {
            continue;
        }
        match *step {
            Step::Add(to, from) => registers[to] = registers[to].wrapping_add(registers[from]),
            Step::Subtract(to, from) => {
                registers[to] = registers[to].wrapping_sub(registers[from]);
            }
            Step::ExclusiveOr(to, from) => registers[to] ^= registers[from],
            Step::Multiply(to, from) => {
                registers[to] = registers[to].wrapping_mul(registers[from]);
            }
            Step::AddConstant(to, value) => {
                registers[to] = registers[to].wrapping_add(value as i64 as u64);
            }
            Step::Rotate(to, by) => registers[to] = registers[to].rotate_left(by.into()),
            Step::Load(to, word) => registers[to] = registers[to].wrapping_add(table[word]),
            Step::Store(word, from) => table[word] = registers[from],
            Step::IfOdd(register) => skipped = registers[register] & 1 == 0,
        }
    }
}
