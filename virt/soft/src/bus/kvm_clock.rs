//! kvmclock: the guest's clock as a page that the host fills in (Linux
//! Documentation/virt/kvm/x86/msr.rst, arch/x86/include/asm/pvclock-abi.h).
//!
//! The TSC is invariant and never rescaled, so a page written once stays true for good.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::memory::GuestPhys;

use super::SoftBus;
use crate::sys::host;

/// PVCLOCK_TSC_STABLE_BIT: all vCPUs' clocks agree.
const TSC_STABLE: u8 = 1;

impl SoftBus {
    /// Writes `struct pvclock_vcpu_time_info` where MSR_KVM_SYSTEM_TIME points, if enabled.
    pub(super) fn write_system_time(&mut self, msr: u64, tsc_offset: u64) {
        if msr & 1 == 0 {
            return;
        }
        let clock = self.shared.clock;
        let (multiplier, shift) = tsc_to_ns(clock.khz());
        let mut page = [0u8; 32];
        page[0..4].copy_from_slice(&2u32.to_le_bytes());
        page[8..16].copy_from_slice(&clock.start_tsc().wrapping_add(tsc_offset).to_le_bytes());
        // System time 0 is the engine's birth.
        page[24..28].copy_from_slice(&multiplier.to_le_bytes());
        page[28] = shift as u8;
        page[29] = TSC_STABLE;
        self.write_guest(GuestPhys(msr & !1), &page);
    }

    /// Writes `struct pvclock_wall_clock`: the wall-clock time of system time 0.
    pub(super) fn write_wall_clock(&mut self, msr: u64) {
        let boot = match &self.shared.virtual_time {
            Some(time) => Duration::from_nanos(time.start_unix_ns()),
            None => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                now.saturating_sub(Duration::from_nanos(self.shared.clock.ns_at(host::rdtsc())))
            }
        };
        let mut bytes = [0u8; 12];
        bytes[0..4].copy_from_slice(&2u32.to_le_bytes());
        bytes[4..8].copy_from_slice(&(boot.as_secs() as u32).to_le_bytes());
        bytes[8..12].copy_from_slice(&boot.subsec_nanos().to_le_bytes());
        self.write_guest(GuestPhys(msr), &bytes);
    }

    /// A page the guest named; one that is not RAM is the guest's mistake and is ignored.
    fn write_guest(&mut self, at: GuestPhys, bytes: &[u8]) {
        // Ignoring the error is the architecture: the guest pointed outside its memory.
        let _ = self.memory.write_physical(at, bytes);
    }
}

/// Multiplier and shift so that ns = ((ticks << shift) * multiplier) >> 32, shift signed.
fn tsc_to_ns(khz: u32) -> (u32, i8) {
    let mut shift = 0i8;
    let mut scaled = u64::from(khz) * 1000;
    const TARGET: u64 = 1_000_000_000;
    while scaled > TARGET * 2 || scaled >> 32 != 0 {
        scaled >>= 1;
        shift -= 1;
    }
    while scaled <= TARGET {
        scaled <<= 1;
        shift += 1;
    }
    (((TARGET << 32) / scaled) as u32, shift)
}

#[cfg(test)]
mod tests {
    use super::tsc_to_ns;

    #[test]
    fn ticks_become_nanoseconds_at_any_frequency() {
        for khz in [800_000u32, 1_000_000, 2_600_000, 3_999_999, 5_200_000] {
            let (multiplier, shift) = tsc_to_ns(khz);
            let ticks = u64::from(khz) * 1000;
            let scaled = if shift < 0 { ticks >> -shift } else { ticks << shift };
            let ns = (u128::from(scaled) * u128::from(multiplier) >> 32) as u64;
            assert!(ns.abs_diff(1_000_000_000) < 10, "{khz} kHz gives {ns}");
        }
    }
}
