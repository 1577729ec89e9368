//! The port bus and the memory bus: who answers at an address.
//!
//! Ports are looked up in a table of 65536 bytes, memory by binary search. Invariants: claims never
//! overlap; an access that leaves its claim goes on byte by byte; what nobody claims reads as ones.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use virtio::Trace;
use x86::GuestPhys;

use crate::irq::lock;

/// A device on the port bus; offsets count from its claim's first port.
pub(crate) trait PortDevice: Send + Sync {
    /// IN of 1, 2 or 4 bytes, all within the claim.
    fn read(&self, offset: u16, data: &mut [u8]);
    /// OUT.
    fn write(&self, offset: u16, data: &[u8]);
}

/// A device on the memory bus; offsets count from its claim's first address.
pub(crate) trait MmioDevice: Send + Sync {
    /// A load of 1 to 8 bytes, all within the claim.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// A store.
    fn write(&self, offset: u64, data: &[u8]);
}

/// Tells of each address once that nobody answers at.
struct Unclaimed {
    what: &'static str,
    trace: Option<Trace>,
    told: Mutex<BTreeSet<u64>>,
}

impl Unclaimed {
    /// A guest that tries more than so many is told of no further.
    const MOST: usize = 256;

    fn new(what: &'static str, trace: Option<Trace>) -> Self {
        Self { what, trace, told: Mutex::default() }
    }

    fn note(&self, address: u64) {
        let Some(trace) = &self.trace else { return };
        let mut told = lock(&self.told);
        if told.len() < Self::MOST && told.insert(address) {
            trace(&format!("nobody answers at {} {address:#x}", self.what));
        }
    }
}

const UNCLAIMED: u8 = u8::MAX;

struct PortClaim {
    first: u16,
    last: u16,
    device: Arc<dyn PortDevice>,
}

/// The port bus.
pub(crate) struct PortBus {
    /// Index into `claims` by port.
    table: Box<[u8]>,
    claims: Vec<PortClaim>,
    unclaimed: Unclaimed,
}

impl PortBus {
    /// `trace` is told where nobody answers.
    pub(crate) fn new(trace: Option<Trace>) -> Self {
        let unclaimed = Unclaimed::new("port", trace);
        Self { table: vec![UNCLAIMED; 0x1_0000].into(), claims: Vec::new(), unclaimed }
    }

    /// Gives `count` ports from `first` to a device.
    pub(crate) fn claim(&mut self, first: u16, count: u16, device: Arc<dyn PortDevice>) {
        assert!(self.claims.len() < usize::from(UNCLAIMED), "the table's index is one byte");
        let last = first + (count - 1);
        let index = self.claims.len() as u8;
        for entry in &mut self.table[usize::from(first)..=usize::from(last)] {
            assert!(*entry == UNCLAIMED, "two devices at one port");
            *entry = index;
        }
        self.claims.push(PortClaim { first, last, device });
    }

    /// The claim that has a port, and whether it has all bytes of an access.
    fn find(&self, port: u16, length: usize) -> Option<(&PortClaim, bool)> {
        let claim = self.claims.get(usize::from(self.table[usize::from(port)]))?;
        Some((claim, usize::from(port) + length - 1 <= usize::from(claim.last)))
    }

    pub(crate) fn read(&self, port: u16, data: &mut [u8]) {
        match self.find(port, data.len()) {
            Some((claim, true)) => claim.device.read(port - claim.first, data),
            _ if data.len() == 1 => {
                data[0] = 0xff;
                self.unclaimed.note(port.into());
            }
            _ => {
                for (index, byte) in data.chunks_mut(1).enumerate() {
                    self.read(port.wrapping_add(index as u16), byte);
                }
            }
        }
    }

    pub(crate) fn write(&self, port: u16, data: &[u8]) {
        match self.find(port, data.len()) {
            Some((claim, true)) => claim.device.write(port - claim.first, data),
            _ if data.len() == 1 => self.unclaimed.note(port.into()),
            _ => {
                for (index, byte) in data.chunks(1).enumerate() {
                    self.write(port.wrapping_add(index as u16), byte);
                }
            }
        }
    }
}

struct MmioClaim {
    first: u64,
    last: u64,
    device: Arc<dyn MmioDevice>,
}

/// The memory bus, without RAM.
pub(crate) struct MmioBus {
    /// Ascending.
    claims: Vec<MmioClaim>,
    unclaimed: Unclaimed,
}

impl MmioBus {
    /// `trace` is told where nobody answers.
    pub(crate) fn new(trace: Option<Trace>) -> Self {
        Self { claims: Vec::new(), unclaimed: Unclaimed::new("address", trace) }
    }

    /// Gives `size` bytes from `start` to a device.
    pub(crate) fn claim(&mut self, start: GuestPhys, size: u64, device: Arc<dyn MmioDevice>) {
        let (first, last) = (start.0, start.0 + (size - 1));
        let at = self.claims.partition_point(|claim| claim.first < first);
        assert!(at == 0 || self.claims[at - 1].last < first, "two devices at one address");
        assert!(self.claims.get(at).is_none_or(|next| next.first > last), "two devices overlap");
        self.claims.insert(at, MmioClaim { first, last, device });
    }

