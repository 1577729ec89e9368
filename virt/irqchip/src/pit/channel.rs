//! One counter of the 8254 (Intel 8254 data sheet, "Mode Definitions").
//!
//! Nothing ticks: the counter is a function of the tick at which it was loaded. Notation of the
//! data sheet: CR the count register, CE the counting element, N the count.
//!
//! ```text
//! mode 2, N = 4:  CE 4 3 2 1 4 3 2 1     mode 3, N = 5:  CE 4 2 0 4 2 4 2 0 4 2
//!                OUT ‾‾‾‾‾‾\_/‾‾‾‾‾\_                   OUT ‾‾‾‾‾‾\___/‾‾‾‾‾\___
//! ```
//! Invariants: `load_at` is set only while a periodic mode runs; ticks compare by wrapping
//! difference, so a load may lie in the future (the next CLK) or before the origin.

use super::PitChannelV1;

/// What the counting element does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Counting {
    /// Waits for a count or a trigger.
    #[default]
    Idle,
    /// Holds N at this tick and counts on.
    Since(u64),
    /// Stopped by its gate after this many ticks.
    Held(u64),
}

/// Bits 5:4 of the control word.
const LOW_BYTE: u8 = 1;
const HIGH_BYTE: u8 = 2;
const BOTH_BYTES: u8 = 3;

#[derive(Clone, Debug)]
pub(super) struct Channel {
    mode: u8,
    bcd: bool,
    access: u8,
    gate: bool,
    /// CR, decoded: 1..=65536.
    count: u32,
    /// CR holds a count since the control word.
    written: bool,
    /// CR has gone to CE, or will with the next CLK.
    loaded: bool,
    /// N of the present run.
    reload: u32,
    counting: Counting,
    /// Mode 1 was triggered while OUT was low, which it stays.
    retriggered: bool,
    /// Modes 2 and 3: when CE takes the new CR.
    load_at: Option<u64>,
    /// The first byte of a two-byte write.
    write_low: Option<u8>,
    read_high_next: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

impl Channel {
    pub(super) const fn new(gate: bool) -> Self {
        Self {
            mode: 3,
            bcd: false,
            access: BOTH_BYTES,
            gate,
            count: 0x1_0000,
            written: false,
            loaded: false,
            reload: 0x1_0000,
            counting: Counting::Idle,
            retriggered: false,
            load_at: None,
            write_low: None,
            read_high_next: false,
            latched_count: None,
            latched_status: None,
        }
    }

    /// From saved state, whose ticks are relative to `tick`.
    pub(super) fn from_state(state: &PitChannelV1, tick: u64) -> Self {
        let mode = mode_of(state.mode);
        Self {
            mode,
            bcd: state.bcd,
            access: state.access.clamp(LOW_BYTE, BOTH_BYTES),
            gate: state.gate,
            count: state.count.clamp(1, 0x1_0000),
            written: state.written,
            loaded: state.loaded,
            reload: state.reload.clamp(1, 0x1_0000),
            counting: match state.counting {
                Counting::Since(elapsed) => Counting::Since(tick.wrapping_sub(elapsed)),
                other => other,
            },
            retriggered: state.retriggered,
            load_at: state
                .load_in
                .filter(|_| matches!(mode, 2 | 3) && matches!(state.counting, Counting::Since(_)))
                .map(|left| tick.wrapping_add(left.min(0x2_0000))),
            write_low: state.write_low,
            read_high_next: state.read_high_next,
            latched_count: state.latched_count,
            latched_status: state.latched_status,
        }
    }

    /// State to save; settled at `tick`.
    pub(super) fn save(&self, tick: u64) -> PitChannelV1 {
        PitChannelV1 {
            mode: self.mode,
            bcd: self.bcd,
            access: self.access,
            gate: self.gate,
            count: self.count,
            written: self.written,
            loaded: self.loaded,
            reload: self.reload,
            counting: match self.counting {
                Counting::Since(start) => Counting::Since(tick.wrapping_sub(start)),
                other => other,
            },
            retriggered: self.retriggered,
            load_in: self.load_at.map(|at| at.wrapping_sub(tick)),
            write_low: self.write_low,
            read_high_next: self.read_high_next,
            latched_count: self.latched_count,
            latched_status: self.latched_status,
        }
    }

    /// Takes a new count whose turn has come. Called before anything looks at `tick`.
    pub(super) fn settle(&mut self, tick: u64) {
        let (Some(at), Counting::Since(start)) = (self.load_at, self.counting) else {
            return;
        };
        if since(at, tick) < 0 {
            return;
        }
        let high = u64::from(high_half(self.reload));
        let after_high =
            self.mode == 3 && since(start, at).max(0) as u64 % u64::from(self.reload) == high;
        self.reload = self.count;
        // At the end of a high half the new count's low half follows.
        let done = if after_high { u64::from(high_half(self.reload)) } else { 0 };
        self.counting = Counting::Since(at.wrapping_sub(done));
        self.loaded = true;
        self.load_at = None;
    }

