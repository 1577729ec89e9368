//! A card on a backend that remembers, three queues, and what a driver may and may not do.

mod pairs;
mod saved;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::*;
use crate::device::Queues;
use crate::faults::Faults;
use crate::testing::{BUFFERS, Guest};

const OWN: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const ALL: u64 = CSUM
    | HOST_TSO4
    | HOST_TSO6
    | Offload::FEATURES
    | MRG_RXBUF
    | CTRL_VQ
    | CTRL_RX
    | CTRL_MAC_ADDR
    | CTRL_GUEST_OFFLOADS;

#[derive(Default)]
struct Seen {
    sent: Vec<(Header, Vec<u8>)>,
    /// Frames for the guest.
    waiting: VecDeque<(Header, Vec<u8>)>,
    /// How much room each question for a frame had.
    rooms: Vec<usize>,
    offload: Offload,
    mac: [u8; 6],
    resets: u32,
}

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Seen>>);

impl Memory {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().expect("not poisoned")
    }
}

struct Nowhere;

impl Waiter for Nowhere {
    fn wait(&self) {}
    fn wake(&self) {}
}

impl Backend for Memory {
    fn poll(&mut self) {}

    fn settle(&mut self) {}

    fn send(&mut self, header: &Header, frame: &[u8]) {
        self.seen().sent.push((*header, frame.to_vec()));
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Option<(Header, usize)> {
        let mut seen = self.seen();
        seen.rooms.push(buffer.len());
        let (header, frame) = seen.waiting.pop_front()?;
        buffer[..frame.len()].copy_from_slice(&frame);
        Some((header, frame.len()))
    }

    fn set_offload(&mut self, offload: Offload) {
        self.seen().offload = offload;
    }

    fn set_mac(&mut self, mac: [u8; 6]) {
        self.seen().mac = mac;
    }

    fn reset(&mut self) {
        self.seen().resets += 1;
    }

    fn waiter(&self) -> Arc<dyn Waiter> {
        Arc::new(Nowhere)
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn takes_large(&self) -> bool {
        true
    }
}

/// Three queues, each in a memory of its own.
struct Bench {
    receive: Guest,
    transmit: Guest,
    control: Guest,
    queues: Queues,
    handler: NetHandler,
    host: Memory,
}

impl Bench {
    fn new(features: u64) -> Self {
        Self::faulty(features, Faults::default())
    }

    fn faulty(features: u64, faults: Faults) -> Self {
        let guests = [16, 16, 16].map(Guest::new);
        let queue = |guest: &Guest| Some(guest.queue(0).expect("a sound queue"));
        let queues = Queues::new(guests.iter().map(queue).collect());
        let [receive, transmit, control] = guests;
        let host = Memory::default();
        let backend: Arc<Mutex<Box<dyn Backend>>> = Arc::new(Mutex::new(Box::new(host.clone())));
        let handler = NetHandler::new(backend, features, (OWN, 1500), 1, (faults, &Waker::none()));
        Self { receive, transmit, control, queues, handler, host }
    }

    fn process(&mut self) -> Result<(), crate::Broken> {
        self.handler.process(&mut self.queues)
    }

    /// Sends a frame behind a header.
    fn send(&mut self, header: [u8; 12], frame: &[u8]) {
        self.transmit.write(BUFFERS, &header);
        self.transmit.write(BUFFERS + 0x100, frame);
        let length = frame.len() as u32;
        self.transmit.offer_chain(0, &[(BUFFERS, 12, false), (BUFFERS + 0x100, length, false)]);
        self.process().expect("a sound ring");
    }

    /// A command's answer.
    fn command(&mut self, bytes: &[u8]) -> u8 {
        self.control.write(BUFFERS, bytes);
        let buffers = [(BUFFERS, bytes.len() as u32, false), (BUFFERS + 0x8000, 1, true)];
        self.control.offer_chain(0, &buffers);
        self.process().expect("a sound ring");
        self.control.read(BUFFERS + 0x8000, 1)[0]
    }

    /// Room for frames: so many buffers of so many bytes.
    fn room(&mut self, first: u16, count: u16, bytes: u32) {
        for index in first..first + count {
            let at = BUFFERS + 0x1000 * u64::from(index);
            self.receive.offer_chain(index, &[(at, bytes, true)]);
        }
    }

    fn arrives(&mut self, frame: Vec<u8>) {
        let header =
            Header { flags: 1, checksum_start: 34, checksum_offset: 16, ..Header::default() };
        self.host.seen().waiting.push_back((header, frame));
        self.process().expect("a sound ring");
    }
}

fn frame_to(address: [u8; 6], length: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..length).map(|at| at as u8).collect();
    frame[..6].copy_from_slice(&address);
    frame
}

#[test]
fn frames_go_out_as_they_are() {
    let mut bench = Bench::new(ALL);
    let frame = frame_to([2; 6], 60);
    bench.send([0; 12], &frame);
    let mut header = [0; 12];
    header[..10].copy_from_slice(&[1, 1, 54, 0, 20, 0, 34, 0, 16, 0]);
    bench.send(header, &frame);
    let expected = Header {
        flags: 1,
        segmentation: Header::TCP4,
        header_length: 54,
        segment: 20,
        checksum_start: 34,
        checksum_offset: 16,
    };
    assert_eq!(bench.host.seen().sent, [(Header::default(), frame.clone()), (expected, frame)]);
    assert_eq!((bench.transmit.used_index(), bench.transmit.used(1)), (2, (0, 0)));
}

#[test]
fn what_may_not_be_sent_is_dropped_and_given_back() {
    let mut bench = Bench::new(ALL);
    let frame = frame_to([2; 6], 60);
    let with = |flags, kind, segment: u8, start: u8, offset: u8| {
        [flags, kind, 54, 0, segment, 0, start, 0, offset, 0, 0, 0]
    };
    bench.send(with(0, 0, 0, 0, 0), &frame[..13]);
    bench.send(with(1, 0, 0, 50, 9), &frame); // the sum would lie behind the end
    bench.send(with(1, 9, 20, 34, 16), &frame); // no such kind
    bench.send(with(1, 1, 0, 34, 16), &frame); // segments of nothing
    bench.send(with(0, 4, 20, 34, 16), &frame); // large, with a sum
    assert!(bench.host.seen().sent.is_empty());
    assert_eq!(bench.transmit.used_index(), 5);
    let mut plain = Bench::new(MRG_RXBUF);
    plain.send(with(1, 0, 0, 34, 16), &frame);
    plain.send(with(1, 1, 20, 34, 16), &frame);
    assert!(plain.host.seen().sent.is_empty(), "nothing of that was negotiated");
    plain.transmit.offer_chain(0, &[(BUFFERS, 7, false)]);
    plain.process().expect("a short header is no reason to stop");
    plain.transmit.offer_chain(0, &[(BUFFERS, 12, false), (BUFFERS, 0x1_0000, false)]);
    plain.process().expect("neither is a frame that is too long");
    assert_eq!((plain.host.seen().sent.len(), plain.transmit.used_index()), (0, 4));
}

#[test]
fn a_frame_may_take_several_buffers_which_come_at_once() {
    let mut bench = Bench::new(ALL & !Offload::FEATURES);
    bench.room(0, 3, 600);
    let frame = frame_to(OWN, 1400);
    bench.arrives(frame.clone());
    assert_eq!(bench.receive.used_index(), 3);
    let used = [0, 1, 2].map(|index| bench.receive.used(index));
    assert_eq!(used, [(0, 600), (1, 600), (2, 212)]);
    let header = bench.receive.read(BUFFERS, 12);
    assert_eq!(header, [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 3, 0], "three buffers");
    let mut got = bench.receive.read(BUFFERS + 12, 588);
    got.extend(bench.receive.read(BUFFERS + 0x1000, 600));
    got.extend(bench.receive.read(BUFFERS + 0x2000, 212));
    assert_eq!(got, frame);
}

#[test]
fn the_backend_is_asked_for_what_fits_and_when_it_fits() {
    let mut bench = Bench::new(ALL);
    assert!(bench.host.seen().offload == Offload { checksum: true, tcp4: true, tcp6: true });
    bench.room(0, 2, 700);
    bench.arrives(frame_to(OWN, 60));
    assert!(bench.host.seen().rooms.is_empty(), "1400 bytes are no room for a packet");
    bench.room(2, 1, 2000);
    bench.process().expect("a sound ring");
    assert_eq!(bench.host.seen().rooms, [3388, 2688], "the second had one buffer less");
    bench.room(3, 13, 4096);
    bench.process().expect("a sound ring");
    let most = bench.host.seen().rooms.last().copied();
    assert_eq!(most, Some(2700 + 13 * 4096 - 12));
    assert_eq!(bench.receive.used_index(), 1, "one frame came");
}

#[test]
fn without_merging_a_frame_has_one_chain() {
    let mut bench = Bench::new(0);
    bench.receive.offer_chain(0, &[(BUFFERS, 12, true), (BUFFERS + 0x100, 1514, true)]);
    bench.receive.offer_chain(2, &[(BUFFERS + 0x1000, 100, true)]);
    bench.arrives(frame_to(OWN, 1514));
    assert_eq!(bench.receive.used(0), (0, 1526));
    assert_eq!(bench.receive.read(BUFFERS + 10, 2), [1, 0]);
    assert_eq!(bench.host.seen().rooms, [1514, 88]);
    bench.receive.offer_chain(4, &[(BUFFERS, 5, true)]);
    bench.host.seen().waiting.push_back((Header::default(), frame_to(OWN, 60)));
    assert!(bench.process().is_err(), "five bytes hold no header");
    assert_eq!(bench.receive.used(1), (2, 72), "what came before went its way");
    let mut bench = Bench::new(0);
    bench.receive.offer_chain(0, &[(BUFFERS, 12, true)]);
    assert!(bench.process().is_err(), "a header's bytes hold no frame");
}

#[test]
fn frames_for_others_stay_out_until_asked_for() {
    let mut bench = Bench::new(ALL);
    bench.room(0, 8, 2048);
    let other = [0x52, 0x54, 0, 9, 9, 9];
    bench.arrives(frame_to(other, 60));
    assert_eq!(bench.receive.used_index(), 0);
    bench.arrives(frame_to([0xff; 6], 60));
    assert_eq!(bench.receive.used_index(), 1);
    assert_eq!(bench.command(&[0, 0, 1]), 0, "promiscuous");
    bench.arrives(frame_to(other, 60));
    assert_eq!(bench.receive.used_index(), 2);
}

#[test]
fn commands_change_what_was_negotiated() {
    let mut bench = Bench::new(ALL);
    assert_eq!(bench.command(&[1, 1, 2, 0, 0, 0, 0, 7]), 0);
    assert_eq!(bench.host.seen().mac, [2, 0, 0, 0, 0, 7]);
    let table = [[1_u8, 0].as_slice(), &[1, 0, 0, 0], &[2; 6], &[0, 0, 0, 0]].concat();
    assert_eq!(bench.command(&table), 0);
    let offloads = [[5_u8, 0].as_slice(), &(GUEST_CSUM | GUEST_TSO6).to_le_bytes()].concat();
    assert_eq!(bench.command(&offloads), 0);
    assert_eq!(bench.host.seen().offload, Offload { checksum: true, tcp4: false, tcp6: true });
}

#[test]
fn commands_that_are_none_change_nothing() {
    let mut bench = Bench::new(ALL);
    for bytes in [
        &[0][..],
        &[0, 0],
        &[0, 0, 1, 1],
        &[0, 6, 1],
        &[1, 1, 3, 0, 0, 0, 0, 7],          // a group's address
        &[1, 1, 2, 0, 0],                   // a short one
        &[1, 0, 0xff, 0xff, 0xff, 0xff],    // a table of more than there is
        &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], // a byte too many
        &[4, 0, 2, 0],                      // queue pairs
        &[5, 0, 4, 0, 0, 0, 0, 0, 0, 0],    // an offload that is none
        &[9, 9, 9],
    ] {
        assert_eq!(bench.command(bytes), 1, "{bytes:?}");
    }
    assert_eq!(bench.host.seen().mac, OWN);
    let mut plain = Bench::new(CTRL_VQ);
    assert_eq!(plain.command(&[0, 0, 1]), 1);
    assert_eq!(plain.command(&[1, 1, 2, 0, 0, 0, 0, 7]), 1);
    plain.control.offer_chain(0, &[(BUFFERS, 3, false)]);
    assert!(plain.process().is_err(), "nowhere to put an answer");
}

