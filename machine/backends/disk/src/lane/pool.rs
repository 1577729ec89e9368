//! A lane on a few threads.
//!
//! Who waits for an end works, too: a single read or write is done on its thread and costs no
//! switch; a flush only is where flushes are fast and nothing else is under way ([`Pace`]), so that
//! what comes meanwhile does not wait for it (unless there are no threads to be had at all).

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use memory::GuestMemory;

use super::{Alarm, Job, Kind, Landed, Pace, buffer, do_now};
use crate::bytes::lock;
use crate::disk::Disk;

pub(super) const THREADS: usize = 4;

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    landed: Vec<Landed>,
    /// Begun and not yet landed.
    flying: usize,
    /// Threads that wait for a job.
    idle: usize,
    alarm: bool,
    ended: bool,
}

struct Shared {
    disk: Arc<Disk>,
    memory: Arc<GuestMemory>,
    state: Mutex<State>,
    /// There is a job, or the end.
    job: Condvar,
    /// Something landed, or the alarm rang.
    news: Condvar,
}

pub(super) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    buffer: Vec<u8>,
    pace: Pace,
}

impl Pool {
    pub(super) fn new(disk: Arc<Disk>, memory: Arc<GuestMemory>) -> Self {
        let (state, job, news) = (Mutex::default(), Condvar::new(), Condvar::new());
        let shared = Arc::new(Shared { disk, memory, state, job, news });
        let spawn = |_| {
            let shared = shared.clone();
            std::thread::Builder::new().name("disk".into()).spawn(move || shared.work()).ok()
        };
        let threads = (0..THREADS).filter_map(spawn).collect();
        Self { shared, threads, buffer: buffer(), pace: Pace::default() }
    }

    pub(super) fn start(&mut self, job: Job) {
        let mut state = lock(&self.shared.state);
        let slow = job.kind == Kind::Flush;
        if slow && state.flying + state.waiting.len() == 0 && self.pace.at_once() {
            drop(state);
            let shared = &self.shared;
            let buffer = &mut self.buffer;
            let done = self.pace.time(|| do_now(&shared.disk, &shared.memory, &job, buffer));
            lock(&shared.state).landed.push((job.tag, done));
            return;
        }
        state.waiting.push_back(job);
        // The first one is for whoever reaps.
        let others = state.waiting.len() > 1 || slow;
        if others && state.idle > 0 {
            self.shared.job.notify_one();
        }
    }

    pub(super) fn reap(&mut self, wait: bool, landed: &mut Vec<Landed>) {
        let shared = &self.shared;
        let mut state = lock(&shared.state);
        if wait {
            let alone = self.threads.is_empty();
            let job = state.take(alone);
            if let Some(job) = job {
                drop(state);
                let done = do_now(&shared.disk, &shared.memory, &job, &mut self.buffer);
                state = lock(&shared.state);
                state.land(job.tag, done);
            }
            while state.landed.is_empty() && !state.alarm && state.flying + state.waiting.len() > 0
            {
                state = shared.news.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.alarm = false;
        } else if !state.waiting.is_empty() && state.idle > 0 {
            shared.job.notify_one();
        }
        landed.append(&mut state.landed);
    }

    pub(super) fn alarm(&self) -> Alarm {
        let shared = Arc::downgrade(&self.shared);
        Arc::new(move || {
            if let Some(shared) = shared.upgrade() {
                lock(&shared.state).alarm = true;
                shared.news.notify_all();
            }
        })
    }
}

impl State {
    /// The next job; a flush only for who has time.
    fn take(&mut self, any: bool) -> Option<Job> {
        let index = match any {
            true => 0,
            false => self.waiting.iter().position(|job| job.kind != Kind::Flush)?,
        };
        let job = self.waiting.remove(index)?;
        self.flying += 1;
        Some(job)
    }

    fn land(&mut self, tag: u32, done: Result<(), crate::DiskError>) {
        self.flying -= 1;
        self.landed.push((tag, done));
    }
}

impl Shared {
    fn work(&self) {
        let mut buffer = buffer();
        let mut state = lock(&self.state);
        loop {
            if let Some(job) = state.take(true) {
                drop(state);
                let done = do_now(&self.disk, &self.memory, &job, &mut buffer);
                state = lock(&self.state);
                state.land(job.tag, done);
                self.news.notify_all();
            } else if state.ended {
                return;
            } else {
                state.idle += 1;
                state = self.job.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        {
            let mut state = lock(&self.shared.state);
            // What nobody has begun needs no memory of the guest's any more.
            state.waiting.clear();
            state.ended = true;
        }
        self.shared.job.notify_all();
        for thread in self.threads.drain(..) {
            // One that panicked has told so, and touches nothing any more.
            let _ = thread.join();
        }
    }
}
