//! The thread that does a device's work, woken by doorbells and by the host.
//!
//! ```text
//!            start (DRIVER_OK)          process: Broken -> NEEDS_RESET, Halted
//!   Idle ------------------------> Active ----------------------------------.
//!    ^                                | reset (status = 0)                   |
//!    `------- handler dropped <-------'<-------------------------------------'
//! ```
//!
//! While it has nothing to do the thread waits for [`Worker::ring`], or at the device's own [`Waiter`],
//! which that wakes. Whoever builds the machine gives [`Worker::run`] a thread, or makes the worker inline: then
//! doorbells do the work themselves, which costs the vCPU the wait and makes a run repeatable.
//! Invariants: a handler is touched by one thread at a time; after a reset was answered no buffer of
//! the guest is touched.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use crate::device::{Handler, Queues, Waiter};
use crate::signals::Signals;

/// Rounds of work that an inline doorbell does at most: a full ring takes a few. Rings that overlap make
/// work of what the device itself writes, without end, and a vCPU must come back to be stopped.
const MOST_ROUNDS: u32 = 64;

/// A handler with its queues.
struct Job {
    handler: Box<dyn Handler>,
    queues: Queues,
}

#[derive(Default)]
struct Mailbox {
    /// What is to be worked on; `None` while nothing is, or while the thread has it.
    job: Option<Job>,
    /// The thread has the job.
    busy: bool,
    /// There is something to do.
    rung: bool,
    /// The thread is at the device's waiter, or on its way there.
    waits: bool,
    /// The driver wants a reset: the job is dropped as soon as nobody has it.
    reset: bool,
    stopped: bool,
}

/// One device's worker.
pub struct Worker {
    name: String,
    inline: bool,
    signals: Arc<Signals>,
    waiter: Option<Arc<dyn Waiter>>,
    mailbox: Mutex<Mailbox>,
    changed: Condvar,
}

/// Gets a handler called from any thread.
#[derive(Clone)]
pub struct Waker(Weak<Worker>);

impl Waker {
    /// Has [`Handler::process`] called soon; nothing if the device is not active any more.
    pub fn wake(&self) {
        if let Some(worker) = self.0.upgrade() {
            worker.ring();
        }
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}

impl Worker {
    pub(crate) fn new(
        name: String,
        inline: bool,
        signals: Arc<Signals>,
        waiter: Option<Arc<dyn Waiter>>,
    ) -> Arc<Self> {
        let (mailbox, changed) = (Mutex::default(), Condvar::new());
        Arc::new(Self { name, inline, signals, waiter, mailbox, changed })
    }

    /// A name for its thread.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether doorbells do the work themselves, so that no thread is wanted.
    pub fn is_inline(&self) -> bool {
        self.inline
    }

    pub(crate) fn waker(self: &Arc<Self>) -> Waker {
        Waker(Arc::downgrade(self))
    }

    /// The thread's body; returns after [`Worker::stop`].
    pub fn run(&self) {
        let mut mailbox = self.lock();
        while !mailbox.stopped {
            mailbox = match (mailbox.job.is_some(), mailbox.rung, &self.waiter) {
                (true, true, _) => self.work(mailbox),
                (true, false, Some(waiter)) => self.wait_at(&**waiter, mailbox),
                _ => self.changed.wait(mailbox).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Waits for the host's side, too; whatever it was, the handler looks.
    fn wait_at<'a>(
        &'a self,
        waiter: &dyn Waiter,
        mut mailbox: MutexGuard<'a, Mailbox>,
    ) -> MutexGuard<'a, Mailbox> {
        mailbox.waits = true;
        drop(mailbox);
        waiter.wait();
        let mut mailbox = self.lock();
        (mailbox.waits, mailbox.rung) = (false, true);
        mailbox
    }

    /// Ends the thread's wait, wherever it is.
    fn rouse(&self, mailbox: &mut Mailbox) {
        match &self.waiter {
            Some(waiter) if std::mem::take(&mut mailbox.waits) => waiter.wake(),
            _ => self.changed.notify_all(),
        }
    }

    /// Lets the thread leave when its current work is done; what is active is dropped.
    pub fn stop(&self) {
        let mut mailbox = self.lock();
        mailbox.stopped = true;
        mailbox.job = None;
        self.rouse(&mut mailbox);
    }

    /// The driver is ready. What it made available before is found without a doorbell.
    pub(crate) fn start(&self, handler: Box<dyn Handler>, queues: Queues) {
        let mut mailbox = self.lock();
        assert!(mailbox.job.is_none() && !mailbox.busy, "a device is activated after its reset");
        mailbox.job = Some(Job { handler, queues });
        drop(mailbox);
        self.ring();
    }

    /// A doorbell rang.
    pub(crate) fn ring(&self) {
        let mut mailbox = self.lock();
        mailbox.rung = true;
        if !self.inline {
            self.rouse(&mut mailbox);
            return;
        }
        for _ in 0..MOST_ROUNDS {
            if !mailbox.rung || mailbox.job.is_none() {
                break;
            }
            mailbox = self.work(mailbox);
        }
    }

    /// Asks for a reset; true: it is done. Otherwise ask again.
    pub(crate) fn reset(&self) -> bool {
        let mut mailbox = self.lock();
        mailbox.rung = false;
        mailbox.reset = mailbox.busy;
        mailbox.job = None;
        !mailbox.busy
    }

    /// One round of the handler, without the lock.
    fn work<'a>(&'a self, mut mailbox: MutexGuard<'a, Mailbox>) -> MutexGuard<'a, Mailbox> {
        let Some(mut job) = mailbox.job.take() else { return mailbox };
        mailbox.rung = false;
        mailbox.busy = true;
        drop(mailbox);
        let done = job.handler.process(&mut job.queues);
        let (signals, more) = job.queues.take_results();
        let mut mailbox = self.lock();
        mailbox.busy = false;
        if std::mem::take(&mut mailbox.reset) || mailbox.stopped {
            return mailbox; // the job ends here
        }
        self.signals.queues(signals);
        match done {
            Ok(()) => {
                mailbox.job = Some(job);
                mailbox.rung |= more;
            }
            Err(_) => self.signals.needs_reset(),
        }
        mailbox
    }

    fn lock(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("name", &self.name).finish_non_exhaustive()
    }
}
