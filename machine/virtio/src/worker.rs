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
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::bells::Bell;
use crate::device::{Alarm, Handler, Kind, Queues, Waiter};
use crate::signals::{Signals, Use};

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
    /// Since when.
    rung_at: Option<Instant>,
    /// The thread is at the device's waiter, or on its way there.
    waits: bool,
    /// Ends the wait of whoever has the job.
    alarm: Option<Alarm>,
    /// The driver wants a reset: the thread drops the job, once the host has let go of it.
    reset: bool,
    stopped: bool,
}

impl Mailbox {
    /// Ends a wait of whoever has the job.
    fn alarm(&self) {
        if let Some(alarm) = self.alarm.as_ref().filter(|_| self.busy) {
            alarm();
        }
    }
}

/// One device's worker.
pub struct Worker {
    kind: Kind,
    name: String,
    inline: bool,
    signals: Arc<Signals>,
    waiter: Option<Arc<dyn Waiter>>,
    /// The waiter, if it is one that only doorbells ring.
    bell: Option<Arc<Bell>>,
    /// Doorbells that came by way of the transport.
    exits: AtomicU64,
    mailbox: Mutex<Mailbox>,
    changed: Condvar,
    /// Between a ring and the work, in microseconds.
    delay_us: AtomicU64,
    trace: OnceLock<Trace>,
}

/// Doorbells that a device's driver rang.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DoorbellCounts {
    /// By a store that came to this process.
    pub exits: u64,
    /// In the host's kernel; of devices that wait for the host's side, too, this is not known, and 0.
    pub kernel: u64,
}

/// Is told what happens, in sentences.
pub type Trace = Arc<dyn Fn(&str) + Send + Sync>;

/// Gets a handler called from any thread.
#[derive(Clone)]
pub struct Waker(Weak<Worker>);

impl Waker {
    /// One that nobody hears.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self(Weak::new())
    }

    /// Has [`Handler::process`] called soon; nothing if the device is not active any more.
    pub fn wake(&self) {
        if let Some(worker) = self.0.upgrade() {
            worker.ring();
        }
    }

    /// Tells the driver that the device changed its configuration space.
    pub fn config_changed(&self) {
        if let Some(worker) = self.0.upgrade() {
            worker.signals.config_changed();
        }
    }

    /// Whether doorbells do the work themselves, in the order of the guest's doing.
    pub fn is_inline(&self) -> bool {
        self.0.upgrade().is_some_and(|worker| worker.inline)
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}

impl Worker {
    pub(crate) fn new(
        kind: Kind,
        inline: bool,
        signals: Arc<Signals>,
        waiter: Option<Arc<dyn Waiter>>,
    ) -> Self {
        let (mailbox, changed) = (Mutex::default(), Condvar::new());
        let name = format!("virtio-{}", format!("{kind:?}").to_lowercase());
        let (delay_us, trace) = (AtomicU64::new(0), OnceLock::new());
        let (bell, exits) = (None, AtomicU64::new(0));
        Self { kind, name, inline, signals, waiter, bell, exits, mailbox, changed, delay_us, trace }
    }

    /// Waits at a bell, which doorbells ring, if the device has no place of its own.
    pub(crate) fn with_bell(mut self) -> Self {
        if self.waiter.is_none() {
            self.bell = Bell::new().map(Arc::new);
            self.waiter = self.bell.clone().map(|bell| bell as Arc<dyn Waiter>);
        }
        self
    }

    /// What doorbells in the kernel add to.
    pub(crate) fn event(&self) -> Option<Arc<OwnedFd>> {
        self.waiter.as_ref()?.event()
    }

    /// Doorbells so far.
    pub fn doorbells(&self) -> DoorbellCounts {
        let kernel = self.bell.as_ref().map_or(0, |bell| bell.kernel_rings());
        DoorbellCounts { exits: self.exits.load(Ordering::Relaxed), kernel }
    }

    /// A doorbell rang by way of the transport.
    pub(crate) fn doorbell(&self) {
        self.exits.fetch_add(1, Ordering::Relaxed);
        self.ring();
    }

    /// A name for its thread.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its device is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How far the guest ever came with its device.
    pub fn used(&self) -> Use {
        self.signals.used()
    }

    /// Has every request to a device that moves data for others take at least so long: disks,
    /// network, shared folders. Not inline, where only the vCPU would wait.
    pub fn set_delay(&self, delay: Option<Duration>) {
        let slow = matches!(self.kind, Kind::Network | Kind::Block | Kind::FileSystem);
        let delay = delay.filter(|_| slow && !self.inline).unwrap_or_default();
        self.delay_us.store(delay.as_micros() as u64, Ordering::Relaxed);
    }

    /// Has somebody told what drivers do to the device; once.
    pub fn set_trace(&self, trace: Option<Trace>) {
        if let Some(trace) = trace {
            // A second one is not promised anything.
            let _ = self.trace.set(trace);
        }
    }

    /// Tells, if somebody wants to know.
    pub(crate) fn tell(&self, what: impl FnOnce() -> String) {
        if let Some(trace) = self.trace.get() {
            trace(&format!("{}: {}", self.name, what()));
        }
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
        let job = mailbox.job.take();
        mailbox.alarm();
        self.rouse(&mut mailbox);
        drop(mailbox);
        drop(job);
    }

