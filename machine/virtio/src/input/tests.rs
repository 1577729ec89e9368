//! Keys and a pen under a driver.

mod saved;

use super::*;
use crate::testing::{BUFFERS, Guest, Recorder};

struct Bench {
    events: Guest,
    status: Guest,
    queues: Queues,
    handler: Box<dyn Handler>,
}

fn bench(device: &mut Input) -> Bench {
    let events = Guest::new(16);
    let status = events.beside(0x9000);
    let queues = [&events, &status].map(|guest| Some(guest.queue(0).expect("sound")));
    let signals = crate::signals::Signals::new(Arc::new(Recorder::default()), 2);
    let worker = Arc::new(crate::Worker::new(Kind::Input, true, signals, None));
    let handler = device.activate(0, worker.waker());
    Bench { events, status, queues: Queues::new(queues.into()), handler }
}

impl Bench {
    fn offer(&mut self, count: u16) {
        for index in 0..count {
            self.events.offer_chain(index, &[(0x4_0000 + u64::from(index) * 8, 8, true)]);
        }
        self.go();
    }

    fn go(&mut self) {
        self.handler.process(&mut self.queues).expect("sound rings");
    }

    fn seen(&self, count: u64) -> Vec<Event> {
        let read = |index| self.events.read(0x4_0000 + index * 8, 8).try_into().expect("eight");
        (0..count).map(|index| Event::decode(read(index))).collect()
    }
}

const REPORT: Event = Event(codes::EV_SYN, codes::SYN_REPORT, 0);

#[test]
fn keys_come_with_their_report() {
    let (mut device, keyboard) = Input::keyboard();
    assert!(!keyboard.key(codes::KEY_A, true), "nobody listens");
    let mut bench = bench(&mut device);
    assert!(keyboard.key(codes::KEY_A, true) && keyboard.key(codes::KEY_A, false));
    assert!(!keyboard.key(0, true) && !keyboard.key(256, true), "no keys");
    bench.offer(8);
    assert_eq!(bench.events.used_index(), 4);
    let key = |value| Event(codes::EV_KEY, codes::KEY_A, value);
    assert_eq!(bench.seen(4), [key(1), REPORT, key(0), REPORT]);
    assert_eq!(bench.events.used(0), (0, 8));
}

#[test]
fn what_waits_is_whole_and_bounded_and_not_typed_after_a_reset() {
    let (mut device, keyboard) = Input::keyboard();
    let bench = bench(&mut device);
    let taken = (0..2000).take_while(|_| keyboard.key(codes::KEY_A, true)).count();
    assert_eq!(taken, MOST_EVENTS / 2);
    drop(bench);
    let mut bench = self::bench(&mut device);
    bench.offer(8);
    assert_eq!(bench.events.used_index(), 0);
}

#[test]
fn a_tablet_is_at_a_place() {
    let (mut device, tablet) = Input::tablet();
    let mut bench = bench(&mut device);
    assert!(tablet.move_to(5, 1 << 20) && tablet.button(codes::BTN_LEFT, true));
    assert!(tablet.wheel(0, -1) && !tablet.button(codes::KEY_A, true));
    bench.offer(8);
    let wanted = [
        Event(codes::EV_ABS, codes::ABS_X, 5),
        Event(codes::EV_ABS, codes::ABS_Y, TABLET_MAX),
        REPORT,
        Event(codes::EV_KEY, codes::BTN_LEFT, 1),
        REPORT,
        Event(codes::EV_REL, codes::REL_WHEEL, u32::MAX),
        REPORT,
    ];
    assert_eq!(bench.seen(7), wanted);
}

#[test]
fn leds_are_the_guest_s() {
    let (mut device, keyboard) = Input::keyboard();
    let mut bench = bench(&mut device);
    for (code, value) in [(1, 1), (0, 1), (0, 0), (99, 1)] {
        bench.status.write(BUFFERS, &Event(codes::EV_LED, code, value).encode());
        bench.status.offer_chain(0, &[(BUFFERS, 8, false)]);
        bench.go();
    }
    assert_eq!((keyboard.leds(), bench.status.used_index()), (2, 4));
}

#[test]
fn the_configuration_answers_what_is_selected() {
    let (mut device, _) = Input::tablet();
    let mut ask = |select, subselect| {
        device.config_write(0, &[select, subselect]);
        let mut image = [0xee; 136];
        device.config_read(0, &mut image);
        assert_eq!(image[..2], [select, subselect]);
        image[8..8 + usize::from(image[2])].to_vec()
    };
    assert_eq!(ask(1, 0), b"Oneroof tablet");
    assert_eq!(ask(0x11, 3), [3]);
    assert_eq!(ask(0x12, 1)[4..8], TABLET_MAX.to_le_bytes());
    assert_eq!(ask(0x11, 1).len(), 0x112 / 8 + 1);
    assert_eq!((ask(0x12, 2), ask(0x11, 0x11), ask(0, 0)), (vec![], vec![], vec![]));
}
