//! The 8254's input clock: 1,193,182 Hz against nanoseconds, exact in integers.
//!
//! Invariant: `ticks(ns(t)) == t` for every t that fits, so an event computed in ticks is due when
//! its nanosecond comes. No 128-bit division, which a kernel has no helper for.

/// Input frequency in Hz: 14.31818 MHz / 12.
pub const FREQUENCY_HZ: u64 = 1_193_182;
const NS_PER_SECOND: u64 = 1_000_000_000;

/// Whole ticks in this time.
pub(super) const fn ticks(ns: u64) -> u64 {
    let (seconds, rest) = (ns / NS_PER_SECOND, ns % NS_PER_SECOND);
    seconds * FREQUENCY_HZ + rest * FREQUENCY_HZ / NS_PER_SECOND
}

/// The first nanosecond of this tick.
pub(super) const fn ns(ticks: u64) -> u64 {
    let (seconds, rest) = (ticks / FREQUENCY_HZ, ticks % FREQUENCY_HZ);
    seconds
        .saturating_mul(NS_PER_SECOND)
        .saturating_add((rest * NS_PER_SECOND).div_ceil(FREQUENCY_HZ))
}
