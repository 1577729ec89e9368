//! Requests on a disk in memory that can be made to fail.

mod bell;
mod saved;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::*;
use crate::device::Queues;
use crate::faults::Faults;
use crate::queue::Broken;
use crate::testing::{BUFFERS, Guest};

const CAPACITY: usize = 1 << 16;
const DATA: u64 = BUFFERS + 0x1000;
const STATUS: u64 = BUFFERS + 0x800;

/// A disk in memory, and what it was asked.
#[derive(Debug)]
struct Memory {
    bytes: Mutex<Vec<u8>>,
    calls: Mutex<Vec<(&'static str, u64, u64)>>,
    read_only: bool,
    fails: bool,
}

impl Memory {
    fn new(read_only: bool, fails: bool) -> Arc<Self> {
        let bytes = (0..CAPACITY).map(|at| (at / 512) as u8).collect();
        Arc::new(Self { bytes: Mutex::new(bytes), calls: Mutex::default(), read_only, fails })
    }

    fn call(&self, what: &'static str, offset: u64, length: u64) -> Result<(), DiskError> {
        self.calls.lock().expect("not poisoned").push((what, offset, length));
        match self.fails {
            true => Err(DiskError("as the test wants it".into())),
            false => Ok(()),
        }
    }
}

impl Disk for Memory {
    fn capacity(&self) -> u64 {
        CAPACITY as u64
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.call("read", offset, into.len() as u64)?;
        let bytes = self.bytes.lock().expect("not poisoned");
        into.copy_from_slice(&bytes[offset as usize..][..into.len()]);
        Ok(())
    }

    fn write_at(&self, offset: u64, from: &[u8]) -> Result<(), DiskError> {
        self.call("write", offset, from.len() as u64)?;
        let mut bytes = self.bytes.lock().expect("not poisoned");
        bytes[offset as usize..][..from.len()].copy_from_slice(from);
        Ok(())
    }

    fn flush(&self) -> Result<(), DiskError> {
        self.call("flush", 0, 0)
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.call("discard", offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64, may_unmap: bool) -> Result<(), DiskError> {
        self.call(if may_unmap { "unmap" } else { "zero" }, offset, length)
    }
}

struct Bench {
    guest: Guest,
    disk: Arc<Memory>,
    queues: Queues,
    handler: BlockHandler,
}

impl Bench {
    fn new(disk: Arc<Memory>, write_through: bool) -> Self {
        Self::faulty(disk, write_through, Faults::default())
    }

    fn faulty(disk: Arc<Memory>, write_through: bool, faults: Faults) -> Self {
        let guest = Guest::new(16);
        let queue = guest.queue(0).expect("a sound queue");
        let queues = Queues::new(vec![Some(queue)]);
        let block = Block::new(disk.clone(), "serial", 1);
        let failing = faults.counter();
        let requests = Requests::new(block.disk.clone(), block.id, write_through, failing);
        let late = Late::new(faults, &Waker::none());
        let handler = BlockHandler::new(requests, 1, true, late, None);
        Self { guest, disk, queues, handler }
    }

    /// Makes a request with these data buffers; gives its status.
    fn request(&mut self, kind: u32, sector: u64, data: &[(u64, u32, bool)]) -> u8 {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        self.guest.write(BUFFERS, &header);
        self.guest.write(STATUS, &[0xee]);
        let mut chain = vec![(BUFFERS, 16, false)];
        chain.extend(data);
        chain.push((STATUS, 1, true));
        self.guest.offer_chain(0, &chain);
        self.handler.process(&mut self.queues).expect("a sound ring");
        self.guest.read(STATUS, 1)[0]
    }

