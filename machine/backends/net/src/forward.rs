//! Ports of the host that lead into the guest: `[ADDRESS:]HOST:GUEST[/udp]`.
//!
//! Without address a port is open on 127.0.0.1 only: who wants the network to reach the guest says so.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use crate::context::Context;
use crate::host::{Datagrams, Host, Key};
use crate::slab::{Kind, Slab};
use crate::tcp::Tcp;
use crate::udp::Udp;

/// Forwards at most.
pub const FORWARDS: usize = 256;

/// What is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// One port of the host that leads to one of the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Forward {
    /// Where to listen; port 0 lets the host choose.
    pub listen: SocketAddr,
    /// The guest's port.
    pub guest_port: u16,
    /// Connections or datagrams.
    pub protocol: Protocol,
}

/// Why a forward can't be.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The text is no forward.
    #[error(
        "{text:?} is no port forward ({why}): write [ADDRESS:]HOST_PORT:GUEST_PORT[/udp], such as 8080:80, \
         0.0.0.0:5353:53/udp or [::1]:8080:80"
    )]
    Syntax {
        /// As given.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Somebody else listens there.
    #[error(
        "can't forward {0}: the address is in use; choose another host port, or see who has it with \
         `ss -lntup sport = :{port}`", port = .0.port()
    )]
    InUse(SocketAddr),
    /// Ports below 1024 are the administrator's.
    #[error(
        "can't forward {0}: this user may not listen there; choose a host port from 1024 up, or lower \
         net.ipv4.ip_unprivileged_port_start"
    )]
    NotPermitted(SocketAddr),
    /// No interface has the address.
    #[error(
        "can't forward {0}: no interface of this host has that address; `ip address` lists those there \
         are, 0.0.0.0 or [::] means all"
    )]
    NoSuchAddress(SocketAddr),
    /// Too many.
    #[error("can't forward {0}: there are {FORWARDS} forwards already; remove one of them")]
    TooMany(SocketAddr),
    /// The rest.
    #[error(
        "can't forward {at}; see whether the host has the address and descriptors left (`ulimit -n`)"
    )]
    Host {
        /// Where to listen.
        at: SocketAddr,
        /// What the host said.
        source: io::Error,
    },
}

impl FromStr for Forward {
    type Err = ForwardError;

    fn from_str(text: &str) -> Result<Self, ForwardError> {
        let wrong = |why| ForwardError::Syntax { text: text.to_owned(), why };
        let (rest, protocol) = match text.rsplit_once('/') {
            None => (text, Protocol::Tcp),
            Some((rest, "tcp")) => (rest, Protocol::Tcp),
            Some((rest, "udp")) => (rest, Protocol::Udp),
            Some(_) => return Err(wrong("after the slash stands neither tcp nor udp")),
        };
        let (rest, guest) = rest.rsplit_once(':').ok_or_else(|| wrong("there is one port only"))?;
        let (address, host) = match rest.rsplit_once(':') {
            None => (IpAddr::V4(Ipv4Addr::LOCALHOST), rest),
            Some((address, host)) => {
                let bare = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
                let parsed = match bare {
                    Some(inner) => inner.parse().map(IpAddr::V6),
                    None => address.parse().map(IpAddr::V4),
                };
                (
                    parsed.map_err(|_| {
                        wrong("the address is no IPv4 address and no [IPv6 address]")
                    })?,
                    host,
                )
            }
        };
        let host_port =
            port(host).ok_or_else(|| wrong("the host's port is none from 1 to 65535"))?;
        let guest_port =
            port(guest).ok_or_else(|| wrong("the guest's port is none from 1 to 65535"))?;
        Ok(Self { listen: SocketAddr::new(address, host_port), guest_port, protocol })
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.protocol == Protocol::Udp { "/udp" } else { "" };
        write!(f, "{}:{}{kind}", self.listen, self.guest_port)
    }
}

/// Digits only: `u16::from_str` takes a sign, too.
fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&port: &u16| digits && port != 0)
}

enum Socket<H: Host> {
    Tcp(H::Listener),
    Udp(H::Datagrams),
}

struct Open<H: Host> {
    forward: Forward,
    socket: Socket<H>,
}

pub(crate) struct Forwards<H: Host> {
    table: Slab<Open<H>>,
}

