//! A balloon that is saved with the driver's buffer in its hand.

use super::*;
use crate::state::ModelV1;
use crate::testing::Machine;

#[test]
fn the_buffer_for_statistics_and_the_numbers_are_there_again() {
    let mut hand = None;
    let make = |memory: &Arc<GuestMemory>| -> Box<dyn Device> {
        let balloon = Balloon::new(memory.clone());
        hand = Some(balloon.control());
        Box::new(balloon)
    };
    let mut machine = Machine::new(make, STATS | REPORTING, true);
    hand.expect("it was made").set_target_bytes(64 << 20);
    machine.write(0x2004, 4, 77);
    machine.queues[INFLATE_QUEUE].write(0x8_0000, &[0x55; 0x1000]);
    machine.queues[INFLATE_QUEUE].write(0x4_0000, &0x80_u32.to_le_bytes());
    machine.offer(INFLATE_QUEUE, 0, &[(0x4_0000, 4, false)]);
    machine.queues[2].write(0x5_0000, &[&[5, 0][..], &9_u64.to_le_bytes()].concat());
    machine.offer(2, 0, &[(0x5_0000, 10, false)]);
    assert_eq!(machine.queues[2].used_index(), 0, "the device keeps it");
    let mut hand = None;
    let mut machine = machine.reborn(|memory, state| {
        let ModelV1::Balloon(state) = state else { panic!("a balloon: {state:?}") };
        let balloon = Balloon::restore(memory.clone(), state);
        hand = Some(balloon.control());
        Box::new(balloon)
    });
    let hand = hand.expect("it was made");
    assert_eq!((machine.read(0x2000, 4), machine.read(0x2004, 4)), (64 << 8, 77));
    assert_eq!((hand.actual_bytes(), hand.released_bytes()), (77 << 12, 4096));
    assert_eq!(hand.statistics().and_then(|statistics| statistics.total), Some(9));
    assert_eq!(machine.queues[2].used_index(), 0, "it keeps it again");
    hand.request_statistics();
    assert_eq!((machine.queues[2].used_index(), machine.queues[2].used(0)), (1, (0, 0)));
    assert_eq!(machine.queues[INFLATE_QUEUE].used_index(), 1, "done once");
}

#[test]
fn a_question_for_statistics_is_remembered() {
    let mut hand = None;
    let make = |memory: &Arc<GuestMemory>| -> Box<dyn Device> {
        let balloon = Balloon::new(memory.clone());
        hand = Some(balloon.control());
        Box::new(balloon)
    };
    let machine = Machine::new(make, STATS, true);
    hand.expect("it was made").request_statistics();
    let mut machine = machine.reborn(|memory, state| {
        let ModelV1::Balloon(state) = state else { panic!("a balloon: {state:?}") };
        Box::new(Balloon::restore(memory.clone(), state))
    });
    machine.offer(2, 0, &[(0x5_0000, 10, false)]);
    assert_eq!(machine.queues[2].used_index(), 1, "the buffer is wanted back at once");
}
