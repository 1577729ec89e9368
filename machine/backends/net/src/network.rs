//! The thread that drives a [`Stack`] on real sockets.
//!
//! The stack stands behind one mutex: the device's thread takes it to hand frames over, the network's own
//! thread when sockets are ready or time has come. Invariant: nobody waits while holding it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Counters;
use crate::config::{Config, ConfigError};
use crate::forward::{Forward, ForwardError};
use crate::frame::{Incoming, Offload, Outgoing};
use crate::host::sockets_wait;
use crate::host::{Key, Sockets};
use crate::stack::Stack;

/// The event that ends or wakes the loop; no socket has this key.
const WAKE: Key = Key(u64::MAX);

/// Why a network can't be started.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// See there.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The host has no descriptor or thread left.
    #[error(
        "can't start the network; see whether descriptors and threads are left (`ulimit -n -u`)"
    )]
    Host(#[from] io::Error),
}

struct Shared {
    stack: Mutex<Stack<Sockets>>,
    epoll: OwnedFd,
    wake: OwnedFd,
    stop: AtomicBool,
    started: Instant,
    /// When the loop wakes by itself, in nanoseconds from `started`.
    wakes_ns: AtomicU64,
}

/// A running network. Dropping it ends its thread and every connection.
pub struct Network {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Network {
    /// Starts a network. `frames_wait` is called from its thread whenever frames for the guest have come
    /// up: it tells the device's thread, and must not block or call back.
    ///
    /// # Errors
    /// What of the configuration or the host is in the way.
    pub fn start(
        config: Config,
        host: Sockets,
        frames_wait: impl Fn() + Send + 'static,
    ) -> Result<Self, NetworkError> {
        let wake = rustix::event::eventfd(
            0,
            rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK,
        )
        .map_err(io::Error::from)?;
        host.watch(WAKE, &wake)?;
        let epoll = host.as_fd().try_clone_to_owned()?;
        let shared = Arc::new(Shared {
            stack: Mutex::new(Stack::new(config, host)?),
            epoll,
            wake,
            stop: AtomicBool::new(false),
            started: Instant::now(),
            wakes_ns: AtomicU64::new(0),
        });
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("network".into())
            .spawn(move || own.run(&frames_wait))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Takes frames of the guest, then gives `receive` the stack to take frames out: one lock for a batch.
    pub fn with<R>(&self, work: impl FnOnce(&mut Stack<Sockets>) -> R) -> R {
        let mut stack = self.shared.lock();
        stack.advance(self.shared.started.elapsed());
        let result = work(&mut stack);
        let due = stack.deadline().map_or(u64::MAX, nanoseconds);
        drop(stack);
        if due < self.shared.wakes_ns.load(Ordering::Acquire) {
            self.shared.wake();
        }
        result
    }

    /// One frame of the guest.
    pub fn guest_sends(&self, frame: &[u8], known: Incoming) {
        self.with(|stack| stack.guest_sends_with(frame, known));
    }

    /// The next frame for the guest.
    pub fn next_frame(&self, buffer: &mut [u8]) -> Option<Outgoing> {
        self.with(|stack| stack.next_frame(buffer))
    }

    /// See [`Stack::set_offload`].
    pub fn set_offload(&self, offload: Offload) {
        self.with(|stack| stack.set_offload(offload));
    }

    /// See [`Stack::add_forward`].
    ///
    /// # Errors
    /// As there.
    pub fn add_forward(&self, forward: Forward) -> Result<Key, ForwardError> {
        self.with(|stack| stack.add_forward(forward))
    }

    /// See [`Stack::counters`].
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.with(|stack| stack.counters())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by its own thread.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// A panic in the stack leaves it as any frame does: usable, if perhaps with a dead connection.
    fn lock(&self) -> MutexGuard<'_, Stack<Sockets>> {
        self.stack.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // Full means that it is awake already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    fn run(&self, frames_wait: &dyn Fn()) {
        while !self.stop.load(Ordering::Acquire) {
            let timeout = {
                let stack = self.lock();
                let due = stack.deadline();
                self.wakes_ns.store(due.map_or(u64::MAX, nanoseconds), Ordering::Release);
                due.map(|due| due.saturating_sub(self.started.elapsed()))
            };
            let events = match sockets_wait(self.epoll.as_fd(), timeout) {
                Ok(events) => events,
                Err(error) => {
                    unreachable!("an epoll instance of our own can be waited for: {error}")
                }
            };
            let mut stack = self.lock();
            stack.advance(self.started.elapsed());
            for (key, ready) in events {
                if key == WAKE {
                    let _ = rustix::io::read(&self.wake, &mut [0; 8]);
                } else {
                    stack.host_event(key, ready);
                }
            }
            let waits = stack.has_frame();
            drop(stack);
            if waits {
                frames_wait();
            }
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
