//! Configuration addresses: the latch at port 0xcf8 and the ECAM window.
//!
//! ```text
//! 0xcf8   31     30:24  23:16  15:11  10:8     7:2       1:0
//!         enable        bus    device function register  00
//! ECAM    27:20 bus  19:15 device  14:12 function  11:0 register
//! ```

/// One function's place and a byte of its configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigAddress {
    /// Bus number.
    pub bus: u8,
    /// Device in bits 7:3, function in 2:0.
    pub devfn: u8,
    /// Byte offset, below 4096.
    pub offset: usize,
}

/// What an offset into the ECAM window means.
pub fn decode_ecam(offset: u64) -> ConfigAddress {
    ConfigAddress {
        bus: (offset >> 20) as u8,
        devfn: (offset >> 12) as u8,
        offset: (offset & 0xfff) as usize,
    }
}

const ENABLE: u32 = 1 << 31;
/// The bits a guest can set.
const WRITABLE: u32 = 0x80ff_fffc;

/// The address latch of mechanism 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConfigPort(u32);

/// The saved state of a [`ConfigPort`], first version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ConfigPortV1 {
    pub address: u32,
}

impl ConfigPort {
    /// The latch after reset: disabled.
    pub fn new() -> Self {
        Self::default()
    }

    /// A 32-bit read of 0xcf8.
    pub fn read(&self) -> u32 {
        self.0
    }

    /// A 32-bit write of 0xcf8. Narrower writes are not for the latch.
    pub fn write(&mut self, value: u32) {
        self.0 = value & WRITABLE;
    }

    /// What an access to port 0xcfc + `lane` means now, `None` while disabled.
    pub fn target(&self, lane: u16) -> Option<ConfigAddress> {
        (self.0 & ENABLE != 0).then(|| ConfigAddress {
            bus: (self.0 >> 16) as u8,
            devfn: (self.0 >> 8) as u8,
            offset: (self.0 & 0xfc) as usize | usize::from(lane & 3),
        })
    }

    /// The state to save.
    pub fn save(&self) -> ConfigPortV1 {
        ConfigPortV1 { address: self.0 }
    }

    /// The latch in a saved state.
    pub fn restore(state: ConfigPortV1) -> Self {
        Self(state.address & WRITABLE)
    }
}
