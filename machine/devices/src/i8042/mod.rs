//! The 8042 keyboard controller with a PS/2 keyboard and mouse (IBM PS/2 hardware interface
//! reference, "keyboard and auxiliary device controller"): data at 0x60, status and command at 0x64.
//!
//! Every answer is there before the guest's next instruction, so no driver's probe waits. Bytes
//! wait in their devices until the output buffer is free: [`I8042::read`] leaves it empty, so the
//! wiring sees the interrupt fall, and [`I8042::transfer`] fills it again. Invariant: the output
//! buffer holds at most one byte, and at most one of the two interrupts is high.

mod keyboard;
mod mouse;
mod port;
pub mod scancode;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use keyboard::Keyboard;
use mouse::Mouse;
pub use port::Ps2V1;

/// Bits of the command byte.
mod ctr {
    pub(super) const KEYBOARD_IRQ: u8 = 1 << 0;
    pub(super) const AUX_IRQ: u8 = 1 << 1;
    pub(super) const SYSTEM: u8 = 1 << 2;
    pub(super) const KEYBOARD_OFF: u8 = 1 << 4;
    pub(super) const AUX_OFF: u8 = 1 << 5;
    pub(super) const TRANSLATE: u8 = 1 << 6;
}

const STATUS_FULL: u8 = 1 << 0;
const STATUS_COMMAND: u8 = 1 << 3;
const STATUS_UNLOCKED: u8 = 1 << 4;
const STATUS_AUX: u8 = 1 << 5;
/// Output port bit 0: low resets the machine. Bit 1: A20, remembered only.
const OUTPUT_NO_RESET: u8 = 1 << 0;
const OUTPUT_RESET_VALUE: u8 = 0xcf;
const RAM: usize = 32;
const REPLIES: usize = 16;

/// Where the byte in the output buffer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The controller or the keyboard.
    Keyboard,
    /// The auxiliary device.
    Aux,
}

/// The saved state of an [`I8042`], first version.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct I8042V1 {
    pub ram: Vec<u8>,
    pub output: Option<(u8, Source)>,
    pub replies: Vec<(u8, Source)>,
    pub waiting: Option<u8>,
    pub last_was_command: bool,
    pub output_port: u8,
    pub released: bool,
    pub keyboard: Ps2V1,
    pub mouse: Ps2V1,
}

/// The controller and its two devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct I8042 {
    /// Byte 0 is the command byte.
    ram: [u8; RAM],
    output: Option<(u8, Source)>,
    /// The controller's own answers, ahead of the devices'.
    replies: VecDeque<(u8, Source)>,
    /// A command that waits for its argument at port 0x60.
    waiting: Option<u8>,
    last_was_command: bool,
    output_port: u8,
    /// The translator saw the break prefix.
    released: bool,
    keyboard: Keyboard,
    mouse: Mouse,
}

impl Default for I8042 {
    fn default() -> Self {
        let mut ram = [0; RAM];
        ram[0] = ctr::KEYBOARD_IRQ | ctr::SYSTEM | ctr::TRANSLATE;
        Self {
            ram,
            output: None,
            replies: VecDeque::new(),
            waiting: None,
            last_was_command: false,
            output_port: OUTPUT_RESET_VALUE,
            released: false,
            keyboard: Keyboard::default(),
            mouse: Mouse::default(),
        }
    }
}

impl I8042 {
    /// The controller as firmware leaves it: translation and the keyboard's interrupt on.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads port 0x60 and empties the output buffer; call [`I8042::transfer`] afterwards.
    pub fn read_data(&mut self) -> u8 {
        self.output.take().map_or(0, |(byte, _)| byte)
    }

    /// Reads port 0x64.
    pub fn read_status(&self) -> u8 {
        let full = match self.output {
            None => 0,
            Some((_, Source::Keyboard)) => STATUS_FULL,
            Some((_, Source::Aux)) => STATUS_FULL | STATUS_AUX,
        };
        let command = if self.last_was_command { STATUS_COMMAND } else { 0 };
        full | command | STATUS_UNLOCKED | self.ram[0] & ctr::SYSTEM
    }

    /// Moves the next waiting byte into the output buffer if that is free.
    pub fn transfer(&mut self) {
        while self.output.is_none() {
            if let Some(reply) = self.replies.pop_front() {
                self.output = Some(reply);
                return;
            }
            if self.ram[0] & ctr::KEYBOARD_OFF == 0
                && let Some(byte) = self.keyboard.pop()
            {
                self.output = self.translated(byte).map(|byte| (byte, Source::Keyboard));
                continue; // a break prefix is swallowed
            }
            if self.ram[0] & ctr::AUX_OFF == 0
                && let Some(byte) = self.mouse.pop()
            {
                self.output = Some((byte, Source::Aux));
            }
            return;
        }
    }

    /// Writes port 0x60; true if the machine is reset.
    #[must_use]
    pub fn write_data(&mut self, value: u8) -> bool {
        self.last_was_command = false;
        let reset = match self.waiting.take() {
            None => {
                self.ram[0] &= !ctr::KEYBOARD_OFF;
                self.keyboard.write(value);
                false
            }
            Some(command) => self.argument(command, value),
        };
        self.transfer();
        reset
    }

