//! What of the bytes in flight the guest says it has (RFC 6675, section 4).
//!
//! Invariant: ranges are ascending, disjoint, do not touch and lie within what is in flight, whatever the guest
//! claims; at most [`RANGES`] of them: what a claim beyond that is about is sent again at worst.

use super::sequence::{self, Sequence};

/// Ranges at most.
const RANGES: usize = 256;
/// Ranges, or segments less one, behind a gap that show it to be a loss rather than another order (`DupThresh`).
const LOST_AFTER: usize = 3;

#[derive(Default)]
pub(super) struct Scoreboard {
    ranges: Vec<(Sequence, Sequence)>,
}

/// Bytes that the guest has not, in front of some that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hole {
    pub(super) start: Sequence,
    pub(super) end: Sequence,
    /// So much came behind it that it is to be taken as lost.
    pub(super) lost: bool,
}

impl Scoreboard {
    /// Adds a claim about bytes between `una` and `next`; says whether it tells something new.
    pub(super) fn add(
        &mut self,
        block: (Sequence, Sequence),
        una: Sequence,
        next: Sequence,
    ) -> bool {
        let (mut start, mut end) = block;
        let (from, to) = (sequence::after(start, una), sequence::after(end, una));
        if from <= 0 || to <= from || to > sequence::after(next, una) {
            // Nonsense, or a report of what came twice (RFC 2883).
            return false;
        }
        let first = self.ranges.partition_point(|range| sequence::after(start, range.1) > 0);
        let touches = |range: &&(Sequence, Sequence)| sequence::after(range.0, end) <= 0;
        let last = first + self.ranges[first..].iter().take_while(touches).count();
        if first == last {
            let room = self.ranges.len() < RANGES;
            if room {
                self.ranges.insert(first, block);
            }
            return room;
        }
        let (lowest, highest) = (self.ranges[first].0, self.ranges[last - 1].1);
        if last - first == 1
            && sequence::after(lowest, start) <= 0
            && sequence::after(highest, end) >= 0
        {
            return false;
        }
        start = if sequence::after(lowest, start) < 0 { lowest } else { start };
        end = if sequence::after(highest, end) > 0 { highest } else { end };
        self.ranges[first] = (start, end);
        self.ranges.drain(first + 1..last);
        true
    }

    /// Everything before `una` is acknowledged.
    pub(super) fn acknowledged(&mut self, una: Sequence) {
        // A range that `una` has reached the start of was acknowledged with it, or the guest has let it go.
        self.ranges.retain(|range| sequence::after(range.0, una) > 0);
    }

    /// Forgets every claim: the guest may have let go of what it had (RFC 2018, section 8).
    pub(super) fn clear(&mut self) {
        self.ranges.clear();
    }

    /// The first hole from `from` on; there is none behind the last range.
    pub(super) fn hole(&self, mut from: Sequence, segment: usize) -> Option<Hole> {
        for (index, range) in self.ranges.iter().enumerate() {
            if sequence::after(range.0, from) > 0 {
                let behind = &self.ranges[index..];
                let bytes: usize =
                    behind.iter().map(|one| sequence::after(one.1, one.0) as usize).sum();
                let lost = behind.len() >= LOST_AFTER || bytes > (LOST_AFTER - 1) * segment;
                return Some(Hole { start: from, end: range.0, lost });
            }
            if sequence::after(range.1, from) > 0 {
                from = range.1;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNA: Sequence = u32::MAX - 99;
    const NEXT: Sequence = 9900;

    fn at(offset: usize) -> Sequence {
        sequence::plus(UNA, offset)
    }

    fn add(board: &mut Scoreboard, from: usize, to: usize) -> bool {
        board.add((at(from), at(to)), UNA, NEXT)
    }

    #[test]
    fn claims_join_and_show_what_is_lost() {
        let mut board = Scoreboard::default();
        assert!(add(&mut board, 500, 600) && add(&mut board, 100, 200));
        assert!(!add(&mut board, 120, 200), "nothing new");
        let hole = |board: &Scoreboard, from| {
            board
                .hole(at(from), 100)
                .map(|one| (one.start.wrapping_sub(UNA), one.end.wrapping_sub(UNA), one.lost))
        };
        assert_eq!(hole(&board, 0), Some((0, 100, false)));
        assert_eq!(hole(&board, 100), Some((200, 500, false)));
        assert!(add(&mut board, 600, 650) && add(&mut board, 700, 800));
        assert_eq!(hole(&board, 0), Some((0, 100, true)), "three ranges");
        assert_eq!(hole(&board, 150), Some((200, 500, true)), "more than two segments");
        assert_eq!(hole(&board, 640), Some((650, 700, false)));
        assert_eq!(hole(&board, 700), None);
        assert!(add(&mut board, 150, 710));
        assert_eq!(board.ranges, [(at(100), at(800))]);
        board.acknowledged(at(800));
        assert!(board.ranges.is_empty());
    }

    #[test]
    fn claims_of_what_is_not_in_flight_are_no_claims() {
        let mut board = Scoreboard::default();
        for (from, to) in [
            (0, 100),
            (200, 200),
            (300, 200),
            (9000, 10_001),
            (20_000, 30_000),
            (0x7fff_fff0, 0xffff_ffef),
            (0xffff_fff0, 100),
        ] {
            assert!(!add(&mut board, from, to), "{from} {to}");
        }
        assert!(board.ranges.is_empty());
        for number in 1..4000 {
            add(&mut board, 2 * number, 2 * number + 1);
        }
        assert_eq!(board.ranges.len(), RANGES);
        assert!(add(&mut board, 1, 10_000));
        assert_eq!(board.ranges.len(), 1);
    }
}
