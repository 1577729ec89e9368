//! INIT: what both sides agree on; STATFS.

use std::sync::atomic::Ordering;

use rustix::fs::fstatfs;
use rustix::io::Errno;

use crate::limits::MOST_DATA;
use crate::server::{Done, Reply, Server};
use crate::wire::{Args, MAJOR, MINOR, OLDEST_MINOR, Out, init};

const PAGE: usize = 4096;
/// Requests of the guest's kernel in the background, and from how many on it counts as congested.
const BACKGROUND: (u16, u16) = (64, 48);
const READ_AHEAD: u32 = MOST_DATA as u32;

impl Server {
    pub(crate) fn init(&self, mut args: Args<'_>) -> Done {
        let (major, minor) = (args.u32()?, args.u32()?);
        if major < MAJOR || (major == MAJOR && minor < OLDEST_MINOR) {
            return Err(Errno::PROTO);
        }
        let version = Out::default().u32(MAJOR).u32(MINOR);
        if major > MAJOR {
            return Ok(Reply::Bytes(version.zeroes(64 - 8).0)); // it asks again with ours
        }
        let (read_ahead, low) = (args.u32()?, args.u32()?);
        let high = if u64::from(low) & init::INIT_EXT != 0 { args.u32()? } else { 0 };
        let offered = u64::from(low) | u64::from(high) << 32;
        let mut wanted = init::ASYNC_READ
            | init::ATOMIC_O_TRUNC
            | init::BIG_WRITES
            | init::AUTO_INVAL_DATA
            | init::DO_READDIRPLUS
            | init::READDIRPLUS_AUTO
            | init::ASYNC_DIO
            | init::PARALLEL_DIROPS
            | init::MAX_PAGES
            | init::CACHE_SYMLINKS
            | init::HANDLE_KILLPRIV_V2
            | init::INIT_EXT;
        if self.locks {
            wanted |= init::POSIX_LOCKS | init::FLOCK_LOCKS;
        }
        let agreed = offered & wanted;
        let most_write = if agreed & init::MAX_PAGES != 0 { MOST_DATA } else { 32 * PAGE };
        self.forget_everything();
        self.running.store(true, Ordering::Release);
        let answer = version
            .u32(read_ahead.min(READ_AHEAD))
            .u32(agreed as u32)
            .u16(BACKGROUND.0)
            .u16(BACKGROUND.1)
            .u32(most_write as u32)
            .u32(1) // times count nanoseconds
            .u16((most_write / PAGE) as u16)
            .u16(0)
            .u32((agreed >> 32) as u32)
            .zeroes(28);
        Ok(Reply::Bytes(answer.0))
    }

    pub(crate) fn file_system(&self, node: u64) -> Done {
        let about = fstatfs(&*self.inodes.fd(node)?)?;
        let answer = Out::default()
            .u64(about.f_blocks)
            .u64(about.f_bfree)
            .u64(about.f_bavail)
            .u64(about.f_files)
            .u64(about.f_ffree)
            .u32(about.f_bsize as u32)
            .u32(255)
            .u32(about.f_frsize as u32)
            .zeroes(4 + 24);
        Ok(Reply::Bytes(answer.0))
    }
}
