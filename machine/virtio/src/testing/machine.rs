//! A device on its transport, with a driver that keeps its queues in guest memory, and its life after it was
//! saved.

use std::sync::Arc;
use std::thread::JoinHandle;

use devices::pci::PciFunction;
use memory::GuestMemory;
use snapshot::Limits;

use super::{Guest, Kernel, Recorder};
use crate::device::Device;
use crate::faults::Faults;
use crate::features::VERSION_1;
use crate::pci::{Rings, VirtioPci};
use crate::state::{ModelV1, VirtioV1};

const NOTIFY: u64 = 0x3000;
/// Descriptors of each queue, if the device has so many.
const SIZE: u16 = 16;
/// Bytes between queues.
const QUEUE_BYTES: u64 = 0x9000;

/// A device with a driver.
pub(crate) struct Machine {
    pub(crate) queues: Vec<Guest>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) function: VirtioPci,
    inline: bool,
    thread: Option<JoinHandle<()>>,
}

impl Machine {
    /// The driver takes these of the features that it is offered.
    pub(crate) fn new(
        make: impl FnOnce(&Arc<GuestMemory>) -> Box<dyn Device>,
        features: u64,
        inline: bool,
    ) -> Self {
        Self::ringing(make, features, rings(inline), (inline, Faults::default()))
    }

    /// One on a thread of its own with something wrong.
    pub(crate) fn with_faults(
        make: impl FnOnce(&Arc<GuestMemory>) -> Box<dyn Device>,
        features: u64,
        faults: Faults,
    ) -> Self {
        Self::ringing(make, features, rings(false), (false, faults))
    }

    /// The same with doorbells that ring in a kernel.
    pub(crate) fn with_kernel(
        make: impl FnOnce(&Arc<GuestMemory>) -> Box<dyn Device>,
        features: u64,
        kernel: Arc<Kernel>,
    ) -> Self {
        Self::ringing(make, features, Rings::Kernel(kernel), (false, Faults::default()))
    }

    fn ringing(
        make: impl FnOnce(&Arc<GuestMemory>) -> Box<dyn Device>,
        features: u64,
        rings: Rings,
        (inline, faults): (bool, Faults),
    ) -> Self {
        let first = Guest::new(SIZE);
        let device = make(&first.memory);
        let sizes = device.queue_sizes().to_vec();
        let queue = |(index, most): (u64, &u16)| {
            let mut queue = first.beside(index * QUEUE_BYTES);
            queue.layout.size = SIZE.min(*most);
            queue
        };
        let queues = (0..).zip(&sizes).map(queue).collect();
        let recorder = Arc::new(Recorder::default());
        let function = VirtioPci::new(device, first.memory.clone(), recorder.clone(), rings);
        function.worker().set_faults(faults);
        let mut machine = Self { queues, recorder, function, inline, thread: None };
        machine.function.config_write(0x10, &0xc001_0000_u32.to_le_bytes());
        machine.function.config_write(0x04, &[2]); // the BAR decodes
        machine.run();
        machine.negotiate(features);
        machine
    }

    fn run(&mut self) {
        let worker = self.function.worker();
        self.thread = (!self.inline).then(|| std::thread::spawn(move || worker.run()));
    }

    pub(crate) fn read(&mut self, offset: u64, width: usize) -> u64 {
        let mut data = [0; 8];
        self.function.bar_read(0, offset, &mut data[..width]);
        u64::from_le_bytes(data)
    }

    pub(crate) fn write(&mut self, offset: u64, width: usize, value: u64) {
        self.function.bar_write(0, offset, &value.to_le_bytes()[..width]);
    }

    fn negotiate(&mut self, features: u64) {
        for status in [1, 3] {
            self.write(0x14, 1, status);
        }
        for half in 0..2 {
            self.write(0x00, 4, half);
            let offered = self.read(0x04, 4);
            self.write(0x08, 4, half);
            self.write(0x0c, 4, offered & (features | VERSION_1) >> (32 * half));
        }
        self.write(0x14, 1, 0xb);
        for index in 0..self.queues.len() {
            let layout = self.queues[index].layout;
            self.write(0x16, 2, index as u64);
            self.write(0x18, 2, layout.size.into());
            let areas = [layout.descriptors, layout.available, layout.used];
            for (at, area) in (0x20..).step_by(8).zip(areas) {
                self.write(at, 8, area.0);
            }
            self.write(0x1c, 2, 1);
        }
        self.write(0x14, 1, 0xf);
        assert_eq!(self.read(0x14, 1), 0xf, "the device takes its driver");
    }

    /// Rings a queue's doorbell.
    pub(crate) fn ring(&mut self, queue: u64) {
        self.write(NOTIFY + 4 * queue, 2, 0);
    }

    /// Offers a chain that begins with descriptor `first` and rings.
    pub(crate) fn offer(&mut self, queue: usize, first: u16, buffers: &[(u64, u32, bool)]) {
        self.queues[queue].offer_chain(first, buffers);
        self.ring(queue as u64);
    }

    /// The device's state now; it goes on afterwards.
    pub(crate) fn save(&mut self) -> VirtioV1 {
        let quiet = self.function.quiesce();
        self.function.save(&quiet)
    }

    /// Saves it through bytes and makes it again over the same memory; `make` makes the device.
    pub(crate) fn reborn(
        mut self,
        make: impl FnOnce(&Arc<GuestMemory>, &ModelV1) -> Box<dyn Device>,
    ) -> Self {
        let quiet = self.function.quiesce();
        let state = through_bytes(&self.function.save(&quiet));
        let worker = self.function.worker();
        worker.stop();
        drop(quiet);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic");
        }
        let memory = self.queues[0].memory.clone();
        let device = make(&memory, &state.model);
        let to = self.recorder.clone();
        let (function, quiet) =
            VirtioPci::restore(device, memory, to, rings(self.inline), &state.transport)
                .expect("sound");
        let again = function.save(&quiet);
        assert_eq!(again.transport, state.transport, "what was restored saves as the same");
        if !matches!(state.model, ModelV1::Vsock(_)) {
            assert_eq!(again.model, state.model, "and so does the model");
        }
        self.function = function;
        self.run();
        drop(quiet);
        self
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.function.worker().stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(std::thread::panicking() || ended.is_ok(), "no panic on the worker's thread");
        }
    }
}

/// The state as it is read from what was written of it; no damaged byte gives another state.
pub(crate) fn through_bytes(state: &VirtioV1) -> VirtioV1 {
    let sections = state.to_sections();
    let bytes = snapshot::write(&sections);
    let read = snapshot::read(&bytes, Limits::default()).expect("sound");
    for at in (0..bytes.len()).step_by(1 + bytes.len() / 64) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        assert!(snapshot::read(&damaged, Limits::default()).is_err(), "byte {at}");
    }
    for index in 0..2 {
        let damage = |change: fn(&mut snapshot::Section)| {
            let mut damaged = sections.clone();
            change(&mut damaged[index]);
            assert!(VirtioV1::from_sections(&damaged).is_err(), "section {index}");
        };
        damage(|section| section.version += 1);
        damage(|section| section.kind.0[0] ^= 1);
        damage(|section| section.bytes.push(0));
        damage(|section| {
            if section.bytes.pop().is_none() {
                section.version = 0;
            }
        });
    }
    let read: [_; 2] = read.try_into().expect("two sections");
    let read = VirtioV1::from_sections(&read).expect("sound");
    assert_eq!(&read, state);
    read
}

fn rings(inline: bool) -> Rings {
    if inline { Rings::Inline } else { Rings::Transport }
}
