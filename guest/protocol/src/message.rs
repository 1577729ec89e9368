//! The session's messages as types; their bytes are frames.
//!
//! Invariant: a message of an unknown kind or a wrong length decodes to `None` and is ignored, so
//! neither side can be made to fail by the other's bytes.

use crate::frame::{MAX_PAYLOAD, encode_frame};
use crate::job::WindowSize;

/// From init to the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromGuest {
    /// Init is up and listens. The host sends nothing before it.
    Hello {
        /// Init's [`crate::VERSION`].
        version: u16,
    },
    /// The command was started.
    Started,
    /// The command wrote to its standard output (or to its terminal).
    Stdout(Vec<u8>),
    /// The command wrote to its standard error.
    Stderr(Vec<u8>),
    /// So many bytes of standard input reached the command: the host may send as many more.
    Consumed(u32),
    /// Init's own words for the user, in UTF-8.
    Notice(String),
    /// The command ended.
    Exit {
        /// Its exit status; 128 + signal if a signal ended it.
        code: u8,
        /// The signal that ended it, 0 for none.
        signal: u8,
    },
    /// What follows comes by the vsock stream (see [`crate::SESSION_PORT`]).
    Moved,
}

/// From the host to init.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToGuest {
    /// Bytes for the command's standard input or terminal.
    Stdin(Vec<u8>),
    /// Standard input has ended.
    StdinEnd,
    /// The user's terminal has a new size.
    Resize(WindowSize),
    /// A Linux signal number for the command's process group.
    Signal(u8),
    /// What follows comes by the vsock stream.
    Moved,
}

mod kind {
    pub(super) const HELLO: u8 = 0x01;
    pub(super) const STARTED: u8 = 0x02;
    pub(super) const STDOUT: u8 = 0x03;
    pub(super) const STDERR: u8 = 0x04;
    pub(super) const CONSUMED: u8 = 0x05;
    pub(super) const NOTICE: u8 = 0x06;
    pub(super) const EXIT: u8 = 0x07;
    pub(super) const MOVED: u8 = 0x08;
    pub(super) const STDIN: u8 = 0x41;
    pub(super) const STDIN_END: u8 = 0x42;
    pub(super) const RESIZE: u8 = 0x43;
    pub(super) const SIGNAL: u8 = 0x44;
    pub(super) const HOST_MOVED: u8 = 0x45;
}

impl FromGuest {
    /// Appends the message's frames; long data is cut into several.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello { version } => encode_frame(kind::HELLO, &version.to_le_bytes(), out),
            Self::Started => encode_frame(kind::STARTED, &[], out),
            Self::Stdout(data) => encode_data(kind::STDOUT, data, out),
            Self::Stderr(data) => encode_data(kind::STDERR, data, out),
            Self::Consumed(count) => encode_frame(kind::CONSUMED, &count.to_le_bytes(), out),
            Self::Notice(text) => {
                encode_frame(kind::NOTICE, &text.as_bytes()[..text.len().min(MAX_PAYLOAD)], out);
            }
            Self::Exit { code, signal } => encode_frame(kind::EXIT, &[*code, *signal], out),
            Self::Moved => encode_frame(kind::MOVED, &[], out),
        }
    }

    /// The message in a frame.
    pub fn decode(kind: u8, payload: &[u8]) -> Option<Self> {
        Some(match (kind, payload) {
            (kind::HELLO, [low, high]) => {
                Self::Hello { version: u16::from_le_bytes([*low, *high]) }
            }
            (kind::STARTED, []) => Self::Started,
            (kind::STDOUT, data) => Self::Stdout(data.to_vec()),
            (kind::STDERR, data) => Self::Stderr(data.to_vec()),
            (kind::CONSUMED, count) => Self::Consumed(u32::from_le_bytes(count.try_into().ok()?)),
            (kind::NOTICE, text) => Self::Notice(String::from_utf8_lossy(text).into_owned()),
            (kind::MOVED, []) => Self::Moved,
            (kind::EXIT, [code, signal]) => Self::Exit { code: *code, signal: *signal },
            _ => return None,
        })
    }
}

