//! The CMOS real-time clock, Motorola MC146818 as the PC has it: index at 0x70, data at 0x71.
//!
//! ```text
//! 00 second 01 alarm  02 minute 03 alarm  04 hour 05 alarm  06 weekday 07 day 08 month 09 year
//! 0a A: UIP, divider, rate    0b B: SET PIE AIE UIE SQWE DM 24/12 DSE    0c C: flags    0d D: valid
//! 0e-7f battery-backed bytes; 32 century
//! ```
//!
//! The caller passes the host's wall clock (Unix nanoseconds) with every access; the chip keeps
//! only its difference from that, or, while SET stops it, the registers themselves. A clock that
//! the host sets back makes no events until it passes its old reading. Invariant: every register
//! value a guest writes is accepted; values that are no time carry over when the clock starts.

mod calendar;
#[cfg(test)]
mod tests;

use calendar::Civil;

/// Bits of register B.
mod b {
    pub(super) const SET: u8 = 1 << 7;
    pub(super) const PERIODIC: u8 = 1 << 6;
    pub(super) const ALARM: u8 = 1 << 5;
    pub(super) const UPDATE: u8 = 1 << 4;
    pub(super) const BINARY: u8 = 1 << 2;
    pub(super) const HOURS_24: u8 = 1 << 1;
    /// The three enables lie where their flags lie in register C.
    pub(super) const ENABLES: u8 = PERIODIC | ALARM | UPDATE;
}

const INDEX_A: u8 = 0x0a;
const INDEX_B: u8 = 0x0b;
const INDEX_C: u8 = 0x0c;
const INDEX_D: u8 = 0x0d;
const INDEX_CENTURY: u8 = 0x32;
const A_UPDATING: u8 = 1 << 7;
const C_REQUEST: u8 = 1 << 7;
const D_VALID: u8 = 1 << 7;
const HOUR_PM: u8 = 1 << 7;
/// An alarm byte with both top bits matches everything.
const ALARM_ANY: u8 = 0xc0;
const SECOND_NS: u64 = 1_000_000_000;
/// UIP rises this long before the second changes.
const UPDATE_NS: u64 = 244_000;
/// The crystal.
const CRYSTAL_HZ: u64 = 32_768;
const REGISTERS: usize = 128;

/// The saved state of an [`Rtc`], first version.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct RtcV1 {
    pub index: u8,
    /// Registers by index; time and date only hold while SET is on.
    pub registers: Vec<u8>,
    /// Guest clock minus wall clock.
    pub offset_seconds: i64,
    pub seen_wall_ns: u64,
}

/// The clock chip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rtc {
    index: u8,
    registers: [u8; REGISTERS],
    offset_seconds: i64,
    /// Events up to here are in register C.
    seen_wall_ns: u64,
}

impl Rtc {
    /// A clock that shows the wall clock in UTC, with the size of RAM in the customary bytes:
    /// 0x15-0x18 and 0x30-0x35 below 4 GiB, 0x5b-0x5d above; diskette and boot bytes are zero.
    pub fn new(wall_ns: u64, ram_below_4g: u64, ram_above_4g: u64) -> Self {
        let mut registers = [0; REGISTERS];
        registers[usize::from(INDEX_A)] = 0x26;
        registers[usize::from(INDEX_B)] = b::HOURS_24;
        registers[usize::from(INDEX_D)] = D_VALID;
        registers[0x14] = 0x06; // equipment: FPU, mouse
        let mut put = |at: usize, value: u64, count: usize| {
            registers[at..at + count].copy_from_slice(&value.to_le_bytes()[..count]);
        };
        put(0x15, 640, 2);
        let extended_kib = (ram_below_4g.saturating_sub(1 << 20) >> 10).min(0xffff);
        put(0x17, extended_kib, 2);
        put(0x30, extended_kib, 2);
        put(0x34, (ram_below_4g.saturating_sub(16 << 20) >> 16).min(0xffff), 2);
        put(0x5b, (ram_above_4g >> 16).min(0xff_ffff), 3);
        Self { index: 0, registers, offset_seconds: 0, seen_wall_ns: wall_ns }
    }

    /// Reads the index (offset 0) or data (offset 1) port.
    pub fn read(&mut self, offset: u16, wall_ns: u64) -> u8 {
        if offset & 1 == 0 {
            return 0xff; // the index port is write only
        }
        self.advance(wall_ns);
        match self.index {
            0 | 2 | 4 | 6..=9 | INDEX_CENTURY => self.read_time(self.index, wall_ns),
            INDEX_A => self.register(INDEX_A) | self.updating(wall_ns),
            INDEX_C => {
                let flags = self.register(INDEX_C);
                let request = if self.interrupt() { C_REQUEST } else { 0 };
                self.registers[usize::from(INDEX_C)] = 0;
                flags | request
            }
            index => self.register(index),
        }
    }

