//! A folder that is saved while requests wait for others.

use super::*;
use crate::state::ModelV1;
use crate::testing::Machine;

#[test]
fn requests_that_wait_are_asked_again_in_their_order_and_none_is_lost() {
    let first = Arc::new(Echo { tries: AtomicUsize::new(usize::MAX), ..Echo::default() });
    let files = first.clone();
    let folder = |_: &_| -> Box<dyn Device> { Box::new(Fs::new(files, "tag", 2)) };
    let mut machine = Machine::new(folder, 0, false);
    for (slot, bytes) in [(0_u16, b"w0"), (2, b"n1"), (4, b"w2"), (6, b"w3")] {
        let place = 0x4_0000 + 0x100 * u64::from(slot);
        machine.queues[REQUESTS].write(place, bytes);
        machine.offer(REQUESTS, slot, &[(place, 2, false), (place + 0x80, 2, true)]);
    }
    let started = Instant::now();
    while first.served.lock().expect("not poisoned").len() < 4 {
        assert!(started.elapsed() < Duration::from_secs(20), "all are seen");
        std::thread::sleep(Duration::from_millis(1));
    }
    let second = Arc::new(Echo { tries: AtomicUsize::new(2), ..Echo::default() });
    let files = second.clone();
    let machine = machine.reborn(|_, state| {
        let ModelV1::Fs(state) = state else { panic!("a folder: {state:?}") };
        assert_eq!(&state.tag[..4], b"tag\0");
        Box::new(Fs::restore(files, 2, state))
    });
    while machine.queues[REQUESTS].used_index() < 4 {
        assert!(started.elapsed() < Duration::from_secs(20), "all are answered");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(machine.queues[REQUESTS].used(0), (2, 2), "what waited for nobody, before");
    let mut heads: Vec<_> = (1..4).map(|at| machine.queues[REQUESTS].used(at)).collect();
    heads.sort_unstable();
    assert_eq!(heads, [(0, 2), (4, 2), (6, 2)]);
    assert_eq!(machine.queues[REQUESTS].read(0x4_0480, 2), b"w2");
    let again = second.served.lock().expect("not poisoned").clone();
    assert_eq!(again, [b"w0", b"w2", b"w3"]);
}

#[test]
fn a_doorbell_that_does_short_work_does_none_while_the_folder_is_saved() {
    let files = Arc::new(Echo::default());
    let folder = |_: &_| -> Box<dyn Device> { Box::new(Fs::new(files.clone(), "tag", 1)) };
    let mut machine = Machine::new(folder, 0, false);
    let quiet = machine.function.quiesce();
    machine.queues[REQUESTS].write(0x4_0000, b"n0");
    machine.offer(REQUESTS, 0, &[(0x4_0000, 2, false), (0x4_0080, 2, true)]);
    assert_eq!(files.served.lock().expect("not poisoned").len(), 0);
    drop(quiet);
    let started = Instant::now();
    while machine.queues[REQUESTS].used_index() < 1 {
        assert!(started.elapsed() < Duration::from_secs(20), "it is answered afterwards");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_folder_that_goes_on_asks_again_itself() {
    let files = Arc::new(Echo { tries: AtomicUsize::new(usize::MAX), ..Echo::default() });
    let folder = |_: &_| -> Box<dyn Device> { Box::new(Fs::new(files.clone(), "tag", 1)) };
    let mut machine = Machine::new(folder, 0, false);
    machine.queues[REQUESTS].write(0x4_0000, b"w0");
    machine.offer(REQUESTS, 0, &[(0x4_0000, 2, false), (0x4_0080, 2, true)]);
    let started = Instant::now();
    let mut returned = Vec::new();
    while returned.is_empty() {
        let state = machine.save();
        returned = state.transport.queues[REQUESTS].rings.clone().expect("it runs").returned;
        assert!(started.elapsed() < Duration::from_secs(20), "the request is put back");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(returned, [0]);
    files.tries.store(1, Ordering::Relaxed);
    while machine.queues[REQUESTS].used_index() < 1 {
        drop(machine.save());
        assert!(started.elapsed() < Duration::from_secs(20), "the request is answered");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(machine.queues[REQUESTS].used(0), (0, 2));
}
