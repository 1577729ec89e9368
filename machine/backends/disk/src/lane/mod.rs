//! Many reads, writes and flushes at a time between a disk and a guest's memory.
//!
//! A raw image goes through io_uring where the host has it: the host's kernel moves the bytes
//! straight from and to guest memory. Everything else, and what io_uring did not do whole, goes
//! through [`Disk`] on a few threads. Invariants: each tag's end is told once; whoever drops a lane
//! waits until nobody touches the guest's memory any more; a page of guest memory that was filled
//! is marked so before its end is told.

mod pace;
mod pool;

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use memory::{GuestMemory, PAGE_SIZE, RamOffset};

use crate::disk::Disk;
use crate::error::DiskError;
use crate::sys::uring::Uring;
pub(crate) use pace::Pace;
use pool::Pool;

/// Pieces of guest memory, in order.
pub type Pieces = Vec<(RamOffset, u32)>;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    Flush,
}

/// One thing to do.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) tag: u32,
    pub(crate) kind: Kind,
    pub(crate) offset: u64,
    pub(crate) pieces: Pieces,
}

impl Job {
    pub(crate) fn length(&self) -> u64 {
        self.pieces.iter().map(|(_, length)| u64::from(*length)).sum()
    }
}

/// A job's tag and how it ended.
pub(crate) type Landed = (u32, Result<(), DiskError>);

/// Ends a wait; from any thread.
pub type Alarm = Arc<dyn Fn() + Send + Sync>;

/// A way between a disk and a guest's memory.
pub struct Lane {
    how: How,
}

enum How {
    Uring(Box<Uring>),
    Pool(Pool),
}

impl Lane {
    /// A lane between these two; and why it does not use io_uring where it could, if so. While the eventfd
    /// `bell` is not zero nothing is waited for in [`Lane::reap`]; nobody here reads it.
    pub fn open(
        disk: Arc<Disk>,
        memory: Arc<GuestMemory>,
        bell: Option<Arc<OwnedFd>>,
    ) -> (Self, Option<String>) {
        let ring = |_| Uring::open(disk.clone(), memory.clone(), bell.clone());
        let why = match disk.raw().map(ring) {
            Some(Ok(uring)) => return (Self { how: How::Uring(Box::new(uring)) }, None),
            Some(Err(error)) => Some(format!("no io_uring ({error}), {} threads", pool::THREADS)),
            None => None,
        };
        (Self { how: How::Pool(Pool::new(disk, memory, bell)) }, why)
    }

    /// The same on threads, whatever the host can do.
    pub fn on_threads(
        disk: Arc<Disk>,
        memory: Arc<GuestMemory>,
        bell: Option<Arc<OwnedFd>>,
    ) -> Self {
        Self { how: How::Pool(Pool::new(disk, memory, bell)) }
    }

    /// Begins to fill pieces from byte `offset` of the disk.
    pub fn read(&mut self, tag: u32, offset: u64, pieces: Pieces) {
        self.start(Job { tag, kind: Kind::Read, offset, pieces });
    }

    /// Begins to write pieces at byte `offset` of the disk.
    pub fn write(&mut self, tag: u32, offset: u64, pieces: Pieces) {
        self.start(Job { tag, kind: Kind::Write, offset, pieces });
    }

    /// Begins to bring to the medium what was written, as far as its end was told before.
    pub fn flush(&mut self, tag: u32) {
        self.start(Job { tag, kind: Kind::Flush, offset: 0, pieces: Pieces::new() });
    }

    fn start(&mut self, job: Job) {
        match &mut self.how {
            How::Uring(uring) => uring.start(job),
            How::Pool(pool) => pool.start(job),
        }
    }

    /// Tells of what has ended; `wait`: after the first has, or the alarm rang, or the bell. Nothing is
    /// waited for if nothing was begun.
    pub fn reap(&mut self, wait: bool, told: &mut dyn FnMut(u32, Result<(), DiskError>)) {
        let mut landed = Vec::new();
        match &mut self.how {
            How::Uring(uring) => uring.reap(wait, &mut landed),
            How::Pool(pool) => pool.reap(wait, &mut landed),
        }
        landed.into_iter().for_each(|(tag, done)| told(tag, done));
    }

