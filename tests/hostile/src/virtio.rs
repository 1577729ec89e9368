//! A virtio disk under a hostile driver: registers in any order, rings and requests of any content
//! (machine/virtio).

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use devices::pci::PciFunction;
use memory::{GuestMemory, RamOffset};
use virtio::block::{Block, Disk, DiskError, Lane, Pieces};
use virtio::{Alarm, Interrupter, VirtioPci};
use x86::GuestPhys;

use crate::cursor::Cursor;

const RAM: u64 = 0x2_0000;
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x3000;
const USED: u64 = 0x4000;
const CAPACITY: u64 = 64 << 10;
const STEPS: usize = 256;
const COMMON: u64 = 0;
const NOTIFY: u64 = 0x3000;
const BAR_BYTES: u64 = 0x8000;

/// Bytes as what a driver does to a disk's registers, descriptors and rings.
///
/// # Panics
/// The device panicked, asked its disk for what it has not, or wrote outside of what it may.
pub fn virtio(data: &[u8]) {
    let memory = Arc::new(GuestMemory::new(&[(GuestPhys(0), RAM)]).expect("128 KiB can be had"));
    let disk = Small::empty();
    let line = Arc::new(Line::default());
    let mut cursor = Cursor::new(data);
    let setting = cursor.u8();
    // Inline requests are done one by one; on a thread of its own the device uses the disk's lane.
    let inline = setting & 0xc0 != 0xc0;
    let block = Box::new(Block::new(disk, "hostile", u32::from(setting >> 4 & 1) + 1));
    let rings = if inline { virtio::Rings::Inline } else { virtio::Rings::Transport };
    let mut function = VirtioPci::new(block, memory.clone(), line.clone(), rings);
    let worker = function.worker();
    std::thread::scope(|scope| {
        if !inline {
            let worker = worker.clone();
            scope.spawn(move || worker.run());
        }
        drive(&mut function, &memory, &line, setting, &mut cursor);
        worker.stop();
    });
}

/// Whatever the bytes say, then a reset.
fn drive(
    function: &mut VirtioPci,
    memory: &GuestMemory,
    line: &Line,
    setting: u8,
    cursor: &mut Cursor<'_>,
) {
    if setting & 1 == 0 {
        negotiate(function, setting);
    }
    for _ in 0..STEPS {
        if cursor.is_empty() {
            break;
        }
        step(function, memory, cursor);
    }
    // Whatever happened, a reset ends it and the device can be had again.
    write(function, COMMON + 0x14, &[0]);
    let mut status = [0xff];
    let started = Instant::now();
    while status != [0] {
        function.bar_read(0, COMMON + 0x14, &mut status);
        assert!(started.elapsed() < Duration::from_secs(10), "a reset comes to an end");
    }
    function.bar_read(0, 0x1000, &mut [0]);
    assert_eq!(line.0.load(Ordering::Relaxed) & 1, 0, "nothing interrupts after a reset");
    memory.write_physical(GuestPhys(AVAILABLE), &[0; 4]).expect("RAM");
    negotiate(function, 0);
    function.bar_read(0, COMMON + 0x14, &mut status);
    assert_eq!(status, [0xf], "an empty ring is a sound one");
}

fn write(function: &mut VirtioPci, offset: u64, bytes: &[u8]) {
    function.bar_write(0, offset, bytes);
}

/// What a sound driver does up to DRIVER_OK.
fn negotiate(function: &mut VirtioPci, setting: u8) {
    write(function, COMMON + 0x14, &[1]);
    write(function, COMMON + 0x14, &[3]);
    let rings = u32::from(setting >> 1 & 3) << 28; // indirect, event index
    let flush = u32::from(setting >> 3 & 1) << 9;
    for (half, features) in [(0_u32, rings | flush), (1, 1)] {
        write(function, COMMON + 8, &half.to_le_bytes());
        write(function, COMMON + 12, &features.to_le_bytes());
    }
    write(function, COMMON + 0x14, &[0xb]);
    write(function, COMMON + 0x16, &[0, 0]);
    write(function, COMMON + 0x18, &16_u16.to_le_bytes());
    for (at, address) in [(0x20, DESCRIPTORS), (0x28, AVAILABLE), (0x30, USED)] {
        write(function, COMMON + at, &address.to_le_bytes());
    }
    write(function, COMMON + 0x1c, &[1, 0]);
    write(function, COMMON + 0x14, &[0xf]);
}

