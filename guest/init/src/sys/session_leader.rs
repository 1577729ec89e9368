//! Makes a command the leader of a session of its own, with standard input as its terminal.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Adds the step between fork and exec.
pub(crate) fn prepare(command: &mut Command, controlling_terminal: bool) {
    let step = move || -> io::Result<()> {
        rustix::process::setsid()?;
        if controlling_terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        Ok(())
    };
    // SAFETY: the closure makes two system calls and nothing else: no allocation, no lock, which
    // is all that may happen in the child of a possibly threaded process.
    unsafe {
        command.pre_exec(step);
    }
}
