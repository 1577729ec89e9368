//! A [`Stack`] on real sockets, driven by whoever owns it, and where to wait for them.
//!
//! ```text
//! wait (Watch) -> poll (Network): what happened goes into the stack -> frames both ways -> settle
//! ```
//!
//! One thread does all of it. Invariant: nothing but [`Watch::wait`] waits.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::{Config, ConfigError};
use crate::host::sockets_wait;
use crate::host::{Key, Ready, Sockets};
use crate::stack::Stack;

/// The event that ends a wait; no socket has this key.
const WAKE: Key = Key(u64::MAX);
/// No deadline.
const NEVER: u64 = u64::MAX;

/// Why a network can't be made.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// See there.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The host has no descriptor left.
    #[error("can't make the network; see whether descriptors are left (`ulimit -n`)")]
    Host(#[from] io::Error),
}

/// Where to wait for a network's sockets, for its deadlines and for [`Watch::wake`].
pub struct Watch {
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
    started: Instant,
    /// What a wait found, for the next poll.
    events: Mutex<Vec<(Key, Ready)>>,
    /// When the stack wants to be polled without an event, in nanoseconds from `started`.
    due_ns: AtomicU64,
}

/// A network with its sockets. Dropping it ends every connection.
pub struct Network {
    stack: Stack<Sockets>,
    watch: Arc<Watch>,
}

impl Network {
    /// A network in which nothing happens before it is polled.
    ///
    /// # Errors
    /// What of the configuration or the host is in the way.
    pub fn new(config: Config, host: Sockets) -> Result<Self, NetworkError> {
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let wake = rustix::event::eventfd(0, flags).map_err(io::Error::from)?;
        host.watch(WAKE, &wake)?;
        let watch = Watch {
            epoll: host.as_fd().try_clone_to_owned()?,
            wake: Arc::new(wake),
            started: Instant::now(),
            events: Mutex::default(),
            due_ns: AtomicU64::new(NEVER),
        };
        Ok(Self { stack: Stack::new(config, host)?, watch: Arc::new(watch) })
    }

    /// Where to wait.
    pub fn watch(&self) -> Arc<Watch> {
        self.watch.clone()
    }

    /// Lets time pass and sockets tell what happened.
    pub fn poll(&mut self) {
        self.stack.advance(self.watch.started.elapsed());
        for (key, ready) in self.watch.take_events() {
            self.stack.host_event(key, ready);
        }
    }

    /// To be called before waiting: the stack's next deadline counts from then on.
    pub fn settle(&self) {
        let due = self.stack.deadline().map_or(NEVER, nanoseconds);
        self.watch.due_ns.store(due, Ordering::Release);
    }

    /// The stack, at the time of the last poll.
    pub fn stack(&mut self) -> &mut Stack<Sockets> {
        &mut self.stack
    }
}

impl Watch {
    /// Waits for a socket, a deadline or [`Watch::wake`].
    pub fn wait(&self) {
        let due = self.due_ns.load(Ordering::Acquire);
        let left = Duration::from_nanos(due).saturating_sub(self.started.elapsed());
        self.wait_for((due != NEVER).then_some(left));
    }

    /// The same with a limit instead of the deadline.
    pub fn wait_for(&self, limit: Option<Duration>) {
        let found = self.ask(limit);
        self.events.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
    }

    /// Ends a wait, now or the next one.
    pub fn wake(&self) {
        // Full means that it has been told already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// The eventfd that [`Watch::wake`] adds to. What was added is taken by a wait or by
    /// [`Network::poll`].
    pub fn event(&self) -> Arc<OwnedFd> {
        self.wake.clone()
    }

    /// What a wait found, or else what there is now.
    fn take_events(&self) -> Vec<(Key, Ready)> {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        match events.is_empty() {
            true => self.ask(Some(Duration::ZERO)),
            false => std::mem::take(&mut *events),
        }
    }

    fn ask(&self, limit: Option<Duration>) -> Vec<(Key, Ready)> {
        let mut events = match sockets_wait(self.epoll.as_fd(), limit) {
            Ok(events) => events,
            Err(error) => unreachable!("an epoll instance of our own can be waited for: {error}"),
        };
        events.retain(|(key, _)| {
            if *key == WAKE {
                let _ = rustix::io::read(&self.wake, &mut [0; 8]);
            }
            *key != WAKE
        });
        events
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(NEVER)
}
