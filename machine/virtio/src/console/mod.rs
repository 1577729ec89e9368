//! The console device (virtio 1.2, 5.3): a terminal whose size the guest knows, and named ports.
//!
//! ```text
//! port 0  queues 0 (to the guest) and 1 (from it)     control  queues 2 and 3
//! port n  queues 2n + 2 and 2n + 3
//! ```
//!
//! Invariants: what waits for a guest is bounded, both input ([`MOST_INPUT`]) and control messages (a
//! few for each that the guest sends); a sink may make the worker wait, and nobody else.

mod control;
mod ports;
mod saved;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::device::{Device, Handler, Kind, Queues, read_image};
use crate::queue::Broken;
use crate::state::{ModelV1, StateError};
use crate::worker::Waker;
use control::Message;
use ports::Ports;
pub use saved::{ConsoleV1, PortV1};

const SIZE: u64 = 1 << 0;
const MULTIPORT: u64 = 1 << 1;

const CONTROL_RECEIVE: usize = 2;
const CONTROL_TRANSMIT: usize = 3;
const QUEUE: u16 = 64;
/// Ports, port 0 included.
const MOST_PORTS: usize = 16;
/// Input that waits for one port of the guest.
const MOST_INPUT: usize = 64 << 10;
/// Output that is handed on at a time.
const PIECE: usize = 16 << 10;

/// Takes what a guest writes to a port; may wait.
pub type Output = Box<dyn FnMut(&[u8]) + Send>;

/// What the host's side and the device share.
struct Shared {
    state: Mutex<State>,
    outputs: Mutex<Vec<Output>>,
}

struct State {
    ports: Ports,
    /// Columns and rows of port 0.
    size: (u16, u16),
    waker: Option<Waker>,
    /// Called when input has room again after there was none.
    on_room: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The device.
pub struct Console {
    shared: Arc<Shared>,
    queue_sizes: Vec<u16>,
}

/// The host's hand on it.
#[derive(Clone)]
pub struct ConsoleControl(Arc<Shared>);

impl Console {
    /// A terminal that writes to `output`.
    pub fn new(output: Output) -> Self {
        Self::with_ports(output, Vec::new())
    }

    /// The same, and further ports, which the guest finds by their names
    /// (/dev/virtio-ports/NAME with udev, /sys/class/virtio-ports/*/name).
    pub fn with_ports(output: Output, more: Vec<(String, Output)>) -> Self {
        assert!(more.len() < MOST_PORTS, "a console of ours has 16 ports at most");
        let (names, more): (Vec<_>, Vec<_>) = more.into_iter().unzip();
        let ports = Ports::new(names);
        let queue_sizes = vec![QUEUE; 2 * ports.count() + 2];
        let state = State { ports, size: (0, 0), waker: None, on_room: None };
        let outputs = Mutex::new([output].into_iter().chain(more).collect());
        Self { shared: Arc::new(Shared { state: Mutex::new(state), outputs }), queue_sizes }
    }

    /// The way to steer it.
    pub fn control(&self) -> ConsoleControl {
        ConsoleControl(self.shared.clone())
    }
}

impl ConsoleControl {
    /// Input for a port: how much of it there was room for.
    pub fn input(&self, port: usize, bytes: &[u8]) -> usize {
        let mut state = self.0.state();
        let taken = state.ports.input(port, bytes);
        wake(state, Waker::wake);
        taken
    }

    /// Says when there is room again after [`ConsoleControl::input`] took less than it was given.
    pub fn on_room(&self, call: impl Fn() + Send + Sync + 'static) {
        self.0.state().on_room = Some(Arc::new(call));
    }

    /// The terminal has this size now.
    pub fn resize(&self, columns: u16, rows: u16) {
        let mut state = self.0.state();
        state.size = (columns, rows);
        state.ports.resize(columns, rows);
        wake(state, |waker| {
            waker.config_changed();
            waker.wake();
        });
    }
}

/// Does something to the worker without the lock, which it may take on this thread.
fn wake(state: MutexGuard<'_, State>, how: impl FnOnce(&Waker)) {
    let waker = state.waker.clone();
    drop(state);
    if let Some(waker) = waker {
        how(&waker);
    }
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Console")
    }
}

