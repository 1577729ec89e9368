//! The transport saved in every one of its states, and states that no driver brings about.

use super::*;
use crate::state::{StateError, TransportV1, VirtioV1};
use crate::testing::through_bytes;

fn saved(bench: &mut Bench) -> VirtioV1 {
    let quiet = bench.function.quiesce();
    bench.function.save(&quiet)
}

/// The bench with a function that was made from the old one's state.
fn reborn(mut bench: Bench) -> Bench {
    let quiet = bench.function.quiesce();
    let state = through_bytes(&bench.function.save(&quiet));
    bench.function.worker().stop();
    drop(quiet);
    let (function, quiet) = restore(&bench, &state.transport).expect("sound");
    assert_eq!(function.save(&quiet), state);
    Bench { function, ..bench }
}

fn restore(bench: &Bench, state: &TransportV1) -> Result<(VirtioPci, crate::Quiet), StateError> {
    let device = Sevens { gate: None, activated: bench.activated.clone() };
    let memory = bench.guest.memory.clone();
    VirtioPci::restore(Box::new(device), memory, bench.recorder.clone(), Rings::Inline, state)
}

#[test]
fn a_driver_finds_its_registers_as_it_left_them() {
    let mut bench = reborn(Bench::new());
    bench.set_status(ACKNOWLEDGE);
    bench.set_status(ACKNOWLEDGE | DRIVER);
    bench.accept(VERSION_1 | OWN_FEATURE);
    let mut bench = reborn(bench);
    assert_eq!(bench.status(), ACKNOWLEDGE | DRIVER);
    bench.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
    bench.place_queue();
    bench.write(COMMON + 0x18, 2, 4);
    bench.guest.layout.size = 4;
    let mut bench = reborn(bench);
    assert_eq!(bench.read(COMMON + 0xc, 4), 1, "the half that was selected");
    assert_eq!((bench.read(COMMON + 0x18, 2), bench.read(COMMON + 0x20, 8)), (4, 0x1000));
    bench.write(COMMON + 0x1c, 2, 1);
    assert_eq!(bench.activated.load(Ordering::SeqCst), 0);
    bench.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    assert_eq!(bench.activated.load(Ordering::SeqCst), VERSION_1 | OWN_FEATURE);
    bench.guest.offer_chain(0, &[(BUFFERS, 4, true)]);
    bench.write(NOTIFY, 2, 0);
    assert_eq!(bench.read(ISR, 1), 1);
}

#[test]
fn rings_go_on_where_they_were_and_the_line_stays_up() {
    for features in [VERSION_1, VERSION_1 | EVENT_IDX] {
        let mut bench = Bench::new();
        bench.start(features);
        for round in 0..70_u16 {
            bench.guest.set_used_event(round);
            bench.guest.offer_chain(round % 8, &[(BUFFERS, 8, true)]);
            bench.write(NOTIFY, 2, 0);
            assert_eq!(bench.guest.used_index(), round + 1);
            assert_eq!(bench.guest.used(round), (u32::from(round % 8), 8));
            assert!(bench.line());
            bench = reborn(bench);
            assert!(bench.line(), "it was not acknowledged");
            assert_eq!(bench.read(ISR, 1), 1);
            assert!(!bench.line());
        }
    }
}

#[test]
fn what_was_offered_without_a_doorbell_is_found() {
    let mut bench = Bench::new();
    bench.start(VERSION_1);
    bench.guest.offer_chain(0, &[(BUFFERS, 8, true)]);
    let bench = reborn(bench);
    assert_eq!(bench.guest.used(0), (0, 8));
}

#[test]
fn a_masked_message_is_sent_afterwards() {
    let mut bench = Bench::new();
    bench.write(MSIX_TABLE, 8, 0xfee0_0000);
    bench.write(MSIX_TABLE + 8, 8, 0x40);
    bench.msix_control(0xc0);
    bench.write(COMMON + 0x16, 2, 0);
    bench.write(COMMON + 0x1a, 2, 0);
    bench.start(VERSION_1);
    bench.guest.offer_chain(0, &[(BUFFERS, 4, true)]);
    bench.write(NOTIFY, 2, 0);
    let mut bench = reborn(bench);
    let sent = |bench: &Bench| bench.recorder.messages.lock().expect("not poisoned").clone();
    assert_eq!(sent(&bench), []);
    assert_eq!(bench.read(layout::PENDING, 8), 1);
    bench.msix_control(0x80);
    assert_eq!(sent(&bench), [(0xfee0_0000, 0x40)]);
}

#[test]
fn a_device_that_needs_a_reset_still_does() {
    let mut bench = Bench::new();
    bench.start(VERSION_1);
    bench.guest.set_available_index(9);
    bench.write(NOTIFY, 2, 0);
    let mut bench = reborn(bench);
    assert_eq!((bench.status(), bench.read(ISR, 1)), (0xf | NEEDS_RESET, 2));
    bench.set_status(0);
    bench.guest.set_available_index(0);
    bench.start(VERSION_1);
    assert_eq!(bench.status(), 0xf);
}

