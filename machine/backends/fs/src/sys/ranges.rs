//! Locks of byte ranges that belong to an open file description (fcntl(2), `F_OFD_SETLK`).

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

/// A lock's kind and its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    pub(crate) kind: u32,
    pub(crate) start: u64,
    /// The last byte; `i64::MAX` and more: without an end.
    pub(crate) end: u64,
}

/// Nothing is locked.
pub(crate) const UNLOCKED: u32 = libc::F_UNLCK as u32;

/// Takes or gives back a lock; EAGAIN: another has it.
pub(crate) fn set(file: impl AsFd, range: Range) -> Result<(), Errno> {
    call(file, libc::F_OFD_SETLK, range).map(drop)
}

/// The lock of another that is in the way of this one; its kind is [`UNLOCKED`] if none is.
pub(crate) fn get(file: impl AsFd, range: Range) -> Result<Range, Errno> {
    let found = call(file, libc::F_OFD_GETLK, range)?;
    let start = found.l_start as u64;
    let end = if found.l_len == 0 { i64::MAX as u64 } else { start + found.l_len as u64 - 1 };
    Ok(Range { kind: found.l_type as u32, start, end })
}

fn call(file: impl AsFd, command: i32, range: Range) -> Result<libc::flock, Errno> {
    let kind = i32::try_from(range.kind).map_err(|_| Errno::INVAL)?;
    if ![libc::F_RDLCK, libc::F_WRLCK, libc::F_UNLCK].contains(&kind) || range.end < range.start {
        return Err(Errno::INVAL);
    }
    let start = i64::try_from(range.start).map_err(|_| Errno::OVERFLOW)?;
    let length = match i64::try_from(range.end) {
        Ok(end) if end < i64::MAX => end - start + 1,
        _ => 0,
    };
    let mut lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: length,
        l_pid: 0, // asked for by OFD locks
    };
    // SAFETY: the descriptor is open as long as `file` is borrowed, and these commands read and
    // write one `struct flock`, which lives across the call.
    let result = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), command, &raw mut lock) };
    if result < 0 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    Ok(lock)
}
