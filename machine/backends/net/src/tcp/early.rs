//! The guest's bytes that came before their turn, and which of them there are (RFC 2018, section 4).
//!
//! ```text
//! next          range            range
//!  |   missing  [xxxxxxx]missing [xxxx]      bytes[i] is the byte at next + i; where nothing came, it is 0
//! ```
//!
//! Invariant: ranges are disjoint, do not touch and lie behind `next`; at most [`RANGES`] of them, and as many bytes
//! as from `next` to the end of the last. What was kept stays until it is next, as the guest has been told of it.

use std::collections::VecDeque;

use super::sequence::{self, Sequence};

/// Ranges at most; what would need another one is not kept.
const RANGES: usize = 64;
/// Ranges that one acknowledgement tells of.
const TOLD: usize = 3;
/// Empty buffers of more than this are given back.
const RETAINED: usize = 65_536;

#[derive(Default)]
pub(super) struct Early {
    bytes: VecDeque<u8>,
    /// First position and the one behind the last, what was added to most recently first.
    ranges: Vec<(Sequence, Sequence)>,
}

impl Early {
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Keeps `bytes` at `at`, which lies behind `next` and whose end lies in the window: callers see to it.
    pub(super) fn keep(&mut self, next: Sequence, at: Sequence, bytes: &[u8]) {
        let end = sequence::plus(at, bytes.len());
        let apart = |range: &(Sequence, Sequence)| {
            sequence::after(range.0, end) > 0 || sequence::after(at, range.1) > 0
        };
        let joins = self.ranges.iter().any(|range| !apart(range));
        if bytes.is_empty() || (!joins && self.ranges.len() == RANGES) {
            return;
        }
        let (mut from, mut to) = (at, end);
        for range in self.ranges.iter().filter(|range| !apart(range)) {
            from = if sequence::after(range.0, from) < 0 { range.0 } else { from };
            to = if sequence::after(range.1, to) > 0 { range.1 } else { to };
        }
        self.ranges.retain(apart);
        self.ranges.insert(0, (from, to));
        self.write(sequence::after(at, next) as usize, bytes);
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        if self.bytes.len() < offset + bytes.len() {
            self.bytes.resize(offset + bytes.len(), 0);
        }
        let (front, back) = self.bytes.as_mut_slices();
        let split = front.len().saturating_sub(offset).min(bytes.len());
        let (first, second) = bytes.split_at(split);
        if !first.is_empty() {
            front[offset..offset + split].copy_from_slice(first);
        }
        let start = (offset + split).saturating_sub(front.len());
        back[start..start + second.len()].copy_from_slice(second);
    }

    /// `next` has moved on by `count` bytes to `next`: answers with what is kept from there on up to the first gap,
    /// by which it is to move on, too.
    pub(super) fn advance(&mut self, next: Sequence, count: usize) -> Vec<u8> {
        self.bytes.drain(..count.min(self.bytes.len()));
        self.ranges.retain(|range| sequence::after(range.1, next) > 0);
        let due = self.ranges.iter().position(|range| sequence::after(range.0, next) <= 0);
        let taken = due.map_or(0, |index| sequence::after(self.ranges.remove(index).1, next));
        let bytes = self.bytes.drain(..taken as usize).collect();
        if self.ranges.is_empty() && self.bytes.capacity() > RETAINED {
            self.bytes = VecDeque::new();
        }
        bytes
    }

    /// Forgets everything: nothing can be next any more.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// What the guest is to be told, the most recent first.
    pub(super) fn told(&self) -> [Option<(Sequence, Sequence)>; TOLD] {
        std::array::from_fn(|index| self.ranges.get(index).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beside 2^32, where positions wrap.
    const NEXT: Sequence = u32::MAX - 5;

    fn at(offset: usize) -> Sequence {
        sequence::plus(NEXT, offset)
    }

    #[test]
    fn ranges_join_and_the_newest_is_told_first() {
        let mut early = Early::default();
        early.keep(NEXT, at(4), b"ef");
        early.keep(NEXT, at(10), b"kl");
        early.keep(NEXT, at(2), b"c");
        let told = |early: &Early| {
            early.told().map(|one| one.map(|(a, b)| (a.wrapping_sub(NEXT), b.wrapping_sub(NEXT))))
        };
        assert_eq!(told(&early), [Some((2, 3)), Some((10, 12)), Some((4, 6))]);
        early.keep(NEXT, at(3), b"defghij");
        assert_eq!(told(&early), [Some((2, 12)), None, None]);
        assert_eq!(early.advance(at(1), 1), b"");
        assert_eq!(early.advance(at(2), 1), b"cdefghijkl");
        assert!(early.is_empty() && early.bytes.is_empty());
    }

    #[test]
    fn what_overlaps_the_gap_s_filling_counts_from_its_end() {
        let mut early = Early::default();
        early.keep(NEXT, at(2), b"cdef");
        early.keep(NEXT, at(8), b"i");
        assert_eq!(early.advance(at(4), 4), b"ef");
        assert_eq!(early.told()[0], Some((at(8), at(9))));
        assert_eq!(early.advance(at(20), 14), b"");
        assert!(early.is_empty() && early.bytes.is_empty());
    }

    #[test]
    fn a_guest_that_makes_gaps_only_gets_so_many() {
        let mut early = Early::default();
        for number in 1..1000 {
            early.keep(0, number * 2, &[number as u8]);
        }
        assert_eq!((early.ranges.len(), early.bytes.len()), (RANGES, 2 * RANGES + 1));
        // What joins a range still finds room.
        early.keep(0, 3, &[9]);
        assert_eq!((early.ranges.len(), early.told()[0]), (RANGES - 1, Some((2, 5))));
        assert_eq!(early.advance(2, 2), [1, 9, 2]);
    }
}
