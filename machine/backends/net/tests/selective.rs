//! Selective acknowledgements both ways (RFC 2018, RFC 6675), over a link that loses, delays and repeats what the
//! test says: every byte comes, and nothing is sent again but what was lost.

#[path = "common/script.rs"]
mod script;

use std::collections::VecDeque;

use script::{Script, Seen};
use smoltcp::wire::{TcpControl, TcpRepr};

const MSS: usize = 100;
/// The guest's first position.
const GUEST_FIRST: u32 = 1000;

/// What happens to a frame: tests say it by its segment's number and how often that was sent before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Luck {
    Arrives,
    Lost,
    Twice,
    /// After so many others.
    Late(usize),
}

/// A link's frames in their order.
struct Link<T> {
    waiting: VecDeque<(usize, T)>,
}

impl<T: Clone> Link<T> {
    fn new() -> Self {
        Self { waiting: VecDeque::new() }
    }

    fn send(&mut self, luck: Luck, frame: T) {
        let late = match luck {
            Luck::Lost => return,
            Luck::Twice => {
                self.waiting.push_back((0, frame.clone()));
                0
            }
            Luck::Late(count) => count,
            Luck::Arrives => 0,
        };
        self.waiting.push_back((late, frame));
    }

    fn next(&mut self) -> Option<T> {
        let index = self.waiting.iter().position(|one| one.0 == 0).unwrap_or(0);
        // Those before it have been overtaken.
        self.waiting.iter_mut().take(index).for_each(|one| one.0 -= 1);
        self.waiting.remove(index).map(|one| one.1)
    }
}