impl<H: Host> Forwards<H> {
    pub(crate) fn new() -> Self {
        Self { table: Slab::new(Kind::Forward, FORWARDS) }
    }

    /// Begins to listen.
    pub(crate) fn add(&mut self, host: &mut H, forward: Forward) -> Result<Key, ForwardError> {
        let at = forward.listen;
        let made = self.table.insert_with(|key| {
            let socket = match forward.protocol {
                Protocol::Tcp => Socket::Tcp(host.listen(key, at)?),
                Protocol::Udp => Socket::Udp(host.datagrams_at(key, at)?),
            };
            Ok(Open { forward, socket })
        });
        made.ok_or(ForwardError::TooMany(at))?.map_err(|source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => ForwardError::InUse(at),
            io::ErrorKind::PermissionDenied => ForwardError::NotPermitted(at),
            io::ErrorKind::AddrNotAvailable => ForwardError::NoSuchAddress(at),
            _ => ForwardError::Host { at, source },
        })
    }

    /// Stops listening; says whether there was such a forward.
    pub(crate) fn remove(&mut self, key: Key) -> bool {
        self.table.remove(key).is_some()
    }

    /// A datagram of the guest to somebody who sent one to a forwarded port.
    pub(crate) fn send(&mut self, key: Key, payload: &[u8], peer: SocketAddr) -> io::Result<()> {
        match self.table.get_mut(key) {
            Some(Open { socket: Socket::Udp(socket), .. }) => socket.send(payload, Some(peer)),
            _ => Ok(()),
        }
    }

    /// Somebody came to a forwarded port.
    pub(crate) fn host_event(
        &mut self,
        cx: &mut Context<H>,
        tcp: &mut Tcp<H>,
        udp: &mut Udp<H>,
        key: Key,
    ) {
        let Some(open) = self.table.get_mut(key) else { return };
        // An IPv6 listener's guest is the IPv6 one, if there is one.
        let address =
            cx.guest_address(open.forward.listen.ip()).unwrap_or(cx.config.ipv4.guest.into());
        let guest = SocketAddr::new(address, open.forward.guest_port);
        match &mut open.socket {
            Socket::Tcp(listener) => while tcp.forwarded(cx, listener, guest) {},
            Socket::Udp(socket) => {
                // What is beyond the queue's room is lost, as datagrams are.
                while let Ok((length, peer)) = socket.receive(&mut cx.scratch) {
                    if cx.output.is_busy() {
                        cx.counters.dropped += 1;
                    } else {
                        let payload = cx.scratch[..length].to_vec();
                        udp.forwarded(cx, key, peer, guest, &payload);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_read() {
        for (text, listen, guest_port, protocol) in [
            ("8080:80", "127.0.0.1:8080", 80, Protocol::Tcp),
            ("8080:80/tcp", "127.0.0.1:8080", 80, Protocol::Tcp),
            ("0.0.0.0:5353:53/udp", "0.0.0.0:5353", 53, Protocol::Udp),
            ("[::1]:8080:80", "[::1]:8080", 80, Protocol::Tcp),
            ("[::]:1:65535/udp", "[::]:1", 65_535, Protocol::Udp),
        ] {
            let listen = listen.parse().expect("an address");
            assert_eq!(
                text.parse::<Forward>().ok(),
                Some(Forward { listen, guest_port, protocol }),
                "{text}"
            );
            let told = text.parse::<Forward>().map(|forward| forward.to_string());
            assert_eq!(told.and_then(|text| text.parse::<Forward>()).ok(), text.parse().ok());
        }
    }

    #[test]
    fn what_is_none_is_named_with_the_reason() {
        for (text, why) in [
            ("8080", "one port"),
            ("", "one port"),
            ("0:80", "host's port"),
            ("8080:0", "guest's port"),
            ("8080:70000", "guest's port"),
            ("+80:80", "host's port"),
            ("a:1:2", "address"),
            ("::1:8080:80", "address"),
            ("[1.2.3.4]:1:2", "address"),
            ("8080:80/sctp", "slash"),
        ] {
            let error = text.parse::<Forward>().expect_err(text).to_string();
            assert!(error.contains(why) && error.contains("8080:80"), "{error}");
        }
    }
}
