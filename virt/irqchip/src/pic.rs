//! The 8259A pair of a PC (Intel 8259A data sheet; ELCR as in PIIX, 0x4d0-0x4d1).
//!
//! ```text
//! 0x20/0x21 master: IRQ 0-7, IR2 is the slave's INT      0xa0/0xa1 slave: IRQ 8-15
//! ```
//! A pure model: lines in, the INTR level out ([`Pic::output`]), vectors by [`Pic::acknowledge`].
//! Invariants: the master's IR2 follows the slave's INT after every change; an edge stays requested
//! until it is acknowledged even if its line falls (the integrated chips' users rely on it), a
//! level is requested only while its line is high.

/// Saved state of one of the two chips. All masks are bit by input, IR0 in bit 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PicChipV1 {
    pub irr: u8,
    pub imr: u8,
    pub isr: u8,
    /// Input levels.
    pub lines: u8,
    /// Level-triggered inputs.
    pub elcr: u8,
    /// ICW2 bits 7:3.
    pub vector_base: u8,
    /// The input of lowest priority; 7 after initialization.
    pub lowest: u8,
    /// The initialization command word expected next: 2, 3, 4; 0 when initialized.
    pub expected_icw: u8,
    /// ICW1 bit 0: ICW4 will come.
    pub icw4_needed: bool,
    /// ICW1 bit 1: no ICW3.
    pub single: bool,
    /// ICW4 bit 1.
    pub auto_eoi: bool,
    /// ICW4 bit 4.
    pub special_fully_nested: bool,
    pub rotate_on_auto_eoi: bool,
    pub special_mask: bool,
    /// OCW3: reads of the command port give ISR, not IRR.
    pub read_isr: bool,
    /// OCW3: the next read is a poll.
    pub poll: bool,
}

/// Saved state of the pair.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PicV1 {
    pub master: PicChipV1,
    pub slave: PicChipV1,
}

/// The pair.
#[derive(Clone, Debug)]
pub struct Pic {
    master: Chip,
    slave: Chip,
}

/// The master's input that the slave drives.
const CASCADE: u8 = 2;
/// Inputs whose ELCR bit is fixed at edge: timer, keyboard, cascade; clock and coprocessor.
const ELCR_MASTER: u8 = 0xf8;
const ELCR_SLAVE: u8 = 0xde;

impl Default for Pic {
    fn default() -> Self {
        Self::new()
    }
}

impl Pic {
    /// After reset: nothing initialized, everything masked.
    pub fn new() -> Self {
        let chip = PicChipV1 { imr: 0xff, lowest: 7, ..PicChipV1::default() };
        Self { master: Chip(chip.clone()), slave: Chip(chip) }
    }

    /// From saved state.
    pub fn from_state(state: &PicV1) -> Self {
        Self {
            master: Chip::from_state(&state.master, ELCR_MASTER),
            slave: Chip::from_state(&state.slave, ELCR_SLAVE),
        }
    }

    /// State to save.
    pub fn save(&self) -> PicV1 {
        PicV1 { master: self.master.0.clone(), slave: self.slave.0.clone() }
    }

    /// Drives IRQ 0-15. IRQ 2 is the cascade and not to be driven; it and others are ignored.
    pub fn set_line(&mut self, irq: u8, high: bool) {
        match irq {
            CASCADE => return,
            0..=7 => self.master.set_line(irq, high),
            8..=15 => self.slave.set_line(irq - 8, high),
            _ => return,
        }
        self.cascade();
    }

    /// The level of INTR.
    #[inline]
    pub fn output(&self) -> bool {
        self.master.highest_request().is_some()
    }

    /// The interrupt-acknowledge cycle: the vector. With nothing to acknowledge any more it is the
    /// spurious one, IR7 of the chip that was asked, with no bit in service.
    pub fn acknowledge(&mut self) -> u8 {
        let Some(input) = self.master.highest_request() else {
            return self.master.0.vector_base | 7;
        };
        self.master.take(input);
        if input != CASCADE {
            return self.master.0.vector_base | input;
        }
        let spurious = self.slave.0.vector_base | 7;
        let vector = self.slave.highest_request().map_or(spurious, |input| {
            self.slave.take(input);
            self.slave.0.vector_base | input
        });
        // INT falls during the cycle, so that a further request makes an edge.
        self.master.set_cascade(false);
        self.cascade();
        vector
    }

