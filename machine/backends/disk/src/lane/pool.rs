//! A lane on a few threads.
//!
//! Who waits for an end works, too: a single read or write is done on its thread and costs no
//! switch; a flush only is where flushes are fast and nothing else is under way ([`Pace`]), so that
//! what comes meanwhile does not wait for it (unless there are no threads to be had at all). Who has a bell
//! waits at that and at the news together ([`Ears`]).

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use memory::GuestMemory;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::{Errno, read, write};

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
    /// Who reaps is at its ears, or on the way there.
    listens: bool,
}

/// Where the reaper waits that has a bell.
struct Ears {
    bell: Arc<OwnedFd>,
    /// An eventfd: something landed, or the alarm rang.
    news: OwnedFd,
}

impl Ears {
    /// `None`: the host has no descriptors left; then the bell is heard when something lands.
    fn new(bell: Arc<OwnedFd>) -> Option<Self> {
        let news = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).ok()?;
        Some(Self { bell, news })
    }

    /// Waits for either; true: it was the bell.
    fn wait(&self) -> bool {
        let mut list = [&*self.bell, &self.news].map(|fd| PollFd::new(fd, PollFlags::IN));
        while poll(&mut list, None) == Err(Errno::INTR) {}
        let rang = list.map(|fd| !fd.revents().is_empty());
        if rang[1] {
            // Whoever told of the news may have been heard by way of the lock.
            let _ = read(&self.news, &mut [0; 8]);
        }
        rang[0]
    }
}

struct Shared {
    disk: Arc<Disk>,
    memory: Arc<GuestMemory>,
    state: Mutex<State>,
    /// There is a job, or the end.
    job: Condvar,
    /// Something landed, or the alarm rang, and the reaper has no ears.
    news: Condvar,
    ears: Option<Ears>,
}

pub(super) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    buffer: Vec<u8>,
    pace: Pace,
}

impl Pool {
    pub(super) fn new(
        disk: Arc<Disk>,
        memory: Arc<GuestMemory>,
        bell: Option<Arc<OwnedFd>>,
    ) -> Self {
        let (state, job, news) = (Mutex::default(), Condvar::new(), Condvar::new());
        let ears = bell.and_then(Ears::new);
        let shared = Arc::new(Shared { disk, memory, state, job, news, ears });
        let spawn = |_| {
            let shared = shared.clone();
            threads::spawn("disk", move || shared.work()).ok()
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
                state = shared.wait_for_news(state);
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
                let mut state = lock(&shared.state);
                state.alarm = true;
                shared.tell(&mut state);
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
    /// Has the reaper look, if it waits.
    fn tell(&self, state: &mut State) {
        match &self.ears {
            None => self.news.notify_all(),
            Some(ears) if std::mem::take(&mut state.listens) => {
                // It is not full: it is read before anybody listens again.
                let _ = write(&ears.news, &1_u64.to_ne_bytes());
            }
            Some(_) => {}
        }
    }

    /// The reaper's wait; a bell is an alarm.
    fn wait_for_news<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let Some(ears) = &self.ears else {
            return self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        state.listens = true;
        drop(state);
        let rang = ears.wait();
        let mut state = lock(&self.state);
        state.listens = false;
        state.alarm |= rang;
        state
    }

    fn work(&self) {
        let mut buffer = buffer();
        let mut state = lock(&self.state);
        loop {
            if let Some(job) = state.take(true) {
                drop(state);
                let done = do_now(&self.disk, &self.memory, &job, &mut buffer);
                state = lock(&self.state);
                state.land(job.tag, done);
                self.tell(&mut state);
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
