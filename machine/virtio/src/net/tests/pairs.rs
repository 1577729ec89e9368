//! A card with several pairs of queues: where its control queue is, how many pairs are in use, and which pair a
//! frame comes on.

use snapshot::State;

use super::steering::Flows;
use super::*;
use crate::state::{ModelV1, VirtioV1};
use crate::testing::{Machine, through_bytes};

const PAIRS: u32 = 3;
const CONTROL: usize = 6;
const COMMANDS: u64 = 0xc_0000;

/// Where a queue's buffers are.
fn buffers(queue: usize) -> u64 {
    0x6_0000 + 0x1_0000 * queue as u64 / 2
}

/// A frame of a connection of the guest's to some server; back: the server's answer.
fn frame(port: u16, back: bool) -> Vec<u8> {
    let mut frame = [OWN, [2; 6]].concat();
    frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0]);
    let ends = [([10, 0, 2, 15], port), ([192, 0, 2, 1], 443)];
    let [from, to] = if back { [ends[1], ends[0]] } else { ends };
    frame.extend([from.0, to.0].concat());
    frame.extend([from.1.to_be_bytes(), to.1.to_be_bytes()].concat());
    frame.resize(60, 0);
    frame
}

/// What another thread brings about.
fn eventually(mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "that takes too long");
        std::thread::sleep(Duration::from_millis(1));
    }
}

struct Card {
    machine: Machine,
    host: Memory,
    /// The next descriptors of each queue.
    next: Vec<u16>,
}

impl Card {
    fn new(features: u64) -> Self {
        Self::threaded(features, true)
    }

    fn threaded(features: u64, inline: bool) -> Self {
        let host = Memory::default();
        let card = Net::new(Box::new(host.clone()), OWN, 1500, PAIRS);
        let machine = Machine::new(|_| Box::new(card), features, inline);
        let next = vec![0; machine.queues.len()];
        Self { machine, host, next }
    }

    /// A command's answer, on a queue.
    fn command_on(&mut self, queue: usize, bytes: &[u8]) -> u8 {
        let answer = COMMANDS + 0x100;
        self.machine.queues[queue].write(COMMANDS, bytes);
        self.machine.queues[queue].write(answer, &[0xee]);
        let first = self.take(queue, 2);
        let chain = [(COMMANDS, bytes.len() as u32, false), (answer, 1, true)];
        self.machine.offer(queue, first, &chain);
        self.machine.queues[queue].read(answer, 1)[0]
    }

    fn use_pairs(&mut self, pairs: u16) {
        let command = [[4, 0], pairs.to_le_bytes()].concat();
        assert_eq!(self.command_on(CONTROL, &command), 0, "{pairs} pairs");
    }

    fn take(&mut self, queue: usize, count: u16) -> u16 {
        let first = self.next[queue] % 16;
        self.next[queue] += count;
        first
    }

    /// Buffers for so many frames on a pair, each of 2 KiB.
    fn room(&mut self, pair: usize, count: u16) {
        for _ in 0..count {
            let first = self.take(2 * pair, 1);
            let at = buffers(2 * pair) + 0x800 * u64::from(first);
            self.machine.offer(2 * pair, first, &[(at, 2048, true)]);
        }
    }

    fn send(&mut self, pair: usize, port: u16) {
        let queue = 2 * pair + 1;
        let at = buffers(queue) + 0x8000;
        self.machine.queues[queue].write(at, &[&[0; 12], &frame(port, false)[..]].concat());
        let first = self.take(queue, 1);
        self.machine.offer(queue, first, &[(at, 72, false)]);
    }

    /// Answers come for these ports; how many frames came on each pair meanwhile.
    fn answers(&mut self, ports: &[u16]) -> [u16; 3] {
        let before = self.came();
        let frames = ports.iter().map(|port| (Header::default(), frame(*port, true)));
        self.host.seen().waiting.extend(frames);
        self.machine.ring(0);
        let after = self.came();
        [0, 1, 2].map(|pair| after[pair] - before[pair])
    }

    fn came(&self) -> [u16; 3] {
        [0, 2, 4].map(|queue| self.machine.queues[queue].used_index())
    }
}

