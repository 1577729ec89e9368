//! A lane of io_uring (io_uring(7)) between a raw image's file and guest memory.
//!
//! Reads and flushes go on in the kernel, flushes that are fast and alone at once ([`Pace`]). Writes are done at once: into the page cache they are a
//! copy, which the kernel would give to a thread of its own (two switches), and which excludes
//! others in the same file anyway. A read or write that the kernel did not do whole, for whatever reason, is done again through
//! [`Disk`], which says what is wrong. Invariant: a job is in `flights` from its submission until
//! its completion was taken from the ring; nothing that the kernel was given of it moves or is
//! freed meanwhile.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use memory::GuestMemory;
use rustix::event::EventfdFlags;

use crate::disk::Disk;
use crate::error::DiskError;
use crate::lane::{Alarm, Job, Kind, Landed, Pace, buffer, do_now, note_written};

/// Submissions that wait for the kernel at a time; twice as many completions.
const ENTRIES: u32 = 256;
/// The user data of the alarm's poll; flights have their indices.
const ALARM: u64 = u64::MAX;

/// A job that the kernel has.
struct Flight {
    job: Job,
    vectors: Vec<libc::iovec>,
}

// SAFETY: the pointers in `vectors` are to guest memory, which belongs to no thread; this code only
// hands them to the kernel.
unsafe impl Send for Flight {}

pub(crate) struct Uring {
    ring: IoUring,
    disk: Arc<Disk>,
    memory: Arc<GuestMemory>,
    flights: Vec<Option<Flight>>,
    free: Vec<u32>,
    /// What was done without the kernel's queue.
    landed: Vec<Landed>,
    alarm: Arc<OwnedFd>,
    /// The alarm is somebody's bell, who reads it.
    foreign: bool,
    /// The alarm is polled for.
    armed: bool,
    buffer: Vec<u8>,
    pace: Pace,
}

impl Uring {
    /// A ring for a disk whose [`Disk::raw`] is there.
    pub(crate) fn open(
        disk: Arc<Disk>,
        memory: Arc<GuestMemory>,
        bell: Option<Arc<OwnedFd>>,
    ) -> io::Result<Self> {
        let ring = IoUring::new(ENTRIES)?;
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        let foreign = bell.is_some();
        let alarm = match bell {
            Some(bell) => bell,
            None => Arc::new(rustix::event::eventfd(0, flags)?),
        };
        let mut supported = io_uring::Probe::new();
        ring.submitter().register_probe(&mut supported)?;
        let needed = [opcode::Readv::CODE, opcode::Fsync::CODE, opcode::PollAdd::CODE];
        if !needed.into_iter().all(|code| supported.is_supported(code)) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let (flights, free, landed) = (Vec::new(), Vec::new(), Vec::new());
        let buffer = buffer();
        let (armed, pace) = (false, Pace::default());
        Ok(Self { ring, disk, memory, flights, free, landed, alarm, foreign, armed, buffer, pace })
    }

