//! A PS/2 keyboard (IBM PS/2 keyboard reference, "commands from the system").

use super::port::{ACK, Ps2V1, Queue, RESEND, SELF_TEST_PASSED};

/// The keyboard: answers commands, sends scan codes of set 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Keyboard {
    queue: Queue,
    waiting: Option<u8>,
    enabled: bool,
    set: u8,
    leds: u8,
    rate: u8,
}

impl Default for Keyboard {
    fn default() -> Self {
        Self { queue: Queue::default(), waiting: None, enabled: true, set: 2, leds: 0, rate: 0x2b }
    }
}

impl Keyboard {
    pub(super) fn write(&mut self, value: u8) {
        if let Some(command) = self.waiting.take() {
            return self.argument(command, value);
        }
        match value {
            0xed | 0xf0 | 0xf3 | 0xfb..=0xfd => {
                self.waiting = Some(value);
                self.queue.reply(&[ACK]);
            }
            0xee => self.queue.reply(&[0xee]),
            0xf2 => self.queue.reply(&[ACK, 0xab, 0x83]),
            0xf4 => {
                self.queue.clear();
                self.enabled = true;
                self.queue.reply(&[ACK]);
            }
            0xf5 | 0xf6 => {
                let leds = self.leds;
                *self = Self { enabled: value == 0xf6, leds, ..Self::default() };
                self.queue.reply(&[ACK]);
            }
            0xf7..=0xfa => self.queue.reply(&[ACK]),
            RESEND => {
                let last = self.queue.last_sent();
                self.queue.reply(&[last]);
            }
            0xff => {
                *self = Self::default();
                self.queue.reply(&[ACK, SELF_TEST_PASSED]);
            }
            _ => self.queue.reply(&[RESEND]),
        }
    }

    fn argument(&mut self, command: u8, value: u8) {
        match command {
            0xed => self.leds = value & 7,
            0xf3 => self.rate = value & 0x7f,
            0xf0 if value == 0 => return self.queue.reply(&[ACK, self.set]),
            0xf0 if value <= 3 => self.set = value,
            0xf0 => return self.queue.reply(&[RESEND]),
            _ => {} // key type of one key in set 3
        }
        self.queue.reply(&[ACK]);
    }

    pub(super) fn keys(&mut self, scancodes: &[u8]) -> bool {
        self.enabled && self.queue.input(scancodes)
    }

    pub(super) fn pop(&mut self) -> Option<u8> {
        self.queue.pop()
    }

    /// Bit 0 scroll lock, 1 num lock, 2 caps lock.
    pub(super) fn leds(&self) -> u8 {
        self.leds
    }

    pub(super) fn save(&self) -> Ps2V1 {
        let (queue, last_sent) = self.queue.save();
        let registers = [self.set, self.leds, self.rate, 0];
        Ps2V1 { queue, waiting: self.waiting, enabled: self.enabled, registers, last_sent }
    }

    pub(super) fn restore(state: &Ps2V1) -> Self {
        let [set, leds, rate, _] = state.registers;
        Self {
            queue: Queue::restore(&state.queue, state.last_sent),
            waiting: state.waiting,
            enabled: state.enabled,
            set: set.clamp(1, 3),
            leds: leds & 7,
            rate: rate & 0x7f,
        }
    }
}
