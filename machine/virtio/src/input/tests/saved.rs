//! Keys that wait while they are saved.

use super::*;
use crate::state::{ModelV1, StateError};
use crate::testing::Machine;

#[test]
fn keys_lights_and_questions_are_there_again() {
    let (device, keyboard) = Input::keyboard();
    let mut machine = Machine::new(|_| Box::new(device), 0, true);
    machine.queues[STATUS].write(0x5_0000, &Event(codes::EV_LED, 1, 1).encode());
    machine.offer(STATUS, 0, &[(0x5_0000, 8, false)]);
    machine.write(0x2000, 1, 3);
    assert!(keyboard.key(codes::KEY_A, true));
    machine.offer(EVENTS, 0, &[(0x4_0000, 8, true)]);
    let mut hand = None;
    let mut machine = machine.reborn(|_, state| {
        let ModelV1::Input(state) = state else { panic!("a keyboard: {state:?}") };
        assert_eq!(state.waiting, [(codes::EV_SYN, codes::SYN_REPORT, 0)]);
        let (device, keyboard) = Input::restore_keyboard(state).expect("sound");
        hand = Some(keyboard);
        Box::new(device)
    });
    let keyboard = hand.expect("it was made");
    assert_eq!(keyboard.leds(), 2);
    assert_eq!(machine.read(0x2002, 1), 8, "the answer to what was selected");
    assert!(keyboard.key(codes::KEY_A, false), "the guest still hears");
    for slot in 1..4_u16 {
        machine.offer(EVENTS, slot, &[(0x4_0000 + 8 * u64::from(slot), 8, true)]);
    }
    let read = |at: u64| machine.queues[EVENTS].read(0x4_0000 + 8 * at, 8);
    let seen: Vec<_> =
        (0..4).map(|at| Event::decode(read(at).try_into().expect("eight"))).collect();
    let key = |value| Event(codes::EV_KEY, codes::KEY_A, value);
    assert_eq!(seen, [key(1), REPORT, key(0), REPORT]);
}

#[test]
fn a_tablet_is_no_keyboard_and_a_new_driver_hears_nothing_old() {
    let (device, _tablet) = Input::tablet();
    let mut state = device.saved();
    assert!(Input::restore_tablet(&state).is_ok());
    assert!(matches!(Input::restore_keyboard(&state), Err(StateError::Differs { .. })));
    state.waiting = vec![(1, 2, 3); MOST_EVENTS + 1];
    assert!(Input::restore_tablet(&state).is_err());
    state.waiting.truncate(1);
    let (mut device, _tablet) = Input::restore_tablet(&state).expect("one waits");
    let mut bench = bench(&mut device);
    bench.offer(4);
    assert_eq!(bench.events.used_index(), 0);
}
