//! Input devices (virtio 1.2, 5.8): a keyboard and a tablet, whose events are Linux's own (evdev).
//!
//! Invariants: an event goes to the guest with all that belongs to it, SYN_REPORT last, or not at all;
//! at most [`MOST_EVENTS`] wait; without a driver nothing waits, so nothing old is typed later.

mod model;
mod saved;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::device::{Device, Handler, Kind, Queues, read_image};
use crate::queue::Broken;
use crate::state::{ModelV1, StateError};
use crate::worker::Waker;
use model::Model;
pub use model::codes;
pub use saved::InputV1;

const EVENTS: usize = 0;
const STATUS: usize = 1;
const QUEUES: [u16; 2] = [64, 64];
/// Events that wait for the guest.
const MOST_EVENTS: usize = 1024;
const EVENT_BYTES: usize = 8;
/// The tablet's largest coordinate, in both directions.
pub const TABLET_MAX: u32 = 0x7fff;

/// One of Linux's input events: type, code, value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Event(u16, u16, u32);

impl Event {
    fn encode(self) -> [u8; EVENT_BYTES] {
        let Self(kind, code, value) = self;
        (u64::from(kind) | u64::from(code) << 16 | u64::from(value) << 32).to_le_bytes()
    }

    fn decode(bytes: [u8; EVENT_BYTES]) -> Self {
        let word = u64::from_le_bytes(bytes);
        Self(word as u16, (word >> 16) as u16, (word >> 32) as u32)
    }
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Event>,
    /// While a driver has the device.
    waker: Option<Waker>,
    /// Bit n: the guest has LED n on.
    leds: u32,
}

type Shared = Arc<Mutex<State>>;

fn state(shared: &Shared) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A keyboard or a tablet.
#[derive(Debug)]
pub struct Input {
    model: Model,
    selected: (u8, u8),
    shared: Shared,
}

/// A keyboard's keys, for whoever presses them.
#[derive(Clone, Debug)]
pub struct Keyboard(Shared);

/// A tablet's pen.
#[derive(Clone, Debug)]
pub struct Tablet(Shared);

impl Input {
    /// A keyboard with all keys of a PC.
    pub fn keyboard() -> (Self, Keyboard) {
        let device = Self::new(Model::keyboard());
        let hand = Keyboard(device.shared.clone());
        (device, hand)
    }

    /// A pointer that is at a place rather than moved, with three buttons and two wheels.
    pub fn tablet() -> (Self, Tablet) {
        let device = Self::new(Model::tablet());
        let hand = Tablet(device.shared.clone());
        (device, hand)
    }

    fn new(model: Model) -> Self {
        Self { model, selected: (0, 0), shared: Shared::default() }
    }
}

/// Sends events that belong together; false: the guest has no driver, or has not taken earlier ones.
fn send(shared: &Shared, events: &[Event]) -> bool {
    let mut state = state(shared);
    let Some(waker) = state.waker.clone() else { return false };
    if state.waiting.len() + events.len() >= MOST_EVENTS {
        return false;
    }
    state.waiting.extend(events);
    state.waiting.push_back(Event(codes::EV_SYN, codes::SYN_REPORT, 0));
    drop(state);
    waker.wake();
    true
}

impl Keyboard {
    /// Presses a key (Linux's KEY_*, 1-255) or lets it go. False: the guest did not hear it.
    pub fn key(&self, code: u16, pressed: bool) -> bool {
        (1..256).contains(&code) && send(&self.0, &[Event(codes::EV_KEY, code, pressed.into())])
    }

    /// What the guest shows: bit 0 num lock, 1 caps lock, 2 scroll lock.
    pub fn leds(&self) -> u32 {
        state(&self.0).leds
    }
}

impl Tablet {
    /// Moves to a place, 0 to [`TABLET_MAX`] from left and from above.
    pub fn move_to(&self, x: u32, y: u32) -> bool {
        let axis = |code, at: u32| Event(codes::EV_ABS, code, at.min(TABLET_MAX));
        send(&self.0, &[axis(codes::ABS_X, x), axis(codes::ABS_Y, y)])
    }

    /// Presses a button ([`codes::BTN_LEFT`] and the two after it) or lets it go.
    pub fn button(&self, code: u16, pressed: bool) -> bool {
        (codes::BTN_LEFT..codes::BTN_LEFT + 3).contains(&code)
            && send(&self.0, &[Event(codes::EV_KEY, code, pressed.into())])
    }

    /// Turns the wheels: to the right, and away from the user.
    pub fn wheel(&self, right: i32, up: i32) -> bool {
        let turned = [(codes::REL_HWHEEL, right), (codes::REL_WHEEL, up)];
        let turned = turned.into_iter().filter(|(_, by)| *by != 0);
        let events: Vec<Event> =
            turned.map(|(code, by)| Event(codes::EV_REL, code, by as u32)).collect();
        send(&self.0, &events)
    }
}

impl Device for Input {
    fn kind(&self) -> Kind {
        Kind::Input
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUES
    }

    fn features(&self) -> u64 {
        0
    }

    fn config_read(&self, offset: u64, data: &mut [u8]) {
        let (select, subselect) = self.selected;
        let answer = self.model.config(select, subselect);
        let image = [&[select, subselect, answer.len() as u8, 0, 0, 0, 0, 0][..], &answer].concat();
        read_image(&image, offset, data);
    }

    fn config_write(&mut self, offset: u64, data: &[u8]) {
        for (at, &byte) in (offset..).zip(data) {
            match at {
                0 => self.selected.0 = byte,
                1 => self.selected.1 = byte,
                _ => {}
            }
        }
    }

    fn activate(&mut self, _features: u64, waker: Waker) -> Box<dyn Handler> {
        // What waits since a state was saved waits for the driver of then.
        *state(&self.shared) = State { waker: Some(waker), ..State::default() };
        Box::new(InputHandler(self.shared.clone()))
    }

    fn resume(&mut self, _features: u64, waker: Waker) -> Result<Box<dyn Handler>, StateError> {
        state(&self.shared).waker = Some(waker);
        Ok(Box::new(InputHandler(self.shared.clone())))
    }

    fn save(&self) -> ModelV1 {
        ModelV1::Input(self.saved())
    }
}

struct InputHandler(Shared);

impl Handler for InputHandler {
    fn process(&mut self, queues: &mut Queues) -> Result<(), Broken> {
        queues.serve(STATUS, |chain| {
            let mut bytes = [0; EVENT_BYTES];
            if chain.read(&mut bytes) == EVENT_BYTES {
                self.status(Event::decode(bytes));
            }
            Ok(())
        })?;
        let Some(queue) = queues.get(EVENTS) else { return Ok(()) };
        for _ in 0..queue.size() {
            if state(&self.0).waiting.is_empty() {
                break;
            }
            let Some(mut chain) = queue.pop()? else {
                if queue.arm_doorbell() {
                    continue;
                }
                break;
            };
            if let Some(event) = state(&self.0).waiting.pop_front() {
                chain.write(&event.encode());
            }
            queue.push(chain);
        }
        queues.signal(EVENTS);
        Ok(())
    }
}

impl InputHandler {
    /// The guest's own events: LEDs.
    fn status(&self, Event(kind, code, value): Event) {
        if kind == codes::EV_LED && code < 32 {
            let leds = &mut state(&self.0).leds;
            *leds = *leds & !(1 << code) | u32::from(value != 0) << code;
        }
    }
}

impl Drop for InputHandler {
    fn drop(&mut self) {
        *state(&self.0) = State::default();
    }
}

#[cfg(test)]
mod tests;