#[test]
fn the_driver_sees_address_and_mtu_and_each_start_is_a_new_one() {
    let host = Memory::default();
    let card = Net::new(Box::new(host.clone()), OWN, 1500, 1);
    let mut config = [0; 14];
    card.config_read(0, &mut config);
    assert_eq!(config, [0x52, 0x54, 0, 0x12, 0x34, 0x56, 0, 0, 1, 0, 0xdc, 5, 0, 0]);
    let more = MTU | MAC;
    assert_eq!(card.features(), ALL | more);
    assert_eq!(host.seen().resets, 0);
    let none = (Faults::default(), &Waker::none());
    drop(NetHandler::new(card.backend.clone(), GUEST_TSO4, (OWN, 1500), 1, none));
    let seen = host.seen();
    assert_eq!((seen.resets, seen.offload), (1, Offload::default()));
}

#[test]
fn each_nth_frame_is_lost_in_either_direction() {
    let mut bench = Bench::faulty(ALL, Faults { fail_every: 3, ..Faults::default() });
    for _ in 0..4 {
        bench.send([0; 12], &frame_to([2; 6], 60));
    }
    assert_eq!((bench.host.seen().sent.len(), bench.transmit.used_index()), (3, 4));
    bench.room(0, 16, 4096);
    for _ in 0..4 {
        bench.arrives(frame_to(OWN, 60));
    }
    assert_eq!(bench.receive.used_index(), 3, "the sixth frame in all was the second of these");
}

