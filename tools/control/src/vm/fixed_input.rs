//! Input that is known before the guest starts, given to it on the guest's own time.
//!
//! What a user types, and when, is the host's; a file is neither. So all of it is answered to what
//! the guest says (its greeting, and that it consumed some), on the vCPU's thread, between two
//! instructions. Invariant: what the guest is sent, and when, depends on the bytes and on the guest.

use std::sync::{Arc, Mutex, OnceLock};

use machine::SerialInput;

use super::session::Session;

#[derive(Debug)]
struct State {
    /// What the command has not been given.
    bytes: Vec<u8>,
    given: usize,
    /// Our init's, if it is there; otherwise the bytes go into the line as they are.
    session: Option<Session>,
    /// What the line had no room for.
    wire: Vec<u8>,
}

/// The input of one guest.
#[derive(Debug)]
pub(super) struct FixedInput {
    state: Mutex<State>,
    line: OnceLock<SerialInput>,
    is_session: bool,
}

impl FixedInput {
    pub(super) fn new(bytes: Vec<u8>, is_session: bool) -> Arc<Self> {
        let session = is_session.then(Session::new);
        let (bytes, wire) = if is_session { (bytes, Vec::new()) } else { (Vec::new(), bytes) };
        let state = Mutex::new(State { bytes, given: 0, session, wire });
        Arc::new(Self { state, line: OnceLock::new(), is_session })
    }

    /// Whether it goes to our init rather than to the console.
    pub(super) fn is_session(&self) -> bool {
        self.is_session
    }

    /// Once, before the guest starts: where the bytes go.
    pub(super) fn connect(input: &Arc<Self>, line: SerialInput) {
        let waker = Arc::downgrade(input);
        line.on_room(move || {
            if let Some(input) = waker.upgrade() {
                input.pump();
            }
        });
        assert!(input.line.set(line).is_ok(), "a guest has one line for input");
        input.pump();
    }

    /// What the guest said on the session's line.
    pub(super) fn heard(&self, bytes: &[u8]) {
        if let Ok(mut state) = self.state.lock()
            && let Some(session) = &mut state.session
        {
            // Whoever shows the guest's words has a decoder of its own.
            session.push(bytes, &mut |_| {});
        }
        self.pump();
    }

    /// Sends what the guest wants and the line takes.
    fn pump(&self) {
        // Held already: `send` below tells of room, and goes on by itself.
        let Ok(mut state) = self.state.try_lock() else { return };
        state.answer();
        let Some(line) = self.line.get() else { return };
        while !state.wire.is_empty() {
            let taken = line.send(&state.wire);
            if taken == 0 {
                return;
            }
            state.wire.drain(..taken);
        }
    }
}

impl State {
    /// Turns input into frames, as much as the guest wants.
    fn answer(&mut self) {
        let Some(session) = &mut self.session else { return };
        while let Some(most) = session.wants_input() {
            let left = &self.bytes[self.given..];
            let bytes = left[..left.len().min(most)].to_vec();
            let last = bytes.len() == left.len();
            if bytes.is_empty() && !last {
                return;
            }
            self.given += bytes.len();
            session.input(bytes, last, &mut self.wire);
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::{FromGuest, STDIN_WINDOW, VERSION};

    use super::*;

    fn say(input: &FixedInput, message: &FromGuest) {
        let mut wire = Vec::new();
        message.encode(&mut wire);
        input.heard(&wire);
    }

    fn waiting(input: &FixedInput) -> usize {
        input.state.lock().expect("nobody panicked").wire.len()
    }

    #[test]
    fn a_guest_is_answered_when_it_speaks() {
        let input = FixedInput::new(vec![7; STDIN_WINDOW + 10], true);
        input.pump();
        assert_eq!(waiting(&input), 0, "it has not said hello");
        say(&input, &FromGuest::Hello { version: VERSION });
        let first = waiting(&input);
        assert!(first > STDIN_WINDOW && first < STDIN_WINDOW + 64, "one window: {first}");
        say(&input, &FromGuest::Consumed(100));
        let all = waiting(&input);
        assert!(all > first + 10, "the rest, and the end");
        say(&input, &FromGuest::Consumed(100));
        assert_eq!(waiting(&input), all);
    }

    #[test]
    fn a_console_gets_the_bytes_themselves() {
        let input = FixedInput::new(b"abc".to_vec(), false);
        input.heard(b"whatever");
        assert_eq!(waiting(&input), 3);
    }
}
