//! A set of signals that are blocked in every thread and waited for in one (sigwait(3)).

use std::io;
use std::mem::MaybeUninit;

/// Signals that are blocked.
#[derive(Clone, Copy)]
pub(crate) struct Set(libc::sigset_t);

impl Set {
    /// Blocks them in this thread and in all that it will start.
    pub(crate) fn block(signals: &[i32]) -> io::Result<Self> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset initializes the whole set it is given a pointer to.
        let mut set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            set.assume_init()
        };
        for signal in signals {
            // SAFETY: the set is initialized; a wrong number is refused, not misused.
            unsafe { libc::sigaddset(&raw mut set, *signal) };
        }
        // SAFETY: the set is initialized, and a null old set is allowed.
        match unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())
        } {
            0 => Ok(Self(set)),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }

    /// Waits for the next one.
    pub(crate) fn wait(&self) -> Option<i32> {
        let mut signal = 0;
        // SAFETY: both pointers are to live values of the right types.
        match unsafe { libc::sigwait(&raw const self.0, &raw mut signal) } {
            0 => Some(signal),
            _ => None,
        }
    }
}