impl std::fmt::Debug for ConsoleControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConsoleControl")
    }
}

impl Device for Console {
    fn kind(&self) -> Kind {
        Kind::Console
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        SIZE | MULTIPORT
    }

    fn config_read(&self, offset: u64, data: &mut [u8]) {
        let state = self.shared.state();
        let ports = state.ports.count() as u32;
        let [columns, rows] = [state.size.0, state.size.1].map(u16::to_le_bytes);
        let image = [&columns[..], &rows, &ports.to_le_bytes()].concat();
        read_image(&image, offset, data);
    }

    fn activate(&mut self, features: u64, waker: Waker) -> Box<dyn Handler> {
        let mut state = self.shared.state();
        state.waker = Some(waker);
        let size = state.size;
        state.ports.reset(features & MULTIPORT != 0, size);
        Box::new(ConsoleHandler(self.shared.clone()))
    }

    fn resume(&mut self, features: u64, waker: Waker) -> Result<Box<dyn Handler>, StateError> {
        let mut state = self.shared.state();
        let multiport = features & MULTIPORT != 0;
        StateError::unless(state.ports.multiport == multiport, "ports without the feature")?;
        state.waker = Some(waker);
        Ok(Box::new(ConsoleHandler(self.shared.clone())))
    }

    fn save(&self) -> ModelV1 {
        ModelV1::Console(self.saved())
    }
}

struct ConsoleHandler(Arc<Shared>);

impl Handler for ConsoleHandler {
    fn process(&mut self, queues: &mut Queues) -> Result<(), Broken> {
        let count = self.0.state().ports.count();
        queues.serve(CONTROL_TRANSMIT, |chain| {
            let mut bytes = [0; Message::BYTES];
            if chain.read(&mut bytes) == Message::BYTES {
                self.0.state().ports.take(Message::decode(bytes));
            }
            Ok(())
        })?;
        for port in 0..count {
            let (receive, transmit) = queues_of(port);
            let outputs = &self.0.outputs;
            queues.serve(transmit, |chain| {
                let mut outputs = outputs.lock().unwrap_or_else(PoisonError::into_inner);
                let mut bytes = vec![0; PIECE.min(chain.readable() as usize)];
                loop {
                    let count = chain.read(&mut bytes);
                    if count == 0 {
                        return Ok(());
                    }
                    outputs[port](&bytes[..count]);
                }
            })?;
            self.fill(queues, receive, |state, most| state.ports.next_input(port, most))?;
        }
        self.fill(queues, CONTROL_RECEIVE, |state, most| state.ports.next_message(most))?;
        let mut state = self.0.state();
        if let Some(call) = state.on_room.clone().filter(|_| state.ports.take_made_room()) {
            drop(state);
            call();
        }
        Ok(())
    }
}

impl ConsoleHandler {
    /// Gives the guest what there is for it, as far as it has buffers; asks for its doorbell
    /// when it has none. `next`: bytes for a buffer of a size, none if there are none.
    fn fill(
        &self,
        queues: &mut Queues,
        index: usize,
        next: impl Fn(&mut State, usize) -> Vec<u8>,
    ) -> Result<(), Broken> {
        let Some(queue) = queues.get(index) else { return Ok(()) };
        for _ in 0..queue.size() {
            if next(&mut self.0.state(), 0).is_empty() {
                break;
            }
            let Some(mut chain) = queue.pop()? else {
                if queue.arm_doorbell() {
                    continue;
                }
                break;
            };
            let bytes = next(&mut self.0.state(), chain.writable() as usize);
            chain.write(&bytes);
            queue.push(chain);
        }
        queues.signal(index);
        Ok(())
    }
}

/// A port's queues to the guest and from it (5.3.2).
fn queues_of(port: usize) -> (usize, usize) {
    match port {
        0 => (0, 1),
        _ => (2 * port + 2, 2 * port + 3),
    }
}

#[cfg(test)]
mod tests;