    fn calls(&self) -> Vec<(&'static str, u64, u64)> {
        std::mem::take(&mut *self.disk.calls.lock().expect("not poisoned"))
    }
}

fn writable() -> Bench {
    Bench::new(Memory::new(false, false), false)
}

#[test]
fn sectors_are_read_and_written_in_pieces_of_any_size() {
    let mut bench = writable();
    assert_eq!(bench.request(0, 3, &[(DATA, 700, true), (DATA + 700, 324, true)]), 0);
    assert_eq!(bench.guest.used(0), (0, 1025));
    assert_eq!(bench.guest.read(DATA, 1024), [[3; 512], [4; 512]].concat());
    bench.guest.write(DATA, &[0x5a; 512]);
    assert_eq!(bench.request(1, 127, &[(DATA, 500, false), (DATA + 500, 12, false)]), 0);
    assert_eq!(bench.disk.bytes.lock().expect("not poisoned")[CAPACITY - 512..], [0x5a; 512]);
    assert_eq!(bench.calls(), [("read", 1536, 1024), ("write", 127 * 512, 512)]);
    assert_eq!(bench.request(4, 0, &[]), 0);
    assert_eq!(bench.calls(), [("flush", 0, 0)]);
}

#[test]
fn no_request_reaches_past_the_end() {
    let mut bench = writable();
    let end = (CAPACITY / 512) as u64;
    for sector in [end, end - 1, u64::MAX, u64::MAX / 512, 1 << 55] {
        assert_eq!(bench.request(0, sector, &[(DATA, 1024, true)]), 1, "sector {sector}");
        assert_eq!(bench.request(1, sector, &[(DATA, 1024, false)]), 1, "sector {sector}");
    }
    assert_eq!(bench.request(0, 0, &[(DATA, 100, true)]), 1, "no whole sector");
    assert_eq!(bench.request(1, 0, &[(DATA, 513, false)]), 1);
    assert_eq!(bench.calls(), []);
    assert_eq!(bench.guest.used_index(), 12);
}

#[test]
fn unknown_requests_and_a_serial_number() {
    let mut bench = writable();
    assert_eq!(bench.request(77, 0, &[]), 2);
    assert_eq!(bench.request(8, 0, &[(DATA, 20, true)]), 0);
    assert_eq!(bench.guest.read(DATA, 20), b"serial\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    bench.guest.write(DATA, &[1; 4]);
    assert_eq!(bench.request(8, 0, &[(DATA, 3, true)]), 0);
    assert_eq!(bench.guest.read(DATA, 4), b"ser\x01");
}

/// A range of a discard or write-zeroes request.
fn range(sector: u64, count: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &count.to_le_bytes(), &flags.to_le_bytes()].concat()
}

#[test]
fn ranges_are_checked_before_the_first_is_touched() {
    let mut bench = writable();
    let mut ask = |kind, ranges: &[Vec<u8>]| {
        let bytes = ranges.concat();
        bench.guest.write(DATA, &bytes);
        let status = bench.request(kind, 0, &[(DATA, bytes.len() as u32, false)]);
        (status, bench.calls())
    };
    let two = [range(1, 8, 0), range(0, 0, 0), range(100, 28, 0)];
    assert_eq!(ask(11, &two), (0, vec![("discard", 512, 4096), ("discard", 51_200, 14_336)]));
    let zeroes = [range(2, 1, 1), range(4, 1, 0)];
    assert_eq!(ask(13, &zeroes), (0, vec![("unmap", 1024, 512), ("zero", 2048, 512)]));
    assert_eq!(ask(11, &[range(0, 8, 0), range(120, 9, 0)]), (1, vec![]), "past the end");
    assert_eq!(ask(11, &[range(u64::MAX, 8, 0)]), (1, vec![]));
    assert_eq!(ask(11, &[range(0, 1, 1)]), (2, vec![]), "a flag that discard has not");
    assert_eq!(ask(13, &[range(0, 1, 2)]), (2, vec![]));
    assert_eq!(ask(13, &[range(0, u32::MAX, 0)]), (2, vec![]));
    assert_eq!(ask(13, &[vec![0; 15]]), (2, vec![]));
    assert_eq!(ask(13, &vec![range(0, 1, 0); 33]), (2, vec![]), "more than announced");
}

#[test]
fn a_read_only_disk_is_only_read() {
    let mut bench = Bench::new(Memory::new(true, false), false);
    assert_eq!(bench.request(1, 0, &[(DATA, 512, false)]), 1);
    bench.guest.write(DATA, &range(0, 1, 0));
    assert_eq!(bench.request(11, 0, &[(DATA, 16, false)]), 1);
    assert_eq!(bench.calls(), []);
    assert_eq!(bench.request(0, 0, &[(DATA, 512, true)]), 0);
    let features = |read_only| Block::new(Memory::new(read_only, false), "", 1).features();
    assert_eq!(features(true), SEG_MAX | READ_ONLY | BLK_SIZE | FLUSH);
    assert_eq!(features(false), SEG_MAX | BLK_SIZE | FLUSH | DISCARD | WRITE_ZEROES);
}

#[test]
fn a_disk_that_fails_is_an_error_of_the_request() {
    let mut bench = Bench::new(Memory::new(false, true), false);
    assert_eq!(bench.request(0, 0, &[(DATA, 512, true)]), 1);
    assert_eq!(bench.request(1, 0, &[(DATA, 512, false)]), 1);
    assert_eq!(bench.request(4, 0, &[]), 1);
}

#[test]
fn writes_without_flush_are_on_the_disk_at_once() {
    let mut bench = Bench::new(Memory::new(false, false), true);
    assert_eq!(bench.request(1, 0, &[(DATA, 512, false)]), 0);
    assert_eq!(bench.calls(), [("write", 0, 512), ("flush", 0, 0)]);
}

#[test]
fn requests_without_header_or_status_are_broken() {
    let mut bench = writable();
    bench.guest.offer_chain(0, &[(BUFFERS, 15, false), (STATUS, 1, true)]);
    assert!(matches!(bench.handler.process(&mut bench.queues), Err(Broken::Protocol(_))));
    let mut bench = writable();
    bench.guest.offer_chain(0, &[(BUFFERS, 16, false)]);
    assert!(matches!(bench.handler.process(&mut bench.queues), Err(Broken::Protocol(_))));
}

#[test]
fn the_configuration_tells_capacity_and_limits() {
    let block = Block::new(Memory::new(false, false), "", 1);
    let mut config = [0xff; 64];
    block.config_read(0, &mut config);
    assert_eq!(config[..8], 128_u64.to_le_bytes());
    assert_eq!(config[12..16], 254_u32.to_le_bytes());
    assert_eq!(config[60..], [0; 4]);
    let mut far = [0xff; 8];
    block.config_read(u64::MAX - 3, &mut far);
    assert_eq!(far, [0; 8]);
}

/// A disk whose lane holds everything until it is reaped, and then gives the last one first.
#[derive(Debug)]
struct Backwards(Arc<Memory>);

/// Tag, offset, and pieces with whether they are written; a flush has none.
type Job = (u32, u64, Option<(Pieces, bool)>);

struct BackwardsLane {
    disk: Arc<Memory>,
    memory: Arc<memory::GuestMemory>,
    jobs: Vec<Job>,
    waits: Arc<Mutex<Vec<bool>>>,
}

impl Disk for Backwards {
    fn capacity(&self) -> u64 {
        self.0.capacity()
    }

