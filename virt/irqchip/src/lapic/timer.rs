//! The local APIC timer (SDM vol. 3, 10.5.4): one-shot, periodic, TSC-deadline.
//!
//! The bus clock is 1 GHz, one tick per nanosecond, as KVM's. Invariants: at most one of
//! `expiry_ns` and `tsc_deadline` is armed; catching up with missed periods is O(1).

/// The time now, in the two clocks the timer can run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Nanoseconds of the machine's monotonic clock.
    pub ns: u64,
    /// The guest's TSC.
    pub tsc: u64,
}

/// When [`Lapic::advance`](super::Lapic::advance) should be called next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// At this nanosecond.
    Ns(u64),
    /// At this value of the guest's TSC.
    Tsc(u64),
}

/// LVT timer bits 18:17.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimerMode {
    OneShot,
    Periodic,
    TscDeadline,
    /// 0b11: never counts.
    Reserved,
}

impl TimerMode {
    pub(super) const fn from_lvt(lvt: u32) -> Self {
        match lvt >> 17 & 3 {
            0 => Self::OneShot,
            1 => Self::Periodic,
            2 => Self::TscDeadline,
            _ => Self::Reserved,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timer {
    pub(super) mode: TimerMode,
    pub(super) initial: u32,
    /// The divide configuration register.
    pub(super) divide: u32,
    /// One-shot and periodic: when the count reaches zero.
    pub(super) expiry_ns: Option<u64>,
    /// 0 when disarmed.
    pub(super) tsc_deadline: u64,
}

impl Timer {
    pub(super) const fn new() -> Self {
        Self { mode: TimerMode::OneShot, initial: 0, divide: 0, expiry_ns: None, tsc_deadline: 0 }
    }

    /// log2 of the divisor: bits 3, 1, 0 count 2, 4, 8 .. 128, 1.
    const fn shift(&self) -> u32 {
        let code = (self.divide & 3) | (self.divide >> 1 & 4);
        (code + 1) & 7
    }

    fn period_ns(&self) -> u64 {
        u64::from(self.initial) << self.shift()
    }

    /// A change between TSC-deadline and the counting modes disarms (SDM 10.5.4.1).
    pub(super) fn set_mode(&mut self, mode: TimerMode) {
        let counts = |mode| matches!(mode, TimerMode::OneShot | TimerMode::Periodic);
        if mode != self.mode && !(counts(mode) && counts(self.mode)) {
            self.initial = 0;
            self.expiry_ns = None;
            self.tsc_deadline = 0;
        }
        self.mode = mode;
    }

    pub(super) fn set_initial(&mut self, count: u32, now: Now) {
        if !matches!(self.mode, TimerMode::OneShot | TimerMode::Periodic) {
            return;
        }
        self.initial = count;
        self.expiry_ns = (count != 0).then(|| now.ns.saturating_add(self.period_ns()));
    }

    /// The ticks still to count stay; each becomes longer or shorter.
    pub(super) fn set_divide(&mut self, value: u32, now: Now) {
        let ticks = self.ticks_left(now);
        self.divide = value & 0b1011;
        if self.expiry_ns.is_some() {
            self.expiry_ns = Some(now.ns.saturating_add(ticks << self.shift()));
        }
    }

    pub(super) fn set_tsc_deadline(&mut self, deadline: u64) {
        if self.mode == TimerMode::TscDeadline {
            self.tsc_deadline = deadline;
        }
    }

    fn ticks_left(&self, now: Now) -> u64 {
        self.expiry_ns.map_or(0, |expiry| expiry.saturating_sub(now.ns) >> self.shift())
    }

    /// The current-count register.
    pub(super) fn current(&self, now: Now) -> u32 {
        self.ticks_left(now).min(u64::from(u32::MAX)) as u32
    }

    /// Takes an expiry that is due; missed periods collapse into one.
    pub(super) fn expire(&mut self, now: Now) -> bool {
        if self.mode == TimerMode::TscDeadline {
            let due = self.tsc_deadline != 0 && now.tsc >= self.tsc_deadline;
            if due {
                self.tsc_deadline = 0;
            }
            return due;
        }
        let Some(expiry) = self.expiry_ns.filter(|&expiry| expiry <= now.ns) else {
            return false;
        };
        let period = self.period_ns();
        self.expiry_ns = (self.mode == TimerMode::Periodic && period != 0)
            .then(|| now.ns.saturating_add(period - (now.ns - expiry) % period));
        true
    }

    #[inline]
    pub(super) fn next_event(&self) -> Option<Deadline> {
        if self.tsc_deadline != 0 {
            return Some(Deadline::Tsc(self.tsc_deadline));
        }
        self.expiry_ns.map(Deadline::Ns)
    }
}
