//! The transport's state out and in again.
//!
//! Invariant: what is restored is what a driver could have set up with the device: features are among those
//! offered, vectors and queues exist, a queue that runs lies in RAM and its indices fit.

use std::sync::Arc;

use devices::pci::{CONFIG_BYTES, ConfigSpace};
use memory::GuestMemory;

use super::common::{Common, QueueRegisters};
use super::layout::{Places, config_space};
use super::msix::{Msix, NO_VECTOR};
use super::{COMMAND, COMMAND_NO_INTX, Rings, VirtioPci, wire};
use crate::device::{Device, Queues};
use crate::features;
use crate::queue::Queue;
use crate::signals::{Interrupter, Signals, State, status};
use crate::state::{QueueV1, StateError, TransportV1, VirtioV1};
use crate::worker::{Quiet, Worker};

const ISR_BITS: u8 = 3;
/// Driver and device are at work: DRIVER_OK after FEATURES_OK, and nothing went wrong.
const RUNNING: u8 = status::DRIVER_OK | status::FEATURES_OK;

impl VirtioPci {
    /// Has the device stand still until what this gives is dropped: what the host was given is done, what was
    /// taken ahead is in its queue again. Called while no vCPU runs, with the worker's thread running or the
    /// worker inline.
    pub fn quiesce(&mut self) -> Quiet {
        let quiet = self.common.worker.quiesce();
        self.common.go_on_resetting();
        assert!(!self.common.resetting, "a worker that stands still lets go of what it has");
        quiet
    }

    /// The state to save, of a device that stands still.
    ///
    /// # Panics
    /// It is another one that stands still, or its worker was stopped before.
    pub fn save(&self, quiet: &Quiet) -> VirtioV1 {
        let common = &self.common;
        assert!(quiet.is_of(&common.worker), "the device that is saved stands still");
        let mut model = common.device.save();
        let rings = common.worker.save(&mut model);
        let state = common.signals.state();
        assert!(rings.is_some() == is_running(state.status), "a device that runs has a handler");
        let mut rings = rings.unwrap_or_default().into_iter();
        let queues = common.queues.iter().zip(&state.queue_vectors).map(|(queue, &vector)| {
            let (layout, enabled) = (queue.layout, queue.enabled);
            QueueV1 { layout, enabled, vector, rings: rings.next().flatten() }
        });
        let transport = TransportV1 {
            device: common.device.kind() as u16,
            config: self.config.save(),
            accepted: common.accepted,
            device_feature_select: common.device_feature_select,
            driver_feature_select: common.driver_feature_select,
            queue_select: common.queue_select,
            status: state.status,
            seen: state.seen,
            isr: state.isr,
            generation: state.generation,
            config_vector: state.config_vector,
            messages: state.msix.save(),
            queues: queues.collect(),
        };
        VirtioV1 { transport, model }
    }

    /// The function in a saved state, around a device that was made from the model's state, over memory that
    /// holds what it held. It stands still until the second value is dropped.
    ///
    /// # Errors
    /// The device is another one than was saved, or the state is damaged.
    pub fn restore(
        device: Box<dyn Device>,
        memory: Arc<GuestMemory>,
        interrupter: Arc<dyn Interrupter>,
        rings: Rings,
        state: &TransportV1,
    ) -> Result<(Self, Quiet), StateError> {
        let (kind, count) = (device.kind(), device.queue_sizes().len());
        check(state, &*device)?;
        let (fresh, places) = config_space(kind, count + 1);
        let config = ConfigSpace::restore(fresh, &state.config);
        let signals = Signals::with(interrupter, signals_state(state, &config, places));
        let (worker, bells) = wire(&*device, rings, &signals);
        let quiet = Quiet::from_start(worker);
        let mut common = Common::new(device, memory, signals, Worker::of(&quiet));
        common.restore(state)?;
        common.signals.settle(&mut common.signals.state());
        let mut function = Self { config, places, common, bells };
        function.settle_bells();
        Ok((function, quiet))
    }
}

