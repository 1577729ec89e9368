//! Echo (ping) and errors: ICMP (RFC 792) and ICMPv6 (RFC 4443).
//!
//! The gateway and the name server answer by themselves. Others are asked by the host's unprivileged ping
//! sockets, where `net.ipv4.ping_group_range` permits the user any; else nobody answers for them.
//! Invariant: at most [`PINGS`] sockets; the one that was idle longest makes way.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, Icmpv6DstUnreachable, Icmpv6Packet, Icmpv6Repr,
    IpProtocol, Ipv4Repr, Ipv6Repr, UDP_HEADER_LEN,
};

use crate::config::Place;
use crate::context::Context;
use crate::host::{Datagrams, Host, Key};
use crate::slab::{Kind, Slab};
use crate::tcp::Flow;

/// Ping sockets at most.
pub const PINGS: usize = 64;
const IDLE: Duration = Duration::from_secs(60);
const ECHO_HEADER: usize = 8;

/// An echo request or reply without its family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Echo<'a> {
    pub(crate) identifier: u16,
    pub(crate) sequence: u16,
    pub(crate) data: &'a [u8],
}

struct Ping<D> {
    guest: IpAddr,
    remote: IpAddr,
    identifier: u16,
    socket: D,
    expires: Duration,
}

pub(crate) struct Pings<H: Host> {
    table: Slab<Ping<H::Datagrams>>,
}

impl<H: Host> Pings<H> {
    pub(crate) fn new() -> Self {
        Self { table: Slab::new(Kind::Ping, PINGS) }
    }

    /// An echo request of the guest.
    pub(crate) fn request(
        &mut self,
        cx: &mut Context<H>,
        guest: IpAddr,
        to: IpAddr,
        echo: Echo<'_>,
    ) {
        match cx.config.place(to) {
            Place::Gateway | Place::Dns => reply(cx, to, guest, echo),
            Place::Outside(target) => self.ask(cx, guest, target, echo),
            Place::Nowhere => cx.counters.refused += 1,
        }
    }

    fn ask(&mut self, cx: &mut Context<H>, guest: IpAddr, remote: IpAddr, echo: Echo<'_>) {
        let identifier = echo.identifier;
        let same =
            |one: &Ping<_>| (one.guest, one.remote, one.identifier) == (guest, remote, identifier);
        let known = self.table.iter().find(|(_, one)| same(one)).map(|(key, _)| key);
        let key = match known {
            Some(key) => key,
            None => {
                if self.table.is_full() {
                    let idle = self.table.iter().min_by_key(|(_, one)| one.expires);
                    let key = idle.map(|(key, _)| key).expect("a full table has entries");
                    self.table.remove(key);
                }
                let made = self.table.insert_with(|key| {
                    let socket = cx.host.ping(key, remote)?;
                    Ok::<_, io::Error>(Ping { guest, remote, identifier, socket, expires: cx.now })
                });
                let Some(Ok(key)) = made else {
                    cx.counters.refused += 1;
                    return;
                };
                key
            }
        };
        let ping = self.table.get_mut(key).expect("it is there");
        ping.expires = cx.now + IDLE;
        // Code, checksum and identifier are the host's to fill in.
        let mut message = vec![if remote.is_ipv4() { 8 } else { 128 }, 0, 0, 0, 0, 0];
        message.extend(echo.sequence.to_be_bytes());
        message.extend_from_slice(echo.data);
        // What is lost, the guest's ping tells.
        let _ = ping.socket.send(&message, None);
    }