impl ToGuest {
    /// Appends the message's frames; long data is cut into several.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Stdin(data) => encode_data(kind::STDIN, data, out),
            Self::StdinEnd => encode_frame(kind::STDIN_END, &[], out),
            Self::Resize(size) => {
                let [a, b] = size.rows.to_le_bytes();
                let [c, d] = size.columns.to_le_bytes();
                encode_frame(kind::RESIZE, &[a, b, c, d], out);
            }
            Self::Signal(number) => encode_frame(kind::SIGNAL, &[*number], out),
            Self::Moved => encode_frame(kind::HOST_MOVED, &[], out),
        }
    }

    /// The message in a frame.
    pub fn decode(kind: u8, payload: &[u8]) -> Option<Self> {
        Some(match (kind, payload) {
            (kind::STDIN, data) => Self::Stdin(data.to_vec()),
            (kind::STDIN_END, []) => Self::StdinEnd,
            (kind::RESIZE, [a, b, c, d]) => Self::Resize(WindowSize {
                rows: u16::from_le_bytes([*a, *b]),
                columns: u16::from_le_bytes([*c, *d]),
            }),
            (kind::SIGNAL, [number]) => Self::Signal(*number),
            (kind::HOST_MOVED, []) => Self::Moved,
            _ => return None,
        })
    }
}

fn encode_data(kind: u8, data: &[u8], out: &mut Vec<u8>) {
    for piece in data.chunks(MAX_PAYLOAD) {
        encode_frame(kind, piece, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Decoder;

    #[test]
    fn every_message_from_the_guest_comes_back() {
        let messages = [
            FromGuest::Hello { version: 0x1234 },
            FromGuest::Started,
            FromGuest::Stdout(b"out".to_vec()),
            FromGuest::Stderr(vec![0xff; 17]),
            FromGuest::Consumed(70_000),
            FromGuest::Notice("naïve".into()),
            FromGuest::Exit { code: 139, signal: 11 },
            FromGuest::Moved,
        ];
        let mut decoder = Decoder::default();
        for message in &messages {
            let mut wire = Vec::new();
            message.encode(&mut wire);
            decoder.push(&wire);
            let (kind, payload) = decoder.next_frame().expect("one frame was pushed");
            assert_eq!(FromGuest::decode(kind, &payload).as_ref(), Some(message));
            assert_eq!(ToGuest::decode(kind, &payload), None);
        }
    }

    #[test]
    fn every_message_from_the_host_comes_back() {
        let messages = [
            ToGuest::Stdin(b"in".to_vec()),
            ToGuest::StdinEnd,
            ToGuest::Resize(WindowSize { rows: 24, columns: 300 }),
            ToGuest::Signal(2),
            ToGuest::Moved,
        ];
        let mut decoder = Decoder::default();
        for message in &messages {
            let mut wire = Vec::new();
            message.encode(&mut wire);
            decoder.push(&wire);
            let (kind, payload) = decoder.next_frame().expect("one frame was pushed");
            assert_eq!(ToGuest::decode(kind, &payload).as_ref(), Some(message));
            assert_eq!(FromGuest::decode(kind, &payload), None);
        }
    }

    #[test]
    fn long_data_is_cut_and_wrong_lengths_are_ignored() {
        let mut wire = Vec::new();
        FromGuest::Stdout(vec![5; MAX_PAYLOAD + 1]).encode(&mut wire);
        let mut decoder = Decoder::default();
        decoder.push(&wire);
        assert_eq!(decoder.next_frame().map(|(_, data)| data.len()), Some(MAX_PAYLOAD));
        assert_eq!(decoder.next_frame().map(|(_, data)| data.len()), Some(1));
        assert_eq!(FromGuest::decode(kind::EXIT, &[1]), None);
        assert_eq!(ToGuest::decode(kind::SIGNAL, &[]), None);
        assert_eq!(FromGuest::decode(0xee, &[]), None);
    }
}
