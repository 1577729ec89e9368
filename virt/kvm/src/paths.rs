//! Doorbells and messages through the kernel alone (api.rst, KVM_IOEVENTFD and KVM_IRQFD).
//!
//! A message goes by KVM_SIGNAL_MSI until it was sent a few times: a new routing table makes the
//! kernel wait for all vCPUs, which a vector that is used once at boot is not worth. Invariant: a
//! source's route is the message it was last set to, and only that message goes by its event.

use std::collections::BTreeMap;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use engine::{EngineError, KernelPaths, MessageSource, MsiMessage, Sent};
use kvm_ioctls::{IoEventAddress, NoDatamatch};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use x86::GuestPhys;

use crate::engine::Shared;
use crate::error::failed;
use crate::routes::{LEVEL, gsi};

/// A message that is sent so often in a row gets a route.
const WORTH_A_ROUTE: u32 = 8;

/// The doorbells of one VM, by address.
#[derive(Default)]
pub(crate) struct Doorbells(Mutex<BTreeMap<u64, EventFd>>);

/// A VM's ways.
pub(crate) struct Paths(pub(crate) Arc<Shared>);

impl KernelPaths for Paths {
    fn add_doorbell(&self, address: GuestPhys, event: &Arc<OwnedFd>) -> Result<(), EngineError> {
        let copy = event.try_clone();
        let copy = copy.map_err(|source| EngineError::Host { call: "dup", source })?;
        // SAFETY: the descriptor is owned by nobody else, and `EventFd` closes it once.
        let event = unsafe { EventFd::from_raw_fd(copy.into_raw_fd()) };
        let mut doorbells = self.0.bells.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = IoEventAddress::Mmio(address.0);
        self.0.vm.register_ioevent(&event, &place, NoDatamatch).map_err(failed("KVM_IOEVENTFD"))?;
        doorbells.insert(address.0, event);
        Ok(())
    }

    fn remove_doorbell(&self, address: GuestPhys) {
        let mut doorbells = self.0.bells.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(event) = doorbells.remove(&address.0) {
            let place = IoEventAddress::Mmio(address.0);
            let removed = self.0.vm.unregister_ioevent(&event, &place, NoDatamatch);
            removed.expect("the kernel has what it was given, until it is taken back here");
        }
    }

    fn message_source(&self) -> Result<Box<dyn MessageSource>, EngineError> {
        let what = "so many sources of messages";
        let number = self.0.routes.add_source();
        let number = number.ok_or(EngineError::Unsupported { engine: "kvm", what })?;
        Ok(Box::new(Source { shared: self.0.clone(), number, state: Mutex::default() }))
    }
}

/// One vector.
struct Source {
    shared: Arc<Shared>,
    number: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    habit: Habit,
    /// Once it has a route: what sends it.
    event: Option<EventFd>,
    /// The message of the route.
    routed: Option<MsiMessage>,
    /// The kernel would not: messages are called for good.
    refused: bool,
}

/// How often a message came in a row.
#[derive(Default)]
struct Habit {
    last: Option<MsiMessage>,
    times: u32,
}

impl Habit {
    /// True: often enough for a route.
    fn is_formed(&mut self, message: MsiMessage) -> bool {
        self.times = if self.last == Some(message) { self.times.saturating_add(1) } else { 1 };
        self.last = Some(message);
        self.times >= WORTH_A_ROUTE
    }
}

impl MessageSource for Source {
    fn send(&self, message: MsiMessage) -> Result<Sent, EngineError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let edge = message.data & LEVEL != LEVEL;
        let formed = state.habit.is_formed(message);
        if state.routed != Some(message) && formed && edge && !state.refused {
            // Who has neither table nor event to give can still be called.
            state.refused = self.route(&mut state, message).is_err();
        }
        match &state.event {
            // Full means that the kernel has not come to the last 2^64 ones.
            Some(event) if state.routed == Some(message) => {
                let _ = event.write(1);
                Ok(Sent::Routed)
            }
            _ => self.shared.signal_msi(message).map(|()| Sent::Called),
        }
    }
}

impl Source {
    /// Has the event send this message.
    fn route(&self, state: &mut State, message: MsiMessage) -> Result<(), EngineError> {
        self.shared.routes.set_source(&self.shared.vm, self.number, message)?;
        if state.event.is_none() {
            let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
            let event = event.map_err(|source| EngineError::Host { call: "eventfd", source })?;
            let joined = self.shared.vm.register_irqfd(&event, gsi(self.number));
            joined.map_err(failed("KVM_IRQFD"))?;
            state.event = Some(event);
        }
        state.routed = Some(message);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_earns_its_route_by_being_sent_again_and_again() {
        let message = |data| MsiMessage { address: 0xfee0_0000, data };
        let mut habit = Habit::default();
        assert!((1..WORTH_A_ROUTE).all(|_| !habit.is_formed(message(0x41))));
        assert!(habit.is_formed(message(0x41)));
        assert!(!habit.is_formed(message(0x42)), "another one begins anew");
        assert!(!habit.is_formed(message(0x41)), "and so does the one before");
    }
}