    /// The driver is ready. What it made available before is found without a doorbell.
    pub(crate) fn start(&self, handler: Box<dyn Handler>, queues: Queues) {
        let mut mailbox = self.lock();
        assert!(mailbox.job.is_none() && !mailbox.busy, "a device is activated after its reset");
        mailbox.alarm = None;
        mailbox.job = Some(Job { handler, queues });
        drop(mailbox);
        self.ring();
    }

    /// There is something to do.
    pub(crate) fn ring(&self) {
        let mut mailbox = self.lock();
        let before = std::mem::replace(&mut mailbox.rung, true);
        if !self.inline {
            mailbox.rung_at.get_or_insert_with(Instant::now);
            if !before {
                mailbox.alarm();
            }
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
        if mailbox.job.as_ref().is_some_and(|job| !job.handler.is_busy()) {
            mailbox.job = None;
        }
        mailbox.reset = mailbox.busy || mailbox.job.is_some();
        mailbox.rung = mailbox.job.is_some();
        if mailbox.reset {
            mailbox.alarm();
            self.rouse(&mut mailbox);
        }
        !mailbox.reset
    }

    /// One round of the handler, without the lock; or its end.
    fn work<'a>(&'a self, mut mailbox: MutexGuard<'a, Mailbox>) -> MutexGuard<'a, Mailbox> {
        let Some(mut job) = mailbox.job.take() else { return mailbox };
        mailbox.rung = false;
        let rung_at = mailbox.rung_at.take();
        mailbox.busy = true;
        let ending = mailbox.reset;
        drop(mailbox);
        let done = if ending {
            Ok(())
        } else {
            self.wait_for_delay(rung_at);
            job.handler.process(&mut job.queues)
        };
        let (signals, more) = job.queues.take_results();
        let mut mailbox = self.lock();
        if done.is_ok() && !mailbox.reset && !mailbox.stopped {
            self.signals.queues(signals);
            if mailbox.alarm.is_none() {
                mailbox.alarm = job.handler.alarm();
            }
            mailbox.job = Some(job);
            mailbox.rung |= more;
            mailbox.busy = false;
            return mailbox;
        }
        drop(mailbox);
        drop(job); // which may wait for the host, and no vCPU with it
        let mut mailbox = self.lock();
        mailbox.busy = false;
        mailbox.alarm = None;
        if !std::mem::take(&mut mailbox.reset) && !mailbox.stopped {
            self.signals.needs_reset();
            if let Err(broken) = done {
                self.tell(|| format!("needs a reset: {broken}"));
            }
        }
        mailbox
    }

    fn wait_for_delay(&self, rung_at: Option<Instant>) {
        let delay = Duration::from_micros(self.delay_us.load(Ordering::Relaxed));
        if let Some(at) = rung_at.filter(|_| !delay.is_zero()) {
            std::thread::sleep((at + delay).saturating_duration_since(Instant::now()));
        }
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::queue::Broken;
    use crate::testing::Recorder;

    /// Waits for the host in each round, until the alarm rings.
    struct Waiting {
        rounds: mpsc::Sender<&'static str>,
        alarm: Arc<(Mutex<bool>, Condvar)>,
        dropped_on: Arc<AtomicU32>,
    }

    impl Handler for Waiting {
        fn process(&mut self, queues: &mut Queues) -> Result<(), Broken> {
            let (rung, changed) = &*self.alarm;
            let _ = self.rounds.send("waits");
            let guard = rung.lock().expect("not poisoned");
            let limit = Duration::from_secs(20);
            let waited = changed.wait_timeout_while(guard, limit, |rung| !*rung);
            let (mut rung, timeout) = waited.expect("not poisoned");
            assert!(!timeout.timed_out(), "the alarm ends the wait");
            *rung = false;
            queues.again();
            Ok(())
        }

        fn is_busy(&self) -> bool {
            true
        }

        fn alarm(&self) -> Option<Alarm> {
            let alarm = self.alarm.clone();
            Some(Arc::new(move || {
                *alarm.0.lock().expect("not poisoned") = true;
                alarm.1.notify_all();
            }))
        }
    }

    impl Drop for Waiting {
        fn drop(&mut self) {
            let here = std::thread::current().name() == Some("worker");
            self.dropped_on.store(1 + u32::from(here), Ordering::SeqCst);
        }
    }

    #[test]
    fn a_reset_ends_a_wait_and_the_worker_lets_go_itself() {
        let signals = Signals::new(Arc::<Recorder>::default(), 1);
        let worker = Arc::new(Worker::new(Kind::Block, false, signals, None));
        let (rounds, heard) = mpsc::channel();
        let (alarm, dropped_on): (Arc<(Mutex<bool>, Condvar)>, Arc<AtomicU32>) = Default::default();
        let handler = Waiting { rounds, alarm, dropped_on: dropped_on.clone() };
        let first = handler.alarm().expect("it has one");
        worker.start(Box::new(handler), Queues::new(vec![None]));
        let thread = {
            let worker = worker.clone();
            std::thread::Builder::new().name("worker".into()).spawn(move || worker.run())
        };
        let thread = thread.expect("a thread can be had");
        heard.recv().expect("the first round");
        first(); // before that ended the worker knows of no alarm
        heard.recv().expect("it goes on by itself");
        worker.ring();
        heard.recv().expect("a doorbell ends the wait");
        while !worker.reset() {
            std::thread::yield_now();
        }
        assert_eq!(dropped_on.load(Ordering::SeqCst), 2, "gone, and not on the vCPU's thread");
        worker.stop();
        thread.join().expect("it only works");
    }
}