#[test]
fn a_quiet_device_hears_no_doorbell_until_it_goes_on() {
    let mut bench = Bench::new();
    bench.start(VERSION_1);
    let quiet = bench.function.quiesce();
    bench.guest.offer_chain(0, &[(BUFFERS, 8, true)]);
    bench.write(NOTIFY, 2, 0);
    bench.function.worker().waker().wake();
    assert_eq!(bench.guest.used_index(), 0);
    drop(quiet);
    assert_eq!(bench.guest.used_index(), 1);
}

#[test]
fn the_worker_s_round_and_a_reset_come_to_an_end_first() {
    const LONG: Duration = Duration::from_secs(20);
    let (go, gate) = mpsc::channel();
    let (there, seen) = mpsc::channel();
    let mut bench = Bench::with(Some(Gate { there, go: Arc::new(Mutex::new(gate)) }));
    let worker = bench.function.worker();
    let thread = std::thread::spawn(move || worker.run());
    bench.start(VERSION_1);
    bench.guest.offer_chain(0, &[(BUFFERS, 8, true)]);
    seen.recv_timeout(LONG).expect("the worker is woken");
    let later = std::thread::spawn({
        let go = go.clone();
        move || {
            std::thread::sleep(Duration::from_millis(50));
            go.send(()).expect("the worker listens");
        }
    });
    let state = saved(&mut bench);
    later.join().expect("no panic");
    assert_eq!(bench.guest.used_index(), 1, "the round is over");
    let rings = state.transport.queues[0].rings.as_ref().expect("the queue runs");
    assert_eq!((rings.next_available, rings.next_used), (1, 1));
    seen.recv_timeout(LONG).expect("it goes on, and looks");
    bench.set_status(0);
    assert_eq!(bench.status(), 0xf, "not yet");
    go.send(()).expect("the worker listens");
    let state = saved(&mut bench);
    assert_eq!(state.transport.status, 0, "a reset is no state to be in");
    assert_eq!(state.transport.queues[0].rings, None);
    bench.function.worker().stop();
    thread.join().expect("no panic");
}

#[test]
fn what_no_driver_brings_about_is_refused() {
    type Change = fn(&mut TransportV1);
    let mut bench = Bench::new();
    bench.start(VERSION_1);
    let sound = saved(&mut bench).transport;
    assert!(restore(&bench, &sound).is_ok());
    let rings: fn(&mut TransportV1) -> &mut crate::state::RingsV1 =
        |state| state.queues[0].rings.as_mut().expect("the queue runs");
    let changes: &[(&str, Change)] = &[
        ("another device", |state| state.device = 2),
        ("a queue less", |state| state.queues.truncate(1)),
        ("a vector less", |state| state.messages.truncate(2)),
        ("half a configuration space", |state| state.config.bytes.truncate(128)),
        ("more than was offered", |state| state.accepted |= 1 << 5),
        ("a legacy driver", |state| state.accepted &= !VERSION_1),
        ("no features", |state| state.status &= !FEATURES_OK),
        ("a status out of nothing", |state| state.seen = 0),
        ("an unknown interrupt", |state| state.isr = 4),
        ("an unknown vector", |state| state.config_vector = 3),
        ("an unknown queue's vector", |state| state.queues[1].vector = 0xfffe),
        ("no size", |state| state.queues[0].layout.size = 0),
        ("an odd size", |state| state.queues[1].layout.size = 3),
        ("too large a size", |state| state.queues[0].layout.size = 16),
        ("a table beyond RAM", |state| state.queues[0].layout.descriptors.0 = u64::MAX - 15),
        ("a crooked ring", |state| state.queues[0].layout.used.0 += 2),
        ("a ring across RAM's end", |state| {
            state.queues[0].layout.available.0 = crate::testing::RAM - 4;
        }),
        ("a queue that runs and does not", |state| state.queues[0].rings = None),
        ("a queue that does not and does", |state| {
            state.queues[1].rings = Some(Default::default())
        }),
    ];
    for (what, change) in changes {
        let mut state = sound.clone();
        change(&mut state);
        assert!(restore(&bench, &state).is_err(), "{what}");
    }
    let mut state = sound.clone();
    rings(&mut state).next_available = 1;
    let broken = |state: &TransportV1| match restore(&bench, state) {
        Err(StateError::Queue { queue: 0, broken }) => broken,
        other => panic!("{:?}", other.map(drop)),
    };
    assert_eq!(broken(&state), Broken::Available(1), "a chain that nobody has");
    rings(&mut state).returned = vec![8];
    assert_eq!(broken(&state), Broken::Descriptor(8));
    rings(&mut state).returned = vec![0; 9];
    rings(&mut state).next_available = 9;
    assert_eq!(broken(&state), Broken::Available(9), "more than there are");
    rings(&mut state).returned = vec![7];
    rings(&mut state).next_available = 1;
    assert!(restore(&bench, &state).is_ok(), "a head that exists");
}