    /// Writes port 0x64; true if the machine is reset.
    #[must_use]
    pub fn write_command(&mut self, command: u8) -> bool {
        self.last_was_command = true;
        self.waiting = None;
        let mut reset = false;
        match command {
            0x20..=0x3f => self.reply(self.ram[usize::from(command & 0x1f)]),
            0x60..=0x7f | 0xd1..=0xd4 => self.waiting = Some(command),
            0xa4 => self.reply(0xf1), // no password
            0xa7 => self.ram[0] |= ctr::AUX_OFF,
            0xa8 => self.ram[0] &= !ctr::AUX_OFF,
            0xa9 | 0xab => self.reply(0), // both interfaces work
            0xaa => {
                self.ram[0] |= ctr::SYSTEM;
                self.reply(0x55);
            }
            0xad => self.ram[0] |= ctr::KEYBOARD_OFF,
            0xae => self.ram[0] &= !ctr::KEYBOARD_OFF,
            0xc0 => self.reply(0x80), // not locked
            0xd0 => self.reply(self.output_port_now()),
            0xdd => self.output_port &= !2,
            0xdf => self.output_port |= 2,
            0xe0 => self.reply(0),
            // Pulses the bits that are 0 low.
            0xf0..=0xff => reset = command & OUTPUT_NO_RESET == 0,
            _ => {}
        }
        self.transfer();
        reset
    }

    /// The levels of IRQ 1 and IRQ 12.
    pub fn interrupts(&self) -> (bool, bool) {
        let enabled = |bit| self.ram[0] & bit != 0;
        match self.output {
            None => (false, false),
            Some((_, Source::Keyboard)) => (enabled(ctr::KEYBOARD_IRQ), false),
            Some((_, Source::Aux)) => (false, enabled(ctr::AUX_IRQ)),
        }
    }

    /// Scan codes of set 2 from the keyboard, all or nothing; false if they were dropped because
    /// the guest does not listen or is too slow.
    pub fn keys(&mut self, scancodes: &[u8]) -> bool {
        let taken = self.keyboard.keys(scancodes);
        self.transfer();
        taken
    }

    /// Mouse movement to the right and up, with buttons (bit 0 left, 1 right, 2 middle).
    pub fn mouse(&mut self, dx: i16, dy: i16, buttons: u8) -> bool {
        let taken = self.mouse.moved(dx, dy, buttons);
        self.transfer();
        taken
    }

    /// The keyboard's lights: bit 0 scroll lock, 1 num lock, 2 caps lock.
    pub fn leds(&self) -> u8 {
        self.keyboard.leds()
    }

    /// The state to save.
    pub fn save(&self) -> I8042V1 {
        I8042V1 {
            ram: self.ram.to_vec(),
            output: self.output,
            replies: self.replies.iter().copied().collect(),
            waiting: self.waiting,
            last_was_command: self.last_was_command,
            output_port: self.output_port,
            released: self.released,
            keyboard: self.keyboard.save(),
            mouse: self.mouse.save(),
        }
    }

    /// A controller in a saved state.
    pub fn restore(state: &I8042V1) -> Self {
        let mut ram = [0; RAM];
        let count = state.ram.len().min(RAM);
        ram[..count].copy_from_slice(&state.ram[..count]);
        Self {
            ram,
            output: state.output,
            replies: state.replies.iter().copied().take(REPLIES).collect(),
            waiting: state.waiting,
            last_was_command: state.last_was_command,
            output_port: state.output_port,
            released: state.released,
            keyboard: Keyboard::restore(&state.keyboard),
            mouse: Mouse::restore(&state.mouse),
        }
    }

    fn argument(&mut self, command: u8, value: u8) -> bool {
        match command {
            0x60..=0x7f => self.ram[usize::from(command & 0x1f)] = value,
            0xd1 => {
                self.output_port = value | OUTPUT_NO_RESET;
                return value & OUTPUT_NO_RESET == 0;
            }
            0xd2 => self.queue_reply(value, Source::Keyboard),
            0xd3 => self.queue_reply(value, Source::Aux),
            _ => {
                self.ram[0] &= !ctr::AUX_OFF;
                self.mouse.write(value);
            }
        }
        false
    }

    /// The output port with its two interrupt pins.
    fn output_port_now(&self) -> u8 {
        let (keyboard, aux) = self.interrupts();
        self.output_port & !0x30 | u8::from(keyboard) << 4 | u8::from(aux) << 5
    }

    fn reply(&mut self, byte: u8) {
        self.queue_reply(byte, Source::Keyboard);
    }

    fn queue_reply(&mut self, byte: u8, source: Source) {
        if self.replies.len() < REPLIES {
            self.replies.push_back((byte, source));
        }
    }

    /// A keyboard byte as the guest wants it; the translator keeps the break prefix to itself.
    fn translated(&mut self, byte: u8) -> Option<u8> {
        if self.ram[0] & ctr::TRANSLATE == 0 {
            return Some(byte);
        }
        if byte == scancode::RELEASED {
            self.released = true;
            return None;
        }
        let release = if std::mem::take(&mut self.released) { 0x80 } else { 0 };
        Some(scancode::translate(byte) | release)
    }
}
