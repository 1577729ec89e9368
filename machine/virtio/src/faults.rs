//! What a user wants to be wrong with devices: requests that take long, and such that fail.
//!
//! ```text
//! taken from the ring ---- done ---- due: delay after it was taken ---- given back to the driver
//!                            `--- waits in Late; a clock of its own wakes the worker ---'
//! ```
//!
//! Requests wait beside one another: none holds up another, nor a reset. Invariant: what waits here
//! is the driver's next word only; the host has let go of it, so dropping it is harmless.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::device::Kind;
use crate::worker::Waker;

/// What is wrong, and with which devices. Nothing at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The least time of a request; zero: none.
    pub delay: Duration,
    /// Each so-many-th request fails: of a disk with an I/O error, of a network card the frame is lost. 0: none does.
    pub fail_every: u32,
    /// Disks have these faults.
    pub block: bool,
    /// Network cards have.
    pub net: bool,
    /// Shared folders have: the delay alone.
    pub share: bool,
}

impl Faults {
    /// Those that a device has.
    pub(crate) fn of(self, kind: Kind) -> Self {
        let has = match kind {
            Kind::Block => self.block,
            Kind::Network => self.net,
            Kind::FileSystem => self.share,
            _ => false,
        };
        if has { self } else { Self::default() }
    }

    /// A count of requests.
    pub(crate) fn counter(self) -> Counter {
        Counter { every: self.fail_every, left: self.fail_every }
    }
}

/// Counts requests up to the one that fails.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counter {
    every: u32,
    left: u32,
}

impl Counter {
    /// Whether the next request fails.
    pub(crate) fn hits(&mut self) -> bool {
        if self.every == 0 {
            return false;
        }
        self.left -= 1;
        let hit = self.left == 0;
        if hit {
            self.left = self.every;
        }
        hit
    }
}

/// Things that are done and wait until they are due.
pub(crate) struct Late<T> {
    delay: Duration,
    waiting: BTreeMap<(Instant, u64), T>,
    pushed: u64,
    waker: Waker,
    /// Had with the first thing that waits.
    clock: Option<Clock>,
}

impl<T> Late<T> {
    /// `waker` has the handler called when something is due.
    pub(crate) fn new(faults: Faults, waker: &Waker) -> Self {
        let (delay, waker) = (faults.delay, waker.clone());
        Self { delay, waiting: BTreeMap::new(), pushed: 0, waker, clock: None }
    }

    /// Now, if things are to wait.
    pub(crate) fn begin(&self) -> Option<Instant> {
        (!self.delay.is_zero()).then(Instant::now)
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Keeps what began then until it is due.
    pub(crate) fn push(&mut self, begun: Instant, what: T) {
        self.waiting.insert((begun + self.delay, self.pushed), what);
        self.pushed += 1;
        self.set_clock();
    }

    /// The next one if it is due.
    pub(crate) fn due(&self) -> Option<&T> {
        let ((due, _), what) = self.waiting.first_key_value()?;
        (*due <= Instant::now()).then_some(what)
    }

    /// Takes the next one if it is due.
    pub(crate) fn pop(&mut self) -> Option<T> {
        self.due()?;
        let (_, what) = self.waiting.pop_first()?;
        self.set_clock();
        Some(what)
    }

    /// Takes all of them, due or not, in their order.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = T> + use<T> {
        std::mem::take(&mut self.waiting).into_values()
    }

    fn set_clock(&mut self) {
        let Some(((due, _), _)) = self.waiting.first_key_value() else { return };
        if self.clock.is_none() {
            self.clock = Clock::start(self.waker.clone()).ok();
        }
        match &self.clock {
            Some(clock) => clock.set(*due),
            // No thread is to be had: then this one waits.
            None => {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                self.waker.wake();
            }
        }
    }
}

/// A thread that wakes a worker at the right time.
struct Clock(Arc<(Mutex<Next>, Condvar)>);

#[derive(Default)]
struct Next {
    due: Option<Instant>,
    ended: bool,
}

impl Clock {
    fn start(waker: Waker) -> std::io::Result<Self> {
        let shared = Arc::<(Mutex<Next>, Condvar)>::default();
        let theirs = shared.clone();
        threads::spawn("late", move || run(&theirs, &waker))?;
        Ok(Self(shared))
    }

    fn set(&self, due: Instant) {
        let mut next = lock(&self.0.0);
        if next.due != Some(due) {
            next.due = Some(due);
            self.0.1.notify_one();
        }
    }
}

impl Drop for Clock {
    /// Its thread ends by itself: whoever drops this may hold what it waits for.
    fn drop(&mut self) {
        lock(&self.0.0).ended = true;
        self.0.1.notify_one();
    }
}

fn run(shared: &(Mutex<Next>, Condvar), waker: &Waker) {
    let mut next = lock(&shared.0);
    while !next.ended {
        let now = Instant::now();
        next = match next.due {
            None => shared.1.wait(next).unwrap_or_else(PoisonError::into_inner),
            Some(due) if due <= now => {
                next.due = None;
                drop(next);
                waker.wake();
                lock(&shared.0)
            }
            Some(due) => {
                let waited = shared.1.wait_timeout(next, due - now);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
    }
}

fn lock(next: &Mutex<Next>) -> MutexGuard<'_, Next> {
    next.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_nth_request_is_hit() {
        let hits = |every| {
            let mut counter = Faults { fail_every: every, ..Faults::default() }.counter();
            (1..=9).filter(|_| counter.hits()).count()
        };
        assert_eq!([0, 1, 2, 4, 9, 10].map(hits), [0, 9, 4, 2, 1, 0]);
    }

    #[test]
    fn only_the_devices_that_were_meant_have_faults() {
        let faults = Faults { fail_every: 3, net: true, ..Faults::default() };
        assert_eq!(faults.of(Kind::Network), faults);
        for kind in [Kind::Block, Kind::FileSystem, Kind::Entropy] {
            assert_eq!(faults.of(kind), Faults::default());
        }
    }

    #[test]
    fn what_waits_comes_in_the_order_of_its_beginning_and_not_before_it_is_due() {
        let faults = Faults { delay: Duration::from_millis(20), ..Faults::default() };
        let mut late = Late::new(faults, &Waker::none());
        let begun = late.begin().expect("things wait");
        late.push(begun + Duration::from_millis(5), "second");
        late.push(begun, "first");
        assert!(late.pop().is_none() && late.len() == 2);
        let mut came = Vec::new();
        while came.len() < 2 {
            if let Some(what) = late.pop() {
                let least = [20, 25][came.len()];
                assert!(begun.elapsed() >= Duration::from_millis(least), "{what}");
                came.push(what);
            }
        }
        assert_eq!(came, ["first", "second"]);
        assert!(Late::<()>::new(Faults::default(), &Waker::none()).begin().is_none());
    }
}
