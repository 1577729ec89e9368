//! Doorbells in the kernel while the host is at work: they end the worker's wait for it.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::testing::{Kernel, Machine};

/// A disk whose lane ends nothing before it has two things to do; counts what was begun.
#[derive(Debug)]
struct Pairs(AtomicU32);

struct PairsLane {
    disk: Arc<Pairs>,
    bell: Arc<OwnedFd>,
    tags: Vec<u32>,
}

impl Disk for Pairs {
    fn capacity(&self) -> u64 {
        CAPACITY as u64
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read_at(&self, _offset: u64, _into: &mut [u8]) -> Result<(), DiskError> {
        unreachable!("there is a lane")
    }

    fn write_at(&self, _offset: u64, _from: &[u8]) -> Result<(), DiskError> {
        unreachable!("there is a lane")
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
        _memory: &Arc<memory::GuestMemory>,
        bell: Option<Arc<OwnedFd>>,
    ) -> Option<Box<dyn Lane>> {
        let bell = bell.expect("doorbells ring in the kernel");
        Some(Box::new(PairsLane { disk: self, bell, tags: Vec::new() }))
    }
}

impl Lane for PairsLane {
    fn read(&mut self, _tag: u32, _offset: u64, _pieces: Pieces) {
        unreachable!("the driver only flushes")
    }

    fn write(&mut self, _tag: u32, _offset: u64, _pieces: Pieces) {
        unreachable!("the driver only flushes")
    }

    fn flush(&mut self, tag: u32) {
        self.tags.push(tag);
        self.disk.0.fetch_add(1, Ordering::SeqCst);
    }

    fn reap(&mut self, wait: bool, told: &mut dyn FnMut(u32, Result<(), DiskError>)) {
        if self.tags.len() >= 2 {
            self.tags.drain(..).for_each(|tag| told(tag, Ok(())));
        } else if wait {
            let mut list = [PollFd::new(&*self.bell, PollFlags::IN)];
            let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
            assert_eq!(poll(&mut list, Some(&limit)), Ok(1), "a doorbell ends the wait");
        }
    }

    fn alarm(&self) -> crate::Alarm {
        unreachable!("the bell is the alarm")
    }
}

#[test]
fn a_doorbell_in_the_kernel_ends_the_wait_for_the_host_and_so_does_a_reset() {
    let kernel = Arc::new(Kernel::default());
    let disk = Arc::new(Pairs(AtomicU32::new(0)));
    let made = disk.clone();
    let block = |_: &_| -> Box<dyn Device> { Box::new(Block::new(made, "serial", 1)) };
    let mut machine = Machine::with_kernel(block, FLUSH, kernel.clone());
    let limit = Instant::now() + Duration::from_secs(40);
    let offer = |machine: &mut Machine, index: u16| {
        let place = BUFFERS + u64::from(index) * 64;
        machine.queues[0].write(place, &[4_u64.to_le_bytes(), [0; 8]].concat());
        machine.queues[0].offer_chain(index % 8 * 2, &[(place, 16, false), (place + 32, 1, true)]);
    };
    for request in 0..40 {
        offer(&mut machine, request);
        kernel.ring();
        while disk.0.load(Ordering::SeqCst) <= request.into() {
            assert!(Instant::now() < limit, "it is taken, whatever the worker waits for");
            std::thread::yield_now();
        }
        while machine.queues[0].used_index() < request.div_ceil(2) * 2 {
            assert!(Instant::now() < limit, "a second one has both come back");
            std::thread::yield_now();
        }
    }
    let counts = machine.function.worker().doorbells();
    assert_eq!(counts.exits, 0);
    assert!(counts.kernel > 0 && counts.kernel <= 40, "{counts:?}");
    offer(&mut machine, 40);
    kernel.ring();
    machine.write(0x14, 1, 0);
    // To drop this lane is to wait for nobody, though its work is not done.
    while machine.read(0x14, 1) != 0 {
        assert!(Instant::now() < limit, "the worker lets go");
    }
    assert_eq!((machine.queues[0].used_index(), kernel.addresses()), (40, vec![]));
}
