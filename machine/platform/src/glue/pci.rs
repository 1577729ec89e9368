//! The PCI root bus: its functions, the two ways into their configuration space, their windows.
//!
//! Port 0xcf9 lies among the configuration ports, so the reset control register is here too.
//! Invariants: a configuration access never leaves its dword; each function has its own lock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use devices::pci::{BARS, BarKind, ConfigAddress, ConfigPort, PciFunction, decode_ecam};
use devices::reset::ResetControl;
use x86::GuestPhys;

use crate::bus::{MmioDevice, PortDevice};
use crate::irq::{IrqLine, lock};
use crate::layout::{PCI_HOLE, PCI_WINDOW_SIZE, RESET_CONTROL};
use crate::outcome::{Outcome, ResetSource};
use crate::run::Ending;

/// A function, and where its INTA# leads.
struct Slot {
    function: Mutex<Box<dyn PciFunction>>,
    line: Option<IrqLine>,
}

impl Slot {
    /// An access, after which the line is as the function has it.
    fn with(&self, access: impl FnOnce(&mut dyn PciFunction)) {
        let mut function = lock(&self.function);
        access(&mut **function);
        if let Some(line) = &self.line {
            line.set(function.interrupt());
        }
    }
}

/// Bus 0.
#[derive(Default)]
pub(crate) struct PciRoot {
    /// By device and function number.
    functions: BTreeMap<u8, Slot>,
    /// Where [`PciRoot::add`] places the next BAR in the memory window.
    next_base: u64,
}

impl PciRoot {
    /// Puts a function into a slot; its memory BARs get addresses as from firmware, and decode once
    /// the OS says so.
    /// `line` is for functions that have an [`PciFunction::interrupt`].
    pub(crate) fn add(
        &mut self,
        device: u8,
        mut function: Box<dyn PciFunction>,
        line: Option<IrqLine>,
    ) {
        self.place_bars(&mut *function);
        let slot = Slot { function: Mutex::new(function), line };
        let before = self.functions.insert(device << 3, slot);
        assert!(before.is_none(), "two functions in one slot");
    }

    /// Sizes each memory BAR and gives it the next aligned address, as far as the window goes.
    fn place_bars(&mut self, function: &mut dyn PciFunction) {
        const BAR_0: usize = 0x10;
        const PORT: u32 = 1;
        const WIDE: u32 = 4;
        let mut bar = 0;
        while bar < BARS {
            let at = BAR_0 + bar * 4;
            let mut mask = [0; 4];
            function.config_write(at, &[0xff; 4]);
            function.config_read(at, &mut mask);
            function.config_write(at, &[0; 4]);
            let mask = u32::from_le_bytes(mask);
            bar += if mask & PORT == 0 && mask & WIDE != 0 { 2 } else { 1 };
            let size = u64::from(!(mask & !0xf)) + 1;
            if mask & PORT != 0 || mask & !0xf == 0 {
                continue;
            }
            let base = self.next_base.next_multiple_of(size);
            if base + size <= PCI_WINDOW_SIZE {
                self.next_base = base + size;
                function.config_write(at, &((PCI_HOLE.0 + base) as u32).to_le_bytes());
            }
        }
    }

    fn function(&self, address: ConfigAddress) -> Option<&Slot> {
        self.functions.get(&address.devfn).filter(|_| address.bus == 0)
    }

    /// Calls `each` for every piece of an access that stays within a dword.
    fn pieces(offset: usize, length: usize, mut each: impl FnMut(usize, std::ops::Range<usize>)) {
        let mut done = 0;
        while done < length {
            let at = offset + done;
            let count = (4 - at % 4).min(length - done);
            each(at, done..done + count);
            done += count;
        }
    }

    fn config_read(&self, address: ConfigAddress, data: &mut [u8]) {
        let Some(slot) = self.function(address) else { return data.fill(0xff) };
        slot.with(|function| {
            Self::pieces(address.offset, data.len(), |at, range| {
                function.config_read(at, &mut data[range]);
            });
        });
    }

    fn config_write(&self, address: ConfigAddress, data: &[u8]) {
        let Some(slot) = self.function(address) else { return };
        slot.with(|function| {
            Self::pieces(address.offset, data.len(), |at, range| {
                function.config_write(at, &data[range]);
            });
        });
    }

    /// Finds the function that decodes all bytes of a memory access; calls `access` with the BAR
    /// and the offset into it.
    fn decode(
        &self,
        address: GuestPhys,
        length: usize,
        access: &mut dyn FnMut(&mut dyn PciFunction, usize, u64),
    ) -> bool {
        self.functions.values().any(|slot| {
            let function = lock(&slot.function);
            let window = function.config().windows().find(|window| {
                let offset = address.0.wrapping_sub(window.base.0);
                window.kind != BarKind::Port
                    && offset < window.size
                    && window.size - offset >= length as u64
            });
            let Some(window) = window else { return false };
            drop(function);
            slot.with(|function| access(function, window.bar, address.0 - window.base.0));
            true
        })
    }
}

/// ECAM.
pub(crate) struct EcamWindow(pub(crate) Arc<PciRoot>);

impl MmioDevice for EcamWindow {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.0.config_read(decode_ecam(offset), data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.0.config_write(decode_ecam(offset), data);
    }
}

/// The memory window at [`PCI_HOLE`], where BARs are.
pub(crate) struct MemoryWindow(pub(crate) Arc<PciRoot>);

impl MmioDevice for MemoryWindow {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let address = PCI_HOLE + offset;
        let found = self.0.decode(address, data.len(), &mut |function, bar, offset| {
            function.bar_read(bar, offset, data);
        });
        if !found {
            data.fill(0xff);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.0.decode(PCI_HOLE + offset, data.len(), &mut |function, bar, offset| {
            function.bar_write(bar, offset, data);
        });
    }
}

/// Ports 0xcf8-0xcff.
pub(crate) struct ConfigPorts {
    root: Arc<PciRoot>,
    latch: Mutex<ConfigPort>,
    reset: Mutex<ResetControl>,
    ending: Arc<Ending>,
}

/// The reset control register's offset from 0xcf8.
const RESET_OFFSET: u16 = RESET_CONTROL - 0xcf8;

impl ConfigPorts {
    pub(crate) fn new(root: Arc<PciRoot>, ending: Arc<Ending>) -> Self {
        let (latch, reset) = (Mutex::default(), Mutex::default());
        Self { root, latch, reset, ending }
    }

    fn target(&self, offset: u16) -> Option<ConfigAddress> {
        lock(&self.latch).target(offset - 4)
    }
}

impl PortDevice for ConfigPorts {
    fn read(&self, offset: u16, data: &mut [u8]) {
        match (offset, data.len()) {
            (0, 4) => data.copy_from_slice(&lock(&self.latch).read().to_le_bytes()),
            (RESET_OFFSET, 1) => data[0] = lock(&self.reset).read(),
            (4.., _) => match self.target(offset) {
                Some(address) => self.root.config_read(address, data),
                None => data.fill(0xff),
            },
            _ => data.fill(0xff),
        }
    }

    fn write(&self, offset: u16, data: &[u8]) {
        match (offset, data) {
            (0, &[a, b, c, d]) => lock(&self.latch).write(u32::from_le_bytes([a, b, c, d])),
            (RESET_OFFSET, &[value]) => {
                let fires = lock(&self.reset).write(value);
                if fires {
                    self.ending.finish(Outcome::Reset { by: ResetSource::ResetControl });
                }
            }
            (4.., _) => {
                if let Some(address) = self.target(offset) {
                    self.root.config_write(address, data);
                }
            }
            _ => {}
        }
    }
}
