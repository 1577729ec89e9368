//! Many reads, writes and flushes at a time between a disk and a guest's memory.
//!
//! A raw image goes through io_uring where the host has it: the host's kernel moves the bytes
//! straight from and to guest memory. Everything else, and what io_uring did not do whole, goes
//! through [`Disk`] on a few threads. Invariants: each tag's end is told once; whoever drops a lane
//! waits until nobody touches the guest's memory any more; a page of guest memory that was filled
//! is marked so before its end is told.

mod pool;

use std::fmt;
use std::sync::Arc;

use memory::{GuestMemory, PAGE_SIZE, RamOffset};

use crate::disk::Disk;
use crate::error::DiskError;
use crate::sys::uring::Uring;
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
    /// A lane between these two; and why it does not use io_uring where it could, if so.
    pub fn open(disk: Arc<Disk>, memory: Arc<GuestMemory>) -> (Self, Option<String>) {
        let why = match disk.raw().map(|_| Uring::open(disk.clone(), memory.clone())) {
            Some(Ok(uring)) => return (Self { how: How::Uring(Box::new(uring)) }, None),
            Some(Err(error)) => Some(format!("no io_uring ({error}), {} threads", pool::THREADS)),
            None => None,
        };
        (Self { how: How::Pool(Pool::new(disk, memory)) }, why)
    }

    /// The same on threads, whatever the host can do.
    pub fn on_threads(disk: Arc<Disk>, memory: Arc<GuestMemory>) -> Self {
        Self { how: How::Pool(Pool::new(disk, memory)) }
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

    /// Tells of what has ended; `wait`: after the first has, or the alarm rang. Nothing is waited
    /// for if nothing was begun.
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

/// Does a job here and now, through a buffer.
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
        let part = &mut buffer[..CHUNK.min((end - at) as usize)];
        let next = &mut |part: &mut [u8]| {
            let mut done = 0;
            while done < part.len() {
                let (place, length) = pieces.next(part.len() - done);
                let run = &mut part[done..done + length];
                match job.kind {
                    Kind::Read => {
                        memory.write_bytes(place, run);
                        note_written(memory, place, length as u32);
                    }
                    _ => memory.read_bytes(place, run),
                }
                done += length;
            }
        };
        if job.kind == Kind::Read {
            disk.read_at(at, part)?;
            next(part);
        } else {
            next(part);
            disk.write_at(at, part)?;
        }
        at += part.len() as u64;
    }
    Ok(())
}

/// Marks the pages of a piece that was filled.
pub(crate) fn note_written(memory: &GuestMemory, place: RamOffset, length: u32) {
    if length > 0 {
        let last = (place.0 + u64::from(length) - 1) / PAGE_SIZE;
        (place.0 / PAGE_SIZE..=last).for_each(|page| memory.note_written(page));
    }
}

/// How far pieces were used.
struct Cursor<'a> {
    pieces: &'a [(RamOffset, u32)],
    done: u32,
}

impl Cursor<'_> {
    /// The next run of at most `most` bytes; there is one.
    fn next(&mut self, most: usize) -> (RamOffset, usize) {
        while self.pieces[0].1 == self.done {
            self.pieces = &self.pieces[1..];
            self.done = 0;
        }
        let (place, length) = self.pieces[0];
        let run = ((length - self.done) as usize).min(most);
        let start = RamOffset(place.0 + u64::from(self.done));
        self.done += run as u32;
        (start, run)
    }
}
