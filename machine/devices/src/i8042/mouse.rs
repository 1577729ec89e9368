//! A PS/2 mouse with three buttons (IBM PS/2 mouse reference): three-byte packets, id 0.

use super::port::{ACK, Ps2V1, Queue, RESEND, SELF_TEST_PASSED};

/// The mode byte's bits.
const REMOTE: u8 = 1 << 6;
const SCALED: u8 = 1 << 4;
const WRAP: u8 = 1 << 3;

/// The mouse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mouse {
    queue: Queue,
    waiting: Option<u8>,
    enabled: bool,
    resolution: u8,
    rate: u8,
    mode: u8,
    /// Bit 0 left, 1 right, 2 middle.
    buttons: u8,
}

impl Default for Mouse {
    fn default() -> Self {
        Self {
            queue: Queue::default(),
            waiting: None,
            enabled: false,
            resolution: 2,
            rate: 100,
            mode: 0,
            buttons: 0,
        }
    }
}

impl Mouse {
    pub(super) fn write(&mut self, value: u8) {
        if let Some(command) = self.waiting.take() {
            match command {
                0xe8 => self.resolution = value & 3,
                _ => self.rate = value,
            }
            return self.queue.reply(&[ACK]);
        }
        if self.mode & WRAP != 0 && !matches!(value, 0xec | 0xff) {
            return self.queue.reply(&[value]);
        }
        match value {
            0xe6 => self.set_mode(self.mode & !SCALED),
            0xe7 => self.set_mode(self.mode | SCALED),
            0xe8 | 0xf3 => {
                self.waiting = Some(value);
                self.queue.reply(&[ACK]);
            }
            0xe9 => {
                let enabled = if self.enabled { 0x20 } else { 0 };
                let status = self.mode & (REMOTE | SCALED) | enabled | self.buttons_reversed();
                self.queue.reply(&[ACK, status, self.resolution, self.rate]);
            }
            0xea => self.set_mode(self.mode & !REMOTE),
            0xeb => self.queue.reply(&[ACK, 0x08 | self.buttons, 0, 0]),
            0xec => self.set_mode(self.mode & !WRAP),
            0xee => self.set_mode(self.mode | WRAP),
            0xf0 => self.set_mode(self.mode | REMOTE),
            0xf2 => self.queue.reply(&[ACK, 0]),
            0xf4 | 0xf5 => {
                self.enabled = value == 0xf4;
                self.queue.reply(&[ACK]);
            }
            0xf6 => {
                *self = Self { buttons: self.buttons, ..Self::default() };
                self.queue.reply(&[ACK]);
            }
            RESEND => {
                let last = self.queue.last_sent();
                self.queue.reply(&[last]);
            }
            0xff => {
                *self = Self { buttons: self.buttons, ..Self::default() };
                self.queue.reply(&[ACK, SELF_TEST_PASSED, 0]);
            }
            _ => self.queue.reply(&[RESEND]),
        }
    }

    /// Movement right and up, and buttons. False if nobody listens or the queue is full.
    pub(super) fn moved(&mut self, dx: i16, dy: i16, buttons: u8) -> bool {
        self.buttons = buttons & 7;
        if !self.enabled || self.mode & (REMOTE | WRAP) != 0 {
            return false;
        }
        let (dx, dy) = (dx.clamp(-256, 255), dy.clamp(-256, 255));
        let signs = u8::from(dx < 0) << 4 | u8::from(dy < 0) << 5;
        self.queue.input(&[0x08 | self.buttons | signs, dx as u8, dy as u8])
    }

    pub(super) fn pop(&mut self) -> Option<u8> {
        self.queue.pop()
    }

    pub(super) fn save(&self) -> Ps2V1 {
        let (queue, last_sent) = self.queue.save();
        let registers = [self.resolution, self.rate, self.mode, self.buttons];
        Ps2V1 { queue, waiting: self.waiting, enabled: self.enabled, registers, last_sent }
    }

    pub(super) fn restore(state: &Ps2V1) -> Self {
        let [resolution, rate, mode, buttons] = state.registers;
        Self {
            queue: Queue::restore(&state.queue, state.last_sent),
            waiting: state.waiting,
            enabled: state.enabled,
            resolution: resolution & 3,
            rate,
            mode: mode & (REMOTE | SCALED | WRAP),
            buttons: buttons & 7,
        }
    }

    fn set_mode(&mut self, mode: u8) {
        self.mode = mode;
        self.queue.reply(&[ACK]);
    }

    /// The status byte has left in bit 2, middle in 1, right in 0.
    fn buttons_reversed(&self) -> u8 {
        (self.buttons & 1) << 2 | (self.buttons & 4) >> 1 | (self.buttons & 2) >> 1
    }
}