    /// Writes the index (offset 0, bit 7 is the NMI mask and ignored) or data (offset 1) port.
    pub fn write(&mut self, offset: u16, value: u8, wall_ns: u64) {
        if offset & 1 == 0 {
            self.index = value & 0x7f;
            return;
        }
        self.advance(wall_ns);
        match self.index {
            0 | 2 | 4 | 6..=9 | INDEX_CENTURY => self.write_time(self.index, value, wall_ns),
            INDEX_A => self.registers[usize::from(INDEX_A)] = value & !A_UPDATING,
            INDEX_B => self.write_b(value, wall_ns),
            INDEX_C | INDEX_D => {}
            index => self.registers[usize::from(index)] = value,
        }
    }

    /// The level of the IRQ 8 output.
    pub fn interrupt(&self) -> bool {
        self.register(INDEX_C) & self.register(INDEX_B) & b::ENABLES != 0
    }

    /// The wall-clock time at which the interrupt output may next change by itself.
    pub fn next_event(&self) -> Option<u64> {
        let wanted = self.register(INDEX_B) & b::ENABLES & !self.register(INDEX_C);
        let periodic = self.period_ticks().filter(|_| wanted & b::PERIODIC != 0).map(|period| {
            let ticks = (crystal_ticks(self.seen_wall_ns) / period + 1) * period;
            (u128::from(ticks) * u128::from(SECOND_NS)).div_ceil(u128::from(CRYSTAL_HZ)) as u64
        });
        let update = (wanted & b::UPDATE != 0 && self.running())
            .then(|| (self.seen_wall_ns / SECOND_NS + 1) * SECOND_NS);
        let alarm = if wanted & b::ALARM != 0 { self.next_alarm(self.seen_wall_ns) } else { None };
        [periodic, update, alarm].into_iter().flatten().min()
    }

    /// Lets the wall clock go on to `wall_ns`.
    pub fn advance(&mut self, wall_ns: u64) {
        let seen = self.seen_wall_ns;
        if wall_ns <= seen {
            return;
        }
        let mut flags = 0;
        if let Some(period) = self.period_ticks()
            && crystal_ticks(wall_ns) / period != crystal_ticks(seen) / period
        {
            flags |= b::PERIODIC;
        }
        if self.running() && wall_ns / SECOND_NS != seen / SECOND_NS {
            flags |= b::UPDATE;
            if self.next_alarm(seen).is_some_and(|at| at <= wall_ns) {
                flags |= b::ALARM;
            }
        }
        self.registers[usize::from(INDEX_C)] |= flags;
        self.seen_wall_ns = wall_ns;
    }

    /// The state to save.
    pub fn save(&self) -> RtcV1 {
        RtcV1 {
            index: self.index,
            registers: self.registers.to_vec(),
            offset_seconds: self.offset_seconds,
            seen_wall_ns: self.seen_wall_ns,
        }
    }

    /// A clock in a saved state; missing registers are zero.
    pub fn restore(state: RtcV1) -> Self {
        let mut registers = [0; REGISTERS];
        let count = state.registers.len().min(REGISTERS);
        registers[..count].copy_from_slice(&state.registers[..count]);
        Self {
            index: state.index & 0x7f,
            registers,
            // Beyond this many years the calendar's arithmetic could overflow.
            offset_seconds: state.offset_seconds.clamp(-(1 << 40), 1 << 40),
            seen_wall_ns: state.seen_wall_ns.min(u64::MAX / 4),
        }
    }

    fn register(&self, index: u8) -> u8 {
        self.registers[usize::from(index)]
    }

    /// Whether seconds pass: SET off and the divider chain not held in reset.
    fn running(&self) -> bool {
        self.register(INDEX_B) & b::SET == 0 && self.register(INDEX_A) & 0x60 != 0x60
    }

    fn updating(&self, wall_ns: u64) -> u8 {
        let soon = wall_ns % SECOND_NS >= SECOND_NS - UPDATE_NS;
        if soon && self.running() { A_UPDATING } else { 0 }
    }

    /// The periodic interrupt's period in crystal ticks (datasheet table 5).
    fn period_ticks(&self) -> Option<u64> {
        match self.register(INDEX_A) & 0x0f {
            0 => None,
            rate @ 1..=2 => Some(1 << (rate + 6)),
            rate => Some(1 << (rate - 1)),
        }
    }

    fn guest_seconds(&self, wall_ns: u64) -> i64 {
        (wall_ns / SECOND_NS) as i64 + self.offset_seconds
    }

