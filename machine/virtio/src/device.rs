//! What a device model is to the transport and to its worker.
//!
//! A [`Device`] says what it is and keeps the configuration space; it is called on vCPU threads and
//! never waits. [`Device::activate`] makes the [`Handler`] that does the work, on the worker's thread
//! alone. Invariant: a handler lives from DRIVER_OK to the next reset and sees only the queues the
//! driver enabled.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::queue::{Broken, Chain, Queue};
use crate::state::{ModelV1, RingsV1, StateError};
use crate::worker::Waker;

/// Device types (virtio 1.2, 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
#[allow(missing_docs)]
pub enum Kind {
    Network = 1,
    Block = 2,
    Console = 3,
    Entropy = 4,
    Balloon = 5,
    Input = 18,
    Socket = 19,
    FileSystem = 26,
}

impl Kind {
    /// Base class, subclass and interface of its PCI function.
    pub(crate) fn pci_class(self) -> [u8; 3] {
        match self {
            Self::Network => [0x02, 0x00, 0x00],
            Self::Block | Self::FileSystem => [0x01, 0x80, 0x00],
            Self::Console => [0x07, 0x80, 0x00],
            Self::Entropy | Self::Balloon | Self::Socket => [0xff, 0x00, 0x00],
            Self::Input => [0x09, 0x80, 0x00],
        }
    }
}

/// What a device is.
pub trait Device: Send {
    /// Its type.
    fn kind(&self) -> Kind;

    /// The largest size of each queue, powers of two up to 1024; at most 64 queues.
    fn queue_sizes(&self) -> &[u16];

    /// The device's own feature bits (0-23 and 50-63); those of queues and transport are not its
    /// business.
    fn features(&self) -> u64;

    /// Reads its configuration space; bytes past its end are zero, as `data` is when this is called.
    fn config_read(&self, offset: u64, data: &mut [u8]);

    /// Writes its configuration space; most have nothing to write.
    fn config_write(&mut self, _offset: u64, _data: &[u8]) {}

    /// The driver is ready and understands these features. `waker` gets the handler called when
    /// something happened on the host's side.
    fn activate(&mut self, features: u64, waker: Waker) -> Box<dyn Handler>;

    /// The same where the driver was ready when the state was saved that this device was made from: it
    /// goes on.
    ///
    /// # Errors
    /// The state is not that of a device with a driver, or not with these features.
    fn resume(&mut self, features: u64, waker: Waker) -> Result<Box<dyn Handler>, StateError> {
        Ok(self.activate(features, waker))
    }

    /// Its state to save, without what its handler holds.
    fn save(&self) -> ModelV1;

    /// Where its thread waits while the device is active, if the host's side has events of its own.
    fn waiter(&self) -> Option<Arc<dyn Waiter>> {
        None
    }
}

/// A place where a device's thread waits for the host's side, sockets for instance, and for doorbells
/// alike: one thread then does without a second one that would wake it.
pub trait Waiter: Send + Sync {
    /// Returns when something happened on the host's side, or [`Waiter::wake`] was called since it last
    /// returned. It may return for no reason.
    fn wait(&self);

    /// Ends the wait, or the next one.
    fn wake(&self);

    /// An eventfd: to add to it is to call [`Waiter::wake`]. `None`: there is no such one.
    ///
    /// Who has one takes what was added in `wait` alone, or before the handler looks at its queues.
    fn event(&self) -> Option<Arc<OwnedFd>> {
        None
    }
}

/// What a device does.
pub trait Handler: Send {
    /// The doorbell of these queues rang, or the waker was used, or the last call said there was
    /// more. Serves the device's queues; may wait for the host.
    ///
    /// # Errors
    /// The guest broke a rule: the device stops, and needs a reset.
    fn process(&mut self, queues: &mut Queues) -> Result<(), Broken>;

