//! Everything but bulk: refusals, half-closed connections, slow readers, resets, many connections, UDP,
//! name service, forwarded ports. smoltcp is the guest, the services are real sockets of the host.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use common::{DNS, Faults, GATEWAY, GATEWAY6, GUEST6, Guest, open_config};
use net::{Config, Forward, ForwardError, Protocol};
use smoltcp::socket::tcp::State;

const PATIENCE: Duration = Duration::from_secs(20);

fn guest() -> Guest {
    Guest::new(open_config(), Faults::default())
}

fn local() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    (listener, (GATEWAY, port).into())
}

/// Polls the guest while `work` goes on beside it.
fn beside<R: Send>(guest: &mut Guest, work: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| {
        let worker = scope.spawn(work);
        guest.until("the host's side", |_| worker.is_finished());
        worker.join().expect("the host's side")
    })
}

#[test]
fn a_refused_connection_is_refused_at_once() {
    let (listener, to) = local();
    drop(listener);
    let mut guest = guest();
    let start = Instant::now();
    let handle = guest.connect(to, 4096);
    guest.until("a refusal", |guest| guest.tcp(handle).state() == State::Closed);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[test]
fn the_hosts_loopback_is_out_of_reach_unless_asked() {
    let (listener, to) = local();
    listener.set_nonblocking(true).expect("set");
    let mut guest = Guest::new(Config::default(), Faults::default());
    for ip in
        [IpAddr::V4(GATEWAY), IpAddr::V4(DNS), GATEWAY6.into(), Ipv4Addr::new(127, 0, 0, 1).into()]
    {
        let handle = guest.connect((ip, to.port()).into(), 4096);
        guest.until("a refusal", |guest| guest.tcp(handle).state() == State::Closed);
    }
    assert_eq!(guest.wire.network.stack().counters().refused, 4);
    let none = listener.accept().expect_err("nobody came");
    assert_eq!(none.kind(), ErrorKind::WouldBlock);
}

#[test]
fn either_side_may_end_first() {
    let (listener, to) = local();
    let mut guest = guest();
    // The guest ends, the host still sends.
    let handle = guest.connect(to, 65_536);
    let mut stream = beside(&mut guest, || listener.accept().expect("a connection").0);
    guest.until("a connection", |guest| guest.tcp(handle).may_send());
    guest.tcp(handle).send_slice(b"question").expect("sent");
    guest.tcp(handle).close();
    let asked = beside(&mut guest, || {
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("read to the end");
        stream.write_all(&[7; 100_000]).expect("the other direction is open");
        text
    });
    assert_eq!(asked, "question");
    drop(stream);
    let mut received = 0;
    guest.until("the answer", |guest| {
        let socket = guest.tcp(handle);
        while socket.can_recv() {
            received += socket.recv(|bytes| (bytes.len(), bytes.len())).expect("received");
        }
        !socket.may_recv()
    });
    assert_eq!(received, 100_000);
    // The host ends, the guest still sends.
    let handle = guest.connect(to, 65_536);
    let mut stream = beside(&mut guest, || listener.accept().expect("a connection").0);
    stream.shutdown(Shutdown::Write).expect("an end");
    guest.until("the host's end", |guest| guest.tcp(handle).state() == State::CloseWait);
    guest.tcp(handle).send_slice(b"still here").expect("sent");
    guest.tcp(handle).close();
    let text = beside(&mut guest, || {
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("read to the end");
        text
    });
    assert_eq!(text, "still here");
    guest.until("the guest's end", |guest| guest.tcp(handle).state() == State::Closed);
}

#[test]
fn a_slow_host_closes_the_window_and_loses_nothing() {
    let (listener, to) = local();
    let mut guest = guest();
    let handle = guest.connect(to, 256 << 10);
    let mut stream = beside(&mut guest, || listener.accept().expect("a connection").0);
    let (mut sent, mut stalled) = (0_usize, Instant::now());
    // Until host and stack are full: nothing has moved for a while.
    guest.until("a full host", |guest| {
        let socket = guest.tcp(handle);
        if socket.can_send() {
            let count = socket.send_slice(&[5; 65_536]).expect("sent");
            sent += count;
            // The window's rest that its scale can't express goes by single bytes, as probes.
            if count > 16 {
                stalled = Instant::now();
            }
        }
        stalled.elapsed() > Duration::from_millis(1500)
    });
    assert!(guest.tcp(handle).send_queue() > 0, "the window has closed");
    guest.tcp(handle).close();
    let received = beside(&mut guest, || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("read to the end");
        bytes.len()
    });
    assert_eq!(received, sent);
}