    fn read_only(&self) -> bool {
        self.0.read_only()
    }

    fn read_at(&self, _offset: u64, _into: &mut [u8]) -> Result<(), DiskError> {
        unreachable!("there is a lane")
    }

    fn write_at(&self, _offset: u64, _from: &[u8]) -> Result<(), DiskError> {
        unreachable!("there is a lane")
    }

    fn flush(&self) -> Result<(), DiskError> {
        unreachable!("there is a lane")
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.0.discard(offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64, may_unmap: bool) -> Result<(), DiskError> {
        self.0.write_zeroes(offset, length, may_unmap)
    }

    fn lane(
        self: Arc<Self>,
        memory: &Arc<memory::GuestMemory>,
        _bell: Option<Arc<std::os::fd::OwnedFd>>,
    ) -> Option<Box<dyn Lane>> {
        let (disk, memory, jobs) = (self.0.clone(), memory.clone(), Vec::new());
        Some(Box::new(BackwardsLane { disk, memory, jobs, waits: Arc::default() }))
    }
}

impl Lane for BackwardsLane {
    fn read(&mut self, tag: u32, offset: u64, pieces: Pieces) {
        self.jobs.push((tag, offset, Some((pieces, false))));
    }

    fn write(&mut self, tag: u32, offset: u64, pieces: Pieces) {
        self.jobs.push((tag, offset, Some((pieces, true))));
    }