    /// A control word for this counter that is not a latch command.
    pub(super) fn set_control(&mut self, control: u8) {
        *self = Self {
            mode: mode_of(control >> 1),
            bcd: control & 1 != 0,
            access: control >> 4 & 3,
            reload: self.reload,
            count: self.count,
            ..Self::new(self.gate)
        };
    }

    pub(super) fn write(&mut self, value: u8, tick: u64) {
        match (self.access, self.write_low) {
            (LOW_BYTE, _) => self.set_count(u16::from(value), tick),
            (HIGH_BYTE, _) => self.set_count(u16::from(value) << 8, tick),
            (_, None) => {
                self.write_low = Some(value);
                if self.mode == 0 {
                    // The first byte stops mode 0 and lowers OUT.
                    self.counting = Counting::Idle;
                }
            }
            (_, Some(low)) => {
                self.write_low = None;
                self.set_count(u16::from(value) << 8 | u16::from(low), tick);
            }
        }
    }

    /// CR is complete; when it goes to CE depends on the mode.
    fn set_count(&mut self, raw: u16, tick: u64) {
        self.count = decode(raw, self.bcd);
        self.written = true;
        self.loaded = false;
        match (self.mode, self.counting) {
            (0 | 4, _) => {
                self.reload = self.count;
                self.loaded = true;
                self.counting = if self.gate {
                    Counting::Since(tick.wrapping_add(1))
                } else {
                    Counting::Held(0)
                };
            }
            (2 | 3, Counting::Since(start)) => {
                self.load_at = Some(self.next_boundary(start, tick));
            }
            (2 | 3, _) if self.gate => self.trigger(tick),
            // Modes 1 and 5 wait for a trigger, 2 and 3 for their gate.
            _ => {}
        }
    }

    /// Mode 2: the end of the cycle; mode 3: of the half-cycle.
    fn next_boundary(&self, start: u64, tick: u64) -> u64 {
        let period = u64::from(self.reload);
        let elapsed = since(start, tick).max(0) as u64;
        let phase = elapsed % period;
        let high = u64::from(high_half(self.reload));
        let end = if self.mode == 3 && phase < high { high } else { period };
        start.wrapping_add(elapsed - phase + end)
    }

    /// CR goes to CE with the next CLK.
    fn trigger(&mut self, tick: u64) {
        self.retriggered = !self.out(tick);
        self.reload = self.count;
        self.loaded = true;
        self.load_at = None;
        self.counting = Counting::Since(tick.wrapping_add(1));
    }

    pub(super) fn set_gate(&mut self, gate: bool, tick: u64) {
        if gate == self.gate {
            return;
        }
        self.gate = gate;
        match (self.mode, gate, self.counting) {
            (0 | 4, true, Counting::Held(elapsed)) => {
                self.counting = Counting::Since(tick.wrapping_sub(elapsed));
            }
            (0 | 2 | 3 | 4, false, Counting::Since(start)) => {
                self.counting = Counting::Held(since(start, tick).max(0) as u64);
                self.load_at = None;
            }
            (1 | 2 | 3 | 5, true, _) if self.written => self.trigger(tick),
            _ => {}
        }
    }

    /// The OUT pin.
    pub(super) fn out(&self, tick: u64) -> bool {
        let n = i64::from(self.reload);
        let elapsed = match self.counting {
            Counting::Idle => return self.mode != 0,
            Counting::Held(_) if matches!(self.mode, 2 | 3) => return true,
            Counting::Held(elapsed) => elapsed.min(i64::MAX as u64) as i64,
            Counting::Since(start) => since(start, tick),
        };
        match self.mode {
            0 => elapsed >= n,
            1 if elapsed < 0 => !self.retriggered,
            1 => elapsed >= n,
            2 => elapsed < 0 || elapsed % n != n - 1,
            3 => elapsed < 0 || elapsed % n < i64::from(high_half(self.reload)),
            _ => elapsed != n,
        }
    }

    /// Rising edges of OUT after `from` up to and including `to`; the channel is settled at `to`.
    pub(super) fn take_edges(&mut self, from: u64, to: u64) -> u64 {
        let mut from = from;
        let mut edges = 0;
        if let Some(at) = self.load_at.filter(|&at| since(at, to) >= 0) {
            edges += self.edges(from, at);
            from = at;
        }
        self.settle(to);
        edges + self.edges(from, to)
    }