    /// Ends a wait in [`Lane::reap`], the current or the next one.
    pub fn alarm(&self) -> Alarm {
        match &self.how {
            How::Uring(uring) => uring.alarm(),
            How::Pool(pool) => pool.alarm(),
        }
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match &self.how {
            How::Uring(_) => "io_uring",
            How::Pool(_) => "threads",
        };
        f.debug_struct("Lane").field("how", &how).finish_non_exhaustive()
    }
}

/// Bytes that are copied at a time.
const CHUNK: usize = 256 << 10;

/// A buffer for [`do_now`].
pub(crate) fn buffer() -> Vec<u8> {
    vec![0; CHUNK]
}

/// Does a job here and now: straight between file and guest memory where the bytes lie in a file as they are,
/// else through a buffer.
pub(crate) fn do_now(
    disk: &Disk,
    memory: &GuestMemory,
    job: &Job,
    buffer: &mut [u8],
) -> Result<(), DiskError> {
    if job.kind == Kind::Flush {
        return disk.flush();
    }
    let (mut at, end) = (job.offset, job.offset + job.length());
    let mut pieces = Cursor { pieces: &job.pieces, done: 0 };
    while at < end {
        let straight = go_straight(disk, memory, job.kind, &pieces, (at, end - at))?;
        if straight > 0 {
            pieces.take(straight, |_, _| {});
            at += straight;
            continue;
        }
        let part = &mut buffer[..CHUNK.min((end - at) as usize)];
        go_through(disk, memory, job.kind, &mut pieces, (at, part))?;
        at += part.len() as u64;
    }
    Ok(())
}

/// As much of a range as lies in a file, from its start on; how much that was.
fn go_straight(
    disk: &Disk,
    memory: &GuestMemory,
    kind: Kind,
    pieces: &Cursor<'_>,
    (at, length): (u64, u64),
) -> Result<u64, DiskError> {
    let runs = |length| {
        let mut runs = Vec::with_capacity(pieces.pieces.len());
        pieces.clone().take(length, |place, run| runs.push((place, run)));
        runs
    };
    match kind {
        Kind::Read => disk.read_straight(at, length, &mut |file, place, length| {
            memory.read_file(&runs(length), file, place)
        }),
        _ => disk.write_straight(at, length, &mut |file, place, length| {
            memory.write_file(&runs(length), file, place)
        }),
    }
}

/// A range through a buffer of its length.
fn go_through(
    disk: &Disk,
    memory: &GuestMemory,
    kind: Kind,
    pieces: &mut Cursor<'_>,
    (at, part): (u64, &mut [u8]),
) -> Result<(), DiskError> {
    let (length, mut done) = (part.len() as u64, 0);
    if kind == Kind::Read {
        disk.read_at(at, part)?;
        pieces.take(length, |place, run| {
            memory.write_bytes(place, &part[done..done + run as usize]);
            note_written(memory, place, run as u32);
            done += run as usize;
        });
        return Ok(());
    }
    pieces.take(length, |place, run| {
        memory.read_bytes(place, &mut part[done..done + run as usize]);
        done += run as usize;
    });
    disk.write_at(at, part)
}

/// Marks the pages of a piece that was filled.
pub(crate) fn note_written(memory: &GuestMemory, place: RamOffset, length: u32) {
    if length > 0 {
        let last = (place.0 + u64::from(length) - 1) / PAGE_SIZE;
        (place.0 / PAGE_SIZE..=last).for_each(|page| memory.note_written(page));
    }
}

/// How far pieces were used.
#[derive(Clone)]
struct Cursor<'a> {
    pieces: &'a [(RamOffset, u32)],
    done: u32,
}

impl Cursor<'_> {
    /// The next `length` bytes, run by run; there are as many.
    fn take(&mut self, length: u64, mut run: impl FnMut(RamOffset, u64)) {
        let mut left = length;
        while left > 0 {
            while self.pieces[0].1 == self.done {
                self.pieces = &self.pieces[1..];
                self.done = 0;
            }
            let (place, bytes) = self.pieces[0];
            let now = u64::from(bytes - self.done).min(left);
            run(RamOffset(place.0 + u64::from(self.done)), now);
            self.done += now as u32;
            left -= now;
        }
    }
}
