//! The small virtio devices under a hostile driver: descriptors, rings and registers of any content on
//! any of their queues, while the host's side does what it may (machine/virtio).

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};

use devices::pci::PciFunction;
use memory::GuestMemory;
use virtio::console::{self, Console};
use virtio::input::{Input, Keyboard, Tablet};
use virtio::vsock::{Host, Stirred, Stream, Vsock};
use virtio::{Balloon, BalloonControl, Device, Interrupter, VirtioPci, Waker};
use x86::GuestPhys;

use crate::cursor::Cursor;

const RAM: u64 = 0x4_0000;
const QUEUE_BYTES: u64 = 0x1000;
const SIZE: u16 = 16;
/// Within a queue's page: descriptors first, then the rings.
const AVAILABLE: u64 = 0x400;
const USED: u64 = 0x800;
const BUFFERS: u64 = 0x2_0000;
const STEPS: usize = 256;
const NOTIFY: u64 = 0x3000;
const BAR_BYTES: u64 = 0x8000;
const DEVICE: u64 = 0x2000;

/// A device and what the host does to it: a number says what.
pub(crate) struct Bench {
    pub(crate) function: VirtioPci,
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) queues: u16,
    pub(crate) host: HostSide,
}

/// Does to a device what a host may.
pub(crate) type HostSide = Box<dyn FnMut(&mut Cursor<'_>)>;

/// Bytes as what a driver does to one of the devices.
///
/// # Panics
/// The device panicked, or could not be had again after a reset.
pub fn virtio_devices(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    let mut bench = bench(cursor.u8());
    let features = cursor.u64() | 1 << 32;
    negotiate(&mut bench, features);
    for _ in 0..STEPS {
        if cursor.is_empty() {
            break;
        }
        step(&mut bench, &mut cursor);
    }
    mend(&mut bench);
}

/// Whatever happened, a reset ends it and the device can be had again.
pub(crate) fn mend(bench: &mut Bench) {
    bench.function.bar_write(0, 0x14, &[0]);
    for queue in 0..bench.queues {
        put(&bench.memory, ring(queue) + AVAILABLE, &[0; 4]);
    }
    negotiate(bench, 1 << 32);
    let mut status = [0];
    bench.function.bar_read(0, 0x14, &mut status);
    assert_eq!(status, [0xf], "empty rings are sound ones");
}

pub(crate) fn bench(which: u8) -> Bench {
    let memory = Arc::new(GuestMemory::new(&[(GuestPhys(0), RAM)]).expect("256 KiB can be had"));
    let (device, host) = device(which, &memory);
    around(device, host, memory)
}

/// A device with its host's side.
pub(crate) fn around(device: Box<dyn Device>, host: HostSide, memory: Arc<GuestMemory>) -> Bench {
    let queues = device.queue_sizes().len() as u16;
    let function = VirtioPci::new(device, memory.clone(), Arc::new(Nobody), virtio::Rings::Inline);
    Bench { function, memory, queues, host }
}

pub(crate) type Made = (Box<dyn Device>, HostSide);

fn device(which: u8, memory: &Arc<GuestMemory>) -> Made {
    match which % 5 {
        0 => balloon(memory),
        1 => vsock(),
        2 => console(),
        3 => keyboard(),
        _ => tablet(),
    }
}

fn console() -> Made {
    let device = Console::with_ports(sink(), vec![("agent".into(), sink())]);
    let host = console_host(device.control());
    (Box::new(device), host)
}

/// Where a console's output goes.
pub(crate) fn sink() -> console::Output {
    Box::new(|bytes: &[u8]| assert!(!bytes.is_empty()))
}

pub(crate) fn console_host(control: console::ConsoleControl) -> HostSide {
    Box::new(move |cursor: &mut Cursor<'_>| match cursor.u8() & 1 {
        0 => control.resize(cursor.u16(), cursor.u16()),
        _ => {
            let port = usize::from(cursor.u8() & 3);
            control.input(port, cursor.take(16));
        }
    })
}

fn keyboard() -> Made {
    let (device, keyboard) = Input::keyboard();
    (Box::new(device), keyboard_host(keyboard))
}

pub(crate) fn keyboard_host(keyboard: Keyboard) -> HostSide {
    Box::new(move |cursor: &mut Cursor<'_>| {
        keyboard.key(cursor.u16() & 0x1ff, cursor.u8() & 1 == 1);
    })
}