impl Common {
    /// Takes the registers over from a state that was checked, and goes on where the driver was ready.
    fn restore(&mut self, state: &TransportV1) -> Result<(), StateError> {
        self.accepted = state.accepted;
        self.device_feature_select = state.device_feature_select;
        self.driver_feature_select = state.driver_feature_select;
        self.queue_select = state.queue_select;
        for (registers, saved) in self.queues.iter_mut().zip(&state.queues) {
            let (layout, enabled) = (saved.layout, saved.enabled);
            *registers = QueueRegisters { layout, most: registers.most, enabled };
        }
        if !is_running(state.status) {
            return Ok(());
        }
        let resume = |(index, saved): (usize, &QueueV1)| {
            let rings = saved.rings.as_ref();
            let resumed = rings.map(|rings| {
                Queue::resume(self.memory.clone(), saved.layout, state.accepted, rings)
            });
            resumed.transpose().map_err(|broken| StateError::Queue { queue: index, broken })
        };
        let queues: Vec<_> =
            state.queues.iter().enumerate().map(resume).collect::<Result<_, _>>()?;
        let handler = self.device.resume(state.accepted, self.worker.waker())?;
        self.worker.start(handler, Queues::new(queues));
        Ok(())
    }
}

fn is_running(bits: u8) -> bool {
    bits & (RUNNING | status::NEEDS_RESET) == RUNNING
}

/// What of the signals is in the state.
fn signals_state(state: &TransportV1, config: &ConfigSpace, places: Places) -> State {
    State {
        status: state.status,
        msix: Msix::restore(&state.messages, config.word(places.msix_control)),
        config_vector: state.config_vector,
        queue_vectors: state.queues.iter().map(|queue| queue.vector).collect(),
        line_disabled: config.word(COMMAND) & COMMAND_NO_INTX != 0,
        generation: state.generation,
        seen: state.seen,
        isr: state.isr,
    }
}

/// Refuses what the device cannot have come to.
fn check(state: &TransportV1, device: &dyn Device) -> Result<(), StateError> {
    let sizes = device.queue_sizes();
    StateError::same("type", state.device.into(), device.kind() as u64)?;
    StateError::same("number of queues", state.queues.len() as u64, sizes.len() as u64)?;
    let vectors = sizes.len() + 1;
    StateError::same("number of vectors", state.messages.len() as u64, vectors as u64)?;
    StateError::unless(
        state.config.bytes.len() == CONFIG_BYTES,
        "a part of a configuration space",
    )?;
    let offered = device.features() | features::TRANSPORT;
    let sound = state.accepted & !offered == 0 && state.accepted & features::VERSION_1 != 0;
    let negotiated = state.status & status::FEATURES_OK != 0;
    StateError::unless(sound || !negotiated, "features that the device does not offer")?;
    let ready = state.status & (status::DRIVER_OK | status::NEEDS_RESET) == status::DRIVER_OK;
    StateError::unless(negotiated || !ready, "a driver that is ready without features")?;
    let earlier = state.status & !status::NEEDS_RESET & !state.seen;
    StateError::unless(earlier == 0, "a status that it was never in")?;
    StateError::unless(state.isr & !ISR_BITS == 0, "an interrupt that does not exist")?;
    let known = |vector: u16| vector == NO_VECTOR || usize::from(vector) < vectors;
    StateError::unless(known(state.config_vector), "a vector that does not exist")?;
    for (queue, &most) in state.queues.iter().zip(sizes) {
        let size = queue.layout.size;
        StateError::unless(size.is_power_of_two() && size <= most, "a queue of a wrong size")?;
        StateError::unless(known(queue.vector), "a vector that does not exist")?;
        let runs = is_running(state.status) && queue.enabled;
        StateError::unless(queue.rings.is_some() == runs, "a queue that runs, or none")?;
    }
    Ok(())
}