fn step(function: &mut VirtioPci, memory: &GuestMemory, cursor: &mut Cursor<'_>) {
    let operation = cursor.u8();
    let width = [1, 2, 4, 8][usize::from(operation >> 6)];
    match operation & 7 {
        0 => descriptor(memory, cursor),
        1 => request(memory, cursor),
        2 => {
            // One more entry, and the doorbell.
            let mut index = [0; 2];
            memory.read_physical(GuestPhys(AVAILABLE + 2), &mut index).expect("RAM");
            let index = u16::from_le_bytes(index);
            let entry = GuestPhys(AVAILABLE + 4 + 2 * u64::from(index % 16));
            let head = u16::from(cursor.u8() & 31).to_le_bytes();
            memory.write_physical(entry, &head).expect("RAM");
            let next = index.wrapping_add(1).to_le_bytes();
            memory.write_physical(GuestPhys(AVAILABLE + 2), &next).expect("RAM");
            write(function, NOTIFY, &[0, 0]);
        }
        3 => {
            let address = GuestPhys(u64::from(cursor.u16()) + DESCRIPTORS);
            memory.write_physical(address, cursor.take(16)).expect("RAM");
        }
        4 => {
            let offset = u64::from(cursor.u16()) % (BAR_BYTES - 8);
            write(function, offset, &cursor.u64().to_le_bytes()[..width]);
        }
        5 => {
            let offset = u64::from(cursor.u8()) % 0x38;
            write(function, COMMON + offset, &cursor.u64().to_le_bytes()[..width]);
        }
        6 => {
            let offset = u64::from(cursor.u16()) % (BAR_BYTES - 8);
            function.bar_read(0, offset, &mut [0; 8][..width]);
        }
        _ => {
            let offset = usize::from(cursor.u8()) & !3;
            function.config_write(offset, &cursor.u32().to_le_bytes()[..width.min(4)]);
            function.config_read(offset, &mut [0; 4]);
        }
    }
}

/// A descriptor that is more often sound than random bytes are.
fn descriptor(memory: &GuestMemory, cursor: &mut Cursor<'_>) {
    let place = cursor.u8();
    let mut bytes = [0; 16];
    let address = match place >> 5 {
        0 => cursor.u64(),
        _ => u64::from(cursor.u16()) + 0x5000,
    };
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    let length = match place >> 5 {
        1 => cursor.u32(),
        2 => 16 * u32::from(cursor.u8()),
        3 => 1,
        _ => 512 * u32::from(cursor.u8()),
    };
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes[12] = cursor.u8() & 7;
    bytes[14] = cursor.u8() & 31;
    let table = DESCRIPTORS + 16 * u64::from(place & 31);
    memory.write_physical(GuestPhys(table), &bytes).expect("RAM");
}

/// A whole request of three descriptors with a header of some kind.
fn request(memory: &GuestMemory, cursor: &mut Cursor<'_>) {
    let kind = cursor.pick(&[0_u32, 1, 4, 8, 11, 13, 5, u32::MAX]);
    let put = |address: u64, bytes: &[u8]| {
        memory.write_physical(GuestPhys(address), bytes).expect("RAM");
    };
    put(0x5000, &kind.to_le_bytes());
    let sector = cursor.u16();
    put(0x5008, &u64::from(sector).to_le_bytes());
    let flags = cursor.u8();
    let length = u32::from(flags) * if kind > 8 { 16 } else { 512 };
    let data = 1 | if matches!(kind, 0 | 8) { 2 } else { 0 };
    for (index, (address, length, flags)) in
        (0_u16..).zip([(0x5000_u64, 16_u32, 1_u16), (0x6000, length.max(1), data), (0x5800, 1, 2)])
    {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend((index + 1).to_le_bytes());
        put(DESCRIPTORS + 16 * u64::from(index), &bytes);
    }
    put(0x6000, cursor.take(48));
}