#[test]
fn a_slow_guest_is_waited_for() {
    let (listener, to) = local();
    let mut guest = guest();
    let handle = guest.connect(to, 16_384);
    let mut stream = beside(&mut guest, || listener.accept().expect("a connection").0);
    let writer =
        std::thread::spawn(move || stream.write_all(&[9; 3_000_000]).map(|()| drop(stream)));
    // The guest's window is closed for longer than some probes take.
    guest.idle(Duration::from_millis(2500));
    let mut received = 0;
    guest.until("all of it", |guest| {
        let socket = guest.tcp(handle);
        while socket.can_recv() {
            received += socket.recv(|bytes| (bytes.len(), bytes.len())).expect("received");
        }
        !socket.may_recv()
    });
    assert_eq!(received, 3_000_000);
    writer.join().expect("joined").expect("written");
}

#[test]
fn resets_go_both_ways() {
    let (listener, to) = local();
    let mut guest = guest();
    let handle = guest.connect(to, 4096);
    let mut stream = beside(&mut guest, || listener.accept().expect("a connection").0);
    guest.until("a connection", |guest| guest.tcp(handle).may_send());
    guest.tcp(handle).abort();
    let error = beside(&mut guest, || stream.read(&mut [0; 8]).expect_err("it was reset"));
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    // The host's: unread data makes closing a reset.
    let handle = guest.connect(to, 4096);
    let stream = beside(&mut guest, || listener.accept().expect("a connection").0);
    guest.until("a connection", |guest| guest.tcp(handle).may_send());
    guest.tcp(handle).send_slice(b"unread").expect("sent");
    beside(&mut guest, || stream.peek(&mut [0; 8]).expect("it is there"));
    drop(stream);
    guest.until("a reset", |guest| guest.tcp(handle).state() == State::Closed);
}

#[test]
fn a_thousand_connections_at_once() {
    const COUNT: usize = 1000;
    let (listener, to) = local();
    std::thread::spawn(move || {
        // All of them stand before the first is answered.
        let streams: Vec<_> =
            (0..COUNT).map(|_| listener.accept().expect("a connection").0).collect();
        for mut stream in streams {
            let mut text = [0; 4];
            stream.read_exact(&mut text).expect("read");
            stream.write_all(&text).expect("written");
        }
    });
    let mut guest = guest();
    let handles: Vec<_> = (0..COUNT).map(|_| guest.connect(to, 512)).collect();
    guest.until("connections", |guest| handles.iter().all(|&one| guest.tcp(one).may_send()));
    assert_eq!(guest.wire.network.stack().flows().0, COUNT);
    for (number, &handle) in handles.iter().enumerate() {
        guest.tcp(handle).send_slice(&(number as u32).to_be_bytes()).expect("sent");
    }
    guest.until("echoes", |guest| handles.iter().all(|&one| guest.tcp(one).recv_queue() == 4));
    for (number, &handle) in handles.iter().enumerate() {
        let mut text = [0; 4];
        assert_eq!(guest.tcp(handle).recv_slice(&mut text), Ok(4));
        assert_eq!(u32::from_be_bytes(text) as usize, number);
        guest.tcp(handle).close();
    }
    guest.until("ends", |guest| {
        handles
            .iter()
            .all(|&one| !guest.tcp(one).is_active() || guest.tcp(one).state() == State::TimeWait)
    });
    let start = Instant::now();
    guest.until("an empty table", |guest| {
        assert!(start.elapsed() < PATIENCE);
        guest.wire.network.stack().flows().0 == 0
    });
}