fn byte(at: usize) -> u8 {
    ((at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn bytes(range: std::ops::Range<usize>) -> Vec<u8> {
    range.map(byte).collect()
}

/// A connection that stands, with a guest that knows of selective acknowledgements or not: our first position.
fn connection(script: &mut Script, selective: bool) -> u32 {
    script.segment(&TcpRepr {
        max_seg_size: Some(MSS as u16),
        sack_permitted: selective,
        ..Script::plain(TcpControl::Syn, GUEST_FIRST - 1, None, 1000, &[])
    });
    script.wires.borrow_mut().connected = true;
    script.event();
    let syn = script.seen().expect("a SYN-ACK");
    assert_eq!((syn.control, syn.selective), (TcpControl::Syn, selective));
    let first = syn.at.wrapping_add(1);
    script.tcp(TcpControl::None, GUEST_FIRST, Some(first), u16::MAX, &[]);
    first
}

/// The receiving end: what came, and the ranges behind the first gap, the latest first.
struct Receiver {
    /// One more than there are bytes: the end, which has a position of its own.
    have: Vec<bool>,
    bytes: Vec<u8>,
    recent: Vec<usize>,
}

impl Receiver {
    fn new(total: usize) -> Self {
        Self { have: vec![false; total + 1], bytes: vec![0; total], recent: Vec::new() }
    }

    fn take(&mut self, at: usize, payload: &[u8], fin: bool) {
        self.bytes[at..at + payload.len()].copy_from_slice(payload);
        self.have[at..at + payload.len() + usize::from(fin)].fill(true);
        self.recent.insert(0, at);
    }

    fn missing(&self) -> usize {
        self.have.iter().position(|have| !have).unwrap_or(self.have.len())
    }

    fn range_around(&self, at: usize) -> (usize, usize) {
        let start = self.have[..at].iter().rposition(|have| !have).map_or(0, |gap| gap + 1);
        let end = self.have[at..].iter().position(|have| !have);
        (start, end.map_or(self.have.len(), |gap| at + gap))
    }

    fn blocks(&mut self) -> Vec<(usize, usize)> {
        let missing = self.missing();
        self.recent.retain(|&at| at > missing);
        let mut blocks = Vec::new();
        for &at in &self.recent {
            let block = self.range_around(at);
            if !blocks.contains(&block) {
                blocks.push(block);
            }
        }
        blocks
    }
}

/// What a transfer came to.
struct Outcome {
    /// How often each position was sent, and whether it was lost once.
    sent: Vec<usize>,
    lost: Vec<bool>,
    timeouts: usize,
}

impl Outcome {
    /// Only what was lost was sent again, and that once.
    #[track_caller]
    fn expect_exact(&self) {
        let wanted: Vec<usize> = self.lost.iter().map(|&lost| 1 + usize::from(lost)).collect();
        let wrong = (0..wanted.len()).find(|&at| self.sent[at] != wanted[at]);
        assert_eq!(wrong.map(|at| (at, self.sent[at], self.lost[at])), None);
    }
}

/// `total` bytes of the host and their end, to the guest.
fn to_guest(total: usize, selective: bool, mut luck: impl FnMut(usize, usize) -> Luck) -> Outcome {
    let mut script = Script::new();
    let first = connection(&mut script, selective);
    {
        let mut wires = script.wires.borrow_mut();
        wires.to_guest.extend(bytes(0..total));
        wires.ended = true;
    }
    script.event();
    let mut outcome =
        Outcome { sent: vec![0; total + 1], lost: vec![false; total + 1], timeouts: 0 };
    let (mut link, mut guest) = (Link::<Seen>::new(), Receiver::new(total));
    while guest.missing() <= total {
        while let Some(seen) = script.seen() {
            let at = seen.at.wrapping_sub(first) as usize;
            let end = at + seen.payload.len() + usize::from(seen.control == TcpControl::Fin);
            assert!(seen.payload.len() <= MSS && end > at, "{seen:?}");
            let fate = luck(at / MSS, outcome.sent[at]);
            outcome.sent[at..end].iter_mut().for_each(|times| *times += 1);
            outcome.lost[at..end].iter_mut().for_each(|lost| *lost |= fate == Luck::Lost);
            link.send(fate, seen);
        }
        let Some(seen) = link.next() else {
            outcome.timeouts += 1;
            assert!(outcome.timeouts < 1000 && script.stack.flows().0 == 1);
            script.stack.advance(script.stack.deadline().expect("a timer"));
            continue;
        };
        let at = seen.at.wrapping_sub(first) as usize;
        guest.take(at, &seen.payload, seen.control == TcpControl::Fin);
        let position = |at: usize| first.wrapping_add(at as u32);
        let ack = position(guest.missing());
        let blocks = guest.blocks();
        let mut blocks = blocks.iter().map(|&(from, to)| (position(from), position(to)));
        let ranges = [(); 3].map(|()| blocks.next().filter(|_| selective));
        script.segment(&TcpRepr {
            sack_ranges: ranges,
            ..Script::plain(TcpControl::None, GUEST_FIRST, Some(ack), u16::MAX, &[])
        });
    }
    assert!(guest.bytes == bytes(0..total), "the bytes");
    outcome
}

/// The same for the guest's bytes, to the host. The guest sends again what three segments behind it prove lost, or, if nothing
/// else happens, what it has not been told of.
fn to_host(total: usize, mut luck: impl FnMut(usize, usize) -> Luck) -> Outcome {
    let mut script = Script::new();
    let first = connection(&mut script, true);
    let segments = total.div_ceil(MSS) + 1;
    let (mut sent, mut lost, mut arrived) =
        (vec![0; segments], vec![false; segments], vec![false; segments]);
    let (mut told, mut acked, mut next, mut timeouts) = (vec![false; segments], 0, 0, 0);
    let mut link = Link::<usize>::new();
    let edge = |segment: usize| (segment * MSS).min(total) + usize::from(segment == segments);
    let of = |position: u32| {
        let offset = position.wrapping_sub(GUEST_FIRST) as usize;
        if offset > total { segments } else { offset.div_ceil(MSS) }
    };
    while acked < segments {
        let proven = |one: &usize| told[*one..].iter().filter(|&&told| told).count() >= 3;
        let hole = (acked..next).find(|one| !told[*one] && sent[*one] == 1 && proven(one));
        let open = (next < segments && next < acked + 100).then_some(next);
        if let Some(segment) = hole.or(open) {
            let fate = luck(segment, sent[segment]);
            sent[segment] += 1;
            lost[segment] |= fate == Luck::Lost;
            next = next.max(segment + 1);
            link.send(fate, segment);
            if hole.is_some() || next < segments {
                // A few are under way at any time.
                if link.waiting.len() < 8 {
                    continue;
                }
            }
        }
        let Some(segment) = link.next() else {
            timeouts += 1;
            assert!(timeouts < 1000);
            // The first of those that are not known to be there.
            let missing = (acked..next).find(|one| !told[*one]).expect("something is missing");
            sent[missing] += 1;
            link.send(Luck::Arrives, missing);
            continue;
        };
        arrived[segment] = true;
        let last = segment + 1 == segments;
        let payload = bytes(edge(segment)..edge(segment + 1).min(total));
        let control = if last { TcpControl::Fin } else { TcpControl::Psh };
        let at = GUEST_FIRST.wrapping_add(edge(segment) as u32);
        script.segment(&Script::plain(control, at, Some(first), u16::MAX, &payload));
        while let Some(seen) = script.seen() {
            let ack = of(seen.ack.expect("always"));
            assert!(arrived[..ack].iter().all(|&arrived| arrived), "{ack} is acknowledged");
            acked = acked.max(ack);
            if segment > ack && !last {
                let newest = seen.blocks.first().map(|&(from, to)| of(from)..of(to));
                assert!(newest.is_some_and(|one| one.contains(&segment)), "{segment}: {seen:?}");
            }
            for &(from, to) in &seen.blocks {
                assert!(of(from) > ack && of(to) > of(from), "{seen:?}");
                assert!(arrived[of(from)..of(to)].iter().all(|&arrived| arrived), "{seen:?}");
                told[of(from)..of(to)].fill(true);
            }
        }
    }
    let wires = script.wires.borrow();
    assert!(wires.from_guest == bytes(0..total) && wires.finished, "the bytes and their end");
    Outcome { sent, lost, timeouts }
}

/// Chances in a hundred, the same in each run.
fn dice(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % 100
    }
}

#[test]
fn several_losses_in_one_window_are_mended_at_once() {
    let lost = [5, 6, 7, 20, 41, 42, 77];
    let luck = |segment: usize, sent: usize| {
        if sent == 0 && lost.contains(&segment) { Luck::Lost } else { Luck::Arrives }
    };
    let down = to_guest(100 * MSS, true, luck);
    down.expect_exact();
    assert_eq!((down.timeouts, down.lost.iter().filter(|&&lost| lost).count()), (0, 7 * MSS));
    let up = to_host(100 * MSS, luck);
    up.expect_exact();
    assert_eq!((up.timeouts, up.lost.iter().filter(|&&lost| lost).count()), (0, 7));
}

#[test]
fn random_losses_and_those_alone_are_sent_again() {
    for seed in 0..8 {
        for chance in [1, 10, 30] {
            let luck = |seed| {
                let mut dice = dice(seed);
                move |_, sent| if sent == 0 && dice() < chance { Luck::Lost } else { Luck::Arrives }
            };
            let down = to_guest(40_123, true, luck(seed));
            down.expect_exact();
            to_host(40_123, luck(seed)).expect_exact();
        }
    }
}

#[test]
fn another_order_and_repetition_are_no_loss() {
    let luck = |segment: usize, _: usize| match segment % 10 {
        3 => Luck::Late(2),
        6 => Luck::Twice,
        8 => Luck::Late(1),
        _ => Luck::Arrives,
    };
    let down = to_guest(50_000, true, luck);
    down.expect_exact();
    assert_eq!((down.timeouts, down.lost.contains(&true)), (0, false));
    let up = to_host(50_000, luck);
    up.expect_exact();
    assert_eq!((up.timeouts, up.lost.contains(&true)), (0, false));
}

#[test]
fn whatever_happens_also_to_what_is_sent_again_every_byte_comes() {
    for seed in 0..20 {
        let luck = || {
            let mut dice = dice(seed);
            move |_: usize, _: usize| match dice() {
                0..=14 => Luck::Lost,
                15..=24 => Luck::Twice,
                chance @ 25..=39 => Luck::Late(chance as usize - 24),
                _ => Luck::Arrives,
            }
        };
        to_guest(20_000, true, luck());
        to_guest(20_000, false, luck());
        to_host(20_000, luck());
    }
}

#[test]
fn a_guest_that_lets_go_of_what_it_said_it_had_gets_it_again() {
    let mut script = Script::new();
    let first = connection(&mut script, true);
    script.wires.borrow_mut().to_guest.extend(bytes(0..5 * MSS));
    script.event();
    while script.seen().is_some() {}
    let at = |segment: u32| first.wrapping_add(segment * MSS as u32);
    // It claims all but the first, later only what it is given.
    script.segment(&TcpRepr {
        sack_ranges: [Some((at(1), at(5))), None, None],
        ..Script::plain(TcpControl::None, GUEST_FIRST, Some(first), u16::MAX, &[])
    });
    assert_eq!(script.seen().expect("the one that is missing").at, first);
    assert_eq!(script.seen(), None);
    for segment in 0..5 {
        // The first is lost again, the others are asked for one by one.
        if segment < 2 {
            script.stack.advance(script.stack.deadline().expect("a timer"));
        }
        let seen = script.seen().expect("another one");
        assert_eq!((seen.at, seen.payload.len()), (at(segment), MSS));
        script.tcp(TcpControl::None, GUEST_FIRST, Some(at(segment + 1)), u16::MAX, &[]);
    }
    assert_eq!(script.seen(), None);
}
