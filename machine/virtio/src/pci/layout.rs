//! Where things are in the function: one BAR of memory, and the capabilities that say so (virtio
//! 1.2, 4.1.4).
//!
//! ```text
//! BAR 0  0x0000 common  0x1000 ISR  0x2000 device  0x3000 doorbells  0x4000 MSI-X  0x6000 PBA
//! ```

use devices::pci::{BarKind, ConfigSpace, Identity};

use super::msix::ENTRY_BYTES;
use crate::device::Kind;

pub(super) const BAR: usize = 0;
const BAR_BYTES: u64 = 0x8000;

pub(super) const COMMON: u64 = 0x0000;
pub(super) const COMMON_BYTES: u64 = 0x38;
pub(super) const ISR: u64 = 0x1000;
pub(super) const DEVICE: u64 = 0x2000;
pub(super) const NOTIFY: u64 = 0x3000;
pub(super) const MSIX_TABLE: u64 = 0x4000;
pub(super) const PENDING: u64 = 0x6000;
/// Every region but the MSI-X table ends after so many bytes.
pub(super) const REGION_BYTES: u64 = 0x1000;
/// Bytes between two queues' doorbells.
pub(super) const NOTIFY_STRIDE: u32 = 4;

const VENDOR: u16 = 0x1af4;
/// Ids of devices of this specification: 0x1040 and the type (4.1.2).
const FIRST_DEVICE: u16 = 0x1040;
const SUBSYSTEM: u16 = 0x1100;

const CAPABILITY_VENDOR: u8 = 0x09;
const CAPABILITY_MSIX: u8 = 0x11;
const CFG_COMMON: u8 = 1;
const CFG_NOTIFY: u8 = 2;
const CFG_ISR: u8 = 3;
const CFG_DEVICE: u8 = 4;
const CFG_PCI: u8 = 5;

/// Where in configuration space the two capabilities are that the driver writes to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    /// MSI-X message control.
    pub(super) msix_control: usize,
    /// The PCI configuration access capability.
    pub(super) pci_cfg: usize,
}

/// The function's configuration space.
pub(super) fn config_space(kind: Kind, vectors: usize) -> (ConfigSpace, Places) {
    let mut space = ConfigSpace::new(Identity {
        vendor: VENDOR,
        device: FIRST_DEVICE + kind as u16,
        revision: 1,
        class: kind.pci_class(),
        subsystem_vendor: VENDOR,
        subsystem: SUBSYSTEM,
    });
    assert!(MSIX_TABLE + vectors as u64 * ENTRY_BYTES <= PENDING, "the table fits its region");
    space.set_interrupt_pin(1);
    space.add_bar(BAR, BarKind::Memory32, BAR_BYTES);
    let mut region = |kind: u8, offset: u64, length: u64, more: &[u8]| {
        let mut body = vec![(16 + more.len()) as u8, kind, BAR as u8, 0, 0, 0];
        body.extend((offset as u32).to_le_bytes());
        body.extend((length as u32).to_le_bytes());
        body.extend(more);
        space.add_capability(CAPABILITY_VENDOR, &body)
    };
    region(CFG_COMMON, COMMON, COMMON_BYTES, &[]);
    region(CFG_ISR, ISR, 1, &[]);
    region(CFG_DEVICE, DEVICE, REGION_BYTES, &[]);
    region(CFG_NOTIFY, NOTIFY, REGION_BYTES, &NOTIFY_STRIDE.to_le_bytes());
    let pci_cfg = region(CFG_PCI, 0, 0, &[0; 4]);
    space.allow(pci_cfg + 4, &[0xff]);
    space.allow(pci_cfg + 8, &[0xff; 12]);
    let mut body = (vectors as u16 - 1).to_le_bytes().to_vec();
    body.extend((MSIX_TABLE as u32 | BAR as u32).to_le_bytes());
    body.extend((PENDING as u32 | BAR as u32).to_le_bytes());
    let msix_control = space.add_capability(CAPABILITY_MSIX, &body) + 2;
    space.allow(msix_control, &[0, 0xc0]);
    (space, Places { msix_control, pci_cfg })
}
