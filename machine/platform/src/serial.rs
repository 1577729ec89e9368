//! Serial ports: a 16550A each, a host side for its output, a bounded queue for its input.
//!
//! Output goes to the sink on the vCPU's own thread, after the UART's lock is free, so a sink that
//! waits slows the guest down and nobody else. Input waits in the queue until the UART has room.
//! Invariants: the queue never exceeds [`INPUT_QUEUE`]; input is in order, each byte once.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, Weak};

use devices::uart::Uart;

use crate::bus::PortDevice;
use crate::clock::Clock;
use crate::irq::{IrqLine, lock};
use crate::timers::{Timed, Timers};

/// Base port and ISA IRQ of COM1 to COM4.
pub const SERIAL_PORTS: [(u16, u8); 4] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)];
/// Bytes of input that wait for the guest.
const INPUT_QUEUE: usize = 64 * 1024;

/// Where a serial port's output goes.
pub trait SerialSink: Send {
    /// Takes all bytes; may wait, which holds up the guest's processor that wrote them.
    fn write(&mut self, bytes: &[u8]);
}

impl<F: FnMut(&[u8]) + Send> SerialSink for F {
    fn write(&mut self, bytes: &[u8]) {
        self(bytes);
    }
}

/// A sink for output nobody reads.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiscardSink;

impl SerialSink for DiscardSink {
    fn write(&mut self, _bytes: &[u8]) {}
}

/// The host side of one serial port.
pub struct SerialConfig {
    /// Where its output goes.
    pub sink: Box<dyn SerialSink>,
}

impl SerialConfig {
    /// A port with this sink.
    pub fn new(sink: impl SerialSink + 'static) -> Self {
        Self { sink: Box::new(sink) }
    }
}

impl fmt::Debug for SerialConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerialConfig").finish_non_exhaustive()
    }
}

type OnRoom = Arc<dyn Fn() + Send + Sync>;

struct State {
    uart: Uart,
    input: VecDeque<u8>,
    on_room: Option<OnRoom>,
    /// Somebody was told that the queue is full and waits for room.
    was_full: bool,
}

/// A serial port on the bus.
pub(crate) struct Serial {
    state: Mutex<State>,
    sink: Mutex<Box<dyn SerialSink>>,
    line: IrqLine,
    clock: Clock,
    timers: Arc<Timers>,
}

impl Serial {
    pub(crate) fn new(
        config: SerialConfig,
        line: IrqLine,
        clock: Clock,
        timers: Arc<Timers>,
    ) -> Self {
        let state =
            State { uart: Uart::new(), input: VecDeque::new(), on_room: None, was_full: false };
        Self { state: Mutex::new(state), sink: Mutex::new(config.sink), line, clock, timers }
    }

    /// Moves input into the UART, drives the line, arms the timer; under the lock, after every
    /// change. Returns whom to tell that there is room again.
    fn settle(&self, state: &mut State) -> Option<OnRoom> {
        let now = self.clock.now_ns();
        let room = state.uart.room();
        let mut freed = false;
        if room > 0 && !state.input.is_empty() {
            let count = room.min(state.input.len());
            let bytes: Vec<u8> = state.input.drain(..count).collect();
            let taken = state.uart.receive(&bytes, now);
            assert_eq!(taken, count, "the UART said it has room");
            freed = true;
        }
        self.line.set(state.uart.interrupt());
        self.timers.at(state.uart.next_event());
        let told = freed && state.was_full && state.input.len() <= INPUT_QUEUE / 2;
        if !told {
            return None;
        }
        state.was_full = false;
        state.on_room.clone()
    }
}

fn tell(on_room: Option<OnRoom>) {
    if let Some(on_room) = on_room {
        on_room();
    }
}

impl PortDevice for Serial {
    fn read(&self, offset: u16, data: &mut [u8]) {
        let now = self.clock.now_ns();
        let mut state = lock(&self.state);
        for (byte, at) in data.iter_mut().zip(offset..) {
            *byte = state.uart.read(at, now);
        }
        let on_room = self.settle(&mut state);
        drop(state);
        tell(on_room);
    }

    fn write(&self, offset: u16, data: &[u8]) {
        let now = self.clock.now_ns();
        let mut state = lock(&self.state);
        let mut sent = [0; 4];
        let mut count = 0;
        for (&byte, at) in data.iter().zip(offset..) {
            if let Some(output) = state.uart.write(at, byte, now)
                && let Some(place) = sent.get_mut(count)
            {
                *place = output;
                count += 1;
            }
        }
        let on_room = self.settle(&mut state);
        drop(state);
        tell(on_room);
        if count > 0 {
            lock(&self.sink).write(&sent[..count]);
        }
    }
}

impl Timed for Serial {
    fn tick(&self) -> Option<u64> {
        let mut state = lock(&self.state);
        state.uart.advance(self.clock.now_ns());
        let on_room = self.settle(&mut state);
        let next = state.uart.next_event();
        drop(state);
        tell(on_room);
        next
    }
}

/// Puts bytes into a serial port, from any thread.
#[derive(Clone)]
pub struct SerialInput {
    serial: Weak<Serial>,
}

impl SerialInput {
    pub(crate) fn new(serial: &Arc<Serial>) -> Self {
        Self { serial: Arc::downgrade(serial) }
    }

    /// Sends bytes to the guest; returns how many were taken. Fewer than all: the queue is full,
    /// and [`Self::on_room`] tells when it is not. After the machine's end all vanish.
    pub fn send(&self, bytes: &[u8]) -> usize {
        let Some(serial) = self.serial.upgrade() else { return bytes.len() };
        let mut state = lock(&serial.state);
        let count = bytes.len().min(INPUT_QUEUE - state.input.len());
        state.input.extend(&bytes[..count]);
        if count < bytes.len() {
            state.was_full = true;
        }
        let on_room = serial.settle(&mut state);
        drop(state);
        tell(on_room);
        count
    }

    /// How many bytes [`Self::send`] would take.
    pub fn room(&self) -> usize {
        self.serial.upgrade().map_or(0, |serial| INPUT_QUEUE - lock(&serial.state).input.len())
    }

    /// Bytes that still wait for the guest.
    pub fn waiting(&self) -> usize {
        self.serial.upgrade().map_or(0, |serial| lock(&serial.state).input.len())
    }

    /// A break condition (with a key after it: Linux's magic SysRq). False if it cannot be had now.
    pub fn send_break(&self) -> bool {
        let Some(serial) = self.serial.upgrade() else { return false };
        let mut state = lock(&serial.state);
        let sent = state.input.is_empty() && state.uart.receive_break(serial.clock.now_ns());
        serial.settle(&mut state);
        sent
    }

    /// Calls `callback` (on a vCPU's or timer's thread; it must not wait) when a queue that was
    /// too full for a [`Self::send`] is half empty again.
    pub fn on_room(&self, callback: impl Fn() + Send + Sync + 'static) {
        if let Some(serial) = self.serial.upgrade() {
            lock(&serial.state).on_room = Some(Arc::new(callback));
        }
    }
}

impl fmt::Debug for SerialInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerialInput").finish_non_exhaustive()
    }
}
