//! Locks that belong to an open file description (fcntl(2), `F_OFD_SETLK`): they end with its last
//! descriptor, and hold against the same process, too.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Takes a shared lock of one byte.
pub(crate) fn share(file: &File, byte: u64) -> io::Result<()> {
    call(file, libc::F_OFD_SETLK, libc::F_RDLCK, byte).map(drop)
}

/// Gives the lock of one byte back.
pub(crate) fn release(file: &File, byte: u64) -> io::Result<()> {
    call(file, libc::F_OFD_SETLK, libc::F_UNLCK, byte).map(drop)
}

/// Whether another open file description has any lock of that byte.
pub(crate) fn is_held_elsewhere(file: &File, byte: u64) -> io::Result<bool> {
    let answer = call(file, libc::F_OFD_GETLK, libc::F_WRLCK, byte)?;
    Ok(answer.l_type != libc::F_UNLCK as libc::c_short)
}

fn call(file: &File, command: i32, kind: i32, byte: u64) -> io::Result<libc::flock> {
    let mut lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte as libc::off_t,
        l_len: 1,
        l_pid: 0, // asked for by OFD locks
    };
    // SAFETY: the descriptor is open as long as `file` is borrowed, and these commands read and
    // write one `struct flock`, which lives across the call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(lock) }
}
