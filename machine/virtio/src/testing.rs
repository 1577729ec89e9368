//! A driver for tests: it lays a queue out in guest memory and plays the guest's side.

mod machine;

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use memory::GuestMemory;
use x86::GuestPhys;

use crate::bells::Doorbells;
use crate::queue::{Broken, Queue, QueueLayout};
use crate::signals::Interrupter;
pub(crate) use machine::{Machine, through_bytes};

/// Flags of descriptors.
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// RAM of the test guest.
pub(crate) const RAM: u64 = 1 << 20;
/// Where buffers may be.
pub(crate) const BUFFERS: u64 = 0x1_0000;

/// A guest with one queue.
pub(crate) struct Guest {
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) layout: QueueLayout,
    available: u16,
}

impl Guest {
    pub(crate) fn new(size: u16) -> Self {
        let memory = Arc::new(GuestMemory::new(&[(GuestPhys(0), RAM)]).expect("1 MiB can be had"));
        let layout = QueueLayout {
            size,
            descriptors: GuestPhys(0x1000),
            available: GuestPhys(0x6000),
            used: GuestPhys(0x8000),
        };
        Self { memory, layout, available: 0 }
    }

    /// Another queue in the same memory, so many bytes further on.
    pub(crate) fn beside(&self, offset: u64) -> Self {
        let QueueLayout { size, descriptors, available, used } = self.layout;
        let layout = QueueLayout {
            size,
            descriptors: descriptors + offset,
            available: available + offset,
            used: used + offset,
        };
        Self { memory: self.memory.clone(), layout, available: 0 }
    }

    /// The same memory with an empty queue.
    pub(crate) fn again(before: &Self) -> Self {
        let one = before.beside(0);
        one.set_available_index(0);
        one.write(one.layout.used.0 + 2, &[0, 0]);
        one
    }

    pub(crate) fn queue(&self, features: u64) -> Result<Queue, Broken> {
        Queue::new(self.memory.clone(), self.layout, features)
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) {
        self.memory.write_physical(GuestPhys(address), bytes).expect("RAM");
    }

    pub(crate) fn read(&self, address: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.memory.read_physical(GuestPhys(address), &mut bytes).expect("RAM");
        bytes
    }

    pub(crate) fn word(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.read(address, 2).try_into().expect("two"))
    }

    /// A descriptor in a table.
    pub(crate) fn descriptor(&self, at: u64, address: u64, length: u32, flags: u16, next: u16) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.write(at, &bytes);
    }

    /// A descriptor in the queue's table.
    pub(crate) fn set(&self, index: u16, address: u64, length: u32, flags: u16, next: u16) {
        let at = self.layout.descriptors.0 + 16 * u64::from(index);
        self.descriptor(at, address, length, flags, next);
    }

    /// Makes a chain available.
    pub(crate) fn offer(&mut self, head: u16) {
        let ring = self.layout.available.0;
        self.write(
            ring + 4 + 2 * u64::from(self.available % self.layout.size),
            &head.to_le_bytes(),
        );
        self.available = self.available.wrapping_add(1);
        self.set_available_index(self.available);
    }

    pub(crate) fn set_available_index(&self, index: u16) {
        self.write(self.layout.available.0 + 2, &index.to_le_bytes());
    }

    /// The driver's wish: the flags without EVENT_IDX.
    pub(crate) fn set_available_flags(&self, flags: u16) {
        self.write(self.layout.available.0, &flags.to_le_bytes());
    }

    pub(crate) fn set_used_event(&self, event: u16) {
        let at = self.layout.available.0 + 4 + 2 * u64::from(self.layout.size);
        self.write(at, &event.to_le_bytes());
    }

    pub(crate) fn used_index(&self) -> u16 {
        self.word(self.layout.used.0 + 2)
    }

    /// A used entry: id and length.
    pub(crate) fn used(&self, index: u16) -> (u32, u32) {
        let at = self.layout.used.0 + 4 + 8 * u64::from(index % self.layout.size);
        let bytes = self.read(at, 8);
        let word = u64::from_le_bytes(bytes.try_into().expect("eight"));
        (word as u32, (word >> 32) as u32)
    }

    /// Offers a chain of buffers in the queue's table from descriptor `first` on.
    pub(crate) fn offer_chain(&mut self, first: u16, buffers: &[(u64, u32, bool)]) {
        let count = buffers.len() as u16;
        for (index, &(address, length, write)) in (0..).zip(buffers) {
            let more = if index + 1 < count { NEXT } else { 0 };
            let flags = more | if write { WRITE } else { 0 };
            self.set(first + index, address, length, flags, first + index + 1);
        }
        self.offer(first);
    }
}

/// Remembers interrupts.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) messages: Mutex<Vec<(u64, u32)>>,
    pub(crate) line: Mutex<bool>,
}

impl Interrupter for Recorder {
    fn message(&self, _vector: usize, address: u64, data: u32) {
        self.messages.lock().expect("not poisoned").push((address, data));
    }

    fn line(&self, asserted: bool) {
        *self.line.lock().expect("not poisoned") = asserted;
    }
}

/// The doorbells that the kernel has, and their event.
#[derive(Default)]
pub(crate) struct Kernel(pub(crate) Mutex<Vec<(GuestPhys, Arc<OwnedFd>)>>);

impl Kernel {
    pub(crate) fn addresses(&self) -> Vec<u64> {
        self.0.lock().expect("not poisoned").iter().map(|(address, _)| address.0).collect()
    }

    /// A store to the first of them.
    pub(crate) fn ring(&self) {
        let list = self.0.lock().expect("not poisoned");
        rustix::io::write(&*list[0].1, &1_u64.to_ne_bytes()).expect("there is room");
    }
}

impl Doorbells for Kernel {
    fn add(&self, address: GuestPhys, event: &Arc<OwnedFd>) -> bool {
        let mut list = self.0.lock().expect("not poisoned");
        assert!(list.iter().all(|(known, _)| *known != address), "one at an address");
        list.push((address, event.clone()));
        true
    }

    fn remove(&self, address: GuestPhys) {
        self.0.lock().expect("not poisoned").retain(|(known, _)| *known != address);
    }
}
