//! A disk that is saved while the host is at work.

use std::time::Duration;

use super::*;
use crate::state::{ModelV1, StateError};
use crate::testing::Machine;

/// A disk whose lane takes its time and does one thing a wait.
#[derive(Debug)]
struct Slow(Arc<Memory>);

struct SlowLane(Arc<Memory>, Arc<memory::GuestMemory>, Vec<(u32, u64, Pieces)>);

impl Disk for Slow {
    fn capacity(&self) -> u64 {
        self.0.capacity()
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.0.read_at(offset, into)
    }

    fn write_at(&self, offset: u64, from: &[u8]) -> Result<(), DiskError> {
        self.0.write_at(offset, from)
    }

    fn flush(&self) -> Result<(), DiskError> {
        Ok(())
    }

    fn discard(&self, _offset: u64, _length: u64) -> Result<(), DiskError> {
        Ok(())
    }

    fn write_zeroes(&self, _offset: u64, _length: u64, _unmap: bool) -> Result<(), DiskError> {
        Ok(())
    }

    fn lane(
        self: Arc<Self>,
        memory: &Arc<memory::GuestMemory>,
        _bell: Option<Arc<std::os::fd::OwnedFd>>,
    ) -> Option<Box<dyn Lane>> {
        Some(Box::new(SlowLane(self.0.clone(), memory.clone(), Vec::new())))
    }
}

impl Lane for SlowLane {
    fn read(&mut self, _tag: u32, _offset: u64, _pieces: Pieces) {
        unreachable!("the driver only writes")
    }

    fn write(&mut self, tag: u32, offset: u64, pieces: Pieces) {
        self.2.push((tag, offset, pieces));
    }

    fn flush(&mut self, _tag: u32) {
        unreachable!("the driver only writes")
    }

    fn reap(&mut self, wait: bool, told: &mut dyn FnMut(u32, Result<(), DiskError>)) {
        if !wait {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
        let Some((tag, offset, pieces)) = self.2.pop() else { return };
        let mut bytes = vec![0; 512];
        self.1.read_bytes(pieces[0].0, &mut bytes);
        told(tag, self.0.write_at(offset, &bytes));
    }

    fn alarm(&self) -> crate::Alarm {
        Arc::new(|| {})
    }
}

/// Writes a sector full of its own number.
fn write_sector(machine: &mut Machine, queue: usize, sector: u64) {
    let place = 0x4_0000 + 0x1000 * sector;
    let header = [&1_u64.to_le_bytes()[..], &sector.to_le_bytes()].concat();
    machine.queues[queue].write(place, &header);
    machine.queues[queue].write(place + 0x200, &[sector as u8 ^ 0xff; 512]);
    machine.queues[queue].write(place + 0x800, &[0x55]);
    let parts = [(place, 16, false), (place + 0x200, 512, false), (place + 0x800, 1, true)];
    machine.queues[queue].offer_chain(sector as u16 % 4 * 3, &parts);
}

#[test]
fn what_the_host_was_given_is_done_and_the_rest_is_done_later() {
    let disk = Arc::new(Slow(Memory::new(false, false)));
    let held = disk.clone();
    let block = |_: &_| -> Box<dyn Device> { Box::new(Block::new(held, "serial", 2)) };
    let mut machine = Machine::new(block, FLUSH | MULTI_QUEUE, false);
    for sector in 0..4 {
        write_sector(&mut machine, 0, sector);
        machine.ring(0);
    }
    write_sector(&mut machine, 1, 4);
    let machine = machine.reborn(|_, state| {
        let ModelV1::Block(state) = state else { panic!("a disk: {state:?}") };
        assert_eq!((state.id[..7].to_vec(), state.queues), (b"serial\0".to_vec(), 2));
        Box::new(Block::restore(disk.clone(), state).expect("the same disk"))
    });
    let started = std::time::Instant::now();
    while machine.queues[0].used_index() < 4 || machine.queues[1].used_index() < 1 {
        assert!(started.elapsed() < Duration::from_secs(20), "all requests are done");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!((machine.queues[0].used_index(), machine.queues[1].used_index()), (4, 1));
    for sector in 0..5 {
        assert_eq!(machine.queues[0].read(0x4_0800 + 0x1000 * sector, 1), [0], "status {sector}");
        let bytes = disk.0.bytes.lock().expect("not poisoned");
        assert_eq!(bytes[512 * sector as usize..][..512], [sector as u8 ^ 0xff; 512]);
    }
    let writes = disk.0.calls.lock().expect("not poisoned").len();
    assert_eq!(writes, 5, "none is done twice");
}

#[test]
fn another_disk_is_refused() {
    let state = Block::new(Memory::new(false, false), "serial", 1).saved();
    assert!(Block::restore(Memory::new(false, false), &state).is_ok());
    let read_only = Block::restore(Memory::new(true, false), &state);
    assert!(matches!(read_only, Err(StateError::Differs { saved: 0, here: 1, .. })));
    let larger = BlockV1 { capacity: state.capacity * 2, ..state.clone() };
    assert!(Block::restore(Memory::new(false, false), &larger).is_err());
    for queues in [0, 17, u16::MAX] {
        let state = BlockV1 { queues, ..state.clone() };
        assert!(Block::restore(Memory::new(false, false), &state).is_err(), "{queues}");
    }
}
