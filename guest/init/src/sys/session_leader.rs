//! Makes a command the leader of a session of its own, with standard input as its terminal, and of
//! another user if it shall not be root's.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use protocol::User;
use rustix::fs::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// Adds the step between fork and exec.
pub(crate) fn prepare(command: &mut Command, controlling_terminal: bool, user: Option<&User>) {
    let ids = user.map(|user| {
        let groups: Vec<Gid> = user.groups.iter().map(|group| Gid::from_raw(*group)).collect();
        (Uid::from_raw(user.uid), Gid::from_raw(user.gid), groups)
    });
    let step = move || -> io::Result<()> {
        rustix::process::setsid()?;
        if controlling_terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        if let Some((uid, gid, groups)) = &ids {
            set_thread_groups(groups)?;
            set_thread_res_gid(*gid, *gid, *gid)?;
            set_thread_res_uid(*uid, *uid, *uid)?;
        }
        Ok(())
    };
    // SAFETY: the closure makes a few system calls and nothing else: no allocation, no lock, which
    // is all that may happen in the child of a possibly threaded process.
    unsafe {
        command.pre_exec(step);
    }
}