#[test]
fn a_card_has_a_pair_of_queues_for_each_processor_up_to_a_bound() {
    let of = |cpus| {
        let card = Net::new(Box::new(Memory::default()), OWN, 1500, cpus);
        let mut pairs = [0; 2];
        card.config_read(8, &mut pairs);
        (u16::from_le_bytes(pairs), card.queue_sizes().len(), card.features() & MQ != 0)
    };
    let expected = [(1, 3, false), (1, 3, false), (2, 5, true), (16, 33, true), (16, 33, true)];
    assert_eq!([0, 1, 2, 16, 200].map(of), expected);
}

#[test]
fn the_control_queue_is_behind_the_pairs_that_were_negotiated() {
    let promiscuous = [0, 0, 1];
    let mut with = Card::new(ALL | MQ);
    assert_eq!(with.command_on(CONTROL, &promiscuous), 0);
    with.use_pairs(2);
    assert_eq!(with.command_on(4, &promiscuous), 0xee, "that is a receive queue");
    let mut without = Card::new(ALL);
    assert_eq!(without.command_on(2, &promiscuous), 0);
    assert_eq!(without.command_on(CONTROL, &promiscuous), 0xee, "that is no queue at all");
    assert_eq!(without.command_on(2, &[4, 0, 1, 0]), 1, "pairs were not negotiated");
    without.room(0, 2);
    without.send(0, 1);
    assert_eq!(without.answers(&[1, 2]), [2, 0, 0], "one pair works as ever");
}

#[test]
fn as_many_pairs_are_used_as_there_are_and_no_others() {
    let mut card = Card::new(ALL | MQ);
    let rest: [&[u8]; 8] = [
        &[4, 0, 0, 0],
        &[4, 0, 4, 0],
        &[4, 0, 1, 1],
        &[4, 0, 0xff, 0xff],
        &[4, 0, 2],
        &[4, 0, 2, 0, 0],
        &[4, 1, 2, 0],
        &[4, 2, 2, 0],
    ];
    for command in rest {
        assert_eq!(card.command_on(CONTROL, command), 1, "{command:?}");
    }
    (0..3).for_each(|pair| card.room(pair, 4));
    card.send(2, 7);
    assert_eq!(card.answers(&[7, 8, 9]), [3, 0, 0], "none of that changed anything");
    (1..=3).for_each(|pairs| card.use_pairs(pairs));
}

#[test]
fn a_flow_s_frames_come_on_the_pair_it_was_last_sent_on() {
    let mut card = Card::new(ALL | MQ);
    (0..3).for_each(|pair| card.room(pair, 16));
    card.use_pairs(3);
    for port in 0..12 {
        card.send(usize::from(port % 3), port);
    }
    assert_eq!(card.host.seen().sent.len(), 12);
    assert_eq!(card.answers(&[0, 3, 6, 9]), [4, 0, 0]);
    assert_eq!(card.answers(&[1, 4, 7, 10]), [0, 4, 0]);
    assert_eq!(card.answers(&[2, 5, 8, 11]), [0, 0, 4]);
    card.send(0, 11);
    assert_eq!(card.answers(&[11, 8]), [1, 0, 1], "one flow moved");
    let group = [[0xff; 6], [2; 6]].concat();
    card.host.seen().waiting.push_back((Header::default(), [group, vec![0; 46]].concat()));
    assert_eq!(card.answers(&[]), [1, 0, 0], "what is no flow comes on the first");
}

#[test]
fn no_frame_comes_on_a_pair_out_of_use_and_its_buffers_are_used_later() {
    let mut card = Card::new(ALL | MQ);
    (0..3).for_each(|pair| card.room(pair, 16));
    (0..16).for_each(|port| card.send(usize::from(port % 3), port));
    let ports: Vec<u16> = (0..4).collect();
    assert_eq!(card.answers(&ports), [4, 0, 0], "one is in use at first");
    card.use_pairs(3);
    (0..12).for_each(|port| card.send(usize::from(port % 3), port));
    assert_eq!(card.answers(&[1, 2]), [0, 1, 1]);
    card.use_pairs(2);
    let [first, second, third] = card.answers(&[0, 1, 2, 5, 8, 11]);
    assert_eq!((first + second, third), (6, 0), "the third is out of use");
    card.send(2, 30);
    assert_eq!(card.host.seen().sent.len(), 29, "what was queued before is sent");
    card.use_pairs(1);
    assert_eq!(card.answers(&[1, 4]), [2, 0, 0]);
    card.use_pairs(3);
    card.send(2, 2);
    assert_eq!(card.answers(&[2]), [0, 0, 1]);
    let used: Vec<_> = (0..2).map(|at| card.machine.queues[4].used(at).0).collect();
    assert_eq!(used, [0, 1], "its buffers in their order");
}

