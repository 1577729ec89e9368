//! Standard input to the guest, with Ctrl-A as the key to talk to roof itself.
//!
//! Invariant: [`Escape`] is pure; without a terminal every byte is passed as it is.

use std::io;

use control::vm::Controls;
use rustix::io::Errno;
use rustix::stdio::stdin;

const CTRL_A: u8 = 0x01;

const HELP: &str = "\
Ctrl-A x       quit: end the VM now
Ctrl-A h       this help
Ctrl-A Ctrl-A  send one Ctrl-A to the guest";

/// What keys mean.
#[derive(Debug, PartialEq, Eq)]
enum Key {
    Pass(Vec<u8>),
    Quit,
    Help,
}

/// Finds Ctrl-A among keys.
#[derive(Debug, Default)]
struct Escape {
    armed: bool,
}

impl Escape {
    fn feed(&mut self, bytes: &[u8]) -> Vec<Key> {
        let mut keys = Vec::new();
        let mut pass = Vec::new();
        for byte in bytes {
            match (std::mem::take(&mut self.armed), *byte) {
                (false, CTRL_A) => self.armed = true,
                (false, byte) => pass.push(byte),
                (true, CTRL_A) => pass.push(CTRL_A),
                (true, b'x' | b'X') => keys.push(Key::Quit),
                (true, b'h' | b'H' | b'?') => keys.push(Key::Help),
                (true, byte) => pass.extend([CTRL_A, byte]),
            }
        }
        if !pass.is_empty() {
            keys.insert(0, Key::Pass(pass));
        }
        keys
    }
}

/// Passes standard input on, in a thread of its own, until it ends or the VM does.
pub(crate) fn forward(controls: Controls, interactive: bool) -> io::Result<()> {
    let pass = move || {
        let mut escape = Escape::default();
        let mut bytes = [0; 16 * 1024];
        loop {
            let count = match rustix::io::read(stdin(), &mut bytes) {
                Ok(0) | Err(Errno::IO) => break, // EIO: our terminal is gone
                Ok(count) => count,
                Err(Errno::INTR | Errno::AGAIN) => continue,
                Err(_) => break,
            };
            if !interactive {
                if !controls.input(&bytes[..count]) {
                    return;
                }
                continue;
            }
            for key in escape.feed(&bytes[..count]) {
                match key {
                    Key::Pass(bytes) => _ = controls.input(&bytes),
                    Key::Quit => controls.quit(0),
                    Key::Help => crate::say::line(&format!("\n{HELP}")),
                }
            }
        }
        controls.input_ended();
    };
    threads::spawn("input", pass).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(bytes: &[u8]) -> Key {
        Key::Pass(bytes.to_vec())
    }

    #[test]
    fn ctrl_a_is_for_roof_and_all_else_for_the_guest() {
        let mut escape = Escape::default();
        assert_eq!(escape.feed(b"ls\r"), [pass(b"ls\r")]);
        assert_eq!(escape.feed(b"\x01"), []);
        assert_eq!(escape.feed(b"x"), [Key::Quit]);
        assert_eq!(escape.feed(b"\x01h"), [Key::Help]);
        assert_eq!(escape.feed(b"\x01\x01"), [pass(b"\x01")]);
        assert_eq!(escape.feed(b"a\x01bc"), [pass(b"a\x01bc")]);
        assert_eq!(escape.feed(b"x"), [pass(b"x")]);
    }
}
