//! The device kvm-unit-tests expect beside the PC: QEMU's pc-testdev, as far as guests see it.
//!
//! ```text
//! port 0xe0-0xe3      32 bits of storage, each access a slice of it
//! port 0xe4-0xe7      a page address to unmap for a moment: nothing to do where RAM never moves
//! port 0xe8-0xeb      the same storage as 0xe0-0xe3
//! port 0x2000-0x2017  the level of interrupt line 0-23
//! 0xff000000 +64 KiB  storage on the memory bus
//! ```
//!
//! Invariant: accesses never reach past the storage, whatever their offset and width.

/// Bytes of storage on the memory bus.
pub const STORAGE_BYTES: usize = 0x1_0000;

/// The saved state of a [`TestDevice`], first version.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct TestDeviceV1 {
    pub latch: [u8; 4],
    pub storage: Vec<u8>,
}

/// The storage of the test device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestDevice {
    latch: [u8; 4],
    storage: Vec<u8>,
}

impl Default for TestDevice {
    fn default() -> Self {
        Self { latch: [0; 4], storage: vec![0; STORAGE_BYTES] }
    }
}

impl TestDevice {
    /// All storage zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads from the port storage; bytes past its end are zero.
    pub fn read_port(&self, offset: u16, data: &mut [u8]) {
        read_slice(&self.latch, usize::from(offset), data);
    }

    /// Writes to the port storage; bytes past its end vanish.
    pub fn write_port(&mut self, offset: u16, data: &[u8]) {
        write_slice(&mut self.latch, usize::from(offset), data);
    }

    /// Reads from the memory-bus storage.
    pub fn read_memory(&self, offset: u64, data: &mut [u8]) {
        read_slice(&self.storage, offset as usize, data);
    }

    /// Writes to the memory-bus storage.
    pub fn write_memory(&mut self, offset: u64, data: &[u8]) {
        write_slice(&mut self.storage, offset as usize, data);
    }

    /// The state to save.
    pub fn save(&self) -> TestDeviceV1 {
        TestDeviceV1 { latch: self.latch, storage: self.storage.clone() }
    }

    /// A device in a saved state; storage of another size is cut or filled with zeros.
    pub fn restore(state: TestDeviceV1) -> Self {
        let mut storage = state.storage;
        storage.resize(STORAGE_BYTES, 0);
        Self { latch: state.latch, storage }
    }
}

fn read_slice(from: &[u8], offset: usize, data: &mut [u8]) {
    for (index, byte) in data.iter_mut().enumerate() {
        *byte = from.get(offset.saturating_add(index)).copied().unwrap_or(0);
    }
}

fn write_slice(into: &mut [u8], offset: usize, data: &[u8]) {
    for (index, &byte) in data.iter().enumerate() {
        if let Some(place) = into.get_mut(offset.saturating_add(index)) {
            *place = byte;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_storage_keeps_slices() {
        let mut device = TestDevice::new();
        device.write_port(0, &0x1234_5678u32.to_le_bytes());
        device.write_port(1, &[0xaa]);
        let mut data = [0; 4];
        device.read_port(0, &mut data);
        assert_eq!(u32::from_le_bytes(data), 0x1234_aa78);
        device.read_port(2, &mut data[..2]);
        assert_eq!(data[..2], [0x34, 0x12]);
        device.read_port(3, &mut data);
        assert_eq!(data, [0x12, 0, 0, 0]);
    }

    #[test]
    fn memory_storage_ends_where_it_ends() {
        let mut device = TestDevice::new();
        device.write_memory(STORAGE_BYTES as u64 - 2, &[1, 2, 3, 4]);
        device.write_memory(u64::MAX, &[9; 8]);
        let mut data = [9; 4];
        device.read_memory(STORAGE_BYTES as u64 - 2, &mut data);
        assert_eq!(data, [1, 2, 0, 0]);
    }

    #[test]
    fn saved_state_round_trips() {
        let mut device = TestDevice::new();
        device.write_port(0, &[1, 2, 3, 4]);
        device.write_memory(77, &[5]);
        assert_ne!(device, TestDevice::new());
        assert_eq!(TestDevice::restore(device.save()), device);
        let short = TestDeviceV1 { latch: [0; 4], storage: vec![] };
        assert_eq!(TestDevice::restore(short), TestDevice::new());
    }
}
