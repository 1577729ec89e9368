//! A network card under a hostile driver, on a network that gives it frames of any size
//! (machine/virtio): registers in any order, rings, frames and commands of any content, with one pair of
//! queues or three.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use devices::pci::PciFunction;
use memory::GuestMemory;
use virtio::net::{Backend, FRAME_MAX, Header, Net, Offload};
use virtio::{Interrupter, VirtioPci, Waiter};
use x86::GuestPhys;

use crate::cursor::Cursor;

const RAM: u64 = 0x4_0000;
/// Pairs of a card that has several.
const PAIRS: u32 = 3;
const ENTRIES: u16 = 16;
const STEPS: usize = 256;
const COMMON: u64 = 0;
const NOTIFY: u64 = 0x3000;
const BAR_BYTES: u64 = 0x8000;
const BUFFERS: u64 = 0x8000;

fn descriptors(queue: u64) -> u64 {
    0x1000 + queue * 0x400
}

fn available(queue: u64) -> u64 {
    0x3000 + queue * 0x100
}

fn used(queue: u64) -> u64 {
    0x4000 + queue * 0x200
}

/// Bytes as what a driver does to a card's registers, descriptors, rings and buffers.
///
/// # Panics
/// The device panicked, gave its network what is no frame, or asked it for more than one.
pub fn network_card(data: &[u8]) {
    let memory = Arc::new(GuestMemory::new(&[(GuestPhys(0), RAM)]).expect("256 KiB can be had"));
    let mut cursor = Cursor::new(data);
    let setting = cursor.u8();
    let pairs = if setting >> 6 & 1 == 0 { 1 } else { PAIRS };
    let (link, seen) = link(0, cursor.take(16));
    let line = Arc::new(Line::default());
    let card = Box::new(Net::new(Box::new(link), [0x52, 0x54, 0, 1, 2, 3], 1500, pairs));
    let queues = 2 * u64::from(pairs) + 1;
    let mut function = VirtioPci::new(card, memory.clone(), line.clone(), virtio::Rings::Inline);
    if setting & 1 == 0 {
        negotiate(&mut function, queues, setting);
    }
    if pairs > 1 && cursor.u8() & 1 == 0 {
        // All pairs in use, with a buffer or two each.
        for [what, number] in [[0, 3], [0x22, 0], [0x42, 1], [0x62, 2], [0x82, 1], [0xa2, 2]] {
            sound(&mut function, &memory, queues, [what, number]);
        }
    }
    for _ in 0..STEPS {
        if cursor.is_empty() {
            break;
        }
        step(&mut function, &memory, queues, &seen, &mut cursor);
    }
    // Whatever happened, a reset ends it and the device can be had again.
    write(&mut function, COMMON + 0x14, &[0]);
    let mut status = [0xff];
    function.bar_read(0, COMMON + 0x14, &mut status);
    assert_eq!(status, [0], "an inline device resets at once");
    function.bar_read(0, 0x1000, &mut [0]);
    assert!(!line.0.load(Ordering::Relaxed), "nothing interrupts after a reset");
    for queue in 0..queues {
        memory.write_physical(GuestPhys(available(queue)), &[0; 4]).expect("RAM");
    }
    negotiate(&mut function, queues, 0);
    function.bar_read(0, COMMON + 0x14, &mut status);
    assert_eq!(status, [0xf], "empty rings are sound ones");
}

fn write(function: &mut VirtioPci, offset: u64, bytes: &[u8]) {
    function.bar_write(0, offset, bytes);
}

/// What a sound driver does up to DRIVER_OK, with some of the features.
fn negotiate(function: &mut VirtioPci, queues: u64, setting: u8) {
    const OFFLOADS: u32 = 1 | 1 << 1 | 1 << 2 | 1 << 7 | 1 << 8 | 1 << 11 | 1 << 12;
    const CONTROL: u32 = 1 << 17 | 1 << 18 | 1 << 23;
    let pick = |bit: u8, features: u32| if setting >> bit & 1 == 0 { features } else { 0 };
    let low = pick(1, OFFLOADS)
        | pick(2, 1 << 15)
        | pick(3, CONTROL)
        | pick(4, 1 << 28)
        | pick(5, 1 << 29)
        | if queues > 3 { pick(7, 1 << 22) } else { 0 };
    write(function, COMMON + 0x14, &[1]);
    write(function, COMMON + 0x14, &[3]);
    for (half, features) in [(0_u32, low), (1, 1)] {
        write(function, COMMON + 8, &half.to_le_bytes());
        write(function, COMMON + 12, &features.to_le_bytes());
    }
    write(function, COMMON + 0x14, &[0xb]);
    for queue in 0..queues {
        write(function, COMMON + 0x16, &(queue as u16).to_le_bytes());
        write(function, COMMON + 0x18, &ENTRIES.to_le_bytes());
        let places = [(0x20, descriptors(queue)), (0x28, available(queue)), (0x30, used(queue))];
        for (at, address) in places {
            write(function, COMMON + at, &address.to_le_bytes());
        }
        write(function, COMMON + 0x1c, &[1, 0]);
    }
    write(function, COMMON + 0x14, &[0xf]);
}

