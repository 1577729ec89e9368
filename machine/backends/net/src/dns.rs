//! The name server that the guest sees: a relay to the host's (RFC 1035, RFC 5625).
//!
//! Each query goes out by a socket of its own, so under a random port, and to the next of the host's
//! name servers if one does not answer; a guest that hears from none is told so. Over TCP, for answers that
//! are cut (TC) or for whoever likes, the guest speaks with the first of them that takes the connection (crate::tcp). Invariant: at most [`QUERIES`] are under way, and an answer
//! belongs to a query by its socket, identification and question.

use std::net::SocketAddr;
use std::time::Duration;

use crate::context::Context;
use crate::host::{Datagrams, Host, Key};
use crate::slab::{Kind, Slab};

/// Queries under way at most; the oldest makes way.
pub const QUERIES: usize = 128;
/// A name server that has not answered so long is passed over.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// Name servers that are asked at most.
const SERVERS: usize = 6;
const HEADER: usize = 12;
const SERVFAIL: u8 = 2;

struct Query<D> {
    guest: SocketAddr,
    relay: SocketAddr,
    bytes: Vec<u8>,
    socket: Option<D>,
    servers: Vec<SocketAddr>,
    deadline: Duration,
}

pub(crate) struct Dns<H: Host> {
    table: Slab<Query<H::Datagrams>>,
}

impl<H: Host> Dns<H> {
    pub(crate) fn new() -> Self {
        Self { table: Slab::new(Kind::Dns, QUERIES) }
    }

    /// A query of the guest to `relay`; `None` if it is none.
    pub(crate) fn query(
        &mut self,
        cx: &mut Context<H>,
        guest: SocketAddr,
        relay: SocketAddr,
        bytes: &[u8],
    ) -> Option<()> {
        let is_response = *bytes.get(2)? & 0x80 != 0;
        if bytes.len() < HEADER || is_response {
            return None;
        }
        let again = |one: &Query<_>| one.guest == guest && one.bytes[..2] == bytes[..2];
        let old = self.table.iter().find(|(_, one)| again(one)).map(|(key, _)| key);
        if let Some(key) = old.or_else(|| self.oldest_if_full()) {
            self.table.remove(key);
        }
        let mut servers = servers(&mut cx.host);
        servers.reverse();
        let query =
            Query { guest, relay, bytes: bytes.to_vec(), socket: None, servers, deadline: cx.now };
        let made = self.table.insert_with(|_| Ok::<_, ()>(query));
        let key = made.expect("there is room").expect("nothing fails");
        self.ask_next(cx, key);
        Some(())
    }

    fn oldest_if_full(&self) -> Option<Key> {
        let oldest = || self.table.iter().min_by_key(|(_, one)| one.deadline);
        if self.table.is_full() { oldest().map(|(key, _)| key) } else { None }
    }

    /// Asks the next server, or tells the guest that there is none.
    fn ask_next(&mut self, cx: &mut Context<H>, key: Key) {
        let Some(query) = self.table.get_mut(key) else { return };
        while let Some(server) = query.servers.pop() {
            query.socket = None;
            let Ok(mut socket) = cx.host.datagrams_to(key, server) else { continue };
            if socket.send(&query.bytes, None).is_ok() {
                query.socket = Some(socket);
                query.deadline = cx.now + PATIENCE;
                return;
            }
        }
        if let Some(query) = self.table.remove(key) {
            let failure = without_records(&query.bytes, SERVFAIL, false);
            cx.datagram(query.relay, query.guest, &failure);
        }
    }

    /// A query's socket has become ready.
    pub(crate) fn host_event(&mut self, cx: &mut Context<H>, key: Key) {
        let Some(query) = self.table.get_mut(key) else { return };
        let Some(socket) = query.socket.as_mut() else { return };
        loop {
            match socket.receive(&mut cx.scratch) {
                Ok((length, _)) if answers(&query.bytes, &cx.scratch[..length]) => {
                    let answer = cx.scratch[..length].to_vec();
                    let query = self.table.remove(key).expect("it was there a moment ago");
                    Self::answer(cx, &query, &answer);
                    return;
                }
                Ok(_) => (),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => (),
                Err(_) => return self.ask_next(cx, key),
            }
        }
    }

    /// Hands on an answer; what is too long for the link is asked for again over TCP by the guest.
    fn answer(cx: &mut Context<H>, query: &Query<H::Datagrams>, answer: &[u8]) {
        let headers = if query.guest.is_ipv4() { 28 } else { 48 };
        if answer.len() + headers > usize::from(cx.config.mtu) {
            let short = without_records(&query.bytes, answer[3] & 0x0f, true);
            cx.datagram(query.relay, query.guest, &short);
        } else {
            cx.datagram(query.relay, query.guest, answer);
        }
    }

    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.table.iter().map(|(_, one)| one.deadline).min()
    }

    pub(crate) fn tick(&mut self, cx: &mut Context<H>) {
        let now = cx.now;
        let late: Vec<Key> =
            self.table.iter().filter(|(_, one)| one.deadline <= now).map(|(key, _)| key).collect();
        for key in late {
            self.ask_next(cx, key);
        }
    }

    pub(crate) fn clear(&mut self) {
        for key in self.table.keys() {
            self.table.remove(key);
        }
    }
}

/// The host's name servers in their order, not too many.
pub(crate) fn servers<H: Host>(host: &mut H) -> Vec<SocketAddr> {
    let mut servers = host.resolvers();
    servers.truncate(SERVERS);
    servers
}

/// Bytes of the first question, name and type and class, if there is one of sound shape.
fn question(message: &[u8]) -> Option<&[u8]> {
    if u16::from_be_bytes([*message.get(4)?, *message.get(5)?]) == 0 {
        return None;
    }
    let mut at = HEADER;
    loop {
        match usize::from(*message.get(at)?) {
            0 => return message.get(HEADER..at + 5),
            length @ 1..=63 => at += 1 + length,
            _ => return None,
        }
    }
}

/// Whether a message answers this query: same identification, same question whatever the letters' case.
fn answers(query: &[u8], message: &[u8]) -> bool {
    let same_question = match (question(query), question(message)) {
        (Some(asked), Some(told)) => asked.eq_ignore_ascii_case(told),
        // An error may come without question.
        (_, None) => true,
        (None, Some(_)) => false,
    };
    message.len() >= HEADER && message[..2] == query[..2] && message[2] & 0x80 != 0 && same_question
}

/// The query turned into an answer that has no records.
fn without_records(query: &[u8], code: u8, truncated: bool) -> Vec<u8> {
    let mut bytes = query[..HEADER].to_vec();
    let question = question(query).unwrap_or_default();
    bytes[2] = 0x80 | (query[2] & 0x79) | u8::from(truncated) << 1;
    bytes[3] = 0x80 | code;
    bytes[4..].fill(0);
    bytes[5] = u8::from(!question.is_empty());
    bytes.extend_from_slice(question);
    bytes
}
