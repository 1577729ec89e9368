//! What happened to a guest in virtual time, each with the instruction count it happened at.
//!
//! Two runs of the same machine are the same run exactly if these are: the log keeps a number and a
//! rolling hash of them all, and writes each as a line if somebody wants to read them.
//!
//! ```text
//! 1203344 out 0x3f8 41                 port write of byte 0x41, after 1203344 instructions
//! 1203350 interrupt 0x30 ffffffff810..  delivery of vector 0x30 at this RIP
//! ```

use std::fmt;
use std::io::Write;
use std::sync::{Arc, Mutex};

use engine::{EventKind, GuestEvent, VirtualTime};

use crate::irq::lock;

/// FNV-1a, 64 bits (Fowler, Noll, Vo).
const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

/// How many events there were, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventDigest {
    /// Their number.
    pub events: u64,
    /// Hash of all of them and their instruction counts.
    pub hash: u64,
}

/// What an access was.
#[derive(Clone, Copy)]
pub(crate) enum Access {
    In,
    Out,
    Load,
    Store,
}

struct State {
    digest: EventDigest,
    lines: Option<Box<dyn Write + Send>>,
    failed: Option<std::io::Error>,
}

/// The log of one machine.
pub(crate) struct EventLog {
    time: Arc<VirtualTime>,
    state: Mutex<State>,
}

impl EventLog {
    pub(crate) fn new(time: Arc<VirtualTime>, lines: Option<Box<dyn Write + Send>>) -> Self {
        let digest = EventDigest { events: 0, hash: OFFSET_BASIS };
        Self { time, state: Mutex::new(State { digest, lines, failed: None }) }
    }

    /// An access, after it was made.
    pub(crate) fn access(&self, access: Access, address: u64, data: &[u8]) {
        let mut bytes = [0; 8];
        let width = data.len().min(8);
        bytes[..width].copy_from_slice(&data[..width]);
        let value = u64::from_le_bytes(bytes);
        self.note([access as u64, address, width as u64, value], |line, now| {
            let word = ["in", "out", "load", "store"][access as usize];
            writeln!(line, "{now} {word} {address:#x} {value:0digits$x}", digits = width * 2)
        });
    }

    /// The 8259 pair was asked for its vector.
    pub(crate) fn acknowledged(&self, vector: Option<u8>) {
        let number = vector.map_or(u64::MAX, u64::from);
        self.note([4, number, 0, 0], |line, now| match vector {
            Some(vector) => writeln!(line, "{now} acknowledge {vector:#x}"),
            None => writeln!(line, "{now} acknowledge nothing"),
        });
    }

    /// The local APIC ended a level-triggered interrupt.
    pub(crate) fn ended(&self, vector: u8) {
        self.note([5, vector.into(), 0, 0], |line, now| {
            writeln!(line, "{now} end-of-interrupt {vector:#x}")
        });
    }

    /// Devices were served at a deadline.
    pub(crate) fn deadline(&self) {
        let ns = self.time.now_ns();
        self.note([6, ns, 0, 0], |line, now| writeln!(line, "{now} deadline {ns}"));
    }

    /// Something between two instructions.
    pub(crate) fn event(&self, event: GuestEvent) {
        let GuestEvent { rip, kind, .. } = event;
        let words = match kind {
            EventKind::Interrupt { vector } => [7, rip, vector.into(), 0],
            EventKind::Nmi => [8, rip, 0, 0],
            EventKind::Exception(exception) => {
                [9, rip, exception.vector as u64, exception.error_code.into()]
            }
            EventKind::Idle { until_ns } => [10, rip, until_ns, 0],
        };
        self.note(words, |line, now| match kind {
            EventKind::Interrupt { vector } => {
                writeln!(line, "{now} interrupt {vector:#x} {rip:x}")
            }
            EventKind::Nmi => writeln!(line, "{now} nmi {rip:x}"),
            EventKind::Exception(exception) => {
                let (vector, code) = (exception.vector, exception.error_code);
                writeln!(line, "{now} exception {vector:?} {code:#x} {rip:x}")
            }
            EventKind::Idle { until_ns } => writeln!(line, "{now} idle {until_ns} {rip:x}"),
        });
    }

    fn note(&self, words: [u64; 4], show: impl FnOnce(&mut dyn Write, u64) -> std::io::Result<()>) {
        let now = self.time.instructions();
        let mut state = lock(&self.state);
        state.digest.events += 1;
        let bytes = [now].into_iter().chain(words).flat_map(u64::to_le_bytes);
        state.digest.hash = bytes
            .fold(state.digest.hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
        if let Some(lines) = &mut state.lines
            && let Err(error) = show(lines, now)
        {
            state.lines = None;
            state.failed = Some(error);
        }
    }

    /// So far; `Err`: the lines could not be written.
    pub(crate) fn digest(&self) -> std::io::Result<EventDigest> {
        let mut state = lock(&self.state);
        if let Some(mut lines) = state.lines.take() {
            lines.flush()?;
            state.lines = Some(lines);
        }
        match state.failed.take() {
            Some(error) => Err(error),
            None => Ok(state.digest),
        }
    }
}

impl fmt::Debug for EventLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLog")
            .field("digest", &lock(&self.state).digest)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> (Arc<VirtualTime>, EventLog) {
        let time = Arc::new(VirtualTime::new(0, 0));
        (time.clone(), EventLog::new(time, None))
    }

    #[test]
    fn what_when_and_in_which_order_all_count() {
        let digest = |events: &[(u64, u8)]| {
            let (time, log) = log();
            for &(now, byte) in events {
                time.set(now, now);
                log.access(Access::Out, 0x3f8, &[byte]);
            }
            log.digest().expect("nothing is written")
        };
        let one = digest(&[(5, b'a'), (9, b'b')]);
        assert_eq!(one, digest(&[(5, b'a'), (9, b'b')]));
        assert_eq!(one.events, 2);
        assert_ne!(one, digest(&[(5, b'a'), (10, b'b')]));
        assert_ne!(one, digest(&[(5, b'b'), (9, b'a')]));
        assert_ne!(one, digest(&[(5, b'a')]));
    }
}