    /// IN from one of the ports 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1; others read as ones.
    pub fn read(&mut self, port: u16) -> u8 {
        let value = match port {
            0x20 | 0x21 => self.master.read(port & 1 != 0),
            0xa0 | 0xa1 => self.slave.read(port & 1 != 0),
            0x4d0 => self.master.0.elcr,
            0x4d1 => self.slave.0.elcr,
            _ => 0xff,
        };
        // A poll acknowledges.
        self.cascade();
        value
    }

    /// OUT to one of those ports.
    pub fn write(&mut self, port: u16, value: u8) {
        match port {
            0x20 | 0x21 => self.master.write(port & 1 != 0, value),
            0xa0 | 0xa1 => self.slave.write(port & 1 != 0, value),
            0x4d0 => self.master.set_elcr(value & ELCR_MASTER),
            0x4d1 => self.slave.set_elcr(value & ELCR_SLAVE),
            _ => {}
        }
        self.cascade();
    }

    fn cascade(&mut self) {
        let request = self.slave.highest_request().is_some();
        self.master.set_cascade(request);
    }
}

/// One 8259A; its registers are the saved state.
#[derive(Clone, Debug)]
struct Chip(PicChipV1);

impl Chip {
    fn from_state(state: &PicChipV1, elcr: u8) -> Self {
        let mut chip = state.clone();
        chip.elcr &= elcr;
        chip.vector_base &= 0xf8;
        chip.lowest &= 7;
        if !matches!(chip.expected_icw, 2..=4) {
            chip.expected_icw = 0;
        }
        Self(chip)
    }

    fn set_line(&mut self, input: u8, high: bool) {
        let bit = 1 << input;
        if self.0.elcr & bit != 0 {
            self.0.irr = if high { self.0.irr | bit } else { self.0.irr & !bit };
        } else if high && self.0.lines & bit == 0 {
            self.0.irr |= bit;
        }
        self.0.lines = if high { self.0.lines | bit } else { self.0.lines & !bit };
    }

    /// The slave's INT on the master: an edge input whose request falls with it.
    fn set_cascade(&mut self, high: bool) {
        self.set_line(CASCADE, high);
        if !high {
            self.0.irr &= !(1 << CASCADE);
        }
    }

    fn set_elcr(&mut self, elcr: u8) {
        let became_level = elcr & !self.0.elcr;
        self.0.elcr = elcr;
        self.0.irr = self.0.irr & !became_level | self.0.lines & became_level;
    }

    /// The set's member of highest priority, with how far it is from the top.
    fn first(&self, set: u8) -> Option<(u8, u8)> {
        let top = (self.0.lowest + 1) & 7;
        let distance = set.rotate_right(u32::from(top)).trailing_zeros() as u8;
        (distance < 8).then_some(((top + distance) & 7, distance))
    }

    /// The request that INT stands for: unmasked, and above everything in service.
    fn highest_request(&self) -> Option<u8> {
        let chip = &self.0;
        let (input, distance) = self.first(chip.irr & !chip.imr)?;
        let mut blocking = chip.isr;
        if chip.special_mask {
            blocking &= !chip.imr;
        }
        if chip.special_fully_nested {
            blocking &= !(1 << CASCADE);
        }
        match self.first(blocking) {
            Some((_, limit)) if distance >= limit => None,
            _ => Some(input),
        }
    }

    /// Acknowledges a request.
    fn take(&mut self, input: u8) {
        let bit = 1 << input;
        if self.0.elcr & bit == 0 {
            self.0.irr &= !bit;
        }
        if !self.0.auto_eoi {
            self.0.isr |= bit;
        } else if self.0.rotate_on_auto_eoi {
            self.0.lowest = input;
        }
    }

    fn read(&mut self, data: bool) -> u8 {
        if self.0.poll {
            self.0.poll = false;
            return self.highest_request().map_or(0, |input| {
                self.take(input);
                0x80 | input
            });
        }
        match (data, self.0.read_isr) {
            (true, _) => self.0.imr,
            (false, true) => self.0.isr,
            (false, false) => self.0.irr,
        }
    }

