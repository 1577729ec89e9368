//! The host's side as Unix sockets, as Firecracker, Cloud Hypervisor and crosvm have them.
//!
//! ```text
//! host to guest   connect to PATH, say "CONNECT <port>\n", hear "OK <port>\n", then the stream
//! guest to host   a connection to port n leads to whoever listens at PATH_<n>
//! ```
//!
//! One thread sleeps in epoll and wakes the device; all reads and writes are the device's. Invariants:
//! every descriptor is non-blocking and watched edge-triggered; PATH is ours alone (mode 0600) and goes
//! when this value does.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use thiserror::Error;

use super::{Host, Stirred, Stream};
use crate::worker::Waker;

/// Those who have not said yet where they want to.
const MOST_HANDSHAKES: usize = 64;
/// "CONNECT 4294967295\n" and some room.
const LONGEST_LINE: usize = 32;
/// Events taken at a time.
const EVENTS: usize = 64;
/// What only has to wake the device.
const SOMETHING: u64 = u64::MAX;
/// The thread shall go.
const STOP: u64 = u64::MAX - 1;

/// Why there are no sockets.
#[derive(Debug, Error)]
pub enum VsockError {
    /// Another process listens there.
    #[error("another VM or program listens at {0}: choose another path for --vsock")]
    InUse(PathBuf),
    /// The socket cannot be made.
    #[error("cannot make the socket {path} for --vsock")]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A VM's sockets.
#[derive(Debug)]
pub struct UnixSockets {
    path: PathBuf,
    listener: UnixListener,
    handshakes: Vec<Handshake>,
    watch: Arc<Watch>,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

/// Somebody connected, and the line so far.
#[derive(Debug)]
struct Handshake {
    socket: UnixStream,
    line: Vec<u8>,
}

/// What the sleeping thread shares with the device.
#[derive(Debug)]
struct Watch {
    epoll: OwnedFd,
    /// By key: whether it hung up.
    stirred: Mutex<BTreeMap<u64, bool>>,
    waker: Mutex<Option<Waker>>,
}

impl UnixSockets {
    /// Listens at a path. A socket that nobody listens at any more is replaced.
    ///
    /// # Errors
    /// Somebody listens there, or the host refuses.
    pub fn listen(path: &Path) -> Result<Self, VsockError> {
        let failed = |source| VsockError::Socket { path: path.into(), source };
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                match UnixStream::connect(path) {
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                    _ => return Err(VsockError::InUse(path.into())),
                }
                std::fs::remove_file(path).map_err(failed)?;
                UnixListener::bind(path).map_err(failed)?
            }
            bound => bound.map_err(failed)?,
        };
        Self::around(path, listener).map_err(failed)
    }

    fn around(path: &Path, listener: UnixListener) -> io::Result<Self> {
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let watch = Arc::new(Watch { epoll, stirred: Mutex::default(), waker: Mutex::default() });
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        watch.add(&stop, STOP)?;
        watch.add(&listener, SOMETHING)?;
        let sleeper = watch.clone();
        let thread = threads::spawn("vsock", move || sleeper.run())?;
        let (path, handshakes) = (path.to_path_buf(), Vec::new());
        Ok(Self { path, listener, handshakes, watch, stop, thread: Some(thread) })
    }

    /// Hears the next bytes of a line; `Some`: it is over, and this is the port in it.
    fn hear(handshake: &mut Handshake) -> Option<Option<u32>> {
        let mut byte = [0];
        loop {
            // One byte at a time: what follows the line is the stream's.
            match handshake.socket.read(&mut byte) {
                Ok(1) if byte == [b'\n'] => return Some(port_in(&handshake.line)),
                Ok(1) if handshake.line.len() < LONGEST_LINE => handshake.line.push(byte[0]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => return Some(None),
            }
        }
    }
}

/// The port in `CONNECT <port>`.
fn port_in(line: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(line.strip_suffix(b"\r").unwrap_or(line)).ok()?;
    text.strip_prefix("CONNECT ")?.trim().parse().ok()
}

impl Watch {
    fn add(&self, what: impl AsFd, key: u64) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.epoll, what, EventData::new_u64(key), flags)?)
    }

    fn run(&self) {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return, // nothing else can be wrong with a descriptor of ours
            }
            let mut stirred = self.stirred.lock().unwrap_or_else(PoisonError::into_inner);
            for event in &events {
                match event.data.u64() {
                    // An eventfd can always be written to: only what is to be read counts.
                    STOP if { event.flags }.contains(EventFlags::IN) => return,
                    STOP | SOMETHING => {}
                    key => {
                        let hung_up = { event.flags }.intersects(EventFlags::HUP | EventFlags::ERR);
                        *stirred.entry(key).or_default() |= hung_up;
                    }
                }
            }
            drop(stirred);
            let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl Host for UnixSockets {
    fn attach(&mut self, waker: Option<Waker>) {
        *self.watch.waker.lock().unwrap_or_else(PoisonError::into_inner) = waker;
    }

    fn connect(&mut self, port: u32) -> io::Result<Box<dyn Stream>> {
        let mut path = self.path.clone().into_os_string();
        path.push(format!("_{port}"));
        let address = SocketAddrUnix::new(path.as_bytes())?;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &address)?; // of a full backlog it says EAGAIN, which is a no, too
        Ok(Box::new(Socket { socket: socket.into(), watch: self.watch.clone(), asks: false }))
    }

    fn accept(&mut self) -> Option<(u32, Box<dyn Stream>)> {
        while let Ok((socket, _)) = self.listener.accept() {
            if self.handshakes.len() == MOST_HANDSHAKES {
                self.handshakes.remove(0); // who says nothing makes room for who may
            }
            let watched =
                socket.set_nonblocking(true).and_then(|()| self.watch.add(&socket, SOMETHING));
            if watched.is_ok() {
                self.handshakes.push(Handshake { socket, line: Vec::new() });
            }
        }
        let mut at = 0;
        while let Some(handshake) = self.handshakes.get_mut(at) {
            let Some(port) = Self::hear(handshake) else {
                at += 1;
                continue;
            };
            let Handshake { socket, .. } = self.handshakes.remove(at);
            // Watched anew under its own number.
            let left = epoll::delete(&self.watch.epoll, &socket);
            if let (Some(port), Ok(())) = (port, left) {
                let watch = self.watch.clone();
                return Some((port, Box::new(Socket { socket, watch, asks: true })));
            }
        }
        None
    }

    fn stirred(&mut self) -> Vec<Stirred> {
        let mut stirred = self.watch.stirred.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *stirred)
            .into_iter()
            .map(|(key, hung_up)| Stirred { key, hung_up })
            .collect()
    }
}

impl Drop for UnixSockets {
    fn drop(&mut self) {
        // Neither can fail in a way that anybody could mend.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

struct Socket {
    socket: UnixStream,
    watch: Arc<Watch>,
    /// It said CONNECT and is to hear OK.
    asks: bool,
}

impl Stream for Socket {
    fn watch(&mut self, key: u64) -> io::Result<()> {
        self.watch.add(&self.socket, key)
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.socket.read(into)
    }

    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.socket.write(from)
    }

    fn no_more_writes(&mut self) {
        // The other end may be gone, which is as good.
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    fn opened(&mut self, host_port: u32) {
        if std::mem::take(&mut self.asks) {
            // A new socket has room for a line; one that is gone will be seen to be.
            let _ = self.socket.write_all(format!("OK {host_port}\n").as_bytes());
        }
    }
}
