//! Two ways to reset a PC from a port: reset control at 0xcf9 (Intel ICH9 datasheet, 13.7.5) and
//! system control port A at 0x92.
//!
//! Both fire on a rising bit. Invariant: a write returns whether the machine is reset now.

/// 0xcf9 bit 1: hard instead of soft reset.
const SYSTEM_RESET: u8 = 1 << 1;
/// 0xcf9 bit 2: reset when it goes from 0 to 1.
const RESET_CPU: u8 = 1 << 2;
/// 0xcf9 bit 3: full power cycle.
const FULL_RESET: u8 = 1 << 3;
/// 0x92 bit 0: reset when it goes from 0 to 1.
const FAST_INIT: u8 = 1 << 0;
/// 0x92 bit 1: A20 gate. Memory here never wraps at 1 MiB; the bit is only remembered.
const A20: u8 = 1 << 1;

/// The reset control register at port 0xcf9.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResetControl(u8);

/// System control port A at port 0x92.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortA(u8);

/// The saved state of both registers, first version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ResetV1 {
    pub control: u8,
    pub port_a: u8,
}

impl ResetControl {
    /// The register after reset.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was written; the trigger bit reads back.
    pub fn read(&self) -> u8 {
        self.0
    }

    /// Writes the register; true if the machine is reset.
    #[must_use]
    pub fn write(&mut self, value: u8) -> bool {
        let fires = value & !self.0 & RESET_CPU != 0;
        self.0 = value & (SYSTEM_RESET | RESET_CPU | FULL_RESET);
        fires
    }
}

impl Default for PortA {
    fn default() -> Self {
        Self(A20)
    }
}

impl PortA {
    /// The port after reset: A20 open, as direct boot protocols promise.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was written.
    pub fn read(&self) -> u8 {
        self.0
    }

    /// Writes the port; true if the machine is reset.
    #[must_use]
    pub fn write(&mut self, value: u8) -> bool {
        let fires = value & !self.0 & FAST_INIT != 0;
        self.0 = value & (FAST_INIT | A20);
        fires
    }
}

/// The state to save.
pub fn save(control: &ResetControl, port_a: &PortA) -> ResetV1 {
    ResetV1 { control: control.0, port_a: port_a.0 }
}

/// Both registers in a saved state.
pub fn restore(state: ResetV1) -> (ResetControl, PortA) {
    let control = ResetControl(state.control & (SYSTEM_RESET | RESET_CPU | FULL_RESET));
    (control, PortA(state.port_a & (FAST_INIT | A20)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_pci_reboot_sequence_fires_once() {
        let mut control = ResetControl::new();
        let before = control.read();
        assert!(!control.write(before | 0x02));
        assert!(control.write(0x06));
        assert!(!control.write(0x06), "no rising edge");
    }

    #[test]
    fn port_92_fires_on_a_rising_bit_and_remembers_a20() {
        let mut port = PortA::new();
        assert_eq!(port.read(), 2);
        assert!(!port.write(0));
        assert!(port.write(1));
        assert!(!port.write(3));
        assert_eq!(port.read(), 3);
    }

    #[test]
    fn saved_state_round_trips() {
        let (mut control, mut port) = (ResetControl::new(), PortA::new());
        assert!(!control.write(2) && port.write(1));
        assert_ne!(save(&control, &port), save(&ResetControl::new(), &PortA::new()));
        assert_eq!(restore(save(&control, &port)), (control, port));
    }
}
