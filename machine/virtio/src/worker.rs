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
//! doorbells do the work themselves, which costs the vCPU the wait and makes a run repeatable. Where a
//! handler's rounds are short ([`Handler::is_short`]) a vCPU lends a hand: its doorbell does a round if nobody
//! else does, which takes less than to wake a thread and to be woken by it. After a round that took long
//! the thread has the device to itself for a while. Files: `quiet` is how it stands still while it is saved.
//! Invariants: a handler is touched by one thread at a time; after a reset was answered no buffer of
//! the guest is touched.

mod quiet;

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::bells::Bell;
use crate::device::{Alarm, Handler, Kind, Queues, Waiter};
use crate::faults::Faults;
use crate::signals::{Signals, Use};
pub use quiet::Quiet;
use quiet::Stillness;

/// Rounds of work that an inline doorbell does at most: a full ring takes a few. Rings that overlap make
/// work of what the device itself writes, without end, and a vCPU must come back to be stopped.
const MOST_ROUNDS: u32 = 64;

/// Longest round that is worth a vCPU's time.
const SHORT: Duration = Duration::from_micros(300);
/// Doorbells that are left to the thread after a longer one.
const PATIENCE: u32 = 64;

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
    /// Doorbells until a vCPU may lend a hand again.
    patience: u32,
    /// It is to stand still.
    quiet: Stillness,
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
    /// What goes wrong here because somebody wants it.
    faults: OnceLock<Faults>,
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

    /// Where its thread waits, if doorbells ring a bell there.
    pub(crate) fn bell(&self) -> Option<Arc<Bell>> {
        self.0.upgrade().and_then(|worker| worker.bell.clone())
    }

    /// What the device does wrong because somebody wants it.
    pub(crate) fn faults(&self) -> Faults {
        self.0.upgrade().and_then(|worker| worker.faults.get().copied()).unwrap_or_default()
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
        let (faults, trace) = (OnceLock::new(), OnceLock::new());
        let (bell, exits) = (None, AtomicU64::new(0));
        Self { kind, name, inline, signals, waiter, bell, exits, mailbox, changed, faults, trace }
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

    /// What shall go wrong here, if devices of this kind are meant; once, before the driver is ready.
    /// Inline nothing is delayed, as only the vCPU would wait.
    pub fn set_faults(&self, faults: Faults) {
        // A second time is not promised anything.
        let mut faults = faults.of(self.kind);
        if self.inline {
            faults.delay = Duration::ZERO;
        }
        let _ = self.faults.set(faults);
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
            let active = mailbox.job.is_some();
            mailbox = match (mailbox.quiet, active, mailbox.rung, &self.waiter) {
                (Stillness::No, true, true, _) => self.work(mailbox),
                (Stillness::No, true, false, Some(waiter)) => self.wait_at(&**waiter, mailbox),
                (Stillness::Wanted, true, ..) => self.calm(mailbox),
                _ => self.wait(mailbox),
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
            if !mailbox.rung || mailbox.job.is_none() || mailbox.quiet != Stillness::No {
                break;
            }
            mailbox = self.work(mailbox);
        }
    }

    /// A doorbell rang by way of the transport, on a vCPU, which does the work if that is short.
    pub(crate) fn doorbell(&self) {
        self.exits.fetch_add(1, Ordering::Relaxed);
        let mut mailbox = self.lock();
        let short = mailbox.job.as_ref().is_some_and(|job| job.handler.is_short());
        let stands = mailbox.stopped || mailbox.quiet != Stillness::No;
        // Who waits at an event hears doorbells that do not come here.
        let free = !mailbox.rung && !mailbox.reset && !stands && self.waiter.is_none();
        let delayed = self.faults.get().is_some_and(|faults| !faults.delay.is_zero());
        if self.inline || delayed || !short || !free || mailbox.patience > 0 {
            mailbox.patience = mailbox.patience.saturating_sub(1);
            drop(mailbox);
            return self.ring();
        }
        let begun = Instant::now();
        mailbox = self.work(mailbox);
        if begun.elapsed() > SHORT {
            mailbox.patience = PATIENCE;
        }
        if mailbox.rung {
            self.rouse(&mut mailbox);
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
            if mailbox.quiet == Stillness::Wanted {
                self.changed.notify_all();
            }
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
            self.ended(&mut mailbox);
            return mailbox;
        }
        drop(mailbox);
        drop(job); // which may wait for the host, and no vCPU with it
        let mut mailbox = self.lock();
        self.ended(&mut mailbox);
        mailbox.alarm = None;
        if !std::mem::take(&mut mailbox.reset) && !mailbox.stopped {
            self.signals.needs_reset();
            if let Err(broken) = done {
                self.tell(|| format!("needs a reset: {broken}"));
            }
        }
        mailbox
    }

    /// Nobody has the job any more, which whoever wants it to stand still waits for.
    fn ended(&self, mailbox: &mut Mailbox) {
        mailbox.busy = false;
        if mailbox.quiet == Stillness::Wanted {
            self.changed.notify_all();
        }
    }

    /// Shared folders have their delay here, as their requests are done elsewhere; disks and network keep
    /// theirs themselves (`faults`).
    fn wait_for_delay(&self, rung_at: Option<Instant>) {
        let faults = self.faults.get().filter(|_| self.kind == Kind::FileSystem);
        if let (Some(at), Some(faults)) = (rung_at, faults) {
            std::thread::sleep((at + faults.delay).saturating_duration_since(Instant::now()));
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
mod tests;
