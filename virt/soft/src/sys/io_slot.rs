//! The machine's I/O callback, borrowed for one `run` and reachable from inside instructions.
//!
//! Handlers reach the world through `Cpu::bus`, which outlives any one `run`, while `run` borrows
//! its `GuestIo` only for its own length. The slot holds the borrow as a pointer in between.
//! Invariant: the pointer is set exactly while [`IoSlot::lend`]'s closure runs on this thread.

use std::ptr::NonNull;

use engine::GuestIo;

/// Holds a borrowed `GuestIo` for the duration of a call.
#[derive(Default)]
pub(crate) struct IoSlot(Option<NonNull<dyn GuestIo>>);

// SAFETY: the slot is empty whenever its vCPU can move to another thread: `Lent` borrows the slot's
// owner for as long as the pointer is set.
unsafe impl Send for IoSlot {}

impl IoSlot {
    /// Stores the borrow. The caller must call [`IoSlot::take_back`] before `io`'s borrow ends;
    /// `vcpu.rs` does so through a guard that also runs on panic.
    pub(crate) fn lend(&mut self, io: &mut dyn GuestIo) {
        assert!(self.0.is_none(), "one run at a time");
        let pointer: NonNull<dyn GuestIo + '_> = NonNull::from(io);
        // SAFETY: only the lifetime is erased; `take_back` ends the use before the borrow ends.
        self.0 = Some(unsafe {
            std::mem::transmute::<NonNull<dyn GuestIo + '_>, NonNull<dyn GuestIo + 'static>>(
                pointer,
            )
        });
    }

    /// Forgets the borrow.
    pub(crate) fn take_back(&mut self) {
        self.0 = None;
    }

    /// The callback, while lent.
    #[inline]
    pub(crate) fn get(&mut self) -> Option<&mut dyn GuestIo> {
        // SAFETY: set only between `lend` and `take_back`, while the original borrow lives and
        // nobody else uses it (it is exclusive); the returned borrow is tied to `self`.
        self.0.map(|mut pointer| unsafe { pointer.as_mut() })
    }
}
