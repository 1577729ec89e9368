//! A balloon under a driver of its own kind, and under hostile ones.

mod saved;

use super::*;
use crate::device::Queues;
use crate::queue::QueueLayout;
use crate::testing::{BUFFERS, Guest, RAM, Recorder};
use crate::{VirtioPci, features};
use devices::pci::PciFunction;

/// A driver whose only queue is the balloon's queue `place`.
struct Bench {
    guest: Guest,
    balloon: Balloon,
    queues: Queues,
    handler: Box<dyn Handler>,
}

fn bench(features: u64, place: usize) -> Bench {
    let guest = Guest::new(16);
    guest.write(0, &[0; RAM as usize]); // touches every page
    let mut balloon = Balloon::new(guest.memory.clone());
    let signals = crate::signals::Signals::new(Arc::new(Recorder::default()), QUEUES.len());
    let worker = Arc::new(crate::Worker::new(Kind::Balloon, true, signals, None));
    let handler = balloon.activate(features, worker.waker());
    let mut list: Vec<_> = QUEUES.iter().map(|_| None).collect();
    list[place] = Some(guest.queue(0).expect("a sound queue"));
    guest.write(0x8_0000, &[0x55; 0x1_0000]);
    Bench { guest, balloon, queues: Queues::new(list), handler }
}

impl Bench {
    fn offer(&mut self, buffers: &[(u64, u32, bool)]) -> Result<(), Broken> {
        self.guest.offer_chain(0, buffers);
        self.handler.process(&mut self.queues)
    }

    /// Pages from 0x80000 on that are not zero.
    fn kept(&self) -> Vec<u64> {
        (0..16).filter(|page| self.guest.read(0x8_0000 + page * 4096, 4096) != [0; 4096]).collect()
    }
}

#[test]
fn reported_pages_go_back_to_the_host() {
    for (features, place) in [(REPORTING | STATS, 3), (REPORTING | STATS, 4), (REPORTING, 2)] {
        let mut bench = bench(features, place);
        let held = bench.guest.memory.held_bytes().expect("a memfd has blocks");
        bench.offer(&[(0x8_1000, 0x2000, true), (0x8_4800, 0x2000, true)]).expect("a sound report");
        let now = bench.guest.memory.held_bytes().expect("a memfd has blocks");
        assert_eq!((now, bench.balloon.control().released_bytes()), (held - 3 * 4096, 3 * 4096));
        assert_eq!(bench.guest.used(0), (0, 0), "given back, nothing written");
        let kept: Vec<u64> = (0..16).filter(|page| ![1, 2, 5].contains(page)).collect();
        assert_eq!(bench.kept(), kept);
    }
}

#[test]
fn what_the_driver_only_lets_read_is_not_released() {
    let mut bench = bench(REPORTING | STATS, 3);
    bench.offer(&[(0x8_1000, 0x2000, false)]).expect("odd, and harmless");
    assert_eq!(bench.kept().len(), 16);
}

#[test]
fn a_queue_of_a_feature_that_was_not_negotiated_does_nothing() {
    let mut bench = bench(0, 3);
    bench.offer(&[(0x8_1000, 0x2000, true)]).expect("nobody looks");
    assert_eq!((bench.kept().len(), bench.guest.used_index()), (16, 0));
}

fn numbers(pages: &[u32]) -> Vec<u8> {
    pages.iter().flat_map(|page| page.to_le_bytes()).collect()
}

#[test]
fn inflated_pages_are_released_by_number_and_others_ignored() {
    let mut bench = bench(0, INFLATE_QUEUE);
    let pages = numbers(&[0x83, 0x82, 0x82, 0x8f, (RAM / 4096) as u32, u32::MAX, 0x80]);
    bench.guest.write(BUFFERS, &pages);
    bench.guest.write(BUFFERS + 28, &[1, 2]); // half a number
    bench.offer(&[(BUFFERS, pages.len() as u32 + 2, false)]).expect("a sound list");
    let kept: Vec<u64> = (0..16).filter(|page| ![0, 2, 3, 15].contains(page)).collect();
    assert_eq!(bench.kept(), kept);
    assert_eq!(bench.guest.used(0), (0, 0));
}

#[test]
fn a_list_of_pages_without_end_is_refused() {
    let mut bench = bench(0, INFLATE_QUEUE);
    let most = (BUFFERS, MOST_PAGES * 4, false);
    bench.offer(&[most]).expect("as many as there may be");
    let refused = bench.offer(&[most, (BUFFERS, 4, false)]);
    assert!(matches!(refused, Err(Broken::Protocol(_))));
}