    /// Waits for what the host has begun, gives it back and puts back what was taken ahead, so that no chain
    /// is left with the device; takes no more. It may be called again afterwards, and then goes on.
    fn quiesce(&mut self, _queues: &mut Queues) {}

    /// Adds what it holds itself to its model's state. Called after [`Handler::quiesce`].
    fn save(&self, _model: &mut ModelV1) {}

    /// The host is still at work on buffers of the guest's: to drop the handler is to wait for it.
    fn is_busy(&self) -> bool {
        false
    }

    /// Whether `process` mostly takes less than to wake a thread, and to drop the handler never waits:
    /// then vCPUs call it, too.
    fn is_short(&self) -> bool {
        false
    }

    /// Ends a wait for the host in `process`, which is then called again; `None` if there is no such
    /// wait. Doorbells in the kernel ring no alarm: who waits in `process` looks at the bell itself.
    fn alarm(&self) -> Option<Alarm> {
        None
    }
}

/// Ends a wait; from any thread.
pub type Alarm = Arc<dyn Fn() + Send + Sync>;

/// A device's queues while it is active.
#[derive(Debug)]
pub struct Queues {
    list: Vec<Option<Queue>>,
    /// Bit n: the driver shall be told of what was pushed to queue n.
    signals: u64,
    more: bool,
}

impl Queues {
    pub(crate) fn new(list: Vec<Option<Queue>>) -> Self {
        Self { list, signals: 0, more: false }
    }

    /// A queue, if the driver enabled it.
    pub fn get(&mut self, index: usize) -> Option<&mut Queue> {
        self.list.get_mut(index)?.as_mut()
    }

    /// Takes a queue's chains one by one, lets `serve` do what they ask and gives them back. Not
    /// more at a time than the queue has descriptors: a driver cannot keep the worker from a reset.
    ///
    /// # Errors
    /// What the queue or `serve` finds broken.
    pub fn serve(
        &mut self,
        index: usize,
        mut serve: impl FnMut(&mut Chain) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        self.take(index, |mut chain| serve(&mut chain).map(|()| Some(chain)))
    }

    /// As [`Queues::serve`], for devices that keep a chain for later: what `take` gives back is
    /// pushed.
    ///
    /// # Errors
    /// What the queue or `take` finds broken.
    pub fn take(
        &mut self,
        index: usize,
        mut take: impl FnMut(Chain) -> Result<Option<Chain>, Broken>,
    ) -> Result<(), Broken> {
        let Some(Some(queue)) = self.list.get_mut(index) else { return Ok(()) };
        queue.silence_doorbell();
        for _ in 0..queue.size() {
            let Some(chain) = queue.pop()? else { break };
            if let Some(done) = take(chain)? {
                queue.push(done);
            }
        }
        self.more |= queue.arm_doorbell();
        self.signal(index);
        Ok(())
    }

    /// Has the handler called again without a doorbell: it left something undone.
    pub fn again(&mut self) {
        self.more = true;
    }

    /// For those that push by themselves: tells the driver when the handler returns, if it wants to
    /// know.
    pub fn signal(&mut self, index: usize) {
        if self.get(index).is_some_and(Queue::wants_interrupt) {
            self.signals |= 1 << index;
        }
    }

    /// Where all are in their rings.
    pub(crate) fn save(&self) -> Vec<Option<RingsV1>> {
        self.list.iter().map(|queue| queue.as_ref().map(Queue::save)).collect()
    }

    /// Queues to tell the driver of, and whether there is more to do.
    pub(crate) fn take_results(&mut self) -> (u64, bool) {
        (std::mem::take(&mut self.signals), std::mem::take(&mut self.more))
    }
}

/// Bytes of a register image from an offset on; zeroes behind its end.
pub(crate) fn read_image(image: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let rest = usize::try_from(offset).ok().and_then(|offset| image.get(offset..));
    for (to, from) in data.iter_mut().zip(rest.unwrap_or_default()) {
        *to = *from;
    }
}
