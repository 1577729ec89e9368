//! Stopping a running vCPU from another thread (api.rst, 5, `immediate_exit`).
//!
//! KVM_RUN ends when its thread has a signal pending, or at once where `immediate_exit` is set.
//! Either alone loses a race: a signal handled just before the ioctl is gone, a flag set just
//! after it is not looked at. Both together do not: set the reason, set the flag, then send the
//! signal. The handler does nothing, its arrival is the message.
//!
//! Invariant: thread id and flag pointer are used only under the lock in which `run` published
//! them and takes them back, so neither outlives the run; a kick between runs stays recorded.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use engine::Kick;
use kvm_ioctls::VcpuFd;

/// One vCPU's bell: rung by other threads, answered in `run`.
#[derive(Default)]
pub(crate) struct Doorbell {
    /// `run` is to return.
    kicked: AtomicBool,
    /// The run loop is to look at its shared state, then go on.
    nudged: AtomicBool,
    running: Mutex<Option<Running>>,
}

/// Where a vCPU is running right now.
struct Running {
    thread: libc::pid_t,
    immediate_exit: ImmediateExit,
}

impl Doorbell {
    /// Makes the run loop look around once; `run` does not return.
    pub(crate) fn nudge(&self) {
        self.nudged.store(true, Ordering::SeqCst);
        self.ring();
    }

    /// Whether something was asked since the last look.
    pub(crate) fn is_rung(&self) -> bool {
        self.kicked.load(Ordering::SeqCst) || self.nudged.load(Ordering::SeqCst)
    }

    /// Takes the kick, if there is one.
    pub(crate) fn take_kick(&self) -> bool {
        self.kicked.swap(false, Ordering::SeqCst)
    }

    /// Takes the nudge, if there is one.
    pub(crate) fn take_nudge(&self) -> bool {
        self.nudged.swap(false, Ordering::SeqCst)
    }

    /// Publishes where the vCPU runs, until the guard is dropped. The caller keeps `fd` alive and
    /// stays on this thread for that long.
    pub(crate) fn answer(&self, fd: &mut VcpuFd) -> Answering<'_> {
        let immediate_exit = ImmediateExit::of(fd);
        // SAFETY: gettid has no precondition.
        let thread = unsafe { libc::gettid() };
        *self.lock() = Some(Running { thread, immediate_exit });
        Answering { doorbell: self, immediate_exit }
    }

    fn ring(&self) {
        if let Some(running) = &*self.lock() {
            running.immediate_exit.set(true);
            // SAFETY: tgkill takes plain numbers. The thread exists: it is inside `run`, which
            // takes the lock that is held here before it returns.
            unsafe {
                libc::syscall(libc::SYS_tgkill, libc::getpid(), running.thread, signal());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kick for Doorbell {
    fn kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
        self.ring();
    }
}

/// While it lives, other threads reach the vCPU on this thread.
pub(crate) struct Answering<'a> {
    doorbell: &'a Doorbell,
    immediate_exit: ImmediateExit,
}

impl Answering<'_> {
    /// Clears the flag for the next KVM_RUN, unless something was asked meanwhile: whoever asked
    /// recorded it before setting the flag, so it is seen here.
    pub(crate) fn rearm(&self) {
        self.immediate_exit.set(false);
        if self.doorbell.is_rung() {
            self.immediate_exit.set(true);
        }
    }

    /// Makes the next KVM_RUN complete what is pending and come back.
    pub(crate) fn exit_at_once(&self) {
        self.immediate_exit.set(true);
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        *self.doorbell.lock() = None;
        self.immediate_exit.set(false);
    }
}

/// The `immediate_exit` byte of one vCPU's kvm_run page.
#[derive(Clone, Copy)]
struct ImmediateExit(NonNull<u8>);

// SAFETY: the byte is only touched atomically; `Doorbell` keeps the pointer no longer than `run`
// borrows the VcpuFd that maps it.
unsafe impl Send for ImmediateExit {}

impl ImmediateExit {
    fn of(fd: &mut VcpuFd) -> Self {
        Self(NonNull::from(&mut fd.get_kvm_run().immediate_exit))
    }

    fn set(self, on: bool) {
        // SAFETY: the kvm_run mapping lives as long as the VcpuFd, which outlives this value (see
        // `Doorbell::answer`); kernel and threads touch the byte only whole.
        let byte = unsafe { AtomicU8::from_ptr(self.0.as_ptr()) };
        byte.store(on.into(), Ordering::SeqCst);
    }
}

/// The signal that ends KVM_RUN: the second real-time signal, the first being the C library's
/// favourite for users.
pub(crate) fn signal() -> libc::c_int {
    libc::SIGRTMIN() + 1
}

/// Installs the handler once per process and opens the signal for this thread.
pub(crate) fn prepare_thread() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        extern "C" fn nothing(_: libc::c_int) {}
        // SAFETY: a zeroed sigaction is a valid one; the handler does nothing, so it may run
        // anywhere. SA_RESTART keeps a late signal from ending other system calls.
        let result = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(signal(), &action, std::ptr::null_mut())
        };
        assert_eq!(result, 0, "sigaction of a real-time signal cannot fail");
    });
    // SAFETY: `set` is initialised by sigemptyset before use, and only this thread's mask changes.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal());
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kick_between_runs_is_kept_and_taken_once() {
        let doorbell = Doorbell::default();
        doorbell.kick();
        doorbell.kick();
        assert!(doorbell.is_rung());
        assert!(doorbell.take_kick());
        assert!(!doorbell.take_kick());
        doorbell.nudge();
        assert!(!doorbell.take_kick());
        assert!(doorbell.take_nudge());
    }
}