    /// A ping socket has become ready.
    pub(crate) fn host_event(&mut self, cx: &mut Context<H>, key: Key) {
        let Some(ping) = self.table.get_mut(key) else { return };
        for _ in 0..PINGS {
            match ping.socket.receive(&mut cx.scratch) {
                Ok((length, _)) if length >= ECHO_HEADER => {
                    let expected = if ping.remote.is_ipv4() { 0 } else { 129 };
                    let message = cx.scratch[..length].to_vec();
                    if message[0] == expected {
                        let sequence = u16::from_be_bytes([message[6], message[7]]);
                        let data = &message[ECHO_HEADER..];
                        let echo = Echo { identifier: ping.identifier, sequence, data };
                        reply(cx, ping.remote, ping.guest, echo);
                    }
                }
                Ok(_) => (),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => (),
            }
        }
    }

    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.table.iter().map(|(_, one)| one.expires).min()
    }

    pub(crate) fn tick(&mut self, now: Duration) {
        let late: Vec<Key> =
            self.table.iter().filter(|(_, one)| one.expires <= now).map(|(key, _)| key).collect();
        for key in late {
            self.table.remove(key);
        }
    }

    pub(crate) fn clear(&mut self) {
        for key in self.table.keys() {
            self.table.remove(key);
        }
    }
}

fn reply<H>(cx: &mut Context<H>, from: IpAddr, guest: IpAddr, echo: Echo<'_>) {
    let Echo { identifier: ident, sequence: seq_no, data } = echo;
    match (from, guest) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            send_v4(cx, (from, guest), &Icmpv4Repr::EchoReply { ident, seq_no, data });
        }
        _ => send_v6(cx, (from, guest), &Icmpv6Repr::EchoReply { ident, seq_no, data }),
    }
}

/// Tells the guest that nobody hears the datagrams of `flow`.
pub(crate) fn port_unreachable<H>(cx: &mut Context<H>, flow: Flow) {
    let Flow { guest, remote } = flow;
    let mut data = [0; UDP_HEADER_LEN];
    data[..2].copy_from_slice(&guest.port().to_be_bytes());
    data[2..4].copy_from_slice(&remote.port().to_be_bytes());
    data[5] = UDP_HEADER_LEN as u8;
    let (next_header, payload_len, hop_limit) = (IpProtocol::Udp, UDP_HEADER_LEN, 64);
    match (guest, remote) {
        (SocketAddr::V4(guest), SocketAddr::V4(remote)) => {
            let (src_addr, dst_addr) = (*guest.ip(), *remote.ip());
            let header = Ipv4Repr { src_addr, dst_addr, next_header, payload_len, hop_limit };
            let reason = Icmpv4DstUnreachable::PortUnreachable;
            let message = Icmpv4Repr::DstUnreachable { reason, header, data: &data };
            send_v4(cx, (dst_addr.into(), src_addr.into()), &message);
        }
        (SocketAddr::V6(guest), SocketAddr::V6(remote)) => {
            let (src_addr, dst_addr) = (*guest.ip(), *remote.ip());
            let header = Ipv6Repr { src_addr, dst_addr, next_header, payload_len, hop_limit };
            let reason = Icmpv6DstUnreachable::PortUnreachable;
            let message = Icmpv6Repr::DstUnreachable { reason, header, data: &data };
            send_v6(cx, (dst_addr.into(), src_addr.into()), &message);
        }
        _ => unreachable!("both addresses of a flow are of one family"),
    }
}

fn send_v4<H>(cx: &mut Context<H>, ends: (IpAddr, IpAddr), message: &Icmpv4Repr<'_>) {
    cx.packet(ends, IpProtocol::Icmp, message.buffer_len(), |bytes| {
        message.emit(&mut Icmpv4Packet::new_unchecked(bytes), &ChecksumCapabilities::default());
    });
}

fn send_v6<H>(cx: &mut Context<H>, ends: (IpAddr, IpAddr), message: &Icmpv6Repr<'_>) {
    let (IpAddr::V6(from), IpAddr::V6(to)) = ends else { return };
    cx.packet(ends, IpProtocol::Icmpv6, message.buffer_len(), |bytes| {
        let mut packet = Icmpv6Packet::new_unchecked(bytes);
        message.emit(&from, &to, &mut packet, &ChecksumCapabilities::default());
    });
}
