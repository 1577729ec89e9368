//! Who does the work, and who ends it.

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

/// Notes who called it, and takes as long as it is told.
struct Quick {
    rounds: mpsc::Sender<bool>,
    takes: Arc<Mutex<Duration>>,
}

impl Handler for Quick {
    fn process(&mut self, _: &mut Queues) -> Result<(), Broken> {
        std::thread::sleep(*self.takes.lock().expect("not poisoned"));
        let _ = self.rounds.send(std::thread::current().name() == Some("worker"));
        Ok(())
    }

    fn is_short(&self) -> bool {
        true
    }
}

#[test]
fn a_vcpu_does_short_work_and_leaves_long_work_to_the_thread() {
    let signals = Signals::new(Arc::<Recorder>::default(), 1);
    let worker = Arc::new(Worker::new(Kind::FileSystem, false, signals, None));
    let (rounds, heard) = mpsc::channel();
    let takes: Arc<Mutex<Duration>> = Arc::default();
    let handler = Quick { rounds, takes: takes.clone() };
    let thread = {
        let worker = worker.clone();
        std::thread::Builder::new().name("worker".into()).spawn(move || worker.run())
    };
    let thread = thread.expect("a thread can be had");
    worker.start(Box::new(handler), Queues::new(vec![None]));
    assert!(heard.recv().expect("it works"), "the thread looks first");
    let by_thread = || {
        while worker.lock().busy {
            std::thread::yield_now();
        }
        worker.doorbell();
        heard.recv().expect("it works")
    };
    *takes.lock().expect("not poisoned") = Duration::from_millis(2);
    while by_thread() {}
    assert!((0..PATIENCE).all(|_| by_thread()), "a round took long");
    *takes.lock().expect("not poisoned") = Duration::ZERO;
    // On a busy machine a short round may take long as well.
    let lent = (0..20 * PATIENCE).filter(|_| !by_thread()).count();
    assert!(lent > 0, "the vCPU tries again");
    let delay = Duration::from_millis(1);
    worker.set_faults(Faults { delay, share: true, ..Faults::default() });
    assert!(by_thread(), "what is delayed is the thread's");
    worker.stop();
    thread.join().expect("it only works");
}