    fn flush(&mut self, tag: u32) {
        self.jobs.push((tag, 0, None));
    }

    fn reap(&mut self, wait: bool, told: &mut dyn FnMut(u32, Result<(), DiskError>)) {
        self.waits.lock().expect("not poisoned").push(wait);
        // One stays behind, so that there is always something in flight until the last.
        let keep = usize::from(self.jobs.len() > 1);
        for (tag, mut offset, job) in self.jobs.drain(keep..).rev().collect::<Vec<_>>() {
            let Some((pieces, write)) = job else {
                told(tag, self.disk.flush());
                continue;
            };
            let mut done = Ok(());
            for (place, length) in pieces {
                let mut bytes = vec![0; length as usize];
                done = done.and(if write {
                    self.memory.read_bytes(place, &mut bytes);
                    self.disk.write_at(offset, &bytes)
                } else {
                    let read = self.disk.read_at(offset, &mut bytes);
                    self.memory.write_bytes(place, &bytes);
                    read
                });
                offset += u64::from(length);
            }
            told(tag, done);
        }
    }

    fn alarm(&self) -> crate::Alarm {
        let waits = self.waits.clone();
        Arc::new(move || waits.lock().expect("not poisoned").clear())
    }
}

fn backwards(disk: &Arc<Memory>, faults: Faults) -> BlockHandler {
    let disk = Arc::new(Backwards(disk.clone()));
    let requests = Requests::new(disk, [0; 20], false, faults.counter());
    BlockHandler::new(requests, 1, false, Late::new(faults, &Waker::none()), None)
}

/// A header at an index of the buffers' page.
fn header(guest: &Guest, index: u64, kind: u32, sector: u64) -> u64 {
    let at = BUFFERS + index * 32;
    let bytes = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
    guest.write(at, &bytes);
    at
}

#[test]
fn a_lane_s_ends_come_in_any_order_each_to_its_chain() {
    let mut guest = Guest::new(32);
    let disk = Memory::new(false, false);
    let queue = guest.queue(0).expect("a sound queue");
    let mut queues = Queues::new(vec![Some(queue)]);
    let mut handler = backwards(&disk, Faults::default());
    guest.write(DATA + 0x1000, &[0x77; 512]);
    guest.write(STATUS, &[0xee; 8]);
    type Data<'a> = &'a [(u64, u32, bool)];
    let chains: [(u32, u64, Data<'_>); 5] = [
        (0, 3, &[(DATA, 700, true), (DATA + 700, 324, true)]),
        (1, 9, &[(DATA + 0x1000, 512, false)]),
        (4, 0, &[]),
        (0, 1 << 40, &[(DATA + 0x2000, 512, true)]),
        (0, 5, &[(DATA + 0x3000, 512, true)]),
    ];
    for (index, (kind, sector, data)) in (0..).zip(chains) {
        let head = header(&guest, index, kind, sector);
        let status = [(STATUS + index, 1, true)];
        guest.offer_chain(index as u16 * 6, &[&[(head, 16, false)], data, &status].concat());
    }
    handler.process(&mut queues).expect("a sound ring");
    // The refused one came at once, then the lane's, but for one.
    assert_eq!([0, 1, 2, 3].map(|index| guest.used(index).0), [18, 24, 12, 6]);
    assert_eq!(guest.used_index(), 4);
    assert!(handler.is_busy() && handler.alarm().is_some());
    assert!(queues.take_results().1, "there is one to come back for");
    handler.process(&mut queues).expect("a sound ring");
    assert_eq!((guest.used_index(), guest.used(4)), (5, (0, 1025)));
    assert!(!handler.is_busy() && !queues.take_results().1);
    assert_eq!(guest.read(STATUS, 5), [0, 0, 0, 1, 0]);
    assert_eq!(guest.read(DATA, 1024), [[3; 512], [4; 512]].concat());
    assert_eq!(guest.read(DATA + 0x3000, 512), [5; 512]);
    assert_eq!(disk.bytes.lock().expect("not poisoned")[9 * 512..10 * 512], [0x77; 512]);
    assert_eq!(guest.used(0).1, 1, "of an error only the status is written");
}

/// Calls the handler until so many chains were given back; how long that took from `begun` on.
fn until_used(
    handler: &mut BlockHandler,
    queues: &mut Queues,
    guest: &Guest,
    used: u16,
    begun: Instant,
) -> Duration {
    while guest.used_index() < used {
        assert!(begun.elapsed() < Duration::from_secs(20), "it comes at last");
        handler.process(queues).expect("a sound ring");
    }
    begun.elapsed()
}

#[test]
fn delayed_requests_take_their_time_beside_one_another() {
    let delay = Duration::from_millis(50);
    let faults = Faults { delay, ..Faults::default() };
    let disk = Memory::new(false, false);
    let mut guest = Guest::new(32);
    let mut queues = Queues::new(vec![Some(guest.queue(0).expect("a sound queue"))]);
    let mut handler = backwards(&disk, faults);
    let begun = Instant::now();
    for index in 0..8 {
        let head = header(&guest, index, 0, index);
        let (data, status) = ((DATA + index * 512, 512, true), (STATUS + index, 1, true));
        guest.offer_chain(index as u16 * 4, &[(head, 16, false), data, status]);
    }
    handler.process(&mut queues).expect("a sound ring");
    assert!(queues.take_results().1, "the lane keeps the last one back");
    handler.process(&mut queues).expect("a sound ring");
    // Everything is done, and nothing of the guest's is in use, but the driver does not know.
    assert_eq!((disk.calls.lock().expect("not poisoned").len(), handler.is_busy()), (8, false));
    assert!(guest.used_index() == 0 && !queues.take_results().1, "a clock wakes the worker");
    let took = until_used(&mut handler, &mut queues, &guest, 8, begun);
    assert!(took >= delay && took < 4 * delay, "{took:?} for eight at a time");
    assert_eq!(guest.read(STATUS, 8), [0; 8]);
}

#[test]
fn what_is_done_at_once_is_delayed_too() {
    let faults = Faults { delay: Duration::from_millis(10), ..Faults::default() };
    let mut bench = Bench::faulty(Memory::new(false, false), true, faults);
    let begun = Instant::now();
    bench.request(0, 0, &[(DATA, 512, true)]);
    assert_eq!(bench.guest.used_index(), 0);
    let Bench { handler, queues, guest, .. } = &mut bench;
    assert!(until_used(handler, queues, guest, 1, begun) >= faults.delay);
}

#[test]
fn each_nth_request_fails_without_the_disk() {
    let faults = Faults { fail_every: 3, ..Faults::default() };
    let mut bench = Bench::faulty(Memory::new(false, false), false, faults);
    let mut read = |kind| bench.request(kind, 0, &[(DATA, 512, true)]);
    assert_eq!([0, 0, 0, 0, 8, 0, 0].map(&mut read), [0, 0, 1, 0, 0, 0, 1], "8 asks for the name");
    assert_eq!(bench.calls().len(), 4);
    // The same on the way to a lane, which is not asked.
    let disk = Memory::new(false, false);
    let mut guest = Guest::new(16);
    let mut queues = Queues::new(vec![Some(guest.queue(0).expect("a sound queue"))]);
    let mut handler = backwards(&disk, Faults { fail_every: 1, ..Faults::default() });
    let head = header(&guest, 0, 4, 0);
    guest.offer_chain(0, &[(head, 16, false), (STATUS, 1, true)]);
    handler.process(&mut queues).expect("a sound ring");
    assert_eq!((guest.used_index(), guest.read(STATUS, 1)[0]), (1, 1));
    assert!(disk.calls.lock().expect("not poisoned").is_empty());
}

#[test]
fn each_cpu_has_a_queue_up_to_a_bound() {
    let block = |cpus| Block::new(Memory::new(false, false), "", cpus);
    for (cpus, queues) in [(0, 1), (1, 1), (3, 3), (200, MOST_QUEUES as usize)] {
        assert_eq!(block(cpus).queue_sizes(), vec![QUEUE; queues]);
        assert_eq!(block(cpus).features() & MULTI_QUEUE != 0, queues > 1);
        let mut config = [0; 36];
        block(cpus).config_read(0, &mut config);
        assert_eq!(config[34..], (queues as u16).to_le_bytes());
    }
}