    fn edges(&self, from: u64, to: u64) -> u64 {
        let Some((first, period)) = self.first_edge(from) else {
            return 0;
        };
        match (since(first, to), period) {
            (left, _) if left < 0 => 0,
            (_, None) => 1,
            (left, Some(period)) => left as u64 / period + 1,
        }
    }

    /// The next rising edge of OUT after `tick`, if the guest does nothing.
    pub(super) fn next_edge(&self, tick: u64) -> Option<u64> {
        let first = self.first_edge(tick).map(|(first, _)| first);
        match (self.load_at, first) {
            (Some(at), Some(first)) if since(first, at) >= 0 => Some(first),
            (Some(at), _) => {
                let mut later = self.clone();
                later.settle(at);
                later.first_edge(at).map(|(first, _)| first)
            }
            (None, first) => first,
        }
    }

    /// The first rising edge after `tick` without regard to `load_at`, and the distance of the
    /// following ones.
    fn first_edge(&self, tick: u64) -> Option<(u64, Option<u64>)> {
        let Counting::Since(start) = self.counting else {
            return None;
        };
        let n = u64::from(self.reload);
        if matches!(self.mode, 2 | 3) {
            if n < 2 {
                return None;
            }
            let cycles = since(start, tick).max(0) as u64 / n + 1;
            return Some((start.wrapping_add(cycles * n), Some(n)));
        }
        let end = start.wrapping_add(n + u64::from(self.mode >= 4));
        (since(tick, end) > 0).then_some((end, None))
    }

    pub(super) fn read(&mut self, tick: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let value = self.latched_count.unwrap_or_else(|| self.current(tick));
        let [low, high] = value.to_le_bytes();
        let (byte, done) = match self.access {
            LOW_BYTE => (low, true),
            HIGH_BYTE => (high, true),
            _ if self.read_high_next => (high, true),
            _ => (low, false),
        };
        self.read_high_next = !done;
        if done {
            self.latched_count = None;
        }
        byte
    }

    /// A latch is held until it is read; further ones are ignored.
    pub(super) fn latch_count(&mut self, tick: u64) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.current(tick));
        }
    }

    pub(super) fn latch_status(&mut self, tick: u64) {
        if self.latched_status.is_none() {
            let in_flight =
                matches!(self.counting, Counting::Since(start) if since(start, tick) < 0);
            let null_count = !self.loaded || in_flight;
            self.latched_status = Some(
                u8::from(self.out(tick)) << 7
                    | u8::from(null_count) << 6
                    | self.access << 4
                    | self.mode << 1
                    | u8::from(self.bcd),
            );
        }
    }

    /// CE as it is read.
    fn current(&self, tick: u64) -> u16 {
        let n = u64::from(self.reload);
        let elapsed = match self.counting {
            Counting::Idle => 0,
            Counting::Held(elapsed) => elapsed,
            Counting::Since(start) => since(start, tick).max(0) as u64,
        };
        let modulus = if self.bcd { 10_000 } else { 0x1_0000 };
        let value = match self.mode {
            2 => n - elapsed % n,
            3 => {
                let high = u64::from(high_half(self.reload));
                let phase = elapsed % n;
                let into_half = if phase < high { phase } else { phase - high };
                (n & !1) - (2 * into_half).min(n & !1)
            }
            // These wrap around and count on.
            _ => (n % modulus + modulus - elapsed % modulus) % modulus,
        };
        encode((value % modulus) as u32, self.bcd)
    }
}

/// Signed ticks from one to another.
const fn since(start: u64, tick: u64) -> i64 {
    tick.wrapping_sub(start) as i64
}

/// Bits of the mode field: 6 and 7 are 2 and 3.
const fn mode_of(bits: u8) -> u8 {
    match bits & 7 {
        mode @ 0..=5 => mode,
        mode => mode & 3,
    }
}

/// Ticks that mode 3 is high.
const fn high_half(n: u32) -> u32 {
    n.div_ceil(2)
}

/// A count as written: 0 is the largest.
fn decode(raw: u16, bcd: bool) -> u32 {
    let raw = u32::from(raw);
    match (raw, bcd) {
        (0, false) => 0x1_0000,
        (0, true) => 10_000,
        (_, false) => raw,
        (_, true) => {
            let digit = |place: u32| raw >> (4 * place) & 0xf;
            digit(3) * 1000 + digit(2) * 100 + digit(1) * 10 + digit(0)
        }
    }
}

fn encode(value: u32, bcd: bool) -> u16 {
    if !bcd {
        return value as u16;
    }
    let digit = |unit: u32| value / unit % 10;
    (digit(1000) << 12 | digit(100) << 8 | digit(10) << 4 | digit(1)) as u16
}
