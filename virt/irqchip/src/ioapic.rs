//! The I/O APIC (Intel 82093AA data sheet; EOI register as of version 0x20).
//!
//! ```text
//! redirection entry 63   56 55     49      16   15     14     13    12  11  10  8 7    0
//!                  | dest  | dest 14:8 .. |mask|level|rem.IRR|polar|stat|log|deliv|vector|
//! ```
//! A pure model: pins in, [`Msi`]s out. `asserted` is logical, so the polarity bit is only stored.
//! Invariants: remote IRR is set only in unmasked-when-sent, level-triggered fixed or
//! lowest-priority entries; while it is set the pin sends nothing; an edge on a masked pin is
//! lost, as the data sheet says.

use crate::ipi::{DeliveryMode, DestinationMode};
use crate::msi::Msi;

/// Number of pins.
pub const PINS: usize = 24;

const VERSION: u32 = 0x20;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// Delivery status (never busy here) and remote IRR.
const READ_ONLY: u64 = 1 << 12 | REMOTE_IRR;
/// Everything a guest can set: the documented fields and the extended destination.
const WRITABLE: u64 = 0xfffe_0000_0001_afff;

/// Saved state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoApicV1 {
    /// IOREGSEL.
    pub select: u8,
    /// Id, 4 bits.
    pub id: u8,
    /// Redirection entries.
    pub entries: [u64; PINS],
    /// Pins asserted, bit by pin.
    pub lines: u32,
}

/// An I/O APIC.
#[derive(Clone, Debug)]
pub struct IoApic {
    select: u8,
    id: u8,
    entries: [u64; PINS],
    lines: u32,
}

impl Default for IoApic {
    fn default() -> Self {
        Self::new()
    }
}

impl IoApic {
    /// After reset: id 0, everything masked.
    pub const fn new() -> Self {
        Self { select: 0, id: 0, entries: [MASKED; PINS], lines: 0 }
    }

    /// From saved state.
    pub fn from_state(state: &IoApicV1) -> Self {
        Self {
            select: state.select,
            id: state.id & 0xf,
            entries: state.entries.map(|entry| entry & (WRITABLE | REMOTE_IRR)),
            lines: state.lines & ((1 << PINS) - 1),
        }
    }

    /// State to save.
    pub fn save(&self) -> IoApicV1 {
        let Self { select, id, entries, lines } = *self;
        IoApicV1 { select, id, entries, lines }
    }

    /// A 32-bit load at this offset of the page.
    pub fn read(&self, offset: u32) -> u32 {
        match offset {
            0x00 => u32::from(self.select),
            0x10 => self.register(),
            _ => 0,
        }
    }

    /// A 32-bit store at this offset of the page; gives messages it sets free to `send`.
    pub fn write(&mut self, offset: u32, value: u32, send: &mut dyn FnMut(Msi)) {
        match offset {
            0x00 => self.select = value as u8,
            0x10 => {
                if let Some(message) = self.write_register(value) {
                    send(message);
                }
            }
            0x40 => self.end_of_interrupt(value as u8, send),
            _ => {}
        }
    }

