//! Processes and signals: fork(2), wait4(2), sigaction(2), and a system call that does nothing.

use std::io::Error;
use std::mem::MaybeUninit;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

/// The parent's process id, from the kernel each time.
pub(crate) fn parent() -> i32 {
    // SAFETY: getppid has no arguments and no effects.
    unsafe { libc::getppid() }
}

/// A child that nobody has waited for.
pub(crate) struct Child(libc::pid_t);

/// What a process that ended had used, itself and the children it waited for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Microseconds in user mode.
    pub(crate) user_us: u64,
    /// Microseconds in the kernel.
    pub(crate) system_us: u64,
    /// Exit status, or 128 and the signal.
    pub(crate) status: u8,
}

/// Runs `body` in a copy of this process, which ends with the status that it gives.
///
/// `body` should do no more than system calls: other threads' locks stay locked in the copy.
pub(crate) fn fork(body: impl FnOnce() -> u8) -> Result<Child, Error> {
    // SAFETY: the child runs `body` and leaves through _exit, so that no destructor or exit
    // handler of the parent runs twice.
    match unsafe { libc::fork() } {
        -1 => Err(Error::last_os_error()),
        0 => {
            let status = body();
            // SAFETY: ends this process.
            unsafe { libc::_exit(status.into()) }
        }
        pid => Ok(Child(pid)),
    }
}

impl Child {
    /// Waits for the end; the status.
    pub(crate) fn wait(self) -> Result<u8, Error> {
        wait(self.0 as u32).map(|usage| usage.status)
    }
}

/// Waits for a child of this process by its id.
pub(crate) fn wait(pid: u32) -> Result<Usage, Error> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are to locals of the right types.
    let done = unsafe { libc::wait4(pid as libc::pid_t, &mut status, 0, usage.as_mut_ptr()) };
    if done == -1 {
        return Err(Error::last_os_error());
    }
    // SAFETY: zeroed is a valid rusage, and the kernel has filled it.
    let usage = unsafe { usage.assume_init() };
    let microseconds = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    let status = if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status) as u8
    } else {
        128 + libc::WTERMSIG(status) as u8
    };
    Ok(Usage {
        user_us: microseconds(usage.ru_utime),
        system_us: microseconds(usage.ru_stime),
        status,
    })
}

static HANDLED: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(_signal: libc::c_int) {
    HANDLED.fetch_add(1, Ordering::Relaxed);
}

/// Sends SIGUSR1 to this process so many times; how many were handled.
pub(crate) fn signal_oneself(times: u64) -> Result<u64, Error> {
    let before = HANDLED.load(Ordering::Relaxed);
    // SAFETY: the handler does nothing but an atomic addition, which is async-signal-safe.
    let old = unsafe {
        libc::signal(libc::SIGUSR1, count as extern "C" fn(libc::c_int) as libc::sighandler_t)
    };
    if old == libc::SIG_ERR {
        return Err(Error::last_os_error());
    }
    for _ in 0..times {
        // SAFETY: raises the signal whose handler was installed above, in this thread.
        if unsafe { libc::raise(libc::SIGUSR1) } != 0 {
            return Err(Error::last_os_error());
        }
    }
    Ok(HANDLED.load(Ordering::Relaxed) - before)
}

/// Ends every process but the first (kill(2) with -1), so that nothing writes past the end.
pub(crate) fn end_all_others() {
    if process::id() == 1 {
        // SAFETY: as process 1 of a guest this reaches the guest's processes only.
        unsafe { libc::kill(-1, libc::SIGKILL) };
    }
}
