//! The ports' states, what waits for them, and what the guest is told of them.
//!
//! ```text
//! DEVICE_READY -> PORT_ADD each; PORT_READY -> CONSOLE_PORT and RESIZE, or PORT_NAME; PORT_OPEN
//! ```
//!
//! Invariant: each kind of message waits at most once for each port, so a guest that repeats itself
//! grows nothing.

use std::collections::VecDeque;

use super::control::{Message, event};
use super::{MOST_INPUT, MOST_PORTS};

/// Messages that wait at most: each kind once for each port.
pub(super) const MOST_MESSAGES: usize = TOLD.len() * MOST_PORTS;

/// What a guest is told.
const TOLD: [u16; 5] =
    [event::PORT_ADD, event::CONSOLE_PORT, event::RESIZE, event::PORT_OPEN, event::PORT_NAME];

#[derive(Debug, Default)]
struct Port {
    name: Option<String>,
    input: VecDeque<u8>,
    /// The guest has a driver for it.
    ready: bool,
}

#[derive(Debug)]
pub(super) struct Ports {
    list: Vec<Port>,
    messages: VecDeque<(Message, Vec<u8>)>,
    pub(super) multiport: bool,
    pub(super) size: (u16, u16),
    /// Input was refused, and some has gone since.
    pub(super) refused: bool,
    pub(super) made_room: bool,
}

impl Ports {
    pub(super) fn new(names: Vec<String>) -> Self {
        let named = names.into_iter().map(|name| Port { name: Some(name), ..Port::default() });
        let list = [Port::default()].into_iter().chain(named).collect();
        let messages = VecDeque::new();
        Self { list, messages, multiport: false, size: (0, 0), refused: false, made_room: false }
    }

    pub(super) fn count(&self) -> usize {
        self.list.len()
    }

    /// A driver begins.
    pub(super) fn reset(&mut self, multiport: bool, size: (u16, u16)) {
        self.messages.clear();
        self.multiport = multiport;
        self.size = size;
        self.list.iter_mut().for_each(|port| port.ready = false);
    }

    /// Input for a port; how much of it.
    pub(super) fn input(&mut self, port: usize, bytes: &[u8]) -> usize {
        let Some(port) = self.list.get_mut(port) else { return 0 };
        let count = bytes.len().min(MOST_INPUT - port.input.len());
        port.input.extend(&bytes[..count]);
        self.refused |= count < bytes.len();
        count
    }

    /// The next input of a port, taken away; one byte that stays for a look (`most` of 0). A
    /// guest with several ports gets it only once it is ready for it.
    pub(super) fn next_input(&mut self, port: usize, most: usize) -> Vec<u8> {
        let port = &mut self.list[port];
        if self.multiport && !port.ready {
            return Vec::new();
        }
        if most == 0 {
            return port.input.front().copied().into_iter().collect();
        }
        let count = most.min(port.input.len());
        self.made_room |= count > 0;
        port.input.drain(..count).collect()
    }

    /// Whether somebody waits for room and there is some.
    pub(super) fn take_made_room(&mut self) -> bool {
        let tell = self.refused && std::mem::take(&mut self.made_room);
        self.refused &= !tell;
        tell
    }

    /// The next control message as far as it fits, taken away unless `most` is 0.
    pub(super) fn next_message(&mut self, most: usize) -> Vec<u8> {
        let encoded = |(message, more): &(Message, Vec<u8>)| message.encode(more);
        let mut bytes = self.messages.front().map(encoded).unwrap_or_default();
        if most > 0 {
            self.messages.pop_front();
            bytes.truncate(most);
        }
        bytes
    }

    /// The terminal's size.
    pub(super) fn resize(&mut self, columns: u16, rows: u16) {
        self.size = (columns, rows);
        if self.multiport && self.list[0].ready {
            self.tell_size();
        }
    }

    /// Columns first: drivers and devices do so, against the words of 5.3.6.2.
    fn tell_size(&mut self) {
        let more = [self.size.0.to_le_bytes(), self.size.1.to_le_bytes()].concat();
        self.tell(0, event::RESIZE, 0, more);
    }

    fn tell(&mut self, port: usize, event: u16, value: u16, more: Vec<u8>) {
        let message = Message { port: port as u32, event, value };
        self.messages.retain(|(before, _)| (before.port, before.event) != (message.port, event));
        self.messages.push_back((message, more));
    }

    /// Each port: whether the guest has a driver for it, and the input that waits.
    pub(super) fn inputs(&self) -> impl Iterator<Item = (bool, Vec<u8>)> + '_ {
        self.list.iter().map(|port| (port.ready, port.input.iter().copied().collect()))
    }

    /// Messages that wait, without what follows from the ports.
    pub(super) fn waiting(&self) -> impl Iterator<Item = Message> + '_ {
        self.messages.iter().map(|(message, _)| *message)
    }

    /// Makes a port what it was.
    pub(super) fn set(&mut self, port: usize, ready: bool, input: &[u8]) {
        (self.list[port].ready, self.list[port].input) = (ready, input.iter().copied().collect());
    }

    /// Has a message wait again, with what follows it now; false: no guest is told that.
    pub(super) fn remind(&mut self, message: Message) -> bool {
        let Message { port, event, value } = message;
        let Some(known) = self.list.get(port as usize) else { return false };
        let more = match (event, &known.name) {
            (event::RESIZE, _) => return port == 0 && value == 0 && self.remind_size(),
            (event::PORT_NAME, Some(name)) => name.clone().into_bytes(),
            (event::PORT_NAME, None) => return false,
            _ => Vec::new(),
        };
        self.tell(port as usize, event, value, more);
        TOLD.contains(&event)
    }

    fn remind_size(&mut self) -> bool {
        self.tell_size();
        true
    }

    /// A message of the guest's.
    pub(super) fn take(&mut self, message: Message) {
        let port = message.port as usize;
        match (message.event, message.value) {
            (event::DEVICE_READY, 1) => {
                for port in 0..self.count() {
                    self.tell(port, event::PORT_ADD, 1, Vec::new());
                }
            }
            (event::PORT_READY, 1) if port < self.count() => {
                self.list[port].ready = true;
                match self.list[port].name.clone() {
                    None => {
                        self.tell(port, event::CONSOLE_PORT, 1, Vec::new());
                        if self.size != (0, 0) {
                            self.tell_size();
                        }
                    }
                    Some(name) => self.tell(port, event::PORT_NAME, 1, name.into_bytes()),
                }
                self.tell(port, event::PORT_OPEN, 1, Vec::new());
            }
            _ => {} // a port that it opened or closed: nobody here minds
        }
    }
}
