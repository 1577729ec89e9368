//! The session's fast way: the guest's init connects with a vsock port of ours.
//!
//! ```text
//! device's worker: write -> from_guest (at most MOST) -> run loop: take
//! run loop: send -> to_guest -> device's worker: read
//! ```
//!
//! Invariants: the port takes one connection in the VM's life; nobody waits here: a full buffer holds
//! the guest up by the socket's own credit. What else there is on the host's side is behind us.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio::Waker;
use virtio::vsock::{Host, Stirred, Stream};

/// Bytes that wait for the run loop.
const MOST: usize = 256 << 10;

#[derive(Default)]
struct State {
    from_guest: Vec<u8>,
    to_guest: VecDeque<u8>,
    /// The guest will send no more.
    ended: bool,
    taken: bool,
    key: Option<u64>,
    /// There is something for the device to do.
    stirred: bool,
    waker: Option<Waker>,
}

/// The run loop's end.
#[derive(Clone)]
pub(super) struct SessionPort {
    state: Arc<Mutex<State>>,
    /// Tells the run loop to look.
    stir: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for SessionPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SessionPort")
    }
}

impl SessionPort {
    pub(super) fn new(stir: impl Fn() + Send + Sync + 'static) -> Self {
        Self { state: Arc::default(), stir: Arc::new(stir) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the guest sent since the last time.
    pub(super) fn take(&self) -> Vec<u8> {
        let mut state = self.state();
        let bytes = std::mem::take(&mut state.from_guest);
        if bytes.len() >= MOST {
            wake(state);
        }
        bytes
    }

    /// Bytes for the guest; as many as the protocol lets be under way.
    pub(super) fn send(&self, bytes: &[u8]) {
        let mut state = self.state();
        state.to_guest.extend(bytes);
        wake(state);
    }
}

/// Has the device look at the stream, without the lock: it may do so on this thread.
fn wake(mut state: MutexGuard<'_, State>) {
    state.stirred = true;
    let waker = state.waker.clone();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The device's end: our port, and behind it whatever else there is.
pub(super) struct SessionHost {
    port: SessionPort,
    rest: Option<Box<dyn Host>>,
}

impl SessionHost {
    pub(super) fn new(port: SessionPort, rest: Option<Box<dyn Host>>) -> Self {
        Self { port, rest }
    }
}

impl Host for SessionHost {
    fn attach(&mut self, waker: Option<Waker>) {
        self.port.state().waker = waker.clone();
        if let Some(rest) = &mut self.rest {
            rest.attach(waker);
        }
    }

    fn connect(&mut self, port: u32) -> io::Result<Box<dyn Stream>> {
        if port == protocol::SESSION_PORT {
            return match std::mem::replace(&mut self.port.state().taken, true) {
                false => Ok(Box::new(SessionStream(self.port.clone()))),
                true => Err(ErrorKind::ConnectionRefused.into()),
            };
        }
        match &mut self.rest {
            Some(rest) => rest.connect(port),
            None => Err(ErrorKind::ConnectionRefused.into()),
        }
    }

    fn accept(&mut self) -> Option<(u32, Box<dyn Stream>)> {
        self.rest.as_mut()?.accept()
    }

    fn stirred(&mut self) -> Vec<Stirred> {
        let mut list = self.rest.as_mut().map(|rest| rest.stirred()).unwrap_or_default();
        let mut state = self.port.state();
        if std::mem::take(&mut state.stirred) {
            list.extend(state.key.map(|key| Stirred { key, hung_up: false }));
        }
        list
    }
}

struct SessionStream(SessionPort);

impl Stream for SessionStream {
    fn watch(&mut self, key: u64) -> io::Result<()> {
        self.0.state().key = Some(key);
        Ok(())
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut state = self.0.state();
        match state.to_guest.read(into) {
            Ok(0) if !state.ended => Err(ErrorKind::WouldBlock.into()),
            read => read,
        }
    }

    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let mut state = self.0.state();
        let count = from.len().min(MOST.saturating_sub(state.from_guest.len()));
        if count == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let first = state.from_guest.is_empty();
        state.from_guest.extend_from_slice(&from[..count]);
        drop(state);
        if first {
            (self.0.stir)();
        }
        Ok(count)
    }

    /// Everything is in `from_guest` then: to end the other direction, too, says so.
    fn no_more_writes(&mut self) {
        self.0.state().ended = true;
    }

    fn opened(&mut self, _host_port: u32) {}
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn one_connection_carries_bytes_both_ways_within_bounds() {
        let stirs = Arc::new(AtomicU32::new(0));
        let counted = stirs.clone();
        let port = SessionPort::new(move || _ = counted.fetch_add(1, Ordering::Relaxed));
        let mut host = SessionHost::new(port.clone(), None);
        assert!(host.connect(80).is_err() && host.accept().is_none());
        let mut stream = host.connect(protocol::SESSION_PORT).expect("the first");
        assert!(host.connect(protocol::SESSION_PORT).is_err(), "only one");
        stream.watch(9).expect("nothing can fail");
        assert_eq!(stream.write(&vec![1; MOST - 1]).expect("room"), MOST - 1);
        assert_eq!(stream.write(&[2, 3]).expect("room"), 1);
        assert!(stream.write(&[3]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
        assert_eq!((stirs.load(Ordering::Relaxed), host.stirred()), (1, vec![]));
        assert_eq!(port.take().len(), MOST);
        assert_eq!(host.stirred(), [Stirred { key: 9, hung_up: false }], "there is room again");
        let mut bytes = [0; 8];
        assert!(stream.read(&mut bytes).is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
        port.send(b"hello");
        assert_eq!(host.stirred().len(), 1);
        stream.no_more_writes();
        assert_eq!(stream.read(&mut bytes).expect("five"), 5);
        assert_eq!(stream.read(&mut bytes).expect("the end"), 0);
    }
}