#[test]
fn deflated_pages_are_the_guest_s_again() {
    let mut bench = bench(0, DEFLATE_QUEUE);
    bench.guest.write(BUFFERS, &numbers(&[0x83]));
    bench.offer(&[(BUFFERS, 4, false)]).expect("a sound list");
    assert_eq!((bench.kept().len(), bench.guest.used_index()), (16, 1));
}

fn entry(tag: u16, value: u64) -> Vec<u8> {
    [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat()
}

#[test]
fn statistics_wait_for_the_host() {
    let mut bench = bench(STATS, 2);
    let control = bench.balloon.control();
    let first = [entry(4, 1000), entry(5, 4000), entry(0xffff, 7), vec![4, 0]].concat();
    bench.guest.write(BUFFERS, &first);
    bench.offer(&[(BUFFERS, first.len() as u32, false)]).expect("a sound buffer");
    let seen = control.statistics().expect("they came");
    assert_eq!((seen.free, seen.total, seen.available), (Some(1000), Some(4000), None));
    assert_eq!(bench.guest.used_index(), 0, "the buffer stays");
    control.request_statistics();
    bench.handler.process(&mut bench.queues).expect("sound");
    assert_eq!(bench.guest.used_index(), 1);
    bench.handler.process(&mut bench.queues).expect("sound");
    assert_eq!(bench.guest.used_index(), 1, "asked once");
    bench.guest.write(BUFFERS, &entry(4, 900));
    bench.offer(&[(BUFFERS, 10, false)]).expect("a sound buffer");
    assert_eq!(control.statistics().expect("they came").free, Some(900));
    bench.offer(&[(BUFFERS, 10, false)]).expect("one too many");
    assert_eq!(bench.guest.used_index(), 2, "one of two is given back");
}

#[test]
fn the_host_s_target_is_in_the_configuration_and_the_driver_is_told() {
    let guest = Guest::new(16);
    let balloon = Balloon::new(guest.memory.clone());
    let control = balloon.control();
    let recorder = Arc::new(Recorder::default());
    let mut function = VirtioPci::new(
        Box::new(balloon),
        guest.memory.clone(),
        recorder.clone(),
        crate::Rings::Inline,
    );
    let read = |function: &mut VirtioPci, at: u64| {
        let mut data = [0; 4];
        function.bar_read(0, at, &mut data);
        u32::from_le_bytes(data)
    };
    control.set_target_bytes(1 << 20);
    assert_eq!(read(&mut function, 0x2000), 256, "before there is a driver");
    for status in [1, 3] {
        function.bar_write(0, 0x14, &[status]);
    }
    function.bar_write(0, 0x08, &[1, 0, 0, 0]);
    function.bar_write(0, 0x0c, &((features::VERSION_1 >> 32) as u32).to_le_bytes());
    for status in [0xb, 0xf] {
        function.bar_write(0, 0x14, &[status]);
    }
    let mut generation = [0];
    function.bar_read(0, 0x15, &mut generation);
    assert!(!*recorder.line.lock().expect("not poisoned"));
    control.set_target_bytes(2 << 20);
    assert!(*recorder.line.lock().expect("not poisoned"), "INTx: the configuration changed");
    let mut isr = [0];
    function.bar_read(0, 0x1000, &mut isr);
    assert_eq!((isr, read(&mut function, 0x2000)), ([2], 512));
    let before = generation;
    function.bar_read(0, 0x15, &mut generation);
    assert_ne!(before, generation);
    function.bar_write(0, 0x2004, &400_u32.to_le_bytes());
    assert_eq!(control.actual_bytes(), 400 * 4096);
    function.bar_write(0, 0x2000, &7_u32.to_le_bytes());
    assert_eq!(read(&mut function, 0x2000), 512, "the target is the host's");
}

#[test]
fn reports_of_what_is_not_ram_never_reach_the_balloon() {
    let mut bench = bench(REPORTING, 2);
    bench.guest.layout = QueueLayout { size: 16, ..bench.guest.layout };
    let refused = bench.offer(&[(RAM - 0x1000, 0x2000, true)]);
    assert_eq!(refused, Err(Broken::Buffer(GuestPhys(RAM - 0x1000))));
}