#[test]
fn a_pair_that_never_had_a_buffer_is_passed_over() {
    let mut card = Card::new(ALL | MQ);
    card.use_pairs(3);
    card.room(1, 8);
    card.send(2, 2);
    card.send(1, 1);
    assert_eq!(card.answers(&[2, 1]), [0, 2, 0]);
    card.room(2, 8);
    assert_eq!(card.answers(&[2, 1]), [0, 1, 1], "now it has");
}

#[test]
fn a_pair_without_room_makes_frames_wait_and_none_is_lost() {
    let mut card = Card::new((ALL | MQ) & !Offload::FEATURES);
    card.use_pairs(2);
    card.room(0, 8);
    card.room(1, 1);
    card.send(0, 0);
    card.send(1, 1);
    assert_eq!(
        card.answers(&[1, 1, 0]),
        [0, 1, 0],
        "nothing is asked for while a pair has no room"
    );
    assert_eq!(card.host.seen().waiting.len(), 2);
    card.room(1, 2);
    assert_eq!(card.came(), [1, 2, 0]);
}

#[test]
fn a_silent_driver_is_asked_for_the_buffers_of_the_pair_that_lacks_them() {
    const EVENT_IDX: u64 = 1 << 29;
    for features in [ALL, ALL | EVENT_IDX] {
        let mut card = Card::new((features | MQ) & !Offload::FEATURES);
        card.use_pairs(2);
        card.room(0, 4);
        card.room(1, 1);
        card.send(1, 1);
        assert_eq!(card.answers(&[1]), [0, 1, 0]);
        let asks = |card: &Card, queue: usize| {
            let guest = &card.machine.queues[queue];
            let event = guest.word(guest.layout.used.0 + 4 + 8 * 16);
            match features & EVENT_IDX {
                0 => guest.word(guest.layout.used.0) == 0,
                _ => event == card.next[queue],
            }
        };
        assert!(asks(&card, 2) && !asks(&card, 0), "{features:#x}");
    }
}

#[test]
fn delayed_frames_of_several_pairs_go_back_where_they_came_from() {
    let delay = Duration::from_millis(20);
    let host = Memory::default();
    let card = Net::new(Box::new(host.clone()), OWN, 1500, PAIRS);
    let machine = Machine::with_faults(
        |_| Box::new(card),
        ALL | MQ,
        Faults { delay, net: true, ..Faults::default() },
    );
    let next = vec![0; machine.queues.len()];
    let mut card = Card { machine, host, next };
    card.command_on(CONTROL, &[4, 0, 2, 0]);
    (0..2).for_each(|pair| card.room(pair, 4));
    for (pair, port) in [(0, 0), (1, 1), (1, 3), (2, 5)] {
        card.send(pair, port);
    }
    eventually(|| [1, 3, 5].map(|queue| card.machine.queues[queue].used_index()) == [1, 2, 1]);
    card.answers(&[0, 1, 3]);
    eventually(|| card.came() == [1, 2, 0]);
}