    fn find(&self, address: u64) -> Option<&MmioClaim> {
        let after = self.claims.partition_point(|claim| claim.first <= address);
        self.claims[..after].last().filter(|claim| address <= claim.last)
    }

    pub(crate) fn read(&self, address: GuestPhys, data: &mut [u8]) {
        match self.find(address.0) {
            Some(claim) if data.len() as u64 - 1 <= claim.last - address.0 => {
                claim.device.read(address.0 - claim.first, data);
            }
            _ if data.len() == 1 => {
                data[0] = 0xff;
                self.unclaimed.note(address.0);
            }
            _ => {
                for (index, byte) in data.chunks_mut(1).enumerate() {
                    self.read(address.wrapping_add(index as u64), byte);
                }
            }
        }
    }

    pub(crate) fn write(&self, address: GuestPhys, data: &[u8]) {
        match self.find(address.0) {
            Some(claim) if data.len() as u64 - 1 <= claim.last - address.0 => {
                claim.device.write(address.0 - claim.first, data);
            }
            _ if data.len() == 1 => self.unclaimed.note(address.0),
            _ => {
                for (index, byte) in data.chunks(1).enumerate() {
                    self.write(address.wrapping_add(index as u64), byte);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads as its offset + 0x10, remembers writes.
    #[derive(Default)]
    struct Probe(Mutex<Vec<(u64, Vec<u8>)>>);

    impl PortDevice for Probe {
        fn read(&self, offset: u16, data: &mut [u8]) {
            MmioDevice::read(self, offset.into(), data);
        }
        fn write(&self, offset: u16, data: &[u8]) {
            MmioDevice::write(self, offset.into(), data);
        }
    }

    impl MmioDevice for Probe {
        fn read(&self, offset: u64, data: &mut [u8]) {
            for (byte, at) in data.iter_mut().zip(offset..) {
                *byte = at as u8 + 0x10;
            }
        }
        fn write(&self, offset: u64, data: &[u8]) {
            lock(&self.0).push((offset, data.to_vec()));
        }
    }

    #[test]
    fn ports_find_their_device() {
        let probe = Arc::new(Probe::default());
        let mut bus = PortBus::new(None);
        bus.claim(0x100, 4, probe.clone());
        bus.claim(0xffff, 1, probe.clone());
        let mut data = [0; 4];
        bus.read(0x100, &mut data);
        assert_eq!(data, [0x10, 0x11, 0x12, 0x13]);
        bus.read(0x102, &mut data);
        assert_eq!(data, [0x12, 0x13, 0xff, 0xff]);
        bus.read(0xfe, &mut data);
        assert_eq!(data, [0xff, 0xff, 0x10, 0x11]);
        bus.read(0xffff, &mut data);
        assert_eq!(data, [0x10, 0xff, 0xff, 0xff], "wraps");
        bus.write(0x103, &[7, 8]);
        bus.write(0x5000, &[1, 2, 3, 4]);
        assert_eq!(*lock(&probe.0), [(3, vec![7])]);
    }

    #[test]
    fn memory_finds_its_device() {
        let probe = Arc::new(Probe::default());
        let mut bus = MmioBus::new(None);
        bus.claim(GuestPhys(0x3000), 0x1000, probe.clone());
        bus.claim(GuestPhys(0x1000), 0x10, probe.clone());
        let mut data = [0; 8];
        bus.read(GuestPhys(0x1004), &mut data);
        assert_eq!(data[0], 0x14);
        bus.read(GuestPhys(0x100c), &mut data);
        assert_eq!(data, [0x1c, 0x1d, 0x1e, 0x1f, 0xff, 0xff, 0xff, 0xff]);
        bus.read(GuestPhys(u64::MAX), &mut data);
        assert_eq!(data, [0xff; 8]);
        bus.write(GuestPhys(0x3fff), &[1, 2]);
        assert_eq!(*lock(&probe.0), [(0xfff, vec![1])]);
    }

    #[test]
    fn what_nobody_answers_at_is_told_once() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let lines = told.clone();
        let trace: Trace = Arc::new(move |line: &str| lock(&lines).push(line.to_owned()));
        let ports = PortBus::new(Some(trace.clone()));
        let memory = MmioBus::new(Some(trace));
        for _ in 0..2 {
            ports.read(0x300, &mut [0; 2]);
            memory.write(GuestPhys(0xd000_0000), &[1]);
        }
        let wanted = ["port 0x300", "port 0x301", "address 0xd0000000"]
            .map(|at| format!("nobody answers at {at}"));
        assert_eq!(*lock(&told), wanted);
        (0..1000).for_each(|port| ports.write(port, &[0]));
        assert!(lock(&told).len() <= 2 * Unclaimed::MOST);
    }

    #[test]
    #[should_panic(expected = "two devices")]
    fn claims_do_not_overlap() {
        let mut bus = MmioBus::new(None);
        bus.claim(GuestPhys(0x1000), 0x1000, Arc::new(Probe::default()));
        bus.claim(GuestPhys(0x1fff), 1, Arc::new(Probe::default()));
    }
}
