//! Threads for what takes long, started when there is something to do.
//!
//! A task that is not done yet is asked again after [`PAUSE`], by whichever thread is free: what waits
//! for a lock holds up nothing. Invariant: after the pool is dropped no task begins, and what one in
//! the middle of its work comes to is thrown away.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Task;
use crate::worker::Waker;

/// Between two questions to a task whether it is done.
const PAUSE: Duration = Duration::from_millis(10);

#[derive(Default)]
struct State {
    fresh: VecDeque<(u64, Task)>,
    /// In the order of their times.
    again: VecDeque<(Instant, u64, Task)>,
    done: Vec<(u64, Vec<u8>)>,
    threads: usize,
    idle: usize,
    /// Tasks that a thread is at.
    running: usize,
    stopped: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// The last running task came to an end, or to a pause.
    calm: Condvar,
    waker: Waker,
}

/// The threads of one activation.
pub(super) struct Pool {
    shared: Arc<Shared>,
    most: usize,
}

impl Pool {
    pub(super) fn new(most: usize, waker: Waker) -> Self {
        let (state, changed, calm) = (Mutex::default(), Condvar::new(), Condvar::new());
        Self { shared: Arc::new(Shared { state, changed, calm, waker }), most }
    }

    /// Has a task done under a ticket; without threads it is done at once, and this is its answer.
    pub(super) fn run(&self, ticket: u64, task: Task) -> Option<Vec<u8>> {
        let mut state = self.shared.lock();
        if state.idle == 0 && state.threads < self.most {
            let shared = self.shared.clone();
            let spawned = threads::spawn("virtio-fs-pool", move || shared.work());
            state.threads += usize::from(spawned.is_ok());
        }
        if state.threads == 0 {
            drop(state);
            return Some(in_place(task));
        }
        state.fresh.push_back((ticket, task));
        self.shared.changed.notify_one();
        None
    }

    /// Waits for the tasks that threads are at and forgets all that gave no answer.
    pub(super) fn quiesce(&self) {
        let mut state = self.shared.lock();
        let mut forgotten = vec![std::mem::take(&mut state.fresh)];
        let mut paused = std::mem::take(&mut state.again);
        while state.running > 0 {
            state = self.shared.calm.wait(state).unwrap_or_else(PoisonError::into_inner);
            forgotten.push(std::mem::take(&mut state.fresh));
            paused.append(&mut state.again);
        }
        drop(state); // tasks may do much when they go
    }

    /// Answers that have been made.
    pub(super) fn take_done(&self) -> Vec<(u64, Vec<u8>)> {
        std::mem::take(&mut self.shared.lock().done)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stopped = true;
        let (fresh, again) = (std::mem::take(&mut state.fresh), std::mem::take(&mut state.again));
        drop(state);
        drop((fresh, again));
        self.shared.changed.notify_all();
    }
}

fn in_place(mut task: Task) -> Vec<u8> {
    loop {
        if let Some(answer) = task() {
            return answer;
        }
        thread::sleep(PAUSE);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread's body.
    fn work(&self) {
        let mut state = self.lock();
        while !state.stopped {
            let now = Instant::now();
            let due = state.again.front().map(|(at, ..)| *at);
            let task = match due {
                Some(at) if at <= now => state.again.pop_front().map(|(_, id, task)| (id, task)),
                _ => state.fresh.pop_front(),
            };
            let Some((ticket, mut task)) = task else {
                state.idle += 1;
                let pause = due.map_or(Duration::MAX, |at| at - now);
                let waited = self.changed.wait_timeout(state, pause.min(Duration::from_secs(60)));
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                state.idle -= 1;
                continue;
            };
            state.running += 1;
            drop(state);
            let answer = task();
            state = self.lock();
            state.running -= 1;
            self.calm.notify_all();
            match answer {
                _ if state.stopped => {}
                Some(answer) => {
                    state.done.push((ticket, answer));
                    drop(state);
                    self.waker.wake();
                    state = self.lock();
                }
                None => state.again.push_back((Instant::now() + PAUSE, ticket, task)),
            }
        }
    }
}