    /// Drives a pin. Pins beyond the last do not exist.
    #[must_use]
    pub fn set_line(&mut self, pin: usize, asserted: bool) -> Option<Msi> {
        let entry = *self.entries.get(pin)?;
        let bit = 1 << pin;
        let rising = asserted && self.lines & bit == 0;
        if asserted {
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
        if is_level(entry) {
            self.send_level(pin)
        } else {
            (rising && entry & MASKED == 0).then(|| message_of(entry))
        }
    }

    /// A local APIC ended this vector: its level-triggered pins that are still asserted send again.
    pub fn end_of_interrupt(&mut self, vector: u8, send: &mut dyn FnMut(Msi)) {
        for pin in 0..PINS {
            let entry = self.entries[pin];
            if entry as u8 == vector && entry & REMOTE_IRR != 0 {
                self.entries[pin] &= !REMOTE_IRR;
                if let Some(message) = self.send_level(pin) {
                    send(message);
                }
            }
        }
    }

    /// What a pin would send, `None` while it is masked or does not exist: for engines that want
    /// the routes in advance (KVM's GSI routing table and its EOI exits).
    pub fn route(&self, pin: usize) -> Option<Msi> {
        self.entries.get(pin).filter(|&&entry| entry & MASKED == 0).map(|&entry| message_of(entry))
    }

    fn register(&self) -> u32 {
        match self.select {
            0 | 2 => u32::from(self.id) << 24,
            1 => VERSION | (PINS as u32 - 1) << 16,
            select => match entry_of(select) {
                Some((pin, shift)) => (self.entries[pin] >> shift) as u32,
                None => 0,
            },
        }
    }

    fn write_register(&mut self, value: u32) -> Option<Msi> {
        if self.select == 0 {
            self.id = (value >> 24) as u8 & 0xf;
            return None;
        }
        let (pin, shift) = entry_of(self.select)?;
        let half = 0xffff_ffff << shift;
        let old = self.entries[pin];
        let mut entry = (old & !half | u64::from(value) << shift) & WRITABLE;
        entry |= old & READ_ONLY;
        if !is_level(entry) {
            // Switching to edge is how software without an EOI register ends an interrupt.
            entry &= !REMOTE_IRR;
        }
        self.entries[pin] = entry;
        self.send_level(pin)
    }

    /// Sends for a level-triggered pin that is asserted, unmasked and not waiting for its EOI.
    fn send_level(&mut self, pin: usize) -> Option<Msi> {
        let entry = self.entries[pin];
        let asserted = self.lines & 1 << pin != 0;
        if !asserted || !is_level(entry) || entry & (MASKED | REMOTE_IRR) != 0 {
            return None;
        }
        self.entries[pin] |= REMOTE_IRR;
        Some(message_of(entry))
    }
}

/// Level-triggered; only fixed and lowest-priority interrupts can be.
fn is_level(entry: u64) -> bool {
    let delivery = DeliveryMode::from_bits((entry >> 8) as u32);
    entry & LEVEL != 0 && matches!(delivery, DeliveryMode::Fixed | DeliveryMode::LowestPriority)
}

fn message_of(entry: u64) -> Msi {
    let logical = entry & 1 << 11 != 0;
    let destination = (entry >> 56) as u32 | ((entry >> 49) as u32 & 0x7f) << 8;
    let message = Msi::new(
        entry as u8,
        DeliveryMode::from_bits((entry >> 8) as u32),
        if logical { DestinationMode::Logical } else { DestinationMode::Physical },
        destination,
    );
    if is_level(entry) { message.level() } else { message }
}

/// Pin and bit offset of the redirection register `select`.
fn entry_of(select: u8) -> Option<(usize, u32)> {
    let index = select.checked_sub(0x10)?;
    let pin = usize::from(index / 2);
    (pin < PINS).then_some((pin, u32::from(index % 2) * 32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipi::{BROADCAST, Trigger};
    use std::vec::Vec;

    fn set(ioapic: &mut IoApic, register: u8, value: u32) -> Vec<Msi> {
        let mut sent = Vec::new();
        ioapic.write(0, u32::from(register), &mut |_| panic!("select sends nothing"));
        ioapic.write(0x10, value, &mut |message| sent.push(message));
        sent
    }

    fn get(ioapic: &mut IoApic, register: u8) -> u32 {
        ioapic.write(0, u32::from(register), &mut |_| panic!("select sends nothing"));
        ioapic.read(0x10)
    }

    fn program(ioapic: &mut IoApic, pin: u8, high: u32, low: u32) -> Vec<Msi> {
        assert!(set(ioapic, 0x11 + 2 * pin, high).is_empty());
        set(ioapic, 0x10 + 2 * pin, low)
    }

    fn end(ioapic: &mut IoApic, vector: u8) -> Vec<Msi> {
        let mut sent = Vec::new();
        ioapic.end_of_interrupt(vector, &mut |message| sent.push(message));
        sent
    }

    #[test]
    fn reset_and_version() {
        let mut ioapic = IoApic::new();
        assert_eq!(get(&mut ioapic, 1), 0x0017_0020);
        for register in (0x10..0x40).step_by(2) {
            assert_eq!(get(&mut ioapic, register), 1 << 16);
            assert_eq!(get(&mut ioapic, register + 1), 0);
        }
        assert!(set(&mut ioapic, 0, 0xff00_0000).is_empty());
        assert_eq!(get(&mut ioapic, 0), 0x0f00_0000);
        assert_eq!(get(&mut ioapic, 2), 0x0f00_0000);
        assert_eq!(get(&mut ioapic, 0x40), 0);
        assert!(set(&mut ioapic, 1, 0).is_empty());
        assert_eq!(get(&mut ioapic, 1), 0x0017_0020);
    }

    #[test]
    fn edge_pin_sends_once_per_rise() {
        let mut ioapic = IoApic::new();
        assert!(ioapic.set_line(4, true).is_none(), "masked");
        assert!(program(&mut ioapic, 4, 0x0300_0000, 0x34).is_empty(), "a masked edge is lost");
        assert!(ioapic.set_line(4, true).is_none());
        assert!(ioapic.set_line(4, false).is_none());
        let ipi = ioapic.set_line(4, true).expect("a rising edge").decode();
        assert_eq!((ipi.vector, ipi.destination, ipi.trigger), (0x34, 3, Trigger::Edge));
        assert_eq!(get(&mut ioapic, 0x18), 0x34);
    }

    #[test]
    fn level_pin_repeats_until_deasserted() {
        let mut ioapic = IoApic::new();
        assert!(program(&mut ioapic, 10, 0xff00_0000, 0xa951).is_empty());
        let ipi = ioapic.set_line(10, true).expect("level").decode();
        assert_eq!((ipi.vector, ipi.trigger, ipi.level), (0x51, Trigger::Level, true));
        assert_eq!((ipi.destination, ipi.mode), (BROADCAST, DestinationMode::Logical));
        assert_eq!(ipi.delivery, DeliveryMode::LowestPriority);
        assert_eq!(get(&mut ioapic, 0x24), 0xa951 | 1 << 14);
        // Waiting for its EOI it is silent.
        assert!(ioapic.set_line(10, false).is_none());
        assert!(ioapic.set_line(10, true).is_none());
        assert!(end(&mut ioapic, 0x50).is_empty());
        assert_eq!(end(&mut ioapic, 0x51).len(), 1);
        assert!(ioapic.set_line(10, false).is_none());
        assert!(end(&mut ioapic, 0x51).is_empty());
        assert_eq!(get(&mut ioapic, 0x24), 0xa951);
    }

    #[test]
    fn unmasking_an_asserted_level_pin_sends() {
        let mut ioapic = IoApic::new();
        assert!(program(&mut ioapic, 5, 0, 0x1_8041).is_empty());
        assert!(ioapic.set_line(5, true).is_none());
        assert_eq!(ioapic.route(5), None);
        let sent = program(&mut ioapic, 5, 0, 0x8041);
        assert_eq!(sent.len(), 1);
        assert_eq!(ioapic.route(5), Some(sent[0]));
    }

    #[test]
    fn eoi_register_serves_every_pin_of_the_vector() {
        let mut ioapic = IoApic::new();
        for pin in [16, 17] {
            assert!(program(&mut ioapic, pin, 0, 0x8061).is_empty());
            assert!(ioapic.set_line(usize::from(pin), true).is_some());
        }
        let mut count = 0;
        ioapic.write(0x40, 0x61, &mut |_| count += 1);
        assert_eq!(count, 2);
    }

    #[test]
    fn remote_irr_is_read_only_and_cleared_by_edge_mode() {
        let mut ioapic = IoApic::new();
        assert!(program(&mut ioapic, 9, 0, 0xd041).is_empty());
        assert_eq!(get(&mut ioapic, 0x22), 0x8041, "neither remote IRR nor status can be set");
        assert!(ioapic.set_line(9, true).is_some());
        assert!(program(&mut ioapic, 9, 0, 0x1_8041).is_empty());
        assert_eq!(get(&mut ioapic, 0x22), 0x1_c041);
        assert!(program(&mut ioapic, 9, 0, 0x1_0041).is_empty());
        assert_eq!(get(&mut ioapic, 0x22), 0x1_0041);
        assert_eq!(program(&mut ioapic, 9, 0, 0x8041).len(), 1);
    }

    #[test]
    fn extended_destination() {
        let mut ioapic = IoApic::new();
        // Bits 55:49 of the entry are destination bits 14:8.
        assert!(program(&mut ioapic, 2, 0x0102_0000, 0x30).is_empty());
        assert_eq!(ioapic.route(2).map(|message| message.decode().destination), Some(0x101));
    }

    #[test]
    fn pins_and_offsets_beyond_the_end() {
        let mut ioapic = IoApic::new();
        assert!(ioapic.set_line(24, true).is_none());
        for offset in 0..0x1000 {
            ioapic.write(offset, u32::MAX, &mut |_| {});
            let _ = ioapic.read(offset);
        }
        for register in 0..=255 {
            let _ = set(&mut ioapic, register, u32::MAX);
            let _ = get(&mut ioapic, register);
        }
    }

    #[test]
    fn saved_state_round_trips() {
        let mut ioapic = IoApic::new();
        assert!(set(&mut ioapic, 0, 0x0500_0000).is_empty());
        assert!(program(&mut ioapic, 10, 0x0200_0000, 0x8051).is_empty());
        assert!(ioapic.set_line(10, true).is_some());
        assert!(ioapic.set_line(3, true).is_none());
        let state = ioapic.save();
        assert_eq!(state.lines, 1 << 10 | 1 << 3);
        let mut copy = IoApic::from_state(&state);
        assert_eq!(copy.save(), state);
        assert_eq!(end(&mut copy, 0x51), end(&mut ioapic, 0x51));
        assert!(copy.set_line(10, false).is_none());
        assert_ne!(copy.save(), state);
    }
}