fn tablet() -> Made {
    let (device, tablet) = Input::tablet();
    (Box::new(device), tablet_host(tablet))
}

pub(crate) fn tablet_host(tablet: Tablet) -> HostSide {
    Box::new(move |cursor: &mut Cursor<'_>| {
        tablet.move_to(cursor.u32(), cursor.u32());
        tablet.button(cursor.u16(), true);
        tablet.wheel(cursor.u8().into(), cursor.u8().into());
    })
}

fn balloon(memory: &Arc<GuestMemory>) -> Made {
    let balloon = Balloon::new(memory.clone());
    let host = balloon_host(balloon.control());
    (Box::new(balloon), host)
}

pub(crate) fn balloon_host(control: BalloonControl) -> HostSide {
    Box::new(move |cursor: &mut Cursor<'_>| match cursor.u8() & 1 {
        0 => control.set_target_bytes(cursor.u64()),
        _ => control.request_statistics(),
    })
}

/// Sockets whose host's side does at every call what the next bytes say.
fn vsock() -> Made {
    let whims = Arc::new(Mutex::new(VecDeque::new()));
    let device = Vsock::new(3, Box::new(Fickle(whims.clone())));
    (Box::new(device), vsock_host(whims))
}

pub(crate) fn vsock_host(whims: Arc<Mutex<VecDeque<u8>>>) -> HostSide {
    Box::new(move |cursor: &mut Cursor<'_>| {
        let count = usize::from(cursor.u8());
        whims.lock().expect("no holder panics").extend(cursor.take(count));
    })
}

/// A host and its streams.
pub(crate) struct Fickle(pub(crate) Arc<Mutex<VecDeque<u8>>>);

impl Fickle {
    fn whim(&self) -> u8 {
        self.0.lock().expect("no holder panics").pop_front().unwrap_or(0)
    }

    /// How many of some bytes, or why none.
    fn some(&self, most: usize) -> io::Result<usize> {
        match self.whim() {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            1 => Err(io::ErrorKind::BrokenPipe.into()),
            2 => Ok(0),
            255 => Ok(most),
            whim => Ok(most.min(usize::from(whim) * 16)),
        }
    }

    fn stream(&self) -> io::Result<Box<dyn Stream>> {
        match self.whim() & 3 {
            1 => Err(io::ErrorKind::ConnectionRefused.into()),
            _ => Ok(Box::new(Self(self.0.clone()))),
        }
    }
}

impl Host for Fickle {
    fn attach(&mut self, _waker: Option<Waker>) {}

    fn connect(&mut self, _port: u32) -> io::Result<Box<dyn Stream>> {
        self.stream()
    }

    fn accept(&mut self) -> Option<(u32, Box<dyn Stream>)> {
        let port = self.whim();
        (port & 1 == 1).then(|| self.stream().ok()).flatten().map(|stream| (port.into(), stream))
    }

    fn reopen(&mut self, _guest_port: u32, _host_port: u32) -> Option<Box<dyn Stream>> {
        self.stream().ok()
    }

    fn stirred(&mut self) -> Vec<Stirred> {
        let key = u64::from(self.whim()) << 32 | u64::from(self.whim() & 3);
        vec![Stirred { key, hung_up: self.whim() & 1 == 1 }]
    }
}

impl Stream for Fickle {
    fn watch(&mut self, _key: u64) -> io::Result<()> {
        Ok(())
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.some(into.len())
    }

    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.some(from.len())
    }

    fn no_more_writes(&mut self) {}

    fn opened(&mut self, _host_port: u32) {}
}

/// A vsock packet that is addressed as a guest of ours would, in a buffer.
fn packet(bench: &Bench, cursor: &mut Cursor<'_>) {
    let mut header = [0; 44];
    header[0] = 3;
    header[8] = 2;
    header[16] = cursor.u8() & 3;
    header[20] = cursor.u8() & 3;
    header[24..26].copy_from_slice(&cursor.u16().to_le_bytes());
    header[28] = 1;
    header[30] = cursor.u8() & 7;
    header[32] = cursor.u8();
    header[36..40].copy_from_slice(&cursor.u32().to_le_bytes());
    header[40..44].copy_from_slice(&cursor.u32().to_le_bytes());
    put(&bench.memory, BUFFERS + u64::from(cursor.u8()) * 64, &header);
}

fn ring(queue: u16) -> u64 {
    0x1000 + u64::from(queue % 16) * QUEUE_BYTES
}

