//! Requests that are answered at once, later, and never.

mod saved;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::pci::VirtioPci;
use crate::signals::Interrupter;
use crate::testing::{BUFFERS, Guest, Recorder};

/// Answers a request with its own bytes: at once, or if it begins with `w` in so many tries later.
#[derive(Debug, Default)]
struct Echo {
    tries: AtomicUsize,
    served: Mutex<Vec<Vec<u8>>>,
}

impl FileSystem for Echo {
    fn serve(&self, request: &mut Chain) -> Served {
        let mut bytes = vec![0; request.readable() as usize];
        request.read(&mut bytes);
        self.served.lock().expect("not poisoned").push(bytes.clone());
        if bytes.first() == Some(&b'w') {
            let mut tries = self.tries.load(Ordering::Relaxed);
            return Served::Later(Box::new(move || {
                tries = tries.checked_sub(1)?;
                (tries == 0).then(|| bytes.clone())
            }));
        }
        request.write(&bytes);
        Served::Done
    }

    fn is_local(&self) -> bool {
        true
    }
}

struct Bench {
    guest: Guest,
    queues: Queues,
    handler: FsHandler,
    echo: Arc<Echo>,
}

impl Bench {
    fn new(tries: usize, threads: usize) -> Self {
        let guest = Guest::new(16);
        let queue = guest.queue(0).expect("it is sound");
        let echo = Arc::new(Echo { tries: AtomicUsize::new(tries), ..Echo::default() });
        let handler = FsHandler {
            files: echo.clone(),
            pool: Pool::new(threads, Waker::none()),
            waiting: HashMap::new(),
            next: 0,
        };
        Self { guest, queues: Queues::new(vec![None, Some(queue)]), handler, echo }
    }

    /// Offers a request of some bytes with as much room for its answer.
    fn offer(&mut self, index: u16, bytes: &[u8]) {
        let place = BUFFERS + 0x100 * u64::from(index);
        self.guest.write(place, bytes);
        let length = bytes.len() as u32;
        self.guest.offer_chain(2 * index, &[(place, length, false), (place + 0x80, length, true)]);
    }

    fn answer(&self, index: u16, length: usize) -> Vec<u8> {
        self.guest.read(BUFFERS + 0x100 * u64::from(index) + 0x80, length)
    }
}

#[test]
fn what_waits_is_overtaken_and_answered_in_the_end() {
    let mut bench = Bench::new(3, 2);
    bench.offer(0, b"wait");
    bench.offer(1, b"now");
    bench.handler.process(&mut bench.queues).expect("the requests are sound");
    assert_eq!(bench.guest.used(0), (2, 3), "the second one is answered first");
    assert_eq!(bench.answer(1, 3), b"now");
    let started = Instant::now();
    while bench.guest.used_index() < 2 {
        assert!(started.elapsed() < Duration::from_secs(20), "the first one is answered, too");
        std::thread::sleep(Duration::from_millis(1));
        bench.handler.process(&mut bench.queues).expect("the requests are sound");
    }
    assert_eq!(bench.guest.used(1), (0, 4));
    assert_eq!(bench.answer(0, 4), b"wait");
    assert!(bench.handler.waiting.is_empty());
}

#[test]
fn without_threads_everything_is_done_in_place() {
    let mut bench = Bench::new(2, 0);
    bench.offer(0, b"wait");
    bench.handler.process(&mut bench.queues).expect("the request is sound");
    assert_eq!(bench.guest.used(0), (0, 4));
    assert_eq!(bench.answer(0, 4), b"wait");
}

#[test]
fn a_chain_that_is_offered_again_and_again_while_it_waits_is_broken_at_last() {
    let mut bench = Bench::new(usize::MAX, 1);
    bench.offer(0, b"wait");
    let mut result = Ok(());
    for _ in 0..=DEPTH {
        result = bench.handler.process(&mut bench.queues);
        bench.guest.offer(0);
    }
    assert!(matches!(result, Err(Broken::Protocol(_))));
    assert_eq!(bench.echo.served.lock().expect("not poisoned").len(), usize::from(DEPTH) + 1);
}

#[test]
fn the_configuration_has_the_tag_and_one_request_queue() {
    let fs = Fs::new(Arc::new(Echo::default()), "a tag", 0);
    let mut config = [0xff; 44];
    fs.config_read(0, &mut config);
    assert_eq!(&config[..6], b"a tag\0");
    assert_eq!(config[36..], [1, 0, 0, 0, 0, 0, 0, 0]);
    let guest = Guest::new(16);
    let interrupter: Arc<dyn Interrupter> = Arc::new(Recorder::default());
    let function =
        VirtioPci::new(Box::new(fs), guest.memory.clone(), interrupter, crate::Rings::Inline);
    assert_eq!(function.worker().name(), "virtio-filesystem");
}
