//! fw_cfg, QEMU's firmware configuration port (QEMU docs/specs/fw_cfg): a 16-bit selector at
//! 0x510 and a byte stream at 0x511. No DMA interface, no writable items.
//!
//! Invariant: reading past an item, or an item that is not there, gives zeros.

use std::collections::BTreeMap;

/// Item keys a guest may ask for without looking them up.
pub mod key {
    /// The four bytes "QEMU".
    pub const SIGNATURE: u16 = 0x00;
    /// Interface features, u32: bit 0 the traditional interface.
    pub const ID: u16 = 0x01;
    /// RAM size in bytes, u64.
    pub const RAM_SIZE: u16 = 0x03;
    /// CPUs running at boot, u16.
    pub const NB_CPUS: u16 = 0x05;
    /// Whether to show a boot menu, u16.
    pub const BOOT_MENU: u16 = 0x0e;
    /// Highest APIC id + 1, u16.
    pub const MAX_CPUS: u16 = 0x0f;
    /// The directory of named files.
    pub const FILE_DIRECTORY: u16 = 0x19;
    /// The first named file.
    pub const FILE_FIRST: u16 = 0x20;
}

/// Bytes of a file name in the directory, its final zero included.
const NAME_BYTES: usize = 56;

/// The saved state of a [`FwCfg`], first version. The items are configuration and come with the
/// wiring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct FwCfgV1 {
    pub selector: u16,
    pub position: u32,
}

/// The configuration port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FwCfg {
    items: BTreeMap<u16, Vec<u8>>,
    selector: u16,
    position: u32,
}

impl FwCfg {
    /// A port that tells RAM size, CPU count and the named files, in this order.
    pub fn new(ram_bytes: u64, cpus: u16, files: &[(&str, Vec<u8>)]) -> Self {
        let mut items = BTreeMap::from([
            (key::SIGNATURE, b"QEMU".to_vec()),
            (key::ID, 1u32.to_le_bytes().to_vec()),
            (key::RAM_SIZE, ram_bytes.to_le_bytes().to_vec()),
            (key::NB_CPUS, cpus.to_le_bytes().to_vec()),
            (key::BOOT_MENU, 0u16.to_le_bytes().to_vec()),
            (key::MAX_CPUS, cpus.to_le_bytes().to_vec()),
        ]);
        let mut directory = (files.len() as u32).to_be_bytes().to_vec();
        for (key, (name, bytes)) in (key::FILE_FIRST..).zip(files) {
            assert!(name.len() < NAME_BYTES, "fw_cfg file names are shorter than 56 bytes");
            directory.extend((bytes.len() as u32).to_be_bytes());
            directory.extend(key.to_be_bytes());
            directory.extend([0; 2]);
            directory.extend(name.bytes().chain(std::iter::repeat(0)).take(NAME_BYTES));
            items.insert(key, bytes.clone());
        }
        items.insert(key::FILE_DIRECTORY, directory);
        Self { items, selector: 0, position: 0 }
    }

    /// Selects an item and starts at its first byte.
    pub fn select(&mut self, key: u16) {
        self.selector = key;
        self.position = 0;
    }

    /// The next byte of the selected item.
    pub fn read(&mut self) -> u8 {
        let item = self.items.get(&self.selector);
        let byte = item.and_then(|bytes| bytes.get(self.position as usize)).copied().unwrap_or(0);
        self.position = self.position.saturating_add(1);
        byte
    }

    /// The state to save.
    pub fn save(&self) -> FwCfgV1 {
        FwCfgV1 { selector: self.selector, position: self.position }
    }

    /// A port in a saved state, over the items of a fresh one.
    pub fn restore(fresh: Self, state: FwCfgV1) -> Self {
        Self { selector: state.selector, position: state.position, ..fresh }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take<const N: usize>(port: &mut FwCfg, key: u16) -> [u8; N] {
        port.select(key);
        std::array::from_fn(|_| port.read())
    }

    #[test]
    fn well_known_items() {
        let mut port = FwCfg::new(0x1_2345_6000, 3, &[]);
        assert_eq!(&take::<4>(&mut port, key::SIGNATURE), b"QEMU");
        assert_eq!(u32::from_le_bytes(take(&mut port, key::ID)), 1);
        assert_eq!(u64::from_le_bytes(take(&mut port, key::RAM_SIZE)), 0x1_2345_6000);
        assert_eq!(u16::from_le_bytes(take(&mut port, key::NB_CPUS)), 3);
        assert_eq!(u16::from_le_bytes(take(&mut port, key::MAX_CPUS)), 3);
        assert_eq!(take::<8>(&mut port, 0x7777), [0; 8]);
        assert_eq!(take::<6>(&mut port, key::SIGNATURE), *b"QEMU\0\0");
    }

    #[test]
    fn named_files_are_in_the_directory() {
        let mut port = FwCfg::new(0, 1, &[("opt/a", vec![1, 2]), ("opt/b", vec![9])]);
        let directory: [u8; 132] = take(&mut port, key::FILE_DIRECTORY);
        assert_eq!(directory[..4], [0, 0, 0, 2]);
        assert_eq!(directory[68..74], [0, 0, 0, 1, 0, 0x21]);
        assert_eq!(&directory[76..82], b"opt/b\0");
        assert_eq!(take::<3>(&mut port, 0x20), [1, 2, 0]);
    }

    #[test]
    fn saved_state_round_trips() {
        let mut port = FwCfg::new(1 << 30, 2, &[]);
        port.select(key::RAM_SIZE);
        port.read();
        let back = FwCfg::restore(FwCfg::new(1 << 30, 2, &[]), port.save());
        assert_eq!(back, port);
        assert_ne!(back, FwCfg::new(1 << 30, 2, &[]));
    }
}
