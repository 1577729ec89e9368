//! The machine around a payload: a device that keeps what is written, scripted ports, a record of
//! every access.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use engine::{Engine, GuestEvent, GuestIo, Kick, MsiMessage};
use payloads::{Access, Action, Direction, layout, ports};
use x86::GuestPhys;

/// How much later a delayed action comes: long enough for the guest to reach its HLT.
const LATER: Duration = Duration::from_millis(5);

/// What all vCPUs of one run share.
pub(crate) struct Bench {
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) stop: AtomicBool,
    kickers: Mutex<Vec<Arc<dyn Kick>>>,
    exit: Mutex<Option<u8>>,
    device: Mutex<Vec<u8>>,
    actions: Vec<Action>,
    delayed: Mutex<Vec<JoinHandle<()>>>,
    complaints: Mutex<Vec<String>>,
}

impl Bench {
    pub(crate) fn new(engine: Box<dyn Engine>, actions: Vec<Action>) -> Self {
        Self {
            engine,
            stop: AtomicBool::new(false),
            kickers: Mutex::default(),
            exit: Mutex::default(),
            device: Mutex::new((0..layout::DEVICE_BYTES).map(ports::device_byte).collect()),
            actions,
            delayed: Mutex::default(),
            complaints: Mutex::default(),
        }
    }

    pub(crate) fn add_kicker(&self, kicker: Arc<dyn Kick>) {
        lock(&self.kickers).push(kicker);
    }

    /// Ends the run on every vCPU.
    pub(crate) fn stop_all(&self) {
        self.stop.store(true, Ordering::Release);
        for kicker in lock(&self.kickers).iter() {
            kicker.kick();
        }
    }

    /// What the guest wrote to the exit port.
    pub(crate) fn exit_status(&self) -> Option<u8> {
        *lock(&self.exit)
    }

    /// Waits for delayed actions; returns what went wrong in the harness.
    pub(crate) fn close(&self) -> Vec<String> {
        let delayed = std::mem::take(&mut *lock(&self.delayed));
        for thread in delayed {
            if thread.join().is_err() {
                self.complain("a delayed action panicked".into());
            }
        }
        std::mem::take(&mut *lock(&self.complaints))
    }

    fn complain(&self, what: String) {
        lock(&self.complaints).push(what);
    }

    fn act(self: &Arc<Self>, index: u8) {
        let Some(&action) = self.actions.get(usize::from(index)) else {
            return self
                .complain(format!("the guest asked for action {index}, which is not there"));
        };
        match action {
            Action::Msi { .. } | Action::Nmi { .. } => self.act_now(action),
            Action::MsiLater { .. } | Action::NmiLater { .. } => {
                let bench = self.clone();
                let thread = std::thread::spawn(move || {
                    std::thread::sleep(LATER);
                    bench.act_now(action);
                });
                lock(&self.delayed).push(thread);
            }
        }
    }

    fn act_now(&self, action: Action) {
        let done = match action {
            Action::Msi { address, data } | Action::MsiLater { address, data } => {
                self.engine.signal_msi(MsiMessage { address, data })
            }
            Action::Nmi { cpu } | Action::NmiLater { cpu } => self.engine.inject_nmi(cpu),
        };
        if let Err(error) = done {
            self.complain(format!("{action:?}: {error}"));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no holder panics")
}

/// One vCPU's view of the bench, with the record of its accesses.
pub(crate) struct BenchIo {
    bench: Arc<Bench>,
    pub(crate) trace: Vec<Access>,
    pub(crate) events: Vec<GuestEvent>,
    counter: u8,
}

impl BenchIo {
    pub(crate) fn new(bench: Arc<Bench>) -> Self {
        Self { bench, trace: Vec::new(), events: Vec::new(), counter: 0x10 }
    }

    fn note(&mut self, direction: Direction, address: u64, data: &[u8]) {
        let mut value = [0; 8];
        value[..data.len()].copy_from_slice(data);
        let value = u64::from_le_bytes(value);
        self.trace.push(Access { direction, address, width: data.len() as u8, value });
    }
}

impl GuestIo for BenchIo {
    fn port_in(&mut self, port: u16, data: &mut [u8]) {
        match port {
            ports::COUNTER => {
                self.counter = self.counter.wrapping_add(1);
                data.fill(self.counter);
            }
            _ if port & !0xf == ports::DEVICE => {
                for (index, byte) in data.iter_mut().enumerate() {
                    *byte = ports::port_byte(port + index as u16);
                }
            }
            _ => data.fill(0xff),
        }
        self.note(Direction::PortIn, port.into(), data);
    }

    fn port_out(&mut self, port: u16, data: &[u8]) {
        self.note(Direction::PortOut, port.into(), data);
        match port {
            ports::EXIT => {
                lock(&self.bench.exit).get_or_insert(data[0]);
                self.bench.stop_all();
            }
            ports::ACTION => self.bench.act(data[0]),
            _ => {}
        }
    }

    fn mmio_read(&mut self, address: GuestPhys, data: &mut [u8]) {
        data.fill(0xff);
        let offset = address.0.wrapping_sub(layout::DEVICE);
        if offset < layout::DEVICE_BYTES {
            let device = lock(&self.bench.device);
            for (byte, kept) in data.iter_mut().zip(&device[offset as usize..]) {
                *byte = *kept;
            }
        }
        self.note(Direction::MmioRead, address.0, data);
    }

    fn mmio_write(&mut self, address: GuestPhys, data: &[u8]) {
        self.note(Direction::MmioWrite, address.0, data);
        let offset = address.0.wrapping_sub(layout::DEVICE);
        if offset < layout::DEVICE_BYTES {
            let mut device = lock(&self.bench.device);
            for (kept, byte) in device[offset as usize..].iter_mut().zip(data) {
                *kept = *byte;
            }
        }
    }

    fn end_of_interrupt(&mut self, _vector: u8) {}

    fn acknowledge_pic(&mut self) -> Option<u8> {
        None
    }

    fn event(&mut self, event: GuestEvent) {
        self.events.push(event);
    }
}