#[test]
fn datagrams_are_echoed_and_refused() {
    for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)] {
        let Ok(socket) = UdpSocket::bind((ip, 0)) else {
            println!("skipped: this host can't bind {ip}");
            continue;
        };
        let port = socket.local_addr().expect("an address").port();
        let to = SocketAddr::new(if ip.is_ipv4() { GATEWAY.into() } else { GATEWAY6.into() }, port);
        let mut guest = guest();
        let handle = guest.udp_socket(5000);
        guest.udp(handle).send_slice(b"hello", to).expect("sent");
        beside(&mut guest, || {
            let mut buffer = [0; 64];
            let (length, from) = socket.recv_from(&mut buffer).expect("received");
            socket.send_to(&buffer[..length], from).expect("sent");
        });
        guest.until("an echo", |guest| guest.udp(handle).can_recv());
        let (bytes, about) = guest.udp(handle).recv().expect("received");
        assert_eq!((bytes, SocketAddr::from(about.endpoint)), (&b"hello"[..], to));
        drop(socket);
        guest.wire.record = Some(Vec::new());
        let unreachable: [u8; 2] = if ip.is_ipv4() { [3, 3] } else { [1, 4] };
        let offset = if ip.is_ipv4() { 34 } else { 54 };
        guest.until("an ICMP error", |guest| {
            guest.udp(handle).send_slice(b"anybody?", to).expect("sent");
            let frames = guest.wire.record.as_ref().expect("recorded");
            frames.iter().any(|frame| frame.get(offset..offset + 2) == Some(&unreachable[..]))
        });
    }
}

/// A name server that knows one answer: whatever was asked, with this byte behind.
fn name_server(answer: Vec<u8>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address");
    std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let mut message = buffer[..length].to_vec();
            message[2] |= 0x80;
            // One with a wrong identification first: nobody may believe it.
            let mut forged = message.clone();
            forged[0] ^= 1;
            forged.extend(b"forged");
            socket.send_to(&forged, from).expect("sent");
            message.extend(&answer);
            socket.send_to(&message, from).expect("sent");
        }
    });
    address
}

const QUERY: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07example\x03org\0\0\x01\0\x01";

fn ask(guest: &mut Guest) -> Vec<u8> {
    let handle = guest.udp_socket(5353);
    guest.udp(handle).send_slice(QUERY, (DNS, 53)).expect("sent");
    guest.until("an answer", |guest| guest.udp(handle).can_recv());
    let (bytes, about) = guest.udp(handle).recv().expect("received");
    assert_eq!(SocketAddr::from(about.endpoint), (DNS, 53).into());
    bytes.to_vec()
}

#[test]
fn names_are_asked_of_the_hosts_servers() {
    let server = name_server(b"answer".to_vec());
    let mut guest = Guest::with_resolvers(Config::default(), vec![server]);
    let answer = ask(&mut guest);
    assert_eq!((&answer[..2], &answer[QUERY.len()..]), (&QUERY[..2], &b"answer"[..]));
}

#[test]
fn a_dead_name_server_is_passed_over_and_the_lack_of_any_is_told() {
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let closed = UdpSocket::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let dead = vec![silent.local_addr().expect("an address"), closed];
    let live = name_server(b"late".to_vec());
    let mut guest = Guest::with_resolvers(Config::default(), [dead.clone(), vec![live]].concat());
    assert!(ask(&mut guest).ends_with(b"late"));
    let mut guest = Guest::with_resolvers(Config::default(), dead);
    let answer = ask(&mut guest);
    assert_eq!((answer[2] & 0x80, answer[3] & 0x0f, answer.len()), (0x80, 2, QUERY.len()));
}

