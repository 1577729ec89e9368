//! Ports that payloads use, and what the scripted devices answer.

/// A payload tells a 32-bit value here; the expected ones are in its trace.
pub const REPORT: u16 = 0xe0;
/// A payload asks for one of its actions by index.
pub const ACTION: u16 = 0xe4;
/// A payload ends here; 0 means that it is content.
pub const EXIT: u16 = 0xf4;
/// Sixteen ports that answer with [`port_byte`] and swallow what is written.
pub const DEVICE: u16 = 0x2000;
/// A port that answers 0x11, 0x12, 0x13 ... (in every byte of the width), one value per access
/// and vCPU.
pub const COUNTER: u16 = 0x2100;

/// What a byte of [`DEVICE`] answers.
pub const fn port_byte(port: u16) -> u8 {
    (port as u8 & 0xf) * 0x11 ^ 0x5a
}

/// The initial contents of the MMIO device at an offset.
pub const fn device_byte(offset: u64) -> u8 {
    (offset as u8).wrapping_mul(7).wrapping_add(3)
}
