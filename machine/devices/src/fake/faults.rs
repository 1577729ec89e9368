//! Faults around any function: slow, bits that flip, a device that falls off the bus.
//!
//! Invariant: without faults asked for, the function behaves as without this.

use std::sync::Arc;
use std::time::Duration;

use crate::pci::{ConfigSpace, PciFunction};

use super::Options;

/// Waits; devices have no clock of their own.
pub type Pause = Arc<dyn Fn(Duration) + Send + Sync>;

/// What is wrong with a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Each access to a BAR takes so long.
    pub latency: Option<Duration>,
    /// Each n-th read from a BAR has its lowest bit flipped.
    pub flip: Option<u64>,
    /// After so many accesses to its BARs it is gone: reads are all ones, as PCI has it.
    pub lost: Option<u64>,
}

impl Faults {
    /// Takes `latency`, `flip` and `lost`.
    ///
    /// # Errors
    /// A value is none.
    pub fn from(options: &mut Options) -> Result<Self, String> {
        let latency = options.time("latency")?;
        let flip = Some(options.number("flip", 0)?).filter(|every| *every > 0);
        let lost = Some(options.number("lost", u64::MAX)?).filter(|after| *after < u64::MAX);
        Ok(Self { latency, flip, lost })
    }
}

/// A function with faults.
pub struct Faulty {
    function: Box<dyn PciFunction>,
    faults: Faults,
    pause: Pause,
    accesses: u64,
    reads: u64,
}

impl Faulty {
    /// Puts faults around a function.
    pub fn new(function: Box<dyn PciFunction>, faults: Faults, pause: Pause) -> Self {
        Self { function, faults, pause, accesses: 0, reads: 0 }
    }

    fn is_lost(&self) -> bool {
        self.faults.lost.is_some_and(|after| self.accesses >= after)
    }

    /// Whether an access reaches the function.
    fn reaches(&mut self) -> bool {
        if let Some(latency) = self.faults.latency {
            (self.pause)(latency);
        }
        let reaches = !self.is_lost();
        self.accesses = self.accesses.saturating_add(1);
        reaches
    }
}

impl PciFunction for Faulty {
    fn config(&self) -> &ConfigSpace {
        self.function.config()
    }

    fn config_read(&mut self, offset: usize, data: &mut [u8]) {
        match self.is_lost() {
            true => data.fill(0xff),
            false => self.function.config_read(offset, data),
        }
    }

    fn config_write(&mut self, offset: usize, data: &[u8]) {
        if !self.is_lost() {
            self.function.config_write(offset, data);
        }
    }

    fn bar_read(&mut self, bar: usize, offset: u64, data: &mut [u8]) {
        if !self.reaches() {
            return data.fill(0xff);
        }
        self.function.bar_read(bar, offset, data);
        self.reads = self.reads.wrapping_add(1);
        if self.faults.flip.is_some_and(|every| self.reads.is_multiple_of(every))
            && let Some(byte) = data.first_mut()
        {
            *byte ^= 1;
        }
    }

    fn bar_write(&mut self, bar: usize, offset: u64, data: &[u8]) {
        if self.reaches() {
            self.function.bar_write(bar, offset, data);
        }
    }

    fn interrupt(&self) -> bool {
        !self.is_lost() && self.function.interrupt()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::fake::checksum::Checksum;

    fn faulty(text: &str) -> (Faulty, Arc<AtomicU64>) {
        let mut options = Options::parse(text).expect("options");
        let device = Checksum::new(&mut options).expect("a device");
        let faults = Faults::from(&mut options).expect("faults");
        let waited = Arc::new(AtomicU64::new(0));
        let count = waited.clone();
        let pause: Pause =
            Arc::new(move |time| _ = count.fetch_add(time.as_micros() as u64, Ordering::Relaxed));
        (Faulty::new(Box::new(device), faults, pause), waited)
    }

    fn first(device: &mut Faulty) -> u8 {
        let mut data = [0];
        device.bar_read(0, 0, &mut data);
        data[0]
    }

    #[test]
    fn each_nth_read_has_a_wrong_bit() {
        let (mut device, _) = faulty("flip=3");
        let seen: Vec<u8> = (0..6).map(|_| first(&mut device)).collect();
        assert_eq!(seen, [b'S', b'S', b'R', b'S', b'S', b'R']);
    }

    #[test]
    fn a_lost_device_reads_as_ones_everywhere() {
        let (mut device, _) = faulty("lost=2,block=1");
        device.bar_write(0, 4, &[1]);
        device.bar_write(0, 8, &[1]);
        assert!(!device.interrupt() && first(&mut device) == 0xff);
        let mut vendor = [0; 2];
        device.config_read(0, &mut vendor);
        assert_eq!(vendor, [0xff; 2]);
    }

    #[test]
    fn every_access_takes_its_time() {
        let (mut device, waited) = faulty("latency=5us");
        first(&mut device);
        device.bar_write(0, 8, &[1]);
        assert_eq!(waited.load(Ordering::Relaxed), 10);
        let (mut device, waited) = faulty("");
        first(&mut device);
        assert_eq!(waited.load(Ordering::Relaxed), 0);
    }
}
