//! Real sockets: non-blocking, close-on-exec, registered edge-triggered with one epoll instance.

use std::io::{self, Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket,
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::epoll;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use super::resolvers::Resolvers;
use super::{Datagrams, Host, Key, Ready, Stream};

const BACKLOG: i32 = 128;
const EVENTS: usize = 128;

/// The host's sockets and the epoll instance that watches them.
pub struct Sockets {
    epoll: OwnedFd,
    resolvers: Resolvers,
    fixed: Option<Vec<SocketAddr>>,
}

impl Sockets {
    /// Sockets of this process, with the name servers of /etc/resolv.conf.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            resolvers: Resolvers::new(
                Path::new("/etc/resolv.conf"),
                Path::new("/run/systemd/resolve/resolv.conf"),
            ),
            fixed: None,
        })
    }

    /// Relays name service to these servers instead of the host's.
    pub fn set_resolvers(&mut self, servers: Vec<SocketAddr>) {
        self.fixed = Some(servers);
    }

    /// Watches another descriptor, level-triggered, under a key that no socket of the stack has.
    pub(crate) fn watch(&self, key: Key, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(key.0), epoll::EventFlags::IN)?)
    }

    fn register(&self, key: Key, fd: impl AsFd) -> io::Result<()> {
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(key.0), flags)?)
    }

    fn udp(&self, key: Key, socket: UdpSocket) -> io::Result<UdpSocket> {
        socket.set_nonblocking(true)?;
        self.register(key, &socket)?;
        Ok(socket)
    }
}

impl AsFd for Sockets {
    /// Readable when [`wait`] has something: for an event loop that has other things to wait for.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// What has become ready within `timeout` (for ever without one).
///
/// # Errors
/// The epoll instance is none.
pub(crate) fn wait(
    epoll: BorrowedFd<'_>,
    timeout: Option<Duration>,
) -> io::Result<Vec<(Key, Ready)>> {
    let mut events = Vec::with_capacity(EVENTS);
    let timeout = timeout.map(|timeout| rustix::event::Timespec {
        tv_sec: timeout.as_secs().min(1 << 20) as i64,
        tv_nsec: i64::from(timeout.subsec_nanos()),
    });
    match epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
        Ok(_) => (),
        Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    }
    Ok(events
        .iter()
        .map(|event: &epoll::Event| {
            // Copied out: the structure is packed.
            let (data, flags) = (event.data, event.flags);
            let ended = flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
            let read = ended || flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::RDHUP);
            let write = ended || flags.intersects(epoll::EventFlags::OUT);
            (Key(data.u64()), Ready { read, write })
        })
        .collect())
}

fn socket(
    family: IpAddr,
    kind: SocketType,
    protocol: Option<rustix::net::Protocol>,
) -> io::Result<OwnedFd> {
    let family = if family.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    Ok(rustix::net::socket_with(
        family,
        kind,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        protocol,
    )?)
}

fn tuned(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    Ok(stream)
}

impl Host for Sockets {
    type Stream = TcpStream;
    type Listener = TcpListener;
    type Datagrams = UdpSocket;

    fn connect(&mut self, key: Key, to: SocketAddr) -> io::Result<TcpStream> {
        let stream = tuned(socket(to.ip(), SocketType::STREAM, None)?.into())?;
        match rustix::net::connect(&stream, &to) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => (),
            Err(error) => return Err(error.into()),
        }
        self.register(key, &stream)?;
        Ok(stream)
    }

    fn listen(&mut self, key: Key, at: SocketAddr) -> io::Result<TcpListener> {
        let fd = socket(at.ip(), SocketType::STREAM, None)?;
        // Without it a port stays taken for a minute after its last connection.
        sockopt::set_socket_reuseaddr(&fd, true)?;
        if at.is_ipv6() {
            sockopt::set_ipv6_v6only(&fd, true)?;
        }
        rustix::net::bind(&fd, &at)?;
        rustix::net::listen(&fd, BACKLOG)?;
        self.register(key, &fd)?;
        Ok(fd.into())
    }

    fn accept(&mut self, listener: &mut TcpListener, key: Key) -> io::Result<TcpStream> {
        let (stream, _) = listener.accept()?;
        stream.set_nonblocking(true)?;
        let stream = tuned(stream)?;
        self.register(key, &stream)?;
        Ok(stream)
    }

    fn datagrams_to(&mut self, key: Key, to: SocketAddr) -> io::Result<UdpSocket> {
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(to)?;
        self.udp(key, socket)
    }

    fn datagrams_at(&mut self, key: Key, at: SocketAddr) -> io::Result<UdpSocket> {
        let fd = socket(at.ip(), SocketType::DGRAM, None)?;
        if at.is_ipv6() {
            sockopt::set_ipv6_v6only(&fd, true)?;
        }
        rustix::net::bind(&fd, &at)?;
        self.udp(key, fd.into())
    }

    fn ping(&mut self, key: Key, to: IpAddr) -> io::Result<UdpSocket> {
        let protocol = if to.is_ipv4() { ipproto::ICMP } else { ipproto::ICMPV6 };
        let fd = socket(to, SocketType::DGRAM, Some(protocol))?;
        rustix::net::connect(&fd, &SocketAddr::new(to, 0))?;
        self.udp(key, fd.into())
    }

    fn resolvers(&mut self) -> Vec<SocketAddr> {
        self.fixed.clone().unwrap_or_else(|| self.resolvers.get())
    }
}

impl Stream for TcpStream {
    fn connected(&mut self) -> io::Result<bool> {
        if let Some(error) = self.take_error()? {
            return Err(error);
        }
        match self.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write(bytes)
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read(buffer)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn abort(&mut self) {
        // Nothing can be done about a socket that takes no options.
        let _ = sockopt::set_socket_linger(self, Some(Duration::ZERO));
    }
}

impl Datagrams for UdpSocket {
    fn send(&mut self, bytes: &[u8], to: Option<SocketAddr>) -> io::Result<()> {
        match to {
            Some(to) => self.send_to(bytes, to),
            None => UdpSocket::send(self, bytes),
        }
        .map(|_| ())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.recv_from(buffer)
    }
}