#[test]
fn several_pairs_are_in_use_again_after_they_were_saved() {
    for inline in [true, false] {
        let mut card = Card::threaded(ALL | MQ, inline);
        (0..3).for_each(|pair| card.room(pair, 8));
        let at = COMMANDS + 0x200;
        card.machine.queues[CONTROL].write(at, &[4, 0, 2, 0]);
        let first = card.take(CONTROL, 2);
        card.machine.offer(CONTROL, first, &[(at, 4, false), (at + 8, 1, true)]);
        eventually(|| card.machine.queues[CONTROL].used_index() == 1);
        card.send(1, 1);
        let second = Memory::default();
        let host = second.clone();
        card.machine = card.machine.reborn(|_, state| {
            let ModelV1::Net(state) = state else { panic!("a card: {state:?}") };
            let used = state.driver.as_ref().map(|driver| driver.pairs);
            assert_eq!((state.pairs, used), (3, Some(2)));
            Box::new(Net::restore(Box::new(host), state).expect("sound"))
        });
        card.host = second;
        if !inline {
            continue; // frames come when they come there
        }
        card.send(1, 1);
        card.send(0, 0);
        assert_eq!(card.answers(&[0, 1]), [1, 1, 0]);
        let [first, second, third] = card.answers(&(10..16).collect::<Vec<_>>());
        assert!(first > 0 && second > 0 && third == 0, "{first} {second} {third}");
        card.use_pairs(3);
        card.send(2, 2);
        assert_eq!(card.answers(&[2]), [0, 0, 1]);
    }
}

#[test]
fn a_card_saved_before_there_were_pairs_has_one() {
    let card = Net::new(Box::new(Memory::default()), OWN, 1500, 1);
    let mut machine = Machine::new(|_| Box::new(card), ALL, true);
    let mut state = machine.save();
    let ModelV1::Net(net) = &state.model else { panic!("a card: {:?}", state.model) };
    let driver = net.driver.clone().map(|driver| driver.settings);
    let old = NetV1 { mac: net.mac, mtu: net.mtu, driver };
    let sections = [state.transport.to_section(), old.to_section()];
    assert_eq!(sections[1].version, 1);
    assert_eq!(VirtioV1::from_sections(&sections).as_ref(), Ok(&state));
    assert_eq!(state.to_sections()[1].version, 2);
    state.model = ModelV1::Net(NetV2::from(NetV1 { driver: None, ..old }));
    through_bytes(&state);
}

#[test]
fn a_card_that_waits_for_one_pair_s_buffers_does_not_go_round() {
    for delay in [Duration::ZERO, Duration::from_millis(5)] {
        let guests: Vec<_> = (0..5).map(|_| Guest::new(16)).collect();
        let queue = |guest: &Guest| Some(guest.queue(0).expect("a sound queue"));
        let mut queues = Queues::new(guests.iter().map(queue).collect());
        let [mut first, _, mut second, _, mut control] =
            <[_; 5]>::try_from(guests).ok().expect("five");
        let host = Memory::default();
        let backend: Arc<Mutex<Box<dyn Backend>>> = Arc::new(Mutex::new(Box::new(host.clone())));
        let faults = (Faults { delay, ..Faults::default() }, &Waker::none());
        let mut handler = NetHandler::new(backend, MRG_RXBUF | MQ, (OWN, 1500), 2, faults);
        control.write(BUFFERS, &[4, 0, 2, 0]);
        control.offer_chain(0, &[(BUFFERS, 4, false), (BUFFERS + 8, 1, true)]);
        let mut round = || {
            handler.process(&mut queues).expect("sound rings");
            queues.take_results().1
        };
        while round() {}
        for at in 0..8 {
            first.offer_chain(at, &[(BUFFERS + 0x800 * u64::from(at), 2048, true)]);
        }
        second.offer_chain(0, &[(BUFFERS, 2048, true)]);
        // Two frames of a flow that has the second pair by its hash, between them one of none.
        let port = (0..).find(|port| Flows::default().pair(&frame(*port, true), 2) == 1);
        let mut frames = vec![frame(port.expect("one of them"), true); 2];
        frames.insert(1, [[0xff; 12], [0; 12]].concat());
        host.seen().waiting.extend(frames.into_iter().map(|frame| (Header::default(), frame)));
        let begun = Instant::now();
        let mut rounds = 0;
        while begun.elapsed() < 4 * delay || rounds < 4 {
            rounds = if round() { 0 } else { rounds + 1 };
            assert!(begun.elapsed() < Duration::from_secs(20), "it has nothing to do");
        }
        assert_eq!((first.used_index(), second.used_index()), (0, 1), "{delay:?}");
        second.offer_chain(1, &[(BUFFERS + 0x800, 2048, true)]);
        second.offer_chain(2, &[(BUFFERS + 0x1000, 2048, true)]);
        while round() {}
        assert_eq!((first.used_index(), second.used_index()), (1, 2), "{delay:?}");
    }
}