    /// The first second after `from_ns` that matches the three alarm bytes.
    fn next_alarm(&self, from_ns: u64) -> Option<u64> {
        if !self.running() {
            return None;
        }
        let wants = |index, is_hour| {
            let value = self.register(index);
            (value & ALARM_ANY != ALARM_ANY)
                .then(|| if is_hour { self.decode_hour(value) } else { self.decode(value) })
        };
        let (second, minute, hour) = (wants(1, false), wants(3, false), wants(5, true));
        let mut at = self.guest_seconds(from_ns) + 1;
        // Whole hours, then whole minutes, then seconds are skipped: a day and a bit at most.
        for _ in 0..24 + 60 + 60 + 1 {
            let (h, m, s) =
                (at.rem_euclid(86_400) / 3600, at.rem_euclid(3600) / 60, at.rem_euclid(60));
            if hour.is_some_and(|want| want != h) {
                at += 3600 - at.rem_euclid(3600);
            } else if minute.is_some_and(|want| want != m) {
                at += 60 - s;
            } else if second.is_some_and(|want| want != s) {
                at += 1;
            } else {
                return u64::try_from(at - self.offset_seconds).ok().map(|at| at * SECOND_NS);
            }
        }
        None // bytes that are no time never match
    }

    /// A time or date register as it shows now.
    fn read_time(&self, index: u8, wall_ns: u64) -> u8 {
        if !self.running() {
            return self.register(index);
        }
        let now = Civil::from_seconds(self.guest_seconds(wall_ns));
        self.encode_field(index, &now)
    }

    fn encode_field(&self, index: u8, now: &Civil) -> u8 {
        match index {
            0 => self.encode(now.second),
            2 => self.encode(now.minute),
            4 => self.encode_hour(now.hour),
            6 => now.weekday(),
            7 => self.encode(now.day),
            8 => self.encode(now.month),
            9 => self.encode(now.year.rem_euclid(100)),
            _ => to_bcd(now.year.div_euclid(100).rem_euclid(100) as u8),
        }
    }

    fn write_time(&mut self, index: u8, value: u8, wall_ns: u64) {
        if self.running() {
            self.latch_time(wall_ns);
            self.registers[usize::from(index)] = value;
            self.adopt_time(wall_ns);
        } else {
            self.registers[usize::from(index)] = value;
        }
    }

    fn write_b(&mut self, value: u8, wall_ns: u64) {
        let was_set = self.register(INDEX_B) & b::SET != 0;
        let is_set = value & b::SET != 0;
        if is_set && !was_set {
            self.latch_time(wall_ns);
        }
        // The datasheet: setting SET clears the update interrupt's enable.
        let value = if is_set { value & !b::UPDATE } else { value };
        self.registers[usize::from(INDEX_B)] = value;
        if was_set && !is_set {
            self.adopt_time(wall_ns);
        }
    }

    /// Puts the running time into the registers.
    fn latch_time(&mut self, wall_ns: u64) {
        let now = Civil::from_seconds(self.guest_seconds(wall_ns));
        for index in [0, 2, 4, 6, 7, 8, 9, INDEX_CENTURY] {
            self.registers[usize::from(index)] = self.encode_field(index, &now);
        }
    }

    /// Makes the registers' time the running time.
    fn adopt_time(&mut self, wall_ns: u64) {
        let field = |index| self.decode(self.register(index));
        let century = from_bcd(self.register(INDEX_CENTURY));
        let civil = Civil {
            year: century * 100 + field(9),
            month: field(8),
            day: field(7),
            hour: self.decode_hour(self.register(4)),
            minute: field(2),
            second: field(0),
        };
        self.offset_seconds = civil.seconds() - (wall_ns / SECOND_NS) as i64;
    }

    fn encode(&self, value: i64) -> u8 {
        if self.register(INDEX_B) & b::BINARY != 0 { value as u8 } else { to_bcd(value as u8) }
    }

    fn decode(&self, value: u8) -> i64 {
        if self.register(INDEX_B) & b::BINARY != 0 { i64::from(value) } else { from_bcd(value) }
    }

    fn encode_hour(&self, hour: i64) -> u8 {
        if self.register(INDEX_B) & b::HOURS_24 != 0 {
            return self.encode(hour);
        }
        let pm = if hour >= 12 { HOUR_PM } else { 0 };
        self.encode((hour + 11) % 12 + 1) | pm
    }

    fn decode_hour(&self, value: u8) -> i64 {
        if self.register(INDEX_B) & b::HOURS_24 != 0 {
            return self.decode(value);
        }
        let afternoon = if value & HOUR_PM != 0 { 12 } else { 0 };
        self.decode(value & !HOUR_PM) % 12 + afternoon
    }
}

fn crystal_ticks(wall_ns: u64) -> u64 {
    (u128::from(wall_ns) * u128::from(CRYSTAL_HZ) / u128::from(SECOND_NS)) as u64
}

fn to_bcd(value: u8) -> u8 {
    ((value / 10 % 10) << 4) | (value % 10)
}

fn from_bcd(value: u8) -> i64 {
    i64::from(value >> 4) * 10 + i64::from(value & 0xf)
}