#[test]
fn an_answer_too_long_for_the_link_is_cut_and_there_over_tcp() {
    let server = name_server(vec![1; 3000]);
    let listener = TcpListener::bind(server).expect("the same port");
    let mut guest = Guest::with_resolvers(Config::default(), vec![server]);
    let answer = ask(&mut guest);
    assert_eq!((answer[2] & 0x82, answer.len()), (0x82, QUERY.len()));
    let handle = guest.connect((DNS, 53).into(), 4096);
    let mut stream = beside(&mut guest, || listener.accept().expect("a connection").0);
    stream.write_all(b"long").expect("written");
    guest.until("an answer", |guest| guest.tcp(handle).recv_queue() == 4);
}

/// A name server whose datagrams are cut, and whose answers over TCP are whole (RFC 1035, section 4.2.2).
fn cutting_name_server(long: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let socket = UdpSocket::bind(address).expect("the same port");
    std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            buffer[2] |= 0x82;
            socket.send_to(&buffer[..length], from).expect("sent");
        }
    });
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut length = [0; 2];
            while stream.read_exact(&mut length).is_ok() {
                let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut message).expect("a query");
                message[2] |= 0x80;
                message.extend(&long);
                let length = (message.len() as u16).to_be_bytes();
                stream.write_all(&[&length[..], &message].concat()).expect("written");
            }
        }
    });
    address
}

#[test]
fn what_a_name_server_cuts_is_asked_again_over_tcp_of_one_that_takes_the_connection() {
    let long: Vec<u8> = (0..20_000).map(|at| (at / 3) as u8).collect();
    // The first answers datagrams only.
    let servers = vec![name_server(Vec::new()), cutting_name_server(long.clone())];
    let mut guest = Guest::with_resolvers(Config::default(), vec![servers[1]]);
    assert_eq!(ask(&mut guest)[2] & 0x82, 0x82, "cut");
    let mut guest = Guest::with_resolvers(Config::default(), servers);
    let handle = guest.connect((DNS, 53).into(), 65_536);
    guest.until("a connection", |guest| guest.tcp(handle).may_send());
    for _ in 0..2 {
        let framed = [&(QUERY.len() as u16).to_be_bytes()[..], QUERY].concat();
        guest.tcp(handle).send_slice(&framed).expect("sent");
        let wanted = 2 + QUERY.len() + long.len();
        guest.until("an answer", |guest| guest.tcp(handle).recv_queue() >= wanted);
        let mut answer = vec![0; wanted];
        assert_eq!(guest.tcp(handle).recv_slice(&mut answer), Ok(wanted));
        assert_eq!((&answer[2..4], &answer[2 + QUERY.len()..]), (&QUERY[..2], &long[..]));
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr()).expect("a port").port()
}

#[test]
fn forwarded_ports_lead_into_the_guest() {
    let mut guest = guest();
    let port = free_port();
    let forward = format!("{port}:80").parse().expect("a forward");
    let key = guest.wire.network.stack().add_forward(forward).expect("a free port");
    // Nobody listens in the guest: the host's client is refused.
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = TcpStream::connect(at).expect("the host listens");
    let error = beside(&mut guest, || stream.read(&mut [0; 8]).expect_err("it was reset"));
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let handle = guest.tcp_socket(65_536);
    guest.tcp(handle).listen(80).expect("listening");
    let mut stream = TcpStream::connect(at).expect("the host listens");
    stream.write_all(b"GET /").expect("written");
    guest.until("a request", |guest| guest.tcp(handle).recv_queue() == 5);
    assert_eq!(guest.tcp(handle).remote_endpoint().map(|end| end.addr), Some(GATEWAY.into()));
    guest.tcp(handle).send_slice(b"200").expect("sent");
    guest.tcp(handle).close();
    let text = beside(&mut guest, || {
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("read");
        text
    });
    assert_eq!(text, "200");
    assert!(guest.wire.network.stack().remove_forward(key));
    assert!(TcpStream::connect(at).is_err(), "nobody listens any more");
}

