//! A checksum accelerator that no company makes: the worked example of docs/writing-a-device.md.
//!
//! ```text
//! BAR 0, 4 KiB of memory
//!  0x00 r   "SUM1"
//!  0x04 rw  control: bit 0 interrupt enable; bit 1 (write) start again
//!  0x08 w   data: every byte stored here is summed, in order
//!  0x0c r   the Adler-32 (RFC 1950, 8.2) of all bytes so far
//!  0x10 r   how many there were
//!  0x14 rw1c status: bit 0 a block is complete
//! ```
//!
//! INTA# is high while a block is complete and the interrupt is enabled. Option `block=N`: bytes of a
//! block, 64 unless said otherwise. Invariant: registers change only by stores.

use crate::pci::{BarKind, ConfigSpace, Identity, PciFunction};

use super::Options;

const BAR: usize = 0;
const BAR_BYTES: u64 = 0x1000;
const IDENTITY: u64 = 0x00;
const CONTROL: u64 = 0x04;
const DATA: u64 = 0x08;
const SUM: u64 = 0x0c;
const COUNT: u64 = 0x10;
const STATUS: u64 = 0x14;

const ENABLE: u8 = 1 << 0;
const RESTART: u8 = 1 << 1;
const COMPLETE: u8 = 1 << 0;
/// Largest prime below 2^16.
const MODULUS: u32 = 65521;

/// The device.
#[derive(Clone, Debug)]
pub struct Checksum {
    config: ConfigSpace,
    block: u32,
    control: u8,
    status: u8,
    count: u32,
    /// The halves of the sum.
    low: u32,
    high: u32,
}

impl Checksum {
    /// Makes one from what the user wrote behind its name.
    ///
    /// # Errors
    /// An option's value is none.
    pub fn new(options: &mut Options) -> Result<Self, String> {
        let block = options.number("block", 64)?;
        let block = u32::try_from(block).ok().filter(|block| *block > 0);
        let block = block.ok_or("a block has 1 to 4294967295 bytes")?;
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x1234,
            device: 0x50fa,
            revision: 1,
            class: [0x0b, 0x40, 0x00], // co-processor
            subsystem_vendor: 0x1234,
            subsystem: 1,
        });
        config.set_interrupt_pin(1);
        config.add_bar(BAR, BarKind::Memory32, BAR_BYTES);
        Ok(Self { config, block, control: 0, status: 0, count: 0, low: 1, high: 0 })
    }

    fn sum(&mut self, byte: u8) {
        self.low = (self.low + u32::from(byte)) % MODULUS;
        self.high = (self.high + self.low) % MODULUS;
        self.count = self.count.wrapping_add(1);
        if self.count.is_multiple_of(self.block) {
            self.status |= COMPLETE;
        }
    }

    fn restart(&mut self) {
        (self.count, self.low, self.high, self.status) = (0, 1, 0, 0);
    }
}

impl PciFunction for Checksum {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_write(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
    }

    fn bar_read(&mut self, _bar: usize, offset: u64, data: &mut [u8]) {
        let register = match offset & !3 {
            IDENTITY => u32::from_le_bytes(*b"SUM1"),
            CONTROL => self.control.into(),
            SUM => self.high << 16 | self.low,
            COUNT => self.count,
            STATUS => self.status.into(),
            _ => 0,
        };
        let bytes = register.to_le_bytes();
        data.fill(0);
        for (to, from) in data.iter_mut().zip(&bytes[(offset & 3) as usize..]) {
            *to = *from;
        }
    }

    fn bar_write(&mut self, _bar: usize, offset: u64, data: &[u8]) {
        match (offset, data) {
            (DATA..SUM, _) => data.iter().for_each(|byte| self.sum(*byte)),
            (CONTROL, [value, ..]) => {
                self.control = value & ENABLE;
                if value & RESTART != 0 {
                    self.restart();
                }
            }
            (STATUS, [value, ..]) => self.status &= !value,
            _ => {}
        }
    }

    fn interrupt(&self) -> bool {
        self.control & ENABLE != 0 && self.status & COMPLETE != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(text: &str) -> Checksum {
        Checksum::new(&mut Options::parse(text).expect("options")).expect("a device")
    }

    fn read(device: &mut Checksum, offset: u64) -> u32 {
        let mut data = [0; 4];
        device.bar_read(BAR, offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn bytes_of_any_width_are_summed() {
        let mut device = device("");
        assert_eq!(read(&mut device, IDENTITY), u32::from_le_bytes(*b"SUM1"));
        device.bar_write(BAR, DATA, b"Wiki");
        device.bar_write(BAR, DATA, b"pe");
        device.bar_write(BAR, DATA + 3, b"dia");
        assert_eq!((read(&mut device, SUM), read(&mut device, COUNT)), (0x11e6_0398, 9));
        let mut byte = [0];
        device.bar_read(BAR, SUM + 3, &mut byte);
        assert_eq!(byte, [0x11]);
        device.bar_write(BAR, CONTROL, &[RESTART]);
        assert_eq!((read(&mut device, SUM), read(&mut device, COUNT)), (1, 0));
    }

    #[test]
    fn a_complete_block_interrupts_until_it_is_acknowledged() {
        let mut device = device("block=2");
        device.bar_write(BAR, DATA, &[1, 2]);
        assert!(!device.interrupt(), "not enabled");
        device.bar_write(BAR, CONTROL, &[ENABLE]);
        assert!(device.interrupt());
        device.bar_write(BAR, STATUS, &[COMPLETE]);
        assert!(!device.interrupt());
    }

    #[test]
    fn a_block_of_nothing_is_refused() {
        for bad in ["block=0", "block=x", "block=5000000000"] {
            let mut options = Options::parse(bad).expect("options");
            assert!(Checksum::new(&mut options).is_err(), "{bad}");
        }
    }
}
