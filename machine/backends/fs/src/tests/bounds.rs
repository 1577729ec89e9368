//! Requests cut short, too long, too early, and tables that are full.

use rustix::io::Errno;

use super::client::{Client, init, named};
use crate::wire::{Out, ROOT, opcode};
use crate::{Access, Buffers, Served};

#[test]
fn versions_are_agreed_on() {
    let mut client = Client::new(Access::ReadWrite);
    assert_eq!(client.ask(opcode::INIT, 0, init(7, 30)), Err(Errno::PROTO));
    assert_eq!(client.ask(opcode::INIT, 0, init(6, 99)), Err(Errno::PROTO));
    let newer = client.ask(opcode::INIT, 0, init(8, 0)).expect("it is told our version");
    assert_eq!(&newer[..8], [7, 0, 0, 0, 38, 0, 0, 0]);
    let node = client.mkdir(ROOT, "folder", 0o755).expect("it is new").node;
    let old = Out::default().u32(7).u32(31).u32(4096).u32(0);
    let answer = client.ask(opcode::INIT, 0, old).expect("Linux 5.4 says so");
    assert_eq!(&answer[12..16], [0; 4], "nothing that was not offered");
    assert_eq!(client.stat(node), Err(Errno::STALE), "a new session knows no nodes");
    assert!(client.stat(ROOT).is_ok());
}

#[test]
fn nothing_is_done_before_init() {
    let mut client = Client::new(Access::ReadWrite);
    let fresh = super::client::config(client.folder.path(), Access::ReadWrite);
    client.server = crate::Server::open(&fresh).expect("it can be shared");
    assert_eq!(client.stat(ROOT), Err(Errno::IO));
    assert_eq!(client.mkdir(ROOT, "x", 0o755), Err(Errno::IO));
}

#[test]
fn every_request_may_end_anywhere() {
    let mut client = Client::new(Access::ReadWrite);
    client.write_host("file", b"abc");
    let node = client.lookup(ROOT, "file").expect("it is there").node;
    let body = named(named(Out::default().u64(1).u64(2).u64(3).u64(4).u64(5), "a"), "b").zeroes(90);
    for opcode in (1..60).filter(|code| ![opcode::INIT, opcode::DESTROY].contains(code)) {
        for length in 0..body.0.len() {
            for target in [ROOT, node, 77] {
                let request = client.request(opcode, target, &body.0[..length]);
                for room in [0, 15, 16, 20, 4096] {
                    let mut buffers = Buffers::new(request.clone(), room);
                    if let Served::Later(mut task) = client.server.serve(&mut buffers) {
                        task();
                    }
                    assert!(buffers.answer.is_empty() || buffers.answer.len() >= 16);
                    assert!(buffers.answer.len() <= room);
                }
            }
        }
    }
    assert!(client.stat(ROOT).is_ok());
    for cut in [0, 1, 39] {
        let request = client.request(opcode::GETATTR, ROOT, &[]);
        let mut buffers = Buffers::new(request[..cut].to_vec(), 4096);
        assert!(matches!(client.server.serve(&mut buffers), Served::Silent));
    }
}

#[test]
fn a_request_says_its_length_and_is_no_longer_than_any_can_be() {
    let mut client = Client::new(Access::ReadWrite);
    let mut request = client.request(opcode::GETATTR, ROOT, &[0; 16]);
    request.push(0);
    let mut buffers = Buffers::new(request, 4096);
    client.server.serve(&mut buffers);
    assert_eq!(client.open_answer(&buffers.answer), Err(Errno::INVAL));
    let long = Out::default().zeroes(1 << 20);
    assert_eq!(client.ask(opcode::LOOKUP, ROOT, long), Err(Errno::INVAL));
}

#[test]
fn handles_are_bounded() {
    let mut client = Client::with(Access::ReadOnly, |config| config.most_open = 0);
    client.write_host("file", b"");
    let node = client.lookup(ROOT, "file").expect("it is there").node;
    let opened: Vec<_> = (0..100).map(|_| client.open(node, libc::O_RDONLY)).collect();
    assert_eq!(opened.iter().filter(|one| one.is_ok()).count(), 32);
    assert_eq!(opened[99], Err(Errno::NFILE));
    client.release(node, *opened[0].as_ref().expect("the first one"));
    assert!(client.open(node, libc::O_RDONLY).is_ok());
}

#[test]
fn forgetting_more_than_was_told_is_no_harm() {
    let mut client = Client::new(Access::ReadWrite);
    client.forget(ROOT, u64::MAX);
    assert!(client.stat(ROOT).is_ok(), "the root is never forgotten");
    client.forget(12345, 1);
    let node = client.mkdir(ROOT, "folder", 0o755).expect("it is new").node;
    client.forget(node, u64::MAX);
    assert_eq!(client.stat(node), Err(Errno::STALE));
    let body = Out::default().u32(u32::MAX).u32(0).u64(node).u64(1);
    assert_eq!(client.ask(opcode::BATCH_FORGET, 0, body), Ok(Vec::new()));
}
