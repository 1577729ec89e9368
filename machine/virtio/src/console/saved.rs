//! What a console saves: its size, input that waits, and what the guest is still to be told of its ports.

use snapshot::{Decoder, Encoder, Kind, SnapshotError, State};

use super::control::Message;
use super::ports::{MOST_MESSAGES, Ports};
use super::{Console, MOST_INPUT, MOST_PORTS, Output};
use crate::state::StateError;

/// A console, first version. What it writes to and how its ports are called is the wiring's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleV1 {
    /// Columns and rows of the first port.
    pub size: (u16, u16),
    /// The driver knows of several ports.
    pub multiport: bool,
    /// Input was refused, and some has gone since: somebody waits to be told.
    pub refused: bool,
    /// See `refused`.
    pub made_room: bool,
    /// In their order.
    pub ports: Vec<PortV1>,
    /// Control messages that wait: port, event, value (5.3.6.2).
    pub messages: Vec<(u32, u16, u16)>,
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortV1 {
    /// The guest has a driver for it.
    pub ready: bool,
    /// Input that waits.
    pub input: Vec<u8>,
}

impl Console {
    pub(super) fn saved(&self) -> ConsoleV1 {
        self.shared.state().ports.saved()
    }

    /// The console in a saved state; `output` and `more` as for [`Console::with_ports`].
    ///
    /// # Errors
    /// It had another number of ports, or the state is damaged.
    pub fn restore(
        output: Output,
        more: Vec<(String, Output)>,
        state: &ConsoleV1,
    ) -> Result<Self, StateError> {
        StateError::same("number of ports", state.ports.len() as u64, more.len() as u64 + 1)?;
        let console = Self::with_ports(output, more);
        let mut shared = console.shared.state();
        shared.size = state.size;
        shared.ports.restore(state)?;
        drop(shared);
        Ok(console)
    }
}

impl State for ConsoleV1 {
    const KIND: Kind = Kind(*b"vcon");
    const VERSION: u16 = 1;
    const MOST_BYTES: usize = 15 + MOST_PORTS * (5 + MOST_INPUT) + 8 * MOST_MESSAGES;

    fn encode(&self, to: &mut Encoder) {
        to.u16(self.size.0);
        to.u16(self.size.1);
        [self.multiport, self.refused, self.made_room].iter().for_each(|flag| to.bool(*flag));
        to.list(&self.ports, |to, port| {
            to.bool(port.ready);
            to.bytes(&port.input);
        });
        to.list(&self.messages, |to, &(port, event, value)| {
            to.array(&Message { port, event, value }.encode(&[]));
        });
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, SnapshotError> {
        Ok(Self {
            size: (from.u16()?, from.u16()?),
            multiport: from.bool()?,
            refused: from.bool()?,
            made_room: from.bool()?,
            ports: from.list(MOST_PORTS, "a number of ports", |from| {
                let ready = from.bool()?;
                Ok(PortV1 { ready, input: from.bytes(MOST_INPUT, "a port's input")? })
            })?,
            messages: from.list(MOST_MESSAGES, "a number of messages", |from| {
                let Message { port, event, value } = Message::decode(from.array()?);
                Ok((port, event, value))
            })?,
        })
    }
}

impl Ports {
    fn saved(&self) -> ConsoleV1 {
        let port = |(ready, input): (bool, Vec<u8>)| PortV1 { ready, input };
        let message = |Message { port, event, value }| (port, event, value);
        ConsoleV1 {
            size: self.size,
            multiport: self.multiport,
            refused: self.refused,
            made_room: self.made_room,
            ports: self.inputs().map(port).collect(),
            messages: self.waiting().map(message).collect(),
        }
    }

    /// Takes over what was saved of as many ports.
    fn restore(&mut self, state: &ConsoleV1) -> Result<(), StateError> {
        (self.size, self.multiport) = (state.size, state.multiport);
        (self.refused, self.made_room) = (state.refused, state.made_room);
        for (index, port) in state.ports.iter().enumerate() {
            StateError::unless(port.input.len() <= MOST_INPUT, "too much input")?;
            self.set(index, port.ready, &port.input);
        }
        for &(port, event, value) in &state.messages {
            let sound = self.remind(Message { port, event, value });
            StateError::unless(sound, "a message that is sent to no guest")?;
        }
        Ok(())
    }
}