fn step(
    function: &mut VirtioPci,
    memory: &GuestMemory,
    queues: u64,
    seen: &Mutex<Seen>,
    cursor: &mut Cursor<'_>,
) {
    let operation = cursor.u8();
    let width = [1, 2, 4, 8][usize::from(operation >> 6)];
    let queue = match queues {
        3 => u64::from(operation >> 4 & 3) % 3,
        _ => u64::from(operation >> 3 & 7) % queues,
    };
    match operation & 7 {
        0 => descriptor(memory, queue, cursor),
        1 | 2 => offer(function, memory, queue, cursor.u8() & 31),
        3 => {
            let address = GuestPhys(BUFFERS + u64::from(cursor.u8()) * 0x100);
            if queues > 3 && width == 8 {
                return sound(function, memory, queues, [cursor.u8(), cursor.u8()]);
            }
            memory.write_physical(address, cursor.take(24)).expect("RAM");
        }
        4 => {
            let offset = u64::from(cursor.u16()) % (BAR_BYTES - 8);
            write(function, offset, &cursor.u64().to_le_bytes()[..width]);
        }
        5 => {
            seen.lock().expect("no holder panics").frames += u32::from(cursor.u8() & 15);
            write(function, NOTIFY, &[0, 0]);
        }
        6 => {
            let offset = u64::from(cursor.u16()) % (BAR_BYTES - 8);
            function.bar_read(0, offset, &mut [0; 8][..width]);
        }
        _ => {
            let address = GuestPhys(0x1000 + u64::from(cursor.u16()) % 0x4000);
            memory.write_physical(address, cursor.take(8)).expect("RAM");
        }
    }
}

/// What a sound driver of several pairs does: it says how many it uses, has a buffer for frames, or sends one of
/// some flow.
fn sound(function: &mut VirtioPci, memory: &GuestMemory, queues: u64, [what, number]: [u8; 2]) {
    let pair = u64::from(number) % (queues / 2);
    let slot = what >> 4;
    let place = BUFFERS + 0x800 * u64::from(slot);
    let put = |address: u64, bytes: &[u8]| {
        memory.write_physical(GuestPhys(address), bytes).expect("RAM");
    };
    let (queue, first, second) = match what & 3 {
        0 | 1 => {
            put(place, &[4, 0, number & 7, number >> 7]);
            // Behind the pairs, or where it is without them.
            (if what & 1 == 0 { queues - 1 } else { 2 }, (4, 0), (1, 2))
        }
        2 => (2 * pair, (1000, 2), (1000, 2)),
        _ => {
            put(place, &[0; 12]);
            put(place + 0x400, &[&PACKET[..], &[0; 22]].concat());
            put(place + 0x400 + 34, &[0, number >> 4]);
            (2 * pair + 1, (12, 0), (60, 0))
        }
    };
    let table = descriptors(queue);
    let parts = [(place, first, 1_u16, (slot + 1) % 16), (place + 0x400, second, 0, 0)];
    for (at, (address, (length, write), more, next)) in
        [slot, (slot + 1) % 16].into_iter().zip(parts)
    {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(u32::to_le_bytes(length));
        bytes.extend((more | write).to_le_bytes());
        bytes.extend([next, 0]);
        put(table + 16 * u64::from(at), &bytes);
    }
    offer(function, memory, queue, slot);
}

/// One more entry, and the doorbell.
fn offer(function: &mut VirtioPci, memory: &GuestMemory, queue: u64, head: u8) {
    let mut index = [0; 2];
    memory.read_physical(GuestPhys(available(queue) + 2), &mut index).expect("RAM");
    let index = u16::from_le_bytes(index);
    let entry = GuestPhys(available(queue) + 4 + 2 * u64::from(index % ENTRIES));
    memory.write_physical(entry, &u16::from(head).to_le_bytes()).expect("RAM");
    let next = index.wrapping_add(1).to_le_bytes();
    memory.write_physical(GuestPhys(available(queue) + 2), &next).expect("RAM");
    write(function, NOTIFY + 4 * queue, &[0, 0]);
}

