//! Watches the kernel's console go by: its last lines, and a panic's words.
//!
//! Invariant: bounded memory, whatever the guest prints.

use std::collections::VecDeque;

/// Lines that are kept.
const LINES: usize = 40;
/// A longer line is cut.
const LONGEST: usize = 512;
/// What Linux says first when it gives up (kernel/panic.c).
const PANIC: &str = "Kernel panic - not syncing: ";

#[derive(Debug, Default)]
pub(super) struct ConsoleWatch {
    lines: VecDeque<String>,
    current: Vec<u8>,
    panic: Option<String>,
}

impl ConsoleWatch {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                b'\r' => {}
                _ if self.current.len() < LONGEST => self.current.push(*byte),
                _ => {}
            }
        }
    }

    /// The panic's reason, if there was one.
    pub(super) fn panic(&self) -> Option<&str> {
        self.panic.as_deref()
    }

    /// The last lines, printable.
    pub(super) fn into_tail(mut self) -> Vec<String> {
        self.end_line();
        self.lines.into()
    }

    fn end_line(&mut self) {
        if self.current.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(&self.current);
        let line: String = text.chars().filter(|c| !c.is_control() || *c == '\t').collect();
        self.current.clear();
        if self.panic.is_none()
            && let Some(at) = line.find(PANIC)
        {
            self.panic = Some(line[at + PANIC.len()..].to_owned());
        }
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_panic_is_remembered() {
        let mut watch = ConsoleWatch::default();
        watch.push(b"[    1.0] Kernel panic - not sync");
        assert_eq!(watch.panic(), None);
        watch.push(b"ing: No init\r\n[ 1.1] Kernel panic - not syncing: again\n");
        assert_eq!(watch.panic(), Some("No init"));
        assert_eq!(watch.into_tail().len(), 2);
    }

    #[test]
    fn memory_is_bounded_and_the_tail_printable() {
        let mut watch = ConsoleWatch::default();
        watch.push(&[b'x'; 100_000]);
        watch.push(b"\n\x1b[31mred\x07\n");
        for number in 0..1000 {
            watch.push(format!("line {number}\n").as_bytes());
        }
        watch.push(b"unfinished");
        let tail = watch.into_tail();
        assert_eq!(tail.len(), LINES);
        assert_eq!(tail.last().map(String::as_str), Some("unfinished"));
        assert!(tail.iter().all(|line| !line.contains('\x1b')));
    }
}