    fn write(&mut self, data: bool, value: u8) {
        match (data, value >> 3 & 3) {
            (true, _) => self.write_data(value),
            (false, 2 | 3) => self.initialize(value),
            (false, 1) => self.write_ocw3(value),
            (false, _) => self.write_ocw2(value),
        }
    }

    /// ICW1.
    fn initialize(&mut self, value: u8) {
        let old = &self.0;
        // Requests: the edge sense is reset, levels stay.
        let irr = old.lines & old.elcr;
        self.0 = PicChipV1 {
            irr,
            lines: old.lines,
            elcr: old.elcr,
            vector_base: old.vector_base,
            lowest: 7,
            expected_icw: 2,
            icw4_needed: value & 1 != 0,
            single: value & 2 != 0,
            ..PicChipV1::default()
        };
    }

    /// ICW2-4, OCW1.
    fn write_data(&mut self, value: u8) {
        let chip = &mut self.0;
        let after_icw3 = if chip.icw4_needed { 4 } else { 0 };
        match chip.expected_icw {
            2 => {
                chip.vector_base = value & 0xf8;
                chip.expected_icw = if chip.single { after_icw3 } else { 3 };
            }
            // The wiring of the pair is fixed.
            3 => chip.expected_icw = after_icw3,
            4 => {
                chip.auto_eoi = value & 0x02 != 0;
                chip.special_fully_nested = value & 0x10 != 0;
                chip.expected_icw = 0;
            }
            _ => chip.imr = value,
        }
    }

    fn write_ocw2(&mut self, value: u8) {
        let input = value & 7;
        match value >> 5 {
            0b000 => self.0.rotate_on_auto_eoi = false,
            0b100 => self.0.rotate_on_auto_eoi = true,
            0b001 => {
                self.end_highest();
            }
            0b101 => {
                if let Some(input) = self.end_highest() {
                    self.0.lowest = input;
                }
            }
            0b011 => self.0.isr &= !(1 << input),
            0b111 => {
                self.0.isr &= !(1 << input);
                self.0.lowest = input;
            }
            0b110 => self.0.lowest = input,
            _ => {}
        }
    }

    /// The non-specific EOI; in special mask mode it passes over masked inputs.
    fn end_highest(&mut self) -> Option<u8> {
        let hidden = if self.0.special_mask { self.0.imr } else { 0 };
        let (input, _) = self.first(self.0.isr & !hidden)?;
        self.0.isr &= !(1 << input);
        Some(input)
    }

    fn write_ocw3(&mut self, value: u8) {
        if value & 0x04 != 0 {
            self.0.poll = true;
        }
        if value & 0x02 != 0 {
            self.0.read_isr = value & 1 != 0;
        }
        if value & 0x40 != 0 {
            self.0.special_mask = value & 0x20 != 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Initialized as Linux does: vectors 0x30 and 0x38, all unmasked.
    fn pic() -> Pic {
        let mut pic = Pic::new();
        for (port, value) in [
            (0x20, 0x11),
            (0x21, 0x30),
            (0x21, 0x04),
            (0x21, 0x01),
            (0xa0, 0x11),
            (0xa1, 0x38),
            (0xa1, 0x02),
            (0xa1, 0x01),
        ] {
            pic.write(port, value);
        }
        pic
    }

    fn pulse(pic: &mut Pic, irq: u8) {
        pic.set_line(irq, true);
        pic.set_line(irq, false);
    }

    #[test]
    fn fixed_priorities_nest() {
        let mut pic = pic();
        pulse(&mut pic, 4);
        pulse(&mut pic, 1);
        assert!(pic.output());
        assert_eq!(pic.acknowledge(), 0x31);
        assert!(!pic.output(), "IR4 is below IR1 in service");
        pulse(&mut pic, 0);
        assert_eq!(pic.acknowledge(), 0x30);
        pic.write(0x20, 0x0b);
        assert_eq!(pic.read(0x20), 0b11);
        pic.write(0x20, 0x0a);
        assert_eq!(pic.read(0x20), 1 << 4);
        pic.write(0x20, 0x20);
        pic.write(0x20, 0x20);
        assert_eq!(pic.acknowledge(), 0x34);
        pic.write(0x20, 0x64); // specific EOI of IR4
        assert_eq!(pic.save().master.isr, 0);
    }

    #[test]
    fn masks() {
        let mut pic = pic();
        pic.write(0x21, 0xfe);
        assert_eq!(pic.read(0x21), 0xfe);
        pulse(&mut pic, 3);
        assert!(!pic.output());
        pic.write(0x21, 0xf7);
        assert!(pic.output());
        assert_eq!(pic.acknowledge(), 0x33);
    }

    #[test]
    fn slave_goes_through_ir2() {
        let mut pic = pic();
        pulse(&mut pic, 9);
        pulse(&mut pic, 8);
        assert_eq!(pic.acknowledge(), 0x38);
        let state = pic.save();
        assert_eq!((state.master.isr, state.slave.isr), (1 << 2, 1));
        assert!(!pic.output());
        pic.write(0xa0, 0x20);
        assert!(!pic.output(), "the master still has IR2 in service");
        pic.write(0x20, 0x20);
        assert!(pic.output());
        assert_eq!(pic.acknowledge(), 0x39);
        // The slave is above the master's IR3.
        pulse(&mut pic, 3);
        assert!(!pic.output());
    }

    #[test]
    fn special_fully_nested_master_lets_the_slave_nest() {
        for (icw4, nests) in [(0x01, false), (0x11, true)] {
            let mut pic = pic();
            for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 0x04), (0x21, icw4)] {
                pic.write(port, value);
            }
            pulse(&mut pic, 12);
            assert_eq!(pic.acknowledge(), 0x3c);
            pulse(&mut pic, 10);
            assert_eq!(pic.output(), nests);
        }
    }

