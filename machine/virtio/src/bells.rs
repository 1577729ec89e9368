//! Doorbells that ring in the host's kernel, and the place where a worker waits for them.
//!
//! A driver's store to a doorbell adds to an eventfd without an exit to this process, if the machine
//! can have that ([`Doorbells`]). Such doorbells are there while the device is active and its BAR
//! decodes; else stores come to the transport. Invariant: after a reset was asked for, no doorbell is left.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, read, write};
use x86::GuestPhys;

use crate::device::Waiter;

/// The machine's side of doorbells without an exit.
pub trait Doorbells: Send + Sync {
    /// Has stores to this address add one to `event`. False: not possible there; they come to the
    /// function's BAR as before.
    fn add(&self, address: GuestPhys, event: &Arc<OwnedFd>) -> bool;

    /// Stores come to the function's BAR again.
    fn remove(&self, address: GuestPhys);
}

/// Where a worker waits whose device has nothing else to wait for.
pub(crate) struct Bell {
    event: Arc<OwnedFd>,
    /// Rings from this process.
    ours: AtomicU64,
    /// All rings that were heard.
    heard: AtomicU64,
}

impl Bell {
    /// `None`: the host has no descriptors left; doorbells come to the transport then.
    pub(crate) fn new() -> Option<Self> {
        let event = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).ok()?);
        Some(Self { event, ours: AtomicU64::new(0), heard: AtomicU64::new(0) })
    }

    /// Takes what was rung, without a wait. On the thread that waits here: another could take it meanwhile.
    pub(crate) fn hear(&self) {
        let mut list = [PollFd::new(&*self.event, PollFlags::IN)];
        if poll(&mut list, Some(&Timespec::default())) == Ok(1) {
            self.wait();
        }
    }

    /// Rings that were heard and came from the kernel: the guest's own.
    pub(crate) fn kernel_rings(&self) -> u64 {
        let heard = self.heard.load(Ordering::SeqCst);
        heard.saturating_sub(self.ours.load(Ordering::SeqCst))
    }
}

impl Waiter for Bell {
    fn wait(&self) {
        let mut count = [0; 8];
        while read(&*self.event, &mut count) == Err(Errno::INTR) {}
        self.heard.fetch_add(u64::from_ne_bytes(count), Ordering::SeqCst);
    }

    fn wake(&self) {
        self.ours.fetch_add(1, Ordering::SeqCst);
        // It would have to be rung 2^64 times in vain to be full.
        let _ = write(&*self.event, &1_u64.to_ne_bytes());
    }

    fn event(&self) -> Option<Arc<OwnedFd>> {
        Some(self.event.clone())
    }
}

/// One function's doorbells in the kernel.
pub(crate) struct InKernel {
    machine: Arc<dyn Doorbells>,
    event: Arc<OwnedFd>,
    rung_at: Vec<GuestPhys>,
}

impl InKernel {
    pub(crate) fn new(machine: Arc<dyn Doorbells>, event: Arc<OwnedFd>) -> Self {
        Self { machine, event, rung_at: Vec::new() }
    }

    /// Doorbells at these addresses and no others.
    pub(crate) fn settle(&mut self, addresses: &[GuestPhys]) {
        let machine = &self.machine;
        self.rung_at.retain(|address| {
            let stays = addresses.contains(address);
            if !stays {
                machine.remove(*address);
            }
            stays
        });
        for address in addresses {
            if !self.rung_at.contains(address) && machine.add(*address, &self.event) {
                self.rung_at.push(*address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bell_tells_the_kernel_s_rings_from_our_own() {
        let bell = Bell::new().expect("a descriptor can be had");
        let event = bell.event().expect("it has one");
        bell.wake();
        write(&*event, &2_u64.to_ne_bytes()).expect("there is room");
        bell.wait();
        assert_eq!(bell.kernel_rings(), 2);
        bell.wake();
        bell.hear();
        assert_eq!(bell.kernel_rings(), 2);
        bell.hear(); // it does not wait
        write(&*event, &1_u64.to_ne_bytes()).expect("there is room");
        bell.hear();
        assert_eq!(bell.kernel_rings(), 3);
    }
}
