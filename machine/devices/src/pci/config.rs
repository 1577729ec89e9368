//! A function's configuration space, type 0 (PCI Local Bus 3.0, 6.1-6.2): bytes, a write mask,
//! base address registers, a capability list.
//!
//! Invariant: a guest changes only bits the mask has; a BAR's low bits give its size back, so
//! sizing (write ones, read) works and a programmed base is always aligned.

use x86::GuestPhys;

/// Bytes of configuration space kept; the extended space of ECAM above it reads as zero.
pub const CONFIG_BYTES: usize = 256;
/// Number of base address registers.
pub const BARS: usize = 6;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BAR_0: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const STATUS_HAS_CAPABILITIES: u8 = 1 << 4;
const COMMAND_PORTS: u16 = 1 << 0;
const COMMAND_MEMORY: u16 = 1 << 1;
/// Port and memory decoding, bus master, parity, SERR, INTx disable.
const COMMAND_WRITABLE: u16 = 0x0547;

/// Who a function says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Identity {
    pub vendor: u16,
    pub device: u16,
    pub revision: u8,
    /// Base class, subclass, programming interface.
    pub class: [u8; 3],
    pub subsystem_vendor: u16,
    pub subsystem: u16,
}

/// What a BAR decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// Ports.
    Port,
    /// Memory below 4 GiB.
    Memory32,
    /// Memory anywhere; takes two BARs.
    Memory64,
}

/// A BAR that is switched on: where it decodes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarWindow {
    /// Which BAR, 0-5.
    pub bar: usize,
    /// What it decodes.
    pub kind: BarKind,
    /// First address (a port number for port BARs).
    pub base: GuestPhys,
    /// Bytes, a power of two.
    pub size: u64,
}

/// The saved state of a [`ConfigSpace`], first version: only what a guest can change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSpaceV1 {
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Configuration space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSpace {
    bytes: [u8; CONFIG_BYTES],
    writable: [u8; CONFIG_BYTES],
    /// Bits that a written 1 clears.
    cleared_by_one: [u8; CONFIG_BYTES],
    bars: [Option<(BarKind, u64)>; BARS],
    next_capability: usize,
}

impl ConfigSpace {
    /// A function with no BARs and no capabilities.
    pub fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: [0; CONFIG_BYTES],
            writable: [0; CONFIG_BYTES],
            cleared_by_one: [0; CONFIG_BYTES],
            bars: [None; BARS],
            next_capability: 0x40,
        };
        let [base_class, subclass, interface] = identity.class;
        space.put(0x00, &identity.vendor.to_le_bytes());
        space.put(0x02, &identity.device.to_le_bytes());
        space.put(0x08, &[identity.revision, interface, subclass, base_class]);
        space.put(0x2c, &identity.subsystem_vendor.to_le_bytes());
        space.put(0x2e, &identity.subsystem.to_le_bytes());
        space.writable[COMMAND..COMMAND + 2].copy_from_slice(&COMMAND_WRITABLE.to_le_bytes());
        space.cleared_by_one[STATUS + 1] = 0xf9;
        space.writable[0x0c] = 0xff; // cache line size
        space.writable[0x3c] = 0xff; // interrupt line
        space
    }

    /// Sets bytes that the guest sees, whatever the mask.
    pub fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Lets the guest write these bits.
    pub fn allow(&mut self, offset: usize, mask: &[u8]) {
        self.writable[offset..offset + mask.len()].copy_from_slice(mask);
    }

    /// Says that the function has an interrupt pin (1 = INTA#).
    pub fn set_interrupt_pin(&mut self, pin: u8) {
        self.bytes[0x3d] = pin;
    }

    /// Adds a BAR of `size` bytes, a power of two: at least 4 for ports, 16 for memory.
    pub fn add_bar(&mut self, bar: usize, kind: BarKind, size: u64) {
        let least = if kind == BarKind::Port { 4 } else { 16 };
        assert!(size.is_power_of_two() && size >= least, "a BAR decodes a power of two");
        let (flags, wide) = match kind {
            BarKind::Port => (1, false),
            BarKind::Memory32 => (0, false),
            BarKind::Memory64 => (4, true),
        };
        assert!(bar + usize::from(wide) < BARS, "a function has six BARs");
        assert!(wide || size <= 1 << 31, "a 32-bit BAR decodes 2 GiB at most");
        let at = BAR_0 + bar * 4;
        let mask = !(size - 1);
        self.put(at, &[flags]);
        self.allow(at, &(mask as u32).to_le_bytes());
        if wide {
            self.allow(at + 4, &((mask >> 32) as u32).to_le_bytes());
        }
        self.bars[bar] = Some((kind, size));
    }

    /// Adds a capability with `body` after its two-byte head; returns its offset.
    pub fn add_capability(&mut self, id: u8, body: &[u8]) -> usize {
        let at = self.next_capability;
        assert!(at + 2 + body.len() <= CONFIG_BYTES, "capabilities fit into 256 bytes");
        self.put(at, &[id, self.bytes[CAPABILITIES]]);
        self.put(at + 2, body);
        self.bytes[CAPABILITIES] = at as u8;
        self.bytes[STATUS] |= STATUS_HAS_CAPABILITIES;
        self.next_capability = (at + 2 + body.len()).next_multiple_of(4);
        at
    }

    /// Reads bytes; those past the end are zero.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = self.bytes.get(offset + index).copied().unwrap_or(0);
        }
    }

    /// Writes bytes under the mask; those past the end vanish.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        for (at, &value) in (offset..CONFIG_BYTES).zip(data) {
            let mask = self.writable[at];
            let kept = self.bytes[at] & !(value & self.cleared_by_one[at]);
            self.bytes[at] = kept & !mask | value & mask;
        }
    }

    /// A 16-bit register.
    pub fn word(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.bytes[offset], self.bytes[offset + 1]])
    }

    /// The BARs that decode now.
    pub fn windows(&self) -> impl Iterator<Item = BarWindow> + '_ {
        let command = self.word(COMMAND);
        self.bars.iter().enumerate().filter_map(move |(bar, entry)| {
            let (kind, size) = (*entry)?;
            let enable = if kind == BarKind::Port { COMMAND_PORTS } else { COMMAND_MEMORY };
            let base = GuestPhys(self.bar_value(bar, kind) & !(size - 1));
            (command & enable != 0 && base.0 != 0).then_some(BarWindow { bar, kind, base, size })
        })
    }

    /// The state to save.
    pub fn save(&self) -> ConfigSpaceV1 {
        ConfigSpaceV1 { bytes: self.bytes.to_vec() }
    }

    /// A space in a saved state, over a fresh one of the same function: what a guest cannot
    /// change comes from the fresh one.
    pub fn restore(fresh: Self, state: &ConfigSpaceV1) -> Self {
        let mut space = fresh;
        for (at, &value) in (0..CONFIG_BYTES).zip(&state.bytes) {
            let mask = space.writable[at];
            space.bytes[at] = space.bytes[at] & !mask | value & mask;
        }
        space
    }

    fn bar_value(&self, bar: usize, kind: BarKind) -> u64 {
        let at = BAR_0 + bar * 4;
        let dword = |at: usize| u64::from(self.word(at)) | u64::from(self.word(at + 2)) << 16;
        match kind {
            BarKind::Port => dword(at) & 0xffff,
            BarKind::Memory32 => dword(at),
            BarKind::Memory64 => dword(at) | dword(at + 4) << 32,
        }
    }
}
