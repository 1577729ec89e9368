//! The transport as a driver uses it, and as none may.

mod saved;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use super::layout::{COMMON, ISR, MSIX_TABLE, NOTIFY};
use super::*;
use crate::device::{Handler, Kind, Queues};
use crate::features::{EVENT_IDX, VERSION_1};
use crate::queue::Broken;
use crate::state::ModelV1;
use crate::testing::{BUFFERS, Guest, Kernel, Recorder};
use crate::worker::Waker;

const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const NEEDS_RESET: u8 = 0x40;
const OWN_FEATURE: u64 = 1 << 3;

/// Fills each buffer with 7s; `gate`, if there is one, holds it up.
struct Sevens {
    gate: Option<Gate>,
    activated: Arc<AtomicU64>,
}

/// A handler says that it is there, and goes on when it is told to.
#[derive(Clone)]
struct Gate {
    there: mpsc::Sender<()>,
    go: Arc<Mutex<mpsc::Receiver<()>>>,
}

struct SevensHandler(Option<Gate>);

impl Device for Sevens {
    fn kind(&self) -> Kind {
        Kind::Console
    }

    fn queue_sizes(&self) -> &[u16] {
        &[8, 4]
    }

    fn features(&self) -> u64 {
        OWN_FEATURE
    }

    fn config_read(&self, offset: u64, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(offset..) {
            *byte = at as u8;
        }
    }

    fn activate(&mut self, features: u64, _waker: Waker) -> Box<dyn Handler> {
        self.activated.store(features, Ordering::SeqCst);
        Box::new(SevensHandler(self.gate.clone()))
    }

    fn save(&self) -> ModelV1 {
        ModelV1::Rng(crate::RngV1) // it has none either
    }
}

impl Handler for SevensHandler {
    fn process(&mut self, queues: &mut Queues) -> Result<(), Broken> {
        if let Some(gate) = &self.0 {
            gate.there.send(()).expect("the test listens");
            gate.go.lock().expect("not poisoned").recv().expect("the test goes on");
        }
        for index in 0..2 {
            queues.serve(index, |chain| {
                chain.write(&[7; 16]);
                Ok(())
            })?;
        }
        Ok(())
    }
}

struct Bench {
    guest: Guest,
    recorder: Arc<Recorder>,
    activated: Arc<AtomicU64>,
    function: VirtioPci,
}

impl Bench {
    fn with(gate: Option<Gate>) -> Self {
        let rings = if gate.is_none() { Rings::Inline } else { Rings::Transport };
        Self::ringing(gate, rings)
    }

    fn ringing(gate: Option<Gate>, rings: Rings) -> Self {
        let guest = Guest::new(8);
        let recorder = Arc::new(Recorder::default());
        let activated = Arc::default();
        let device = Sevens { gate, activated: Arc::clone(&activated) };
        let function =
            VirtioPci::new(Box::new(device), guest.memory.clone(), recorder.clone(), rings);
        Self { guest, recorder, activated, function }
    }

    fn new() -> Self {
        Self::with(None)
    }

    fn read(&mut self, offset: u64, width: usize) -> u64 {
        let mut data = [0; 8];
        self.function.bar_read(0, offset, &mut data[..width]);
        u64::from_le_bytes(data)
    }

    fn write(&mut self, offset: u64, width: usize, value: u64) {
        self.function.bar_write(0, offset, &value.to_le_bytes()[..width]);
    }

    fn status(&mut self) -> u8 {
        self.read(COMMON + 0x14, 1) as u8
    }

    fn set_status(&mut self, status: u8) {
        self.write(COMMON + 0x14, 1, status.into());
    }

    fn accept(&mut self, features: u64) {
        for half in 0..2 {
            self.write(COMMON + 8, 4, half);
            self.write(COMMON + 0xc, 4, features >> (half * 32) & 0xffff_ffff);
        }
    }

