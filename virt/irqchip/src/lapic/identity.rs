//! Which destinations a local APIC answers to (SDM vol. 3, 10.6.2, 10.12.10).
//!
//! Plain data that fits 64 bits, so a router can keep one atomic word per processor and decide
//! without locking any APIC. Invariant: a disabled APIC matches nothing.

use crate::ipi::{BROADCAST, DestinationMode};

/// IA32_APIC_BASE bits 11:10.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Globally disabled: as if there were no APIC.
    #[default]
    Disabled = 0,
    /// Registers in the MMIO page, 8-bit ids.
    XApic = 1,
    /// Registers in MSRs 0x800-0x83f, 32-bit ids.
    X2Apic = 2,
}

/// What decides whether a message is for a processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Mode.
    pub mode: Mode,
    /// APIC id: 8 bits in xAPIC mode, 32 in x2APIC mode.
    pub id: u32,
    /// Logical id of xAPIC mode (LDR bits 31:24); x2APIC mode derives it from `id`.
    pub ldr: u8,
    /// DFR of xAPIC mode says cluster model, not flat.
    pub cluster: bool,
    /// SVR bit 8: takes part in lowest-priority arbitration.
    pub software_enabled: bool,
}

impl Identity {
    /// Whether a message with this destination is for this APIC.
    #[inline]
    pub const fn matches(&self, mode: DestinationMode, destination: u32) -> bool {
        if matches!(self.mode, Mode::Disabled) {
            return false;
        }
        if destination == BROADCAST {
            return true;
        }
        match (mode, self.mode) {
            (DestinationMode::Physical, _) => destination == self.id,
            (DestinationMode::Logical, Mode::X2Apic) => {
                let ldr = x2apic_ldr(self.id);
                destination >> 16 == ldr >> 16 && destination & ldr & 0xffff != 0
            }
            (DestinationMode::Logical, _) => {
                let ldr = self.ldr as u32;
                if self.cluster {
                    destination >> 4 == ldr >> 4 && destination & ldr & 0xf != 0
                } else {
                    destination <= 0xff && destination & ldr != 0
                }
            }
        }
    }

    /// As one word.
    #[inline]
    pub const fn to_bits(self) -> u64 {
        self.id as u64
            | (self.ldr as u64) << 32
            | (self.cluster as u64) << 40
            | (self.software_enabled as u64) << 41
            | (self.mode as u64) << 42
    }

    /// From [`Self::to_bits`].
    #[inline]
    pub const fn from_bits(bits: u64) -> Self {
        Self {
            id: bits as u32,
            ldr: (bits >> 32) as u8,
            cluster: bits & 1 << 40 != 0,
            software_enabled: bits & 1 << 41 != 0,
            mode: match bits >> 42 & 3 {
                1 => Mode::XApic,
                2 => Mode::X2Apic,
                _ => Mode::Disabled,
            },
        }
    }
}

/// The logical id of x2APIC mode: cluster in 31:16, one bit of 16 in 15:0 (SDM 10.12.10.2).
pub(super) const fn x2apic_ldr(id: u32) -> u32 {
    (id >> 4) << 16 | 1 << (id & 0xf)
}
