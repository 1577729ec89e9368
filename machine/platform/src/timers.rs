//! The thread that wakes devices at their deadlines; in virtual time the vCPU's thread does so.
//!
//! Devices return deadlines from `next_event`; whoever gave a device an earlier one says so by
//! [`Timers::at`]. Invariants: between two looks the thread sleeps no longer than to the earliest
//! deadline it was told; it never runs after [`Timers::stop`]. In virtual time there is no such
//! thread: the engine comes back at the deadline, and [`Timers::serve`] wakes the devices.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::clock::Clock;
use crate::irq::lock;

/// A device that wants to be woken.
pub(crate) trait Timed: Send + Sync {
    /// Lets the device catch up with the clock; returns when it wants to be called again, on the
    /// machine's monotonic clock.
    fn tick(&self) -> Option<u64>;
}

#[derive(Default)]
struct Wake {
    stirred: bool,
    stopped: bool,
}

/// What devices and thread share.
pub(crate) struct Timers {
    clock: Clock,
    /// When the thread wakes by itself; `u64::MAX`: never.
    armed_ns: AtomicU64,
    wake: Mutex<Wake>,
    condition: Condvar,
}

impl Timers {
    pub(crate) fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            clock,
            armed_ns: AtomicU64::new(u64::MAX),
            wake: Mutex::new(Wake::default()),
            condition: Condvar::new(),
        })
    }

    /// A device wants to be woken at `deadline_ns`, if at all.
    pub(crate) fn at(&self, deadline_ns: Option<u64>) {
        let Some(deadline) = deadline_ns else { return };
        if let Some(time) = self.clock.virtual_time() {
            return time.ask(deadline);
        }
        if self.armed_ns.fetch_min(deadline, Ordering::AcqRel) > deadline {
            lock(&self.wake).stirred = true;
            self.condition.notify_one();
        }
    }

    pub(crate) fn stop(&self) {
        lock(&self.wake).stopped = true;
        self.condition.notify_one();
    }

    /// Virtual time has reached a deadline: lets all devices catch up.
    pub(crate) fn serve(&self, devices: &[Arc<dyn Timed>]) {
        if let Some(time) = self.clock.virtual_time() {
            time.forget_deadline();
            self.at(devices.iter().filter_map(|device| device.tick()).min());
        }
    }

    /// The thread's body.
    pub(crate) fn run(&self, devices: &[Arc<dyn Timed>]) {
        loop {
            // From here on every deadline told is new; those of before are seen by `tick`.
            self.armed_ns.store(u64::MAX, Ordering::Release);
            let next = devices.iter().filter_map(|device| device.tick()).min();
            if let Some(next) = next {
                self.armed_ns.fetch_min(next, Ordering::AcqRel);
            }
            let mut wake = lock(&self.wake);
            loop {
                if wake.stopped {
                    return;
                }
                if std::mem::take(&mut wake.stirred) {
                    break;
                }
                let armed = self.armed_ns.load(Ordering::Acquire);
                if armed == u64::MAX {
                    wake = self.condition.wait(wake).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                let left = self.clock.until(armed);
                if left.is_zero() {
                    break;
                }
                let waited = self.condition.wait_timeout(wake, left);
                wake = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;
    use std::time::{Duration, Instant};

    struct Periodic {
        clock: Clock,
        next: Mutex<Option<u64>>,
        ticks: AtomicU32,
    }

    impl Timed for Periodic {
        fn tick(&self) -> Option<u64> {
            let mut next = lock(&self.next);
            if next.is_some_and(|at| at <= self.clock.now_ns()) {
                self.ticks.fetch_add(1, Ordering::Relaxed);
                *next = next.map(|at| at + 1_000_000);
            }
            *next
        }
    }

    #[test]
    fn wakes_devices_and_stops() {
        let clock = Clock::new(None);
        let timers = Timers::new(clock.clone());
        let device = Arc::new(Periodic {
            clock: clock.clone(),
            next: Mutex::new(None),
            ticks: AtomicU32::new(0),
        });
        let thread = {
            let (timers, device) = (timers.clone(), device.clone());
            std::thread::spawn(move || timers.run(&[device]))
        };
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(device.ticks.load(Ordering::Relaxed), 0, "nobody asked");
        let start = clock.now_ns();
        *lock(&device.next) = Some(start);
        timers.at(Some(start));
        let limit = Instant::now() + Duration::from_secs(10);
        while device.ticks.load(Ordering::Relaxed) < 5 && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(device.ticks.load(Ordering::Relaxed) >= 5);
        timers.stop();
        thread.join().expect("the thread does not panic");
    }

    #[test]
    fn virtual_time_needs_no_thread() {
        let time = Arc::new(engine::VirtualTime::new(0, 0));
        let clock = Clock::new(Some(time.clone()));
        let timers = Timers::new(clock.clone());
        let next = Mutex::new(Some(5_000_000));
        let device = Arc::new(Periodic { clock, next, ticks: AtomicU32::new(0) });
        timers.at(Some(5_000_000));
        assert_eq!(time.deadline_ns(), 5_000_000);
        time.set(5_000_000, 1);
        let devices: [Arc<dyn Timed>; 1] = [device.clone()];
        timers.serve(&devices);
        assert_eq!(device.ticks.load(Ordering::Relaxed), 1);
        assert_eq!(time.deadline_ns(), 6_000_000);
    }
}
