//! Keys and pen from a file or named pipe, a line for each event.
//!
//! ```text
//! key CODE 1|0      Linux's KEY_*: pressed, let go
//! move X Y          0 to 32767
//! button N 1|0      0 left, 1 right, 2 middle
//! wheel RIGHT UP
//! wait MILLISECONDS
//! ```
//!
//! Invariant: an event that the guest does not take (it has no driver yet, or is behind) is tried
//! again until it does, so that none is lost.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use virtio::Device;
use virtio::input::{Input, Keyboard, Tablet, codes};

use super::error::RunError;

/// Between two tries.
const PATIENCE: Duration = Duration::from_millis(20);
/// A line is not longer.
const LONGEST_LINE: u64 = 200;
/// Tries until the guest has gone for good: some minutes.
const MOST_TRIES: u32 = 20_000;

/// A line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Key(u16, bool),
    Move(u32, u32),
    Button(u16, bool),
    Wheel(i32, i32),
    Wait(Duration),
}

impl Act {
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let pressed = |word: &str| match word {
            "1" => Some(true),
            "0" => Some(false),
            _ => None,
        };
        Some(match words[..] {
            ["key", code, value] => Self::Key(code.parse().ok()?, pressed(value)?),
            ["move", x, y] => Self::Move(x.parse().ok()?, y.parse().ok()?),
            ["button", number, value] => {
                let number: u16 = number.parse().ok().filter(|number| *number < 3)?;
                Self::Button(codes::BTN_LEFT + number, pressed(value)?)
            }
            ["wheel", right, up] => Self::Wheel(right.parse().ok()?, up.parse().ok()?),
            ["wait", time] => Self::Wait(Duration::from_millis(time.parse::<u32>().ok()?.into())),
            _ => return None,
        })
    }
}

/// Keyboard and tablet, and who operates them.
#[derive(Debug)]
pub(super) struct Typing {
    path: PathBuf,
    keyboard: (Input, Keyboard),
    tablet: (Input, Tablet),
}

impl Typing {
    /// The devices; `path` must be there.
    pub(super) fn new(path: &Path) -> Result<Self, RunError> {
        std::fs::metadata(path)
            .map_err(|source| RunError::InputEvents { path: path.into(), source })?;
        Ok(Self { path: path.into(), keyboard: Input::keyboard(), tablet: Input::tablet() })
    }

    /// Gives the devices away and begins to read: a pipe is waited for, which holds nobody up.
    pub(super) fn start(self, devices: &mut Vec<Box<dyn Device>>) -> Result<(), RunError> {
        let Self { path, keyboard: (keyboard, keys), tablet: (tablet, pen) } = self;
        devices.push(Box::new(keyboard));
        devices.push(Box::new(tablet));
        let read = move || {
            let Ok(file) = File::open(path) else { return };
            let mut lines = BufReader::new(file);
            let mut line = String::new();
            while matches!((&mut lines).take(LONGEST_LINE).read_line(&mut line), Ok(1..)) {
                if let Some(act) = Act::parse(&line) {
                    perform(act, &keys, &pen);
                }
                line.clear();
            }
        };
        threads::spawn("input-events", read)
            .map(drop)
            .map_err(|source| RunError::Machine(source.into()))
    }
}

fn perform(act: Act, keys: &Keyboard, pen: &Tablet) {
    for _ in 0..MOST_TRIES {
        let done = match act {
            Act::Key(code, _) if !(1..256).contains(&code) => true, // there is no such key
            Act::Key(code, pressed) => keys.key(code, pressed),
            Act::Move(x, y) => pen.move_to(x, y),
            Act::Button(code, pressed) => pen.button(code, pressed),
            Act::Wheel(right, up) => pen.wheel(right, up),
            Act::Wait(time) => {
                std::thread::sleep(time);
                true
            }
        };
        if done {
            return;
        }
        std::thread::sleep(PATIENCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_acts_or_nothing() {
        assert_eq!(Act::parse("key 30 1\n"), Some(Act::Key(30, true)));
        assert_eq!(Act::parse(" move 1 32767"), Some(Act::Move(1, 32767)));
        assert_eq!(Act::parse("button 2 0"), Some(Act::Button(codes::BTN_LEFT + 2, false)));
        assert_eq!(Act::parse("wheel 0 -1"), Some(Act::Wheel(0, -1)));
        assert_eq!(Act::parse("wait 10"), Some(Act::Wait(Duration::from_millis(10))));
        for bad in ["", "key", "key 30 2", "button 3 1", "move -1 0", "jump 1 2"] {
            assert_eq!(Act::parse(bad), None, "{bad}");
        }
    }
}