/// Whether the line is high.
#[derive(Default)]
struct Line(AtomicU64);

impl Interrupter for Line {
    fn message(&self, _vector: usize, _address: u64, _data: u32) {}

    fn line(&self, asserted: bool) {
        self.0.store(asserted.into(), Ordering::Relaxed);
    }
}

/// A disk in memory that panics when it is asked for what the seam promises it never is.
#[derive(Debug)]
pub(crate) struct Small {
    bytes: Mutex<Vec<u8>>,
}

impl Small {
    pub(crate) fn empty() -> Arc<Self> {
        Arc::new(Self { bytes: Mutex::new(vec![0; CAPACITY as usize]) })
    }

    fn check(offset: u64, length: u64) -> std::ops::Range<usize> {
        assert!(offset.is_multiple_of(512) && length.is_multiple_of(512) && length > 0);
        assert!(offset < CAPACITY && length <= CAPACITY - offset);
        offset as usize..(offset + length) as usize
    }
}

impl Disk for Small {
    fn capacity(&self) -> u64 {
        CAPACITY
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let range = Self::check(offset, into.len() as u64);
        into.copy_from_slice(&self.bytes.lock().expect("no holder panics")[range]);
        Ok(())
    }

    fn write_at(&self, offset: u64, from: &[u8]) -> Result<(), DiskError> {
        let range = Self::check(offset, from.len() as u64);
        self.bytes.lock().expect("no holder panics")[range].copy_from_slice(from);
        Ok(())
    }

    fn flush(&self) -> Result<(), DiskError> {
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        Self::check(offset, length);
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, length: u64, _may_unmap: bool) -> Result<(), DiskError> {
        let range = Self::check(offset, length);
        self.bytes.lock().expect("no holder panics")[range].fill(0);
        Ok(())
    }

    fn lane(
        self: Arc<Self>,
        memory: &Arc<GuestMemory>,
        _bell: Option<Arc<OwnedFd>>,
    ) -> Option<Box<dyn Lane>> {
        Some(Box::new(SmallLane { disk: self, memory: memory.clone(), jobs: Vec::new() }))
    }
}

/// The disk's lane: the last that came is done first, and one stays behind.
struct SmallLane {
    disk: Arc<Small>,
    memory: Arc<GuestMemory>,
    jobs: Vec<(u32, u64, Pieces, bool)>,
}

impl Lane for SmallLane {
    fn read(&mut self, tag: u32, offset: u64, pieces: Pieces) {
        self.jobs.push((tag, offset, pieces, false));
    }

    fn write(&mut self, tag: u32, offset: u64, pieces: Pieces) {
        self.jobs.push((tag, offset, pieces, true));
    }

    fn flush(&mut self, tag: u32) {
        self.jobs.push((tag, 0, Pieces::new(), true));
    }

    fn reap(&mut self, wait: bool, told: &mut dyn FnMut(u32, Result<(), DiskError>)) {
        let keep = usize::from(!wait).min(self.jobs.len());
        for (tag, offset, pieces, write) in self.jobs.drain(keep..).rev() {
            let length: u64 = pieces.iter().map(|(_, length)| u64::from(*length)).sum();
            let mut range = if length > 0 { Small::check(offset, length) } else { 0..0 };
            let mut bytes = self.disk.bytes.lock().expect("no holder panics");
            for (place, length) in pieces {
                let part = &mut bytes[range.start..range.start + length as usize];
                range.start += length as usize;
                copy(&self.memory, place, part, write);
            }
            told(tag, Ok(()));
        }
    }

    fn alarm(&self) -> Alarm {
        Arc::new(|| {})
    }
}

/// Between guest memory and a part of the disk.
fn copy(memory: &GuestMemory, place: RamOffset, part: &mut [u8], write: bool) {
    match write {
        true => memory.read_bytes(place, part),
        false => memory.write_bytes(place, part),
    }
}
