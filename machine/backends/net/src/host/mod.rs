//! The seam to the host: non-blocking sockets behind traits, so that the core runs without any.
//!
//! Readiness is edge-triggered: a socket is taken to be ready from [`crate::Stack::host_event`] until
//! an operation on it answers [`std::io::ErrorKind::WouldBlock`]. Invariant: nothing here blocks. Dropping a socket closes it.

mod resolvers;
mod sockets;

use std::io;
use std::net::{IpAddr, SocketAddr};

pub use self::sockets::Sockets;
pub(crate) use self::sockets::wait as sockets_wait;

/// The domains in which the host looks up short names.
#[must_use]
pub fn search_domains() -> Vec<String> {
    resolvers::search_domains(std::path::Path::new("/etc/resolv.conf"))
}

/// Which flow of the core a socket belongs to: what an event loop keeps beside the descriptor and
/// hands to [`crate::Stack::host_event`]. Old keys are told from those of a table entry's next user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u64);

/// What a socket has become ready for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// Data, end of data, a connection to accept, or an error waits.
    pub read: bool,
    /// There is room again, a connection is made, or an error waits.
    pub write: bool,
}

/// Makes sockets. Each registers under its key for edge-triggered events.
pub trait Host {
    /// A TCP connection.
    type Stream: Stream;
    /// A listening TCP socket.
    type Listener;
    /// A UDP or ping socket.
    type Datagrams: Datagrams;

    /// Begins to connect; whether it came to pass is asked by [`Stream::connected`] when writable.
    ///
    /// # Errors
    /// Whatever the host says at once, such as no route.
    fn connect(&mut self, key: Key, to: SocketAddr) -> io::Result<Self::Stream>;

    /// Listens for connections.
    ///
    /// # Errors
    /// The address is in use or not permitted.
    fn listen(&mut self, key: Key, at: SocketAddr) -> io::Result<Self::Listener>;

    /// The next connection that somebody made to `listener`, which goes under `key`.
    ///
    /// # Errors
    /// `WouldBlock` if there is none.
    fn accept(&mut self, listener: &mut Self::Listener, key: Key) -> io::Result<Self::Stream>;

    /// A UDP socket that hears and reaches `to` alone.
    ///
    /// # Errors
    /// Whatever the host says, such as no route.
    fn datagrams_to(&mut self, key: Key, to: SocketAddr) -> io::Result<Self::Datagrams>;

    /// A UDP socket that whoever knows `at` can send to.
    ///
    /// # Errors
    /// The address is in use or not permitted.
    fn datagrams_at(&mut self, key: Key, at: SocketAddr) -> io::Result<Self::Datagrams>;

    /// A ping socket (ICMP echo, unprivileged; ping(7) has none: see `net.ipv4.ping_group_range`)
    /// whose datagrams are ICMP messages with the host's own identifier.
    ///
    /// # Errors
    /// `PermissionDenied` where the host's settings don't allow it.
    fn ping(&mut self, key: Key, to: IpAddr) -> io::Result<Self::Datagrams>;

    /// The host's name servers, best first.
    fn resolvers(&mut self) -> Vec<SocketAddr>;
}

/// A TCP connection on the host.
pub trait Stream {
    /// Whether connecting has succeeded; `Ok(false)` while it is under way.
    ///
    /// # Errors
    /// Why it failed.
    fn connected(&mut self) -> io::Result<bool>;

    /// Sends some of `bytes` and says how many.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room.
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Receives into `buffer` and says how much; 0 is the end.
    ///
    /// # Errors
    /// `WouldBlock` if there is nothing yet.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Says that no more will be sent.
    ///
    /// # Errors
    /// The connection is gone.
    fn finish(&mut self) -> io::Result<()>;

    /// Makes dropping the socket a reset, not an orderly end.
    fn abort(&mut self);
}

/// A datagram socket on the host.
pub trait Datagrams {
    /// Sends one datagram: to `to`, or to where the socket is connected to.
    ///
    /// # Errors
    /// `WouldBlock`, `ConnectionRefused` (an earlier one was) or whatever the host says.
    fn send(&mut self, bytes: &[u8], to: Option<SocketAddr>) -> io::Result<()>;

    /// Receives one datagram; what does not fit is cut off. Says its size and sender.
    ///
    /// # Errors
    /// `WouldBlock`, `ConnectionRefused` or whatever the host says.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)>;
}
