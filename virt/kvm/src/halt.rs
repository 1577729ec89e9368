//! Noticing a guest that nothing can wake: HLT with interrupts off on every processor.
//!
//! HLT is KVM's own business when the local APIC is, so KVM_RUN never returns from CLI; HLT. A
//! timer on vCPU 0 interrupts it now and then, ever more rarely, to look. Where other processors
//! exist, vCPU 0 asks them all to report (a new round), and believes it when all have said "dead"
//! in the same round and it is still dead itself.

use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engine::EngineError;

use crate::kick;

const FIRST_LOOK: Duration = Duration::from_millis(10);
const RAREST_LOOK: Duration = Duration::from_millis(640);

/// What vCPUs report to vCPU 0.
pub(crate) struct Roll {
    round: AtomicU64,
    /// The last round in which each vCPU was dead; 0: never.
    dead_in: Vec<AtomicU64>,
}

impl Roll {
    pub(crate) fn new(cpus: u32) -> Self {
        Self { round: AtomicU64::new(0), dead_in: (0..cpus).map(|_| AtomicU64::new(0)).collect() }
    }

    /// vCPU `index` says how it is.
    pub(crate) fn report(&self, index: u32, dead: bool) {
        let round = if dead { self.round.load(Ordering::SeqCst) } else { 0 };
        self.dead_in[index as usize].store(round, Ordering::SeqCst);
    }

    /// Begins a round: earlier reports no longer count.
    pub(crate) fn begin_round(&self) {
        self.round.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether all were dead in this round.
    pub(crate) fn all_dead(&self) -> bool {
        let round = self.round.load(Ordering::SeqCst);
        round != 0 && self.dead_in.iter().all(|dead| dead.load(Ordering::SeqCst) == round)
    }
}

/// A timer that sends the kick signal to the thread that armed it.
pub(crate) struct Watch {
    timer: Option<(libc::pid_t, libc::timer_t)>,
    wait: Duration,
}

// SAFETY: a timer id is a number that any thread of the process may use.
unsafe impl Send for Watch {}

impl Watch {
    pub(crate) fn new() -> Self {
        Self { timer: None, wait: FIRST_LOOK }
    }

    /// Starts over with short waits, for the calling thread.
    pub(crate) fn start(&mut self) -> Result<(), EngineError> {
        // SAFETY: gettid has no precondition.
        let thread = unsafe { libc::gettid() };
        if self.timer.is_none_or(|(owner, _)| owner != thread) {
            self.discard();
            self.timer = Some((thread, create_timer(thread)?));
        }
        self.wait = FIRST_LOOK;
        self.arm(self.wait);
        Ok(())
    }

    /// Waits again: twice as long, or briefly when an answer is expected.
    pub(crate) fn again(&mut self, soon: bool) {
        self.wait = if soon { FIRST_LOOK } else { (self.wait * 2).min(RAREST_LOOK) };
        self.arm(self.wait);
    }

    /// No more signals.
    pub(crate) fn stop(&mut self) {
        self.arm(Duration::ZERO);
    }

    fn arm(&self, wait: Duration) {
        let Some((_, timer)) = self.timer else { return };
        let at = libc::timespec { tv_sec: 0, tv_nsec: wait.as_nanos() as libc::c_long };
        // Again and again: a signal that comes between two KVM_RUNs is handled and forgotten.
        let spec = libc::itimerspec { it_interval: at, it_value: at };
        // SAFETY: the timer is ours and not deleted; the old value is not asked for.
        let result = unsafe { libc::timer_settime(timer, 0, &spec, ptr::null_mut()) };
        debug_assert_eq!(result, 0, "a valid timer takes times below one second");
    }

    fn discard(&mut self) {
        if let Some((_, timer)) = self.timer.take() {
            // SAFETY: the timer is ours, and forgotten with this.
            unsafe { libc::timer_delete(timer) };
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.discard();
    }
}

fn create_timer(thread: libc::pid_t) -> Result<libc::timer_t, EngineError> {
    let mut timer: libc::timer_t = ptr::null_mut();
    // SAFETY: a zeroed sigevent is valid; the three fields that SIGEV_THREAD_ID reads are set, and
    // the kernel writes one timer id.
    let result = unsafe {
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = kick::signal();
        event.sigev_notify_thread_id = thread;
        libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer)
    };
    if result == 0 { Ok(timer) } else { Err(EngineError::last_os("timer_create")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_in_its_own_round_only() {
        let roll = Roll::new(2);
        roll.report(0, true);
        roll.report(1, true);
        assert!(!roll.all_dead(), "no round was begun");
        roll.begin_round();
        assert!(!roll.all_dead());
        roll.report(0, true);
        assert!(!roll.all_dead());
        roll.report(1, true);
        assert!(roll.all_dead());
        roll.report(1, false);
        assert!(!roll.all_dead());
    }
}
