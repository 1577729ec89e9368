//! Interrupt wiring: from devices' lines through the 8259 pair and the IOAPIC to the engine.
//!
//! ISA IRQ n goes to PIC input n and IOAPIC pin n, IRQ 0 to pin 2; PCI interrupts 16-23 go to the
//! IOAPIC alone. Lines shared by several devices are high while any of them is. Invariants: the
//! engine hears of PIC changes in order, because it is told under the lock; it must not hold locks
//! of its own that `signal_msi` or `set_pic_output` take while it calls `GuestIo`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine::{Engine, MessageSource, MsiMessage, Sent};
use irqchip::{IoApic, Msi, Pic};

use crate::bus::{MmioDevice, PortDevice};
use crate::layout::isa_irq;

/// IOAPIC pins.
pub(crate) const LINES: usize = irqchip::ioapic::PINS;

/// Locks; a thread that panicked while it held the lock left a model in a valid state, because
/// models have no invalid ones.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Chips {
    pic: Pic,
    ioapic: IoApic,
    /// Which devices drive each line high.
    drivers: [u32; LINES],
    next_driver: [u32; LINES],
    pic_output: bool,
}

/// The interrupt controllers and the engine behind them.
pub(crate) struct Interrupts {
    engine: Arc<dyn Engine>,
    chips: Mutex<Chips>,
    called: AtomicU64,
    routed: AtomicU64,
}

impl Interrupts {
    /// The controllers as a PC's firmware leaves them; `open` are the ISA interrupts (bit by
    /// number) that it leaves unmasked at the 8259 pair.
    pub(crate) fn new(engine: Arc<dyn Engine>, open: u16) -> Arc<Self> {
        let pic = firmware_pic(open);
        let chips = Chips {
            pic,
            ioapic: IoApic::new(),
            drivers: [0; LINES],
            next_driver: [1; LINES],
            pic_output: false,
        };
        let (called, routed) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { engine, chips: Mutex::new(chips), called, routed })
    }

    /// A further device on a line.
    pub(crate) fn line(self: &Arc<Self>, number: u8) -> IrqLine {
        let mut chips = lock(&self.chips);
        let number = usize::from(number);
        let driver = chips.next_driver[number];
        assert!(driver != 0, "at most 32 devices share a line");
        chips.next_driver[number] = driver << 1;
        IrqLine { interrupts: self.clone(), number, driver, high: AtomicBool::new(false) }
    }

    /// The engine's local APIC ended a level-triggered interrupt.
    pub(crate) fn end_of_interrupt(&self, vector: u8) {
        let mut chips = lock(&self.chips);
        chips.ioapic.end_of_interrupt(vector, &mut |message| self.send(message));
    }

    /// The vector of the 8259 pair, if it still has one.
    pub(crate) fn acknowledge_pic(&self) -> Option<u8> {
        let mut chips = lock(&self.chips);
        let vector = chips.pic.output().then(|| chips.pic.acknowledge());
        self.tell_pic_output(&mut chips);
        vector
    }

    /// A device's own message-signalled interrupt, from its source if it has one.
    pub(crate) fn message(&self, source: Option<&dyn MessageSource>, address: u64, data: u32) {
        let message = MsiMessage { address, data };
        let sent = match source {
            Some(source) => source.send(message),
            None => self.engine.signal_msi(message).map(|()| Sent::Called),
        };
        // As in `send`: what no APIC takes is the guest's loss.
        let counter = if matches!(sent, Ok(Sent::Routed)) { &self.routed } else { &self.called };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Devices' messages that were called and that went by a route.
    pub(crate) fn messages(&self) -> (u64, u64) {
        (self.called.load(Ordering::Relaxed), self.routed.load(Ordering::Relaxed))
    }

    /// A function's sources of messages; none if the engine has no use for them.
    pub(crate) fn sources(&self, vectors: usize) -> Vec<Box<dyn MessageSource>> {
        let Some(paths) = self.engine.kernel_paths() else { return Vec::new() };
        (0..vectors).map_while(|_| paths.message_source().ok()).collect()
    }

    fn drive(&self, number: usize, driver: u32, high: bool) {
        let mut chips = lock(&self.chips);
        let before = chips.drivers[number] != 0;
        if high {
            chips.drivers[number] |= driver;
        } else {
            chips.drivers[number] &= !driver;
        }
        let after = chips.drivers[number] != 0;
        if before != after {
            self.set(&mut chips, number, after);
        }
    }

    fn set(&self, chips: &mut Chips, number: usize, high: bool) {
        if number < 16 {
            chips.pic.set_line(number as u8, high);
            self.tell_pic_output(chips);
        }
        let pin = if number == 0 { 2 } else { number };
        if let Some(message) = chips.ioapic.set_line(pin, high) {
            self.send(message);
        }
    }

    /// A write to a chip may have changed INTR.
    fn tell_pic_output(&self, chips: &mut Chips) {
        let output = chips.pic.output();
        if output != chips.pic_output {
            chips.pic_output = output;
            self.engine.set_pic_output(output);
        }
    }

    fn send(&self, message: Msi) {
        let message = MsiMessage { address: message.address, data: message.data };
        // A guest can program a message no APIC takes; the bus drops it, and so do we.
        let _ = self.engine.signal_msi(message);
    }
}