#[test]
fn forwarded_datagrams_find_their_way_back() {
    let mut guest = guest();
    let probe = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let port = probe.local_addr().expect("an address").port();
    drop(probe);
    let forward = format!("{port}:5353/udp").parse().expect("a forward");
    guest.wire.network.stack().add_forward(forward).expect("a free port");
    let handle = guest.udp_socket(5353);
    let clients = [0; 2].map(|_| UdpSocket::bind("127.0.0.1:0").expect("a port"));
    for (client, text) in clients.iter().zip([b"a", b"b"]) {
        client.set_read_timeout(Some(PATIENCE)).expect("set");
        client.send_to(text, ("127.0.0.1", port)).expect("sent");
    }
    for _ in 0..2 {
        guest.until("a datagram", |guest| guest.udp(handle).can_recv());
        let (bytes, about) = guest.udp(handle).recv().expect("received");
        let reply = [bytes, b"!"].concat();
        guest.udp(handle).send_slice(&reply, about.endpoint).expect("sent");
    }
    let replies = beside(&mut guest, || {
        clients.each_ref().map(|client| {
            let mut buffer = [0; 8];
            let (length, from) = client.recv_from(&mut buffer).expect("a reply");
            assert_eq!(from, ([127, 0, 0, 1], port).into());
            buffer[..length].to_vec()
        })
    });
    assert_eq!(replies, [b"a!", b"b!"]);
}

#[test]
fn an_ipv6_forward_leads_to_the_guests_ipv6_address() {
    let Ok(probe) = TcpListener::bind("[::1]:0") else {
        println!("skipped: this host has no IPv6 loopback address");
        return;
    };
    let listen = probe.local_addr().expect("an address");
    drop(probe);
    let mut guest = guest();
    let forward = Forward { listen, guest_port: 80, protocol: Protocol::Tcp };
    guest.wire.network.stack().add_forward(forward).expect("a free port");
    // The guest has been heard of once it has sent something.
    let handle = guest.udp_socket(9);
    guest.udp(handle).send_slice(b"x", (GATEWAY6, 9)).expect("sent");
    guest.until("a packet", |guest| {
        let stack = guest.wire.network.stack();
        stack.counters().refused + stack.flows().1 as u64 > 0
    });
    let handle = guest.tcp_socket(4096);
    guest.tcp(handle).listen(80).expect("listening");
    let mut stream = TcpStream::connect(listen).expect("the host listens");
    stream.write_all(b"six").expect("written");
    guest.until("a request", |guest| guest.tcp(handle).recv_queue() == 3);
    assert_eq!(guest.tcp(handle).local_endpoint().map(|end| end.addr), Some(GUEST6.into()));
}

#[test]
fn ports_that_cannot_be_forwarded_say_why_and_what_to_do() {
    let mut guest = guest();
    let (taken, to) = local();
    let mut add =
        |text: &str| guest.wire.network.stack().add_forward(text.parse().expect("a forward"));
    let error = add(&format!("{}:80", to.port())).expect_err("it is taken");
    assert!(matches!(error, ForwardError::InUse(_)), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("choose another host port") && text.contains(&to.port().to_string()),
        "{text}"
    );
    drop(taken);
    let error = add("192.0.2.99:8080:80").expect_err("nobody has it");
    assert!(matches!(error, ForwardError::NoSuchAddress(_)), "{error}");
}

#[test]
fn a_reset_guest_leaves_no_connection_behind() {
    let (listener, to) = local();
    let mut guest = guest();
    let handle = guest.connect(to, 4096);
    let mut stream = beside(&mut guest, || listener.accept().expect("a connection").0);
    guest.until("a connection", |guest| guest.tcp(handle).may_send());
    guest.wire.network.stack().reset();
    assert!(stream.read(&mut [0; 1]).is_err(), "the host's side was reset, too");
    assert_eq!(guest.wire.network.stack().flows(), (0, 0));
}