    #[test]
    fn spurious_vectors() {
        let mut pic = pic();
        pic.write(0x4d0, 0x20);
        pic.write(0x4d1, 0x08);
        pic.set_line(5, true);
        assert!(pic.output());
        pic.set_line(5, false);
        assert!(!pic.output());
        assert_eq!(pic.acknowledge(), 0x37);
        assert_eq!(pic.save().master.isr, 0);
        // The slave's request vanishes between the two halves only if the master keeps its own:
        // restore such a moment.
        let mut state = pic.save();
        state.master.irr = 1 << 2;
        state.master.lines = 1 << 2;
        let mut pic = Pic::from_state(&state);
        assert_eq!(pic.acknowledge(), 0x3f);
        let state = pic.save();
        assert_eq!((state.master.isr, state.slave.isr), (1 << 2, 0));
    }

    #[test]
    fn levels_repeat_and_elcr_has_fixed_bits() {
        let mut pic = pic();
        pic.write(0x4d0, 0xff);
        pic.write(0x4d1, 0xff);
        assert_eq!((pic.read(0x4d0), pic.read(0x4d1)), (0xf8, 0xde));
        pic.set_line(11, true);
        assert_eq!(pic.acknowledge(), 0x3b);
        pic.write(0xa0, 0x20);
        pic.write(0x20, 0x20);
        assert!(pic.output());
        pic.set_line(11, false);
        assert!(!pic.output());
        // An edge input with its line high does not repeat.
        pic.set_line(1, true);
        assert_eq!(pic.acknowledge(), 0x31);
        pic.write(0x20, 0x20);
        assert!(!pic.output());
    }

    #[test]
    fn rotation() {
        let mut pic = pic();
        pulse(&mut pic, 4);
        assert_eq!(pic.acknowledge(), 0x34);
        pic.write(0x20, 0xa0); // rotate on non-specific EOI: IR4 lowest, IR5 highest
        pulse(&mut pic, 0);
        pulse(&mut pic, 6);
        assert_eq!(pic.acknowledge(), 0x36);
        pic.write(0x20, 0xe5); // rotate on specific EOI of IR5
        assert_eq!(pic.save().master.lowest, 5);
        pic.write(0x20, 0xc2); // set priority: IR3 highest
        assert_eq!(pic.save().master.lowest, 2);
    }