/// A descriptor that is more often sound than random bytes are.
fn descriptor(memory: &GuestMemory, queue: u64, cursor: &mut Cursor<'_>) {
    let place = cursor.u8();
    let address = match place >> 5 {
        0 => cursor.u64(),
        _ => BUFFERS + u64::from(cursor.u8()) * 0x100,
    };
    let length = match place >> 5 {
        1 => cursor.u32(),
        2 => 16 * u32::from(cursor.u8()),
        3 => 12,
        4 => 512 * u32::from(cursor.u8()),
        _ => u32::from(cursor.u16()) % 1600,
    };
    let mut bytes = address.to_le_bytes().to_vec();
    bytes.extend(length.to_le_bytes());
    bytes.extend([cursor.u8() & 7, 0, cursor.u8() & 31, 0]);
    let table = descriptors(queue) + 16 * u64::from(place & 31);
    memory.write_physical(GuestPhys(table), &bytes).expect("RAM");
}

/// Whether the line is high.
#[derive(Default)]
struct Line(AtomicBool);

impl Interrupter for Line {
    fn message(&self, _vector: usize, _address: u64, _data: u32) {}

    fn line(&self, asserted: bool) {
        self.0.store(asserted, Ordering::Relaxed);
    }
}

pub(crate) struct Seen {
    /// Frames that wait for the guest.
    frames: u32,
    /// What their lengths are made of.
    sizes: Vec<u8>,
}

/// A network that panics when it is given what the seam promises it never is.
pub(crate) struct Link {
    seen: Arc<Mutex<Seen>>,
    offload: Offload,
}

/// A network with so many frames for the guest, and what can have more put there.
pub(crate) fn link(frames: u32, sizes: &[u8]) -> (Link, Arc<Mutex<Seen>>) {
    let seen = Arc::new(Mutex::new(Seen { frames, sizes: sizes.to_vec() }));
    (Link { seen: seen.clone(), offload: Offload::default() }, seen)
}

impl Seen {
    /// More frames for the guest.
    pub(crate) fn add(&mut self, frames: u32) {
        self.frames += frames;
    }
}

/// The beginning of a UDP packet for whoever hears broadcasts.
const PACKET: [u8; 38] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 60, 0, 0, 0, 0, 64, 17,
    0, 0, 10, 0, 2, 2, 10, 0, 2, 15, 0, 53, 0, 0,
];

struct Nowhere;

impl Waiter for Nowhere {
    fn wait(&self) {}
    fn wake(&self) {}
}

impl Backend for Link {
    fn poll(&mut self) {}

    fn settle(&mut self) {}

    fn send(&mut self, header: &Header, frame: &[u8]) {
        assert!((14..=FRAME_MAX).contains(&frame.len()));
        let end = usize::from(header.checksum_start) + usize::from(header.checksum_offset) + 2;
        let unfinished = header.flags & Header::NEEDS_CHECKSUM != 0;
        assert!(!unfinished || end <= frame.len(), "the sum lies in the frame");
        assert!(header.segmentation == 0 || (unfinished && header.segment > 0));
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Option<(Header, usize)> {
        assert!((1..=FRAME_MAX).contains(&buffer.len()));
        let mut seen = self.seen.lock().expect("no holder panics");
        seen.frames = seen.frames.checked_sub(1)?;
        let at = seen.frames as usize % seen.sizes.len().max(1);
        let size = seen.sizes.get(at).map_or(60, |&size| usize::from(size) * 260);
        let large = self.offload.tcp4 || self.offload.tcp6;
        let most = if large { buffer.len() } else { buffer.len().min(1514) };
        let length = size.clamp(1, most);
        buffer[..length].fill(0xff);
        // Each second one is a packet of one of some flows.
        if size & 4 != 0 && length >= PACKET.len() {
            buffer[..PACKET.len()].copy_from_slice(&PACKET);
            buffer[37] = at as u8;
        }
        Some((Header::default(), length))
    }

    fn set_offload(&mut self, offload: Offload) {
        assert!(offload.checksum || !(offload.tcp4 || offload.tcp6));
        self.offload = offload;
    }

    fn set_mac(&mut self, mac: [u8; 6]) {
        assert!(mac[0] & 1 == 0 && mac != [0; 6]);
    }

    fn reset(&mut self) {
        self.offload = Offload::default();
    }

    fn waiter(&self) -> Arc<dyn Waiter> {
        Arc::new(Nowhere)
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn takes_large(&self) -> bool {
        true
    }
}
