//! The functions every PC has: the host bridge at 00:00.0, the bridge to ISA at 00:1f.0.
//!
//! Ids are those of the Q35 chipset (Intel 82G33 MCH, ICH9 LPC), which every OS knows; none of
//! the chipset's own registers are there, and no driver needs them under ACPI.

use super::PlainFunction;
use super::config::{ConfigSpace, Identity};

/// Red Hat's subsystem ids, by which guests know virtual hardware.
const SUBSYSTEM: (u16, u16) = (0x1af4, 0x1100);

/// 00:00.0: host to PCI bridge.
pub fn host_bridge() -> PlainFunction {
    PlainFunction(ConfigSpace::new(Identity {
        vendor: 0x8086,
        device: 0x29c0,
        revision: 0,
        class: [0x06, 0x00, 0x00],
        subsystem_vendor: SUBSYSTEM.0,
        subsystem: SUBSYSTEM.1,
    }))
}

/// 00:1f.0: PCI to ISA bridge.
pub fn isa_bridge() -> PlainFunction {
    PlainFunction(ConfigSpace::new(Identity {
        vendor: 0x8086,
        device: 0x2918,
        revision: 2,
        class: [0x06, 0x01, 0x00],
        subsystem_vendor: SUBSYSTEM.0,
        subsystem: SUBSYSTEM.1,
    }))
}