#[test]
fn delayed_frames_take_their_time_and_come_in_order() {
    let delay = Duration::from_millis(30);
    let mut bench = Bench::faulty(ALL, Faults { delay, ..Faults::default() });
    let begun = Instant::now();
    bench.send([0; 12], &frame_to([2; 6], 60));
    bench.room(0, 2, 2048);
    bench.arrives(frame_to(OWN, 100));
    bench.arrives(frame_to(OWN, 200));
    assert!(bench.host.seen().waiting.is_empty(), "they are under way");
    let told = (bench.transmit.used_index(), bench.receive.used_index());
    assert!(told == (0, 0) && bench.host.seen().sent.is_empty());
    while bench.transmit.used_index() < 1 || bench.receive.used_index() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(20), "they come at last");
        bench.process().expect("a sound ring");
        if begun.elapsed() < delay {
            assert!(bench.host.seen().sent.is_empty());
        }
    }
    assert!(begun.elapsed() >= delay && bench.host.seen().sent.len() == 1);
    assert_eq!([0, 1].map(|index| bench.receive.used(index)), [(0, 112), (1, 212)]);
}

#[test]
fn a_late_frame_waits_for_buffers_that_hold_it() {
    let delay = Duration::from_millis(50);
    let mut bench = Bench::faulty(ALL, Faults { delay, ..Faults::default() });
    bench.room(0, 2, 2048);
    bench.arrives(frame_to(OWN, 2000));
    bench.arrives(frame_to(OWN, 3000));
    std::thread::sleep(3 * delay);
    bench.process().expect("a sound ring");
    assert_eq!(bench.receive.used_index(), 1, "one buffer of 2048 bytes is left");
    bench.room(2, 1, 2048);
    bench.process().expect("a sound ring");
    assert_eq!(bench.receive.used_index(), 3);
}

#[test]
fn no_more_frames_are_late_than_there_is_room_for() {
    let delay = Duration::from_secs(5);
    let mut bench = Bench::faulty(ALL, Faults { delay, ..Faults::default() });
    bench.room(0, 16, 2048);
    let frames = (0..400).map(|_| (Header::default(), frame_to(OWN, 60)));
    bench.host.seen().waiting.extend(frames);
    bench.process().expect("a sound ring");
    assert_eq!(bench.host.seen().waiting.len(), 400 - 256);
}