/// The 8259 pair with the vectors of the PC BIOS, 0x08-0x0f and 0x70-0x77, and the SCI
/// level-triggered.
fn firmware_pic(open: u16) -> Pic {
    let mut pic = Pic::new();
    let [master_open, slave_open] = open.to_le_bytes();
    let cascade = 1 << 2;
    for (base, vectors, cascade_word, mask) in
        [(0x20, 0x08, cascade, !(master_open | cascade)), (0xa0, 0x70, 2, !slave_open)]
    {
        pic.write(base, 0x11);
        for word in [vectors, cascade_word, 1, mask] {
            pic.write(base + 1, word);
        }
    }
    pic.write(0x4d1, 1 << (isa_irq::SCI - 8));
    pic
}

/// One device's end of an interrupt line. Used under the device's lock, so its levels are in order.
pub(crate) struct IrqLine {
    interrupts: Arc<Interrupts>,
    number: usize,
    driver: u32,
    high: AtomicBool,
}

impl IrqLine {
    /// Drives the line.
    pub(crate) fn set(&self, high: bool) {
        if self.high.swap(high, Ordering::AcqRel) != high {
            self.interrupts.drive(self.number, self.driver, high);
        }
    }

    /// A rising edge; the line stays high.
    pub(crate) fn edge(&self) {
        self.set(false);
        self.set(true);
    }
}

/// The 8259 pair's ports from `base`.
pub(crate) struct PicPorts {
    pub(crate) interrupts: Arc<Interrupts>,
    pub(crate) base: u16,
}

impl PortDevice for PicPorts {
    fn read(&self, offset: u16, data: &mut [u8]) {
        let mut chips = lock(&self.interrupts.chips);
        for (byte, port) in data.iter_mut().zip(self.base + offset..) {
            *byte = chips.pic.read(port);
        }
        self.interrupts.tell_pic_output(&mut chips);
    }

    fn write(&self, offset: u16, data: &[u8]) {
        let mut chips = lock(&self.interrupts.chips);
        for (&byte, port) in data.iter().zip(self.base + offset..) {
            chips.pic.write(port, byte);
        }
        self.interrupts.tell_pic_output(&mut chips);
    }
}

/// The IOAPIC's page.
pub(crate) struct IoApicPage(pub(crate) Arc<Interrupts>);

impl MmioDevice for IoApicPage {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let value = lock(&self.0.chips).ioapic.read(offset as u32 & !3).to_le_bytes();
        let lane = offset as usize & 3;
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = value.get(lane + index).copied().unwrap_or(0);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        // Registers are 32 bits wide at multiples of 16; narrower stores are zero-extended.
        let mut bytes = [0; 4];
        let length = data.len().min(4);
        bytes[..length].copy_from_slice(&data[..length]);
        let mut chips = lock(&self.0.chips);
        let value = u32::from_le_bytes(bytes);
        chips.ioapic.write(offset as u32, value, &mut |message| self.0.send(message));
    }
}