    #[test]
    fn automatic_eoi_rotates() {
        let mut pic = pic();
        for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 0x04), (0x21, 0x03)] {
            pic.write(port, value);
        }
        pic.write(0x20, 0x80);
        pulse(&mut pic, 3);
        assert_eq!(pic.acknowledge(), 0x33);
        assert_eq!((pic.save().master.isr, pic.save().master.lowest), (0, 3));
        pic.write(0x20, 0x00);
        pulse(&mut pic, 5);
        assert_eq!(pic.acknowledge(), 0x35);
        assert_eq!(pic.save().master.lowest, 3);
    }

    #[test]
    fn automatic_eoi_on_the_slave_makes_a_new_edge() {
        let mut pic = pic();
        for (port, value) in [(0xa0, 0x11), (0xa1, 0x38), (0xa1, 0x02), (0xa1, 0x03)] {
            pic.write(port, value);
        }
        pulse(&mut pic, 8);
        pulse(&mut pic, 9);
        assert_eq!(pic.acknowledge(), 0x38);
        pic.write(0x20, 0x20);
        assert_eq!(pic.acknowledge(), 0x39);
    }

    #[test]
    fn special_mask_mode_lets_lower_inputs_through() {
        let mut pic = pic();
        pulse(&mut pic, 1);
        assert_eq!(pic.acknowledge(), 0x31);
        pulse(&mut pic, 6);
        assert!(!pic.output());
        pic.write(0x21, 0x02);
        pic.write(0x20, 0x68);
        assert!(pic.output());
        assert_eq!(pic.acknowledge(), 0x36);
        pic.write(0x20, 0x20); // ends IR6: masked IR1 is passed over
        assert_eq!(pic.save().master.isr, 1 << 1);
        pic.write(0x20, 0x48);
        pulse(&mut pic, 6);
        assert!(!pic.output());
    }

    #[test]
    fn poll() {
        let mut pic = pic();
        pic.write(0x20, 0x0c);
        assert_eq!(pic.read(0x20), 0);
        pulse(&mut pic, 13);
        pic.write(0xa0, 0x0c);
        assert_eq!(pic.read(0xa0), 0x85);
        assert!(!pic.output(), "the slave's INT fell with the poll");
        assert_eq!(pic.save().slave.isr, 1 << 5);
        assert_eq!(pic.read(0xa1), 0, "only the first read polls");
    }

    #[test]
    fn icw1_resets_edges_and_masks() {
        let mut pic = pic();
        pic.write(0x21, 0xff);
        pulse(&mut pic, 4);
        pic.write(0x20, 0x0b);
        pic.write(0x20, 0x12); // single, no ICW4
        pic.write(0x21, 0x45);
        let state = pic.save().master;
        assert_eq!((state.irr, state.imr, state.vector_base), (0, 0, 0x40));
        assert_eq!((state.expected_icw, state.read_isr), (0, false));
        pulse(&mut pic, 4);
        assert_eq!(pic.acknowledge(), 0x44);
    }

    #[test]
    fn hostile_input_does_not_panic() {
        let chip = PicChipV1 {
            irr: 0xff,
            isr: 0xa5,
            lines: 0xff,
            elcr: 0xff,
            vector_base: 0xff,
            lowest: 0xff,
            expected_icw: 0xff,
            ..PicChipV1::default()
        };
        let mut pic = Pic::from_state(&PicV1 { master: chip.clone(), slave: chip });
        for irq in 0..=255 {
            pic.set_line(irq, irq & 1 != 0);
        }
        for port in [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x99] {
            for value in 0..=255 {
                pic.write(port, value);
                let _ = pic.read(port);
                let _ = pic.acknowledge();
            }
        }
    }

    #[test]
    fn saved_state_round_trips() {
        let mut pic = pic();
        pic.write(0x4d1, 0x08);
        pic.write(0x21, 0x80);
        pic.write(0x20, 0xc4);
        pic.write(0x20, 0x6b);
        pic.set_line(11, true);
        assert_eq!(pic.acknowledge(), 0x3b);
        pulse(&mut pic, 5);
        pic.write(0xa0, 0x11);
        let state = pic.save();
        assert_eq!(state.slave.expected_icw, 2);
        let mut copy = Pic::from_state(&state);
        assert_eq!(copy.save(), state);
        assert_eq!(copy.output(), pic.output());
        assert_eq!(copy.acknowledge(), pic.acknowledge());
        copy.write(0xa1, 0x70);
        assert_ne!(copy.save(), state);
    }
}