    pub(crate) fn start(&mut self, job: Job) {
        let raw = self.disk.raw().expect("as `open` says");
        let can = match job.kind {
            Kind::Flush => true,
            Kind::Read => raw.is_inside(job.offset, job.length()),
            Kind::Write => {
                !self.disk.read_only()
                    && raw.is_inside(job.offset, job.length())
                    && !raw.is_watched(job.offset)
            }
        };
        if !can {
            self.do_here(&job);
            return;
        }
        if job.kind == Kind::Flush && self.in_flight() == 0 && self.pace.at_once() {
            let (disk, memory, buffer) = (&self.disk, &self.memory, &mut self.buffer);
            let done = self.pace.time(|| do_now(disk, memory, &job, buffer));
            self.landed.push((job.tag, done));
            return;
        }
        let at = job.offset as libc::off_t; // inside a file
        let fd = types::Fd(raw.file().file().as_raw_fd());
        let base = self.memory.host_base();
        let vectors: Vec<libc::iovec> = job
            .pieces
            .iter()
            .map(|(place, length)| {
                let end = place.0.checked_add(u64::from(*length));
                assert!(end.is_some_and(|end| end <= self.memory.size()), "a piece is RAM");
                // `wrapping_add` is plain arithmetic; what it gives is inside the mapping, see above.
                let start = base.wrapping_add(place.0 as usize);
                libc::iovec { iov_base: start.cast(), iov_len: *length as usize }
            })
            .collect();
        if job.kind == Kind::Write {
            // SAFETY: as for the kernel's queue (`push`), but it is done when this returns.
            let result = unsafe { libc::pwritev(fd.0, vectors.as_ptr(), vectors.len() as i32, at) };
            self.land(Flight { job, vectors }, result);
            return;
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.flights.push(None);
            self.flights.len() as u32 - 1
        });
        let (pointer, count) = (vectors.as_ptr().cast(), vectors.len() as u32);
        let entry = match job.kind {
            Kind::Flush => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
            _ => opcode::Readv::new(fd, pointer, count).offset(job.offset).build(),
        };
        self.flights[index as usize] = Some(Flight { job, vectors });
        self.push(entry.user_data(index.into()));
    }

    /// Puts an entry into the queue, which the kernel empties if it is full.
    fn push(&mut self, entry: squeue::Entry) {
        loop {
            // SAFETY: what the entry names is in `flights`, or is the alarm: both live until its
            // completion was taken (`Drop` waits for that).
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            self.enter(0);
        }
    }

    /// Hands the queue to the kernel and waits for so many completions.
    fn enter(&mut self, wanted: usize) {
        loop {
            match self.ring.submit_and_wait(wanted) {
                Ok(_) => return,
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                // Completions have to be taken first.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return,
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                    std::thread::yield_now()
                }
                Err(error) => panic!("io_uring_enter(2) of our own ring: {error}"),
            }
        }
    }

    pub(crate) fn reap(&mut self, wait: bool, landed: &mut Vec<Landed>) {
        let wait = wait && self.landed.is_empty() && self.in_flight() > 0;
        if wait && !self.armed {
            let fd = types::Fd(self.alarm.as_raw_fd());
            let poll = opcode::PollAdd::new(fd, libc::POLLIN as u32).build();
            self.push(poll.user_data(ALARM));
            self.armed = true;
        }
        if wait || !self.ring.submission().is_empty() {
            self.enter(usize::from(wait));
        }
        self.take_completions();
        landed.append(&mut self.landed);
    }

    fn take_completions(&mut self) {
        let entries: Vec<cqueue::Entry> = self.ring.completion().collect();
        for entry in entries {
            if entry.user_data() == ALARM {
                self.armed = false;
                let mut count = [0; 8];
                if !self.foreign {
                    // It may have been read already: then there is nothing to read.
                    let _ = rustix::io::read(&*self.alarm, &mut count);
                }
                continue;
            }
            let index = entry.user_data() as u32;
            let flight = self.flights[index as usize].take().expect("the kernel had it");
            self.free.push(index);
            self.land(flight, entry.result() as isize);
        }
    }

    fn land(&mut self, flight: Flight, result: isize) {
        let Flight { job, vectors } = flight;
        drop(vectors);
        if job.kind == Kind::Flush {
            let done = match result {
                0.. => Ok(()),
                // Not to be asked again: the host tells of a failed flush once.
                error => Err(DiskError::io(
                    self.disk.path(),
                    "flush",
                    0,
                    io::Error::from_raw_os_error(-error as i32),
                )),
            };
            self.landed.push((job.tag, done));
            return;
        }
        if u64::try_from(result).ok() != Some(job.length()) {
            self.do_here(&job);
            return;
        }
        if job.kind == Kind::Read {
            for (place, length) in &job.pieces {
                note_written(&self.memory, *place, *length);
            }
        }
        self.landed.push((job.tag, Ok(())));
    }

    fn do_here(&mut self, job: &Job) {
        let done = do_now(&self.disk, &self.memory, job, &mut self.buffer);
        self.landed.push((job.tag, done));
    }

    fn in_flight(&self) -> usize {
        self.flights.len() - self.free.len()
    }

    pub(crate) fn alarm(&self) -> Alarm {
        let alarm = self.alarm.clone();
        Arc::new(move || {
            // A counter that cannot take more is set already.
            let _ = rustix::io::write(&*alarm, &1_u64.to_ne_bytes());
        })
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        while self.in_flight() > 0 {
            self.enter(1);
            self.take_completions();
        }
    }
}
