//! The host's end of the session with guest/init.
//!
//! Pure: bytes and wishes in, events and bytes out; the run loop does the rest. Invariant: no input
//! is sent before the guest said hello, and never more than the protocol's window at a time.

use protocol::{Decoder, FromGuest, STDIN_WINDOW, ToGuest, VERSION, WindowSize};

use super::outbox::Wish;
use super::report::Event;

#[derive(Debug)]
pub(super) struct Session {
    decoder: Decoder,
    greeted: bool,
    /// Bytes of input the guest may still be sent.
    credit: usize,
    input_over: bool,
    exit: Option<(u8, u8)>,
    /// What the guest says comes by the stream.
    moved: bool,
    /// The terminal's size, which changed before the guest could hear of it.
    late_size: Option<WindowSize>,
}

impl Session {
    pub(super) fn new() -> Self {
        let decoder = Decoder::default();
        Self {
            decoder,
            greeted: false,
            credit: STDIN_WINDOW,
            input_over: false,
            exit: None,
            moved: false,
            late_size: None,
        }
    }

    /// Bytes from the guest.
    pub(super) fn push(&mut self, bytes: &[u8], events: &mut dyn FnMut(Event)) {
        self.decoder.push(bytes);
        while let Some((kind, payload)) = self.decoder.next_frame() {
            if let Some(message) = FromGuest::decode(kind, &payload) {
                self.take(message, events);
            }
        }
    }

    fn take(&mut self, message: FromGuest, events: &mut dyn FnMut(Event)) {
        match message {
            FromGuest::Hello { version } => {
                self.greeted = version == VERSION;
                if !self.greeted {
                    events(Event::Notice(format!(
                        "the guest's init speaks version {version}, not {VERSION}"
                    )));
                }
            }
            FromGuest::Started => events(Event::Started),
            FromGuest::Stdout(data) => events(Event::Stdout(data)),
            FromGuest::Stderr(data) => events(Event::Stderr(data)),
            FromGuest::Consumed(count) => {
                self.credit = (self.credit + count as usize).min(STDIN_WINDOW);
            }
            FromGuest::Notice(text) => events(Event::Notice(text)),
            // What is left of the line's bytes are whole frames: this was its last.
            FromGuest::Moved => self.moved = true,
            FromGuest::Exit { code, signal } => {
                self.exit.get_or_insert((code, signal));
            }
        }
    }

    /// A size that the guest could not be told of before, and can be now.
    pub(super) fn late_size(&mut self) -> Option<WindowSize> {
        self.late_size.take_if(|_| self.greeted && self.exit.is_none())
    }

    /// Whether the guest's bytes come by the stream from now on.
    pub(super) fn has_moved(&self) -> bool {
        self.moved
    }

    /// How much input the guest can take now.
    pub(super) fn wants_input(&self) -> Option<usize> {
        (self.greeted && !self.input_over && self.exit.is_none()).then_some(self.credit)
    }

    /// Input for the guest, not more than [`Session::wants_input`]; `last` ends it.
    pub(super) fn input(&mut self, bytes: Vec<u8>, last: bool, wire: &mut Vec<u8>) {
        assert!(bytes.len() <= self.credit, "the caller asked how much");
        self.credit -= bytes.len();
        if !bytes.is_empty() {
            ToGuest::Stdin(bytes).encode(wire);
        }
        if last {
            self.input_over = true;
            ToGuest::StdinEnd.encode(wire);
        }
    }

    /// Passes a wish on; false if the guest is not there to hear it.
    pub(super) fn wish(&mut self, wish: Wish, wire: &mut Vec<u8>) -> bool {
        if !self.greeted || self.exit.is_some() {
            if let Wish::Resize(size) = wish {
                self.late_size = Some(size);
            }
            return false;
        }
        match wish {
            Wish::Resize(size) => ToGuest::Resize(size).encode(wire),
            Wish::Signal(number) => ToGuest::Signal(number).encode(wire),
            Wish::Quit(_) => return false,
        }
        true
    }

    /// Code and signal of the command, once it has ended.
    pub(super) fn exit(&self) -> Option<(u8, u8)> {
        self.exit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(session: &mut Session, messages: &[FromGuest]) -> Vec<Event> {
        let mut wire = Vec::new();
        for message in messages {
            message.encode(&mut wire);
        }
        let mut events = Vec::new();
        session.push(&wire, &mut |event| events.push(event));
        events
    }

    #[test]
    fn input_waits_for_the_greeting_and_keeps_to_the_window() {
        let mut session = Session::new();
        assert_eq!(session.wants_input(), None);
        say(&mut session, &[FromGuest::Hello { version: VERSION }]);
        assert_eq!(session.wants_input(), Some(STDIN_WINDOW));
        let mut wire = Vec::new();
        session.input(vec![0; STDIN_WINDOW], false, &mut wire);
        assert_eq!(session.wants_input(), Some(0));
        say(&mut session, &[FromGuest::Consumed(100)]);
        assert_eq!(session.wants_input(), Some(100));
        say(&mut session, &[FromGuest::Consumed(u32::MAX)]);
        assert_eq!(session.wants_input(), Some(STDIN_WINDOW));
        session.input(Vec::new(), true, &mut wire);
        assert_eq!(session.wants_input(), None);
    }

    #[test]
    fn the_first_exit_counts_and_ends_the_talk() {
        let mut session = Session::new();
        say(&mut session, &[FromGuest::Hello { version: VERSION }]);
        let mut wire = Vec::new();
        assert!(session.wish(Wish::Signal(15), &mut wire));
        let exits =
            [FromGuest::Exit { code: 7, signal: 0 }, FromGuest::Exit { code: 0, signal: 0 }];
        say(&mut session, &exits);
        assert_eq!(session.exit(), Some((7, 0)));
        assert!(!session.wish(Wish::Signal(15), &mut wire));
        assert_eq!(session.wants_input(), None);
    }

    #[test]
    fn a_size_that_changed_too_early_is_told_later() {
        let mut session = Session::new();
        let mut wire = Vec::new();
        let size = |rows| WindowSize { rows, columns: 80 };
        assert!(!session.wish(Wish::Resize(size(30)), &mut wire));
        assert!(!session.wish(Wish::Resize(size(50)), &mut wire));
        assert_eq!(session.late_size(), None);
        say(&mut session, &[FromGuest::Hello { version: VERSION }]);
        assert_eq!(session.late_size(), Some(size(50)));
        assert_eq!(session.late_size(), None);
        assert!(session.wish(Wish::Resize(size(50)), &mut wire));
    }

    #[test]
    fn another_version_is_told() {
        let mut session = Session::new();
        let events = say(&mut session, &[FromGuest::Hello { version: VERSION + 1 }]);
        assert!(matches!(events[..], [Event::Notice(_)]));
        assert_eq!(session.wants_input(), None);
    }
}