    /// Negotiates and sets up the first queue.
    fn start(&mut self, features: u64) {
        self.set_status(ACKNOWLEDGE);
        self.set_status(ACKNOWLEDGE | DRIVER);
        self.accept(features);
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        self.place_queue();
        self.write(COMMON + 0x1c, 2, 1);
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    fn place_queue(&mut self) {
        let layout = self.guest.layout;
        self.write(COMMON + 0x16, 2, 0);
        self.write(COMMON + 0x20, 4, layout.descriptors.0);
        self.write(COMMON + 0x24, 4, 0);
        self.write(COMMON + 0x28, 8, layout.available.0);
        self.write(COMMON + 0x30, 8, layout.used.0);
    }

    fn msix_control(&mut self, bits: u8) {
        let at = self.function.places.msix_control + 1;
        self.function.config_write(at, &[bits]);
    }

    fn line(&self) -> bool {
        *self.recorder.line.lock().expect("not poisoned")
    }
}

#[test]
fn features_are_offered_in_halves_and_taken_only_whole() {
    let mut bench = Bench::new();
    bench.write(COMMON, 4, 0);
    assert_eq!(bench.read(COMMON + 4, 4), OWN_FEATURE | 1 << 28 | 1 << 29);
    bench.write(COMMON, 4, 1);
    assert_eq!(bench.read(COMMON + 4, 4), 1);
    bench.write(COMMON, 4, 2);
    assert_eq!(bench.read(COMMON + 4, 4), 0);
    bench.accept(OWN_FEATURE);
    bench.set_status(FEATURES_OK);
    assert_eq!(bench.status(), 0, "without VERSION_1");
    bench.accept(VERSION_1 | 1 << 5);
    bench.set_status(FEATURES_OK);
    assert_eq!(bench.status(), 0, "more than was offered");
    bench.accept(VERSION_1 | OWN_FEATURE);
    bench.set_status(FEATURES_OK);
    assert_eq!(bench.status(), FEATURES_OK);
    bench.accept(0);
    assert_eq!(bench.read(COMMON + 0xc, 4), 1, "closed");
}

#[test]
fn a_doorbell_gets_work_done() {
    let mut bench = Bench::new();
    bench.start(VERSION_1);
    assert_eq!(bench.activated.load(Ordering::SeqCst), VERSION_1);
    assert_eq!(bench.status(), 0xf);
    bench.guest.offer_chain(0, &[(BUFFERS, 32, true)]);
    bench.write(NOTIFY, 2, 0);
    assert_eq!(bench.guest.used(0), (0, 16));
    assert_eq!(bench.guest.read(BUFFERS, 17), [&[7; 16][..], &[0]].concat());
    assert!(bench.line());
    assert_eq!(bench.read(ISR, 1), 1);
    assert!(!bench.line(), "reading acknowledges");
    assert_eq!(bench.read(ISR, 1), 0);
    bench.write(NOTIFY + 8, 2, 0);
    bench.write(NOTIFY + 0xffc, 2, 0);
}

#[test]
fn messages_go_by_the_queue_s_vector_and_wait_while_masked() {
    let mut bench = Bench::new();
    for vector in 0..3 {
        bench.write(MSIX_TABLE + vector * 16, 8, 0xfee0_0000);
        bench.write(MSIX_TABLE + vector * 16 + 8, 8, 0x40 + vector);
    }
    bench.msix_control(0x80);
    bench.write(COMMON + 0x16, 2, 0);
    bench.write(COMMON + 0x1a, 2, 3);
    assert_eq!(bench.read(COMMON + 0x1a, 2), 0xffff, "there is no such vector");
    bench.write(COMMON + 0x1a, 2, 1);
    bench.write(COMMON + 0x10, 2, 0);
    bench.start(VERSION_1 | EVENT_IDX);
    bench.guest.offer_chain(0, &[(BUFFERS, 4, true)]);
    bench.write(NOTIFY, 2, 0);
    let sent = |bench: &Bench| bench.recorder.messages.lock().expect("not poisoned").clone();
    assert_eq!(sent(&bench), [(0xfee0_0000, 0x41)]);
    assert!(!bench.line());
    bench.msix_control(0xc0);
    bench.guest.set_used_event(1);
    bench.guest.offer_chain(1, &[(BUFFERS, 4, true)]);
    bench.write(NOTIFY, 2, 0);
    assert_eq!(sent(&bench).len(), 1);
    assert_eq!(bench.read(layout::PENDING, 8), 2);
    bench.msix_control(0x80);
    assert_eq!(sent(&bench).len(), 2);
    // Misbehaviour is told by the configuration's vector.
    bench.guest.offer(0xffff);
    bench.write(NOTIFY, 2, 0);
    assert_eq!(bench.status(), 0xf | NEEDS_RESET);
    assert_eq!(sent(&bench)[2], (0xfee0_0000, 0x40));
}

#[test]
fn misbehaviour_needs_a_reset_and_a_reset_mends_it() {
    let mut bench = Bench::new();
    bench.start(VERSION_1);
    bench.guest.set_available_index(9);
    bench.write(NOTIFY, 2, 0);
    assert_eq!(bench.status(), 0xf | NEEDS_RESET);
    assert_eq!(bench.read(ISR, 1), 2);
    bench.guest.set_available_index(0);
    bench.guest.offer_chain(0, &[(BUFFERS, 4, true)]);
    bench.write(NOTIFY, 2, 0);
    assert_eq!(bench.guest.used_index(), 0, "it stands still");
    bench.set_status(0);
    assert_eq!(bench.status(), 0);
    assert_eq!(bench.read(COMMON + 0x1c, 2), 0, "the queue is off");
    assert_eq!(bench.read(COMMON + 0x20, 8), 0);
    bench.start(VERSION_1);
    assert_eq!(bench.guest.used_index(), 1, "what was available is found without a doorbell");
}

#[test]
fn a_queue_outside_of_ram_needs_a_reset() {
    let mut bench = Bench::new();
    bench.guest.layout.used = x86::GuestPhys(u64::MAX - 3);
    bench.start(VERSION_1);
    assert_eq!(bench.status(), 0xf | NEEDS_RESET);
    assert_eq!(bench.activated.load(Ordering::SeqCst), 0);
    let mut bench = Bench::new();
    bench.set_status(DRIVER_OK);
    assert_eq!(bench.status(), DRIVER_OK | NEEDS_RESET, "without FEATURES_OK");
}

#[test]
fn queues_are_closed_once_they_run() {
    let mut bench = Bench::new();
    assert_eq!(bench.read(COMMON + 0x12, 2), 2);
    for (index, size) in [(0, 8), (1, 4), (2, 0)] {
        bench.write(COMMON + 0x16, 2, index);
        assert_eq!(bench.read(COMMON + 0x18, 2), size);
        for bad in [0, 3, 16, 0xffff] {
            bench.write(COMMON + 0x18, 2, bad);
        }
        assert_eq!(bench.read(COMMON + 0x18, 2), size);
    }
    bench.start(VERSION_1);
    bench.write(COMMON + 0x20, 8, 0x5000);
    bench.write(COMMON + 0x18, 2, 2);
    assert_eq!(bench.read(COMMON + 0x20, 8), 0x1000);
    assert_eq!(bench.read(COMMON + 0x18, 2), 8);
    bench.write(COMMON + 0x1c, 2, 0);
    assert_eq!(bench.read(COMMON + 0x1c, 2), 1);
}

#[test]
fn the_pci_window_reaches_the_same_registers() {
    let mut bench = Bench::new();
    let at = bench.function.places.pci_cfg;
    let open = |bench: &mut Bench, offset: u64, length: u32| {
        bench.function.config_write(at + 8, &(offset as u32).to_le_bytes());
        bench.function.config_write(at + 12, &length.to_le_bytes());
    };
    open(&mut bench, COMMON + 0x14, 1);
    bench.function.config_write(at + 16, &[ACKNOWLEDGE, 0, 0, 0]);
    assert_eq!(bench.status(), ACKNOWLEDGE);
    open(&mut bench, COMMON + 0x12, 2);
    let mut data = [9; 4];
    bench.function.config_read(at + 16, &mut data);
    assert_eq!(data, [2, 0, 0, 0]);
    for length in [0, 3, 8, u32::MAX] {
        open(&mut bench, 0xffff_fffc, length);
        bench.function.config_read(at + 16, &mut data);
        bench.function.config_write(at + 16, &data);
    }
    open(&mut bench, 0xffff_fffc, 4);
    bench.function.config_read(at + 16, &mut data);
    assert_eq!(data, [0; 4], "beyond the BAR");
}

#[test]
fn a_reset_waits_for_the_worker_and_the_vcpu_does_not() {
    const LONG: Duration = Duration::from_secs(20);
    let (go, gate) = mpsc::channel();
    let (there, seen) = mpsc::channel();
    let mut bench = Bench::with(Some(Gate { there, go: Arc::new(Mutex::new(gate)) }));
    let worker = bench.function.worker();
    let thread = {
        let worker = worker.clone();
        std::thread::spawn(move || worker.run())
    };
    let limit = Instant::now() + LONG;
    for round in 0..2 {
        bench.start(VERSION_1);
        seen.recv_timeout(LONG).expect("the worker is woken");
        bench.set_status(0);
        assert_eq!(bench.status(), 0xf, "not yet");
        bench.set_status(ACKNOWLEDGE);
        assert_eq!(bench.status(), 0xf, "still not");
        go.send(()).expect("the worker listens");
        while bench.status() != 0 {
            assert!(Instant::now() < limit, "the worker lets go in round {round}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    bench.start(VERSION_1);
    bench.guest.offer_chain(0, &[(BUFFERS, 4, true)]);
    go.send(()).expect("the worker listens");
    while bench.guest.used_index() == 0 {
        assert!(Instant::now() < limit, "the worker serves the queue");
        std::thread::sleep(Duration::from_millis(1));
    }
    worker.stop();
    thread.join().expect("no panic");
}

#[test]
fn doorbells_are_in_the_kernel_while_the_device_is_active_and_where_its_bar_is() {
    const MEMORY: u8 = 2;
    let kernel = Arc::new(Kernel::default());
    let mut bench = Bench::ringing(None, Rings::Kernel(kernel.clone()));
    bench.function.config_write(0x10, &0xc001_0000_u32.to_le_bytes());
    bench.function.config_write(COMMAND, &[MEMORY]);
    assert_eq!(kernel.addresses(), [], "nobody drives it");
    bench.start(VERSION_1);
    assert_eq!(kernel.addresses(), [0xc001_3000], "the second queue is not enabled");
    bench.function.config_write(0x10, &0xc002_0000_u32.to_le_bytes());
    assert_eq!(kernel.addresses(), [0xc002_3000], "it goes with the BAR");
    bench.function.config_write(COMMAND, &[0]);
    assert_eq!(kernel.addresses(), [], "the BAR does not decode");
    bench.function.config_write(COMMAND, &[MEMORY]);
    assert_eq!(kernel.addresses(), [0xc002_3000]);
    bench.set_status(0);
    assert_eq!(kernel.addresses(), []);
    bench.start(VERSION_1);
    assert_eq!(kernel.addresses(), [0xc002_3000]);
}

#[test]
fn a_doorbell_in_the_kernel_has_the_worker_serve_the_queue() {
    let kernel = Arc::new(Kernel::default());
    let mut bench = Bench::ringing(None, Rings::Kernel(kernel.clone()));
    bench.function.config_write(0x10, &0xc001_0000_u32.to_le_bytes());
    bench.function.config_write(COMMAND, &[2]);
    let worker = bench.function.worker();
    let thread = std::thread::spawn({
        let worker = worker.clone();
        move || worker.run()
    });
    let served = |bench: &Bench, count: u16| {
        let limit = Instant::now() + Duration::from_secs(20);
        while bench.guest.used_index() != count {
            assert!(Instant::now() < limit, "the worker serves the queue");
            std::thread::yield_now();
        }
    };
    for life in 1..=3 {
        bench.start(VERSION_1);
        let event = kernel.0.lock().expect("not poisoned")[0].1.clone();
        for turn in 1..=4 {
            bench.guest.offer_chain(0, &[(BUFFERS, 16, true)]);
            rustix::io::write(&*event, &1_u64.to_ne_bytes()).expect("there is room");
            served(&bench, turn);
        }
        // Stale rings are those of an earlier life; the next one looks, and finds nothing.
        rustix::io::write(&*event, &1_u64.to_ne_bytes()).expect("there is room");
        bench.set_status(0);
        let limit = Instant::now() + Duration::from_secs(20);
        while bench.status() != 0 {
            assert!(Instant::now() < limit, "the worker lets go, wherever it waits");
        }
        assert_eq!(kernel.addresses(), [], "life {life}");
        bench.guest = Guest::again(&bench.guest);
    }
    worker.stop();
    thread.join().expect("it only works");
    let counts = worker.doorbells();
    assert_eq!(counts.exits, 0);
    assert!((12..=15).contains(&counts.kernel), "{counts:?}");
}