fn put(memory: &GuestMemory, address: u64, bytes: &[u8]) {
    memory.write_physical(GuestPhys(address), bytes).expect("RAM");
}

/// What a sound driver does up to DRIVER_OK, with those of these features that the device has.
pub(crate) fn negotiate(bench: &mut Bench, features: u64) {
    let function = &mut bench.function;
    function.bar_write(0, 0x14, &[1]);
    function.bar_write(0, 0x14, &[3]);
    for half in [0_u32, 1] {
        function.bar_write(0, 0, &half.to_le_bytes());
        let mut offered = [0; 4];
        function.bar_read(0, 4, &mut offered);
        let accepted = u32::from_le_bytes(offered) & (features >> (32 * half)) as u32;
        function.bar_write(0, 8, &half.to_le_bytes());
        function.bar_write(0, 12, &accepted.to_le_bytes());
    }
    function.bar_write(0, 0x14, &[0xb]);
    for queue in 0..bench.queues {
        function.bar_write(0, 0x16, &queue.to_le_bytes());
        let mut most = [0; 2];
        function.bar_read(0, 0x18, &mut most);
        let size = SIZE.min(u16::from_le_bytes(most));
        function.bar_write(0, 0x18, &size.to_le_bytes());
        let start = ring(queue);
        for (at, address) in [(0x20, start), (0x28, start + AVAILABLE), (0x30, start + USED)] {
            function.bar_write(0, at, &address.to_le_bytes());
        }
        function.bar_write(0, 0x1c, &[1, 0]);
    }
    function.bar_write(0, 0x14, &[0xf]);
}

pub(crate) fn step(bench: &mut Bench, cursor: &mut Cursor<'_>) {
    let operation = cursor.u8();
    let width = [1, 2, 4, 8][usize::from(operation >> 6)];
    let queue = u16::from(operation >> 3 & 7) % bench.queues;
    match operation & 7 {
        0 | 1 => descriptor(bench, queue, cursor),
        2 | 3 => offer(bench, queue, cursor),
        4 if width == 1 => packet(bench, cursor),
        4 => {
            let address = BUFFERS + u64::from(cursor.u16());
            let count = usize::from(cursor.u8());
            put(&bench.memory, address, cursor.take(count));
        }
        5 => (bench.host)(cursor),
        6 => {
            let offset = DEVICE + u64::from(cursor.u8());
            bench.function.bar_write(0, offset, &cursor.u64().to_le_bytes()[..width]);
            bench.function.bar_read(0, offset, &mut [0; 8][..width]);
        }
        _ => {
            let offset = u64::from(cursor.u16()) % (BAR_BYTES - 8);
            bench.function.bar_write(0, offset, &cursor.u64().to_le_bytes()[..width]);
        }
    }
}

/// A descriptor that is more often sound than random bytes are.
fn descriptor(bench: &Bench, queue: u16, cursor: &mut Cursor<'_>) {
    let place = cursor.u8();
    let mut bytes = [0; 16];
    let address = match place >> 5 {
        0 => cursor.u64(),
        _ => u64::from(cursor.u16()) + BUFFERS,
    };
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    let length = match place >> 5 {
        1 => cursor.u32(),
        2 | 3 => u32::from(cursor.u16()),
        _ => u32::from(cursor.u8()),
    };
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes[12] = cursor.u8() & 7;
    bytes[14] = cursor.u8() & 15;
    put(&bench.memory, ring(queue) + 16 * u64::from(place & 15), &bytes);
}

/// One more entry, and the doorbell.
fn offer(bench: &mut Bench, queue: u16, cursor: &mut Cursor<'_>) {
    let available = ring(queue) + AVAILABLE;
    let mut index = [0; 2];
    bench.memory.read_physical(GuestPhys(available + 2), &mut index).expect("RAM");
    let index = u16::from_le_bytes(index);
    let head = u16::from(cursor.u8() & 15).to_le_bytes();
    put(&bench.memory, available + 4 + 2 * u64::from(index % SIZE), &head);
    put(&bench.memory, available + 2, &index.wrapping_add(1).to_le_bytes());
    bench.function.bar_write(0, NOTIFY + 4 * u64::from(queue), &[0, 0]);
}

/// Hears no interrupt.
pub(crate) struct Nobody;

impl Interrupter for Nobody {
    fn message(&self, _vector: usize, _address: u64, _data: u32) {}

    fn line(&self, _asserted: bool) {}
}
