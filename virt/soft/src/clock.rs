//! The engine's time: the host's TSC, or virtual time, and nanoseconds derived from it.
//!
//! Guest TSC, APIC timer and kvmclock all come from this one counter, so they can't disagree.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use engine::VIRTUAL_TSC_KHZ;

use crate::sys::host;

/// Converts TSC ticks to nanoseconds since the engine was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start_tsc: u64,
    khz: u32,
    /// Nanoseconds per tick, 32.32 fixed point.
    ns_per_tick: u64,
}

impl Clock {
    /// Finds the TSC's frequency: from CPUID where it says so, else by a few milliseconds' sleep,
    /// once for the process.
    fn new() -> Self {
        static KHZ: OnceLock<u32> = OnceLock::new();
        let khz = *KHZ.get_or_init(|| khz_from_cpuid().unwrap_or_else(measure_khz));
        Self {
            start_tsc: host::rdtsc(),
            khz,
            ns_per_tick: ((1_000_000u128 << 32) / u128::from(khz)) as u64,
        }
    }

    /// The host's time, or virtual time.
    pub(crate) fn of(is_virtual: bool) -> Self {
        if is_virtual { Self::of_instructions() } else { Self::new() }
    }

    /// Virtual time, whose ticks are nanoseconds.
    fn of_instructions() -> Self {
        Self { start_tsc: 0, khz: VIRTUAL_TSC_KHZ, ns_per_tick: 1 << 32 }
    }

    pub(crate) fn khz(&self) -> u32 {
        self.khz
    }

    /// The host's TSC at the engine's birth: nanosecond 0.
    pub(crate) fn start_tsc(&self) -> u64 {
        self.start_tsc
    }

    /// Host ticks to nanoseconds since the start.
    pub(crate) fn ns_at(&self, tsc: u64) -> u64 {
        let ticks = tsc.saturating_sub(self.start_tsc);
        ((u128::from(ticks) * u128::from(self.ns_per_tick)) >> 32) as u64
    }

    /// How long until the host's TSC reaches a value.
    pub(crate) fn until_tsc(&self, tsc: u64) -> Duration {
        let ticks = tsc.saturating_sub(host::rdtsc());
        Duration::from_nanos(((u128::from(ticks) * u128::from(self.ns_per_tick)) >> 32) as u64)
    }

    /// The host's TSC at a nanosecond.
    pub(crate) fn tsc_at(&self, ns: u64) -> u64 {
        self.start_tsc.wrapping_add((u128::from(ns) * u128::from(self.khz) / 1_000_000) as u64)
    }
}

fn khz_from_cpuid() -> Option<u32> {
    let highest = host::cpuid(0, 0).eax;
    if highest >= 0x15 {
        let leaf = host::cpuid(0x15, 0);
        if leaf.eax != 0 && leaf.ebx != 0 && leaf.ecx != 0 {
            let hz = u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax);
            return Some((hz / 1000) as u32);
        }
    }
    let hypervisor = host::cpuid(1, 0).ecx >> 31 != 0;
    if hypervisor && host::cpuid(0x4000_0000, 0).eax >= 0x4000_0010 {
        let khz = host::cpuid(0x4000_0010, 0).eax;
        return (khz > 100_000).then_some(khz);
    }
    None
}

fn measure_khz() -> u32 {
    let (begin, tsc) = (Instant::now(), host::rdtsc());
    std::thread::sleep(Duration::from_millis(5));
    let (elapsed, ticks) = (begin.elapsed(), host::rdtsc() - tsc);
    (u128::from(ticks) * 1_000_000 / elapsed.as_nanos().max(1)) as u32
}
