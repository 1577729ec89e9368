//! Bytes through TCP both ways, between smoltcp in the place of the guest and real sockets of the host: all
//! of them, in order, whatever happens to frames.

mod common;

use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener};
use std::thread::JoinHandle;

use common::{Faults, GATEWAY, GATEWAY6, Guest, Sum, open_config, pattern, pattern_sum};

const MIB: usize = 1 << 20;

/// A service that sends `total` bytes and takes as many, at the same time; answers with their sum.
fn exchange(listener: TcpListener, total: usize) -> JoinHandle<u64> {
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut writer = stream.try_clone().expect("a descriptor");
        let sender = std::thread::spawn(move || {
            let (mut at, mut buffer) = (0, vec![0; 65_536]);
            while at < total {
                let count = buffer.len().min(total - at);
                pattern(at, &mut buffer[..count]);
                writer.write_all(&buffer[..count]).expect("written");
                at += count;
            }
            writer.shutdown(Shutdown::Write).expect("an end");
        });
        let (mut sum, mut buffer) = (Sum::new(), vec![0; 65_536]);
        loop {
            match stream.read(&mut buffer).expect("read") {
                0 => break,
                count => sum.add(&buffer[..count]),
            }
        }
        sender.join().expect("sent");
        sum.0
    })
}

/// The guest's side of [`exchange`].
fn transfer(guest: &mut Guest, to: SocketAddr, total: usize) -> u64 {
    let handle = guest.connect(to, 256 << 10);
    let (mut sent, mut received, mut sum) = (0, 0, Sum::new());
    let mut buffer = vec![0; 65_536];
    let mut closed = false;
    guest.until("a transfer", |guest| {
        let socket = guest.tcp(handle);
        while socket.can_send() && sent < total {
            let count = buffer.len().min(total - sent);
            pattern(sent, &mut buffer[..count]);
            match socket.send_slice(&buffer[..count]).expect("it can send") {
                0 => break,
                count => sent += count,
            }
        }
        if sent == total && !closed {
            socket.close();
            closed = true;
        }
        while socket.can_recv() {
            let count = socket.recv_slice(&mut buffer).expect("it can receive");
            sum.add(&buffer[..count]);
            received += count;
        }
        received >= total
            && closed
            && !socket.may_recv()
            && !socket.may_send()
            && socket.send_queue() == 0
    });
    assert_eq!(received, total);
    sum.0
}

fn check(
    listener: TcpListener,
    to: SocketAddr,
    total: usize,
    faults: Faults,
    offload: bool,
) -> Guest {
    let service = exchange(listener, total);
    let config = open_config();
    let mut guest =
        if offload { Guest::with_offload(config, faults) } else { Guest::new(config, faults) };
    let down = transfer(&mut guest, to, total);
    // What the guest's last segments are, the service has yet to hear.
    guest.until("the service's end", |_| service.is_finished());
    let up = service.join().expect("a sum");
    let expected = pattern_sum(total);
    assert_eq!((up, down), (expected, expected));
    guest
}

fn local() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

#[test]
fn fifty_mebibytes_each_way() {
    let (listener, port) = local();
    check(listener, (GATEWAY, port).into(), 50 * MIB, Faults::default(), false);
}

#[test]
fn fifty_mebibytes_each_way_in_large_segments() {
    let (listener, port) = local();
    let guest = check(listener, (GATEWAY, port).into(), 50 * MIB, Faults::default(), true);
    assert!(guest.wire.largest > 30_000, "segments of {} bytes", guest.wire.largest);
}

#[test]
fn fifty_mebibytes_each_way_over_a_bad_link() {
    let (listener, port) = local();
    let faults = Faults { lost: 3, twice: 5, late: 5 };
    check(listener, (GATEWAY, port).into(), 50 * MIB, faults, false);
}

#[test]
fn twenty_mebibytes_each_way_in_large_segments_over_a_bad_link() {
    let (listener, port) = local();
    let faults = Faults { lost: 3, twice: 5, late: 5 };
    let guest = check(listener, (GATEWAY, port).into(), 20 * MIB, faults, true);
    assert!(guest.wire.largest > 30_000, "segments of {} bytes", guest.wire.largest);
}

#[test]
fn a_very_bad_link_still_carries_everything() {
    let (listener, port) = local();
    let faults = Faults { lost: 50, twice: 30, late: 100 };
    check(listener, (GATEWAY, port).into(), MIB, faults, false);
}

#[test]
fn ipv6_carries_as_much() {
    let Ok(listener) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) else {
        println!("skipped: this host has no IPv6 loopback address");
        return;
    };
    let port = listener.local_addr().expect("an address").port();
    check(
        listener,
        (GATEWAY6, port).into(),
        5 * MIB,
        Faults { lost: 3, ..Faults::default() },
        false,
    );
}
