//! A card that is saved with buffers taken ahead and commands obeyed.

use super::*;
use crate::state::{ModelV1, StateError};
use crate::testing::Machine;

const NEW: [u8; 6] = [2, 0, 0, 0, 0, 9];
const GROUP: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

fn command(machine: &mut Machine, slot: u16, bytes: &[u8]) {
    machine.queues[CONTROL].write(0x6_0000, bytes);
    let answer = (0x6_8000, 1, true);
    machine.offer(CONTROL, slot, &[(0x6_0000, bytes.len() as u32, false), answer]);
    assert_eq!(machine.queues[CONTROL].read(0x6_8000, 1), [0], "the command is obeyed");
}

const CONTROL: usize = 2;

fn frame(to: [u8; 6], length: usize) -> Vec<u8> {
    let mut frame = vec![0x5a; length];
    frame[..6].copy_from_slice(&to);
    frame
}

#[test]
fn buffers_taken_ahead_and_the_driver_s_settings_are_there_again() {
    let first = Memory::default();
    let host = first.clone();
    let card = |_: &_| -> Box<dyn Device> { Box::new(Net::new(Box::new(host), OWN, 1500, 1)) };
    let mut machine = Machine::new(card, ALL, true);
    for slot in 0..4 {
        machine.offer(0, slot, &[(0x4_0000 + 0x1000 * u64::from(slot), 1526, true)]);
    }
    command(&mut machine, 0, &[&[1, 1][..], &NEW].concat());
    command(&mut machine, 2, &[&[1, 0, 0, 0, 0, 0, 1, 0, 0, 0][..], &GROUP].concat());
    command(&mut machine, 4, &[&[5, 0][..], &GUEST_CSUM.to_le_bytes()].concat());
    let second = Memory::default();
    let host = second.clone();
    let mut machine = machine.reborn(|_, state| {
        let ModelV1::Net(state) = state else { panic!("a card: {state:?}") };
        let driver = &state.driver.as_ref().expect("it has one").settings;
        assert_eq!((driver.mac, driver.offload), (NEW, [true, false, false]));
        Box::new(Net::restore(Box::new(host), state).expect("sound"))
    });
    assert_eq!((first.seen().mac, second.seen().mac), (NEW, NEW));
    assert_eq!(second.seen().offload, Offload { checksum: true, tcp4: false, tcp6: false });
    let other = [2, 0, 0, 0, 0, 7];
    for (to, length) in [(NEW, 60), (other, 61), (OWN, 62), (GROUP, 63), (NEW, 1514)] {
        second.seen().waiting.push_back((Header::default(), frame(to, length)));
    }
    machine.ring(0);
    let lengths: Vec<_> =
        (0..machine.queues[0].used_index()).map(|at| machine.queues[0].used(at)).collect();
    assert_eq!(lengths, [(0, 72), (1, 75), (2, 1526)], "for its address and its group, in order");
    machine.queues[1].write(0x5_0000, &[0; 12]);
    machine.queues[1].write(0x5_0100, &frame(other, 60));
    machine.offer(1, 0, &[(0x5_0000, 12, false), (0x5_0100, 60, false)]);
    assert_eq!(second.seen().sent.len(), 1);
}

#[test]
fn settings_that_no_driver_makes_are_refused() {
    let card = || Net::new(Box::new(Memory::default()), OWN, 1500, 1);
    let mut machine = Machine::new(|_| Box::new(card()), ALL & !GUEST_TSO4, true);
    let state = machine.save();
    let ModelV1::Net(mut net) = state.model else { panic!("a card: {:?}", state.model) };
    let resume = |change: fn(&mut NetDriverV2), without: bool| {
        let mut net = net.clone();
        net.driver.as_mut().map(change);
        net.driver = net.driver.filter(|_| !without);
        let mut card = Net::restore(Box::new(Memory::default()), &net)?;
        card.resume(ALL & !GUEST_TSO4, Waker::none()).map(drop)
    };
    assert_eq!(resume(|_| {}, false), Ok(()));
    assert!(matches!(resume(|_| {}, true), Err(StateError::Impossible(_))));
    assert!(resume(|driver| driver.settings.mac = GROUP, false).is_err(), "a group's address");
    assert!(resume(|driver| driver.settings.mac = [0; 6], false).is_err(), "no address");
    assert!(resume(|driver| driver.settings.offload[1] = true, false).is_err(), "not negotiated");
    assert!(resume(|driver| driver.settings.offload = [false, false, true], false).is_err());
    assert!(resume(|driver| driver.settings.tables[0] = vec![OWN; 65], false).is_err(), "too many");
    for pairs in [0, 2] {
        net.driver.as_mut().expect("it has one").pairs = pairs;
        let mut card = Net::restore(Box::new(Memory::default()), &net).expect("a sound card");
        assert!(card.resume(ALL & !GUEST_TSO4, Waker::none()).is_err(), "{pairs} of one pair");
    }
    for pairs in [0, 17] {
        net.pairs = pairs;
        assert!(Net::restore(Box::new(Memory::default()), &net).is_err(), "{pairs} pairs");
    }
}
