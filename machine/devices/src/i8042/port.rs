//! What keyboard and mouse share: a queue of bytes towards the controller and a command that waits
//! for its argument. Invariant: a device never holds more than [`QUEUE`] bytes.

use std::collections::VecDeque;

/// Most bytes a device keeps; what a real one has is 16, replies included.
pub(super) const QUEUE: usize = 64;
/// Above this fill, movement and keys are dropped, so that replies always fit.
const INPUT: usize = 32;

pub(super) const ACK: u8 = 0xfa;
pub(super) const RESEND: u8 = 0xfe;
pub(super) const SELF_TEST_PASSED: u8 = 0xaa;

/// The saved state of a keyboard or mouse, first version.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Ps2V1 {
    pub queue: Vec<u8>,
    /// A command that waits for its argument byte.
    pub waiting: Option<u8>,
    /// Whether it sends keys or movement.
    pub enabled: bool,
    /// Device-specific registers: keyboard: scan code set, LEDs, rate, 0; mouse: resolution, rate,
    /// mode, buttons.
    pub registers: [u8; 4],
    pub last_sent: u8,
}

/// A byte queue towards the controller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Queue {
    bytes: VecDeque<u8>,
    last_sent: u8,
}

impl Queue {
    pub(super) fn reply(&mut self, bytes: &[u8]) {
        if self.bytes.len() + bytes.len() <= QUEUE {
            self.bytes.extend(bytes);
        }
    }

    /// Keys or movement, all or nothing.
    pub(super) fn input(&mut self, bytes: &[u8]) -> bool {
        let fits = self.bytes.len() + bytes.len() <= INPUT;
        if fits {
            self.bytes.extend(bytes);
        }
        fits
    }

    pub(super) fn pop(&mut self) -> Option<u8> {
        let byte = self.bytes.pop_front()?;
        self.last_sent = byte;
        Some(byte)
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }

    pub(super) fn last_sent(&self) -> u8 {
        self.last_sent
    }

    pub(super) fn save(&self) -> (Vec<u8>, u8) {
        (self.bytes.iter().copied().collect(), self.last_sent)
    }

    pub(super) fn restore(bytes: &[u8], last_sent: u8) -> Self {
        Self { bytes: bytes.iter().copied().take(QUEUE).collect(), last_sent }
    }
}
