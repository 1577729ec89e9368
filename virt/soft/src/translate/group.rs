//! Accesses that share one check: same base, small distances, known before the block runs.
//!
//! Accesses at constant distances from one symbol (see `values`) form a group; its first access
//! checks the whole range, the others use the host address it found.
//!
//! Invariant: a group's range lies in one page, which is dirty already if one of its accesses is a
//! store, or its check fails: then the block is left for one without groups, before anything
//! happened.

use super::facts::{Fact, Kind};
use super::registers::RSP;
use super::values::{GS, Value, Values, address};

/// Largest range one check covers.
const RANGE: i64 = 384;
/// Groups with a slot for their host address.
pub(crate) const GROUPS: usize = 16;

/// A group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    /// The instruction whose access checks for all.
    pub(crate) first: usize,
    /// Lowest address, relative to the first access's own.
    pub(crate) low: i32,
    /// Bytes.
    pub(crate) size: u32,
    pub(crate) write: bool,
}

/// An access as part of a group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    pub(crate) group: usize,
    /// Distance from the group's lowest address.
    pub(crate) offset: i32,
}

/// A block's groups: by number, and by instruction. An instruction with two accesses has none.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    pub(crate) groups: Vec<Group>,
    pub(crate) members: Vec<Option<Member>>,
}

struct Candidate {
    symbol: u32,
    index: usize,
    offset: i64,
    size: i64,
    write: bool,
    /// Branches passed before it.
    passed: usize,
    /// Changes of rights or of segments' bases passed before it.
    era: usize,
}

/// Finds the groups of a block.
pub(crate) fn find(facts: &[Fact]) -> Groups {
    let candidates = candidates(facts);
    let mut found = Groups { groups: Vec::new(), members: vec![None; facts.len()] };
    let mut taken = vec![false; candidates.len()];
    for first in 0..candidates.len() {
        if taken[first] || found.groups.len() == GROUPS {
            continue;
        }
        let start = &candidates[first];
        let (mut low, mut high) = (start.offset, start.offset + start.size);
        let mut write = start.write;
        let mut chosen = vec![first];
        for (other, candidate) in candidates.iter().enumerate().skip(first + 1) {
            if taken[other] || candidate.symbol != start.symbol || candidate.era != start.era {
                continue;
            }
            // A store that may not come must not ask for a page that can be written, and is dirty.
            if candidate.write && !write && candidate.passed != start.passed {
                continue;
            }
            let (l, h) = (low.min(candidate.offset), high.max(candidate.offset + candidate.size));
            if h - l <= RANGE {
                (low, high) = (l, h);
                write |= candidate.write;
                chosen.push(other);
            }
        }
        if chosen.len() < 2 {
            continue;
        }
        let group = found.groups.len();
        for &at in &chosen {
            taken[at] = true;
            let offset = (candidates[at].offset - low) as i32;
            found.members[candidates[at].index] = Some(Member { group, offset });
        }
        found.groups.push(Group {
            first: start.index,
            low: (low - start.offset) as i32,
            size: (high - low) as u32,
            write,
        });
    }
    found
}

fn candidates(facts: &[Fact]) -> Vec<Candidate> {
    let mut values = Values::new();
    let mut found = Vec::new();
    let mut passed = 0;
    let mut era = 0;
    for (index, fact) in facts.iter().enumerate() {
        passed += usize::from(matches!(fact.kind, Kind::Branch(_)));
        era += usize::from(matches!(fact.kind, Kind::AccessFlag(_) | Kind::WriteBase));
        if let Some((value, size, write)) = single_access(fact, &values.registers)
            && !(values.swapped && value.symbol == GS)
        {
            found.push(Candidate {
                symbol: value.symbol,
                index,
                offset: value.offset,
                size: i64::from(size),
                write,
                passed,
                era,
            });
        }
        values.follow(fact);
    }
    found
}

/// The address of an instruction's only access, if it is a symbol and a distance.
fn single_access(fact: &Fact, registers: &[Value; 16]) -> Option<(Value, u32, bool)> {
    let (rsp, word) = (registers[RSP as usize], u32::from(fact.word));
    let below = Value { offset: rsp.offset - i64::from(word), ..rsp };
    match fact.kind {
        Kind::Push if fact.access.is_none() => Some((below, word, true)),
        Kind::Pop | Kind::Return | Kind::PopStackPointer | Kind::PopFlags => {
            Some((rsp, word, false))
        }
        Kind::PushFlags | Kind::Call => Some((below, word, true)),
        Kind::Leave => Some((registers[5], word, false)),
        Kind::Plain | Kind::JumpIndirect => {
            let access = fact.access?;
            Some((address(&fact.ins, registers)?, access.size, access.write))
        }
        _ => None,
    }
}
