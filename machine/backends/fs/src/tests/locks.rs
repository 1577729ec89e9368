//! Locks between processes of the guest, and between the guest and the host.

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::client::Client;
use crate::sys::ranges;
use crate::wire::{Args, Out, ROOT, opcode};
use crate::{Access, Buffers, Served};

const READ: u32 = 0;
const WRITE: u32 = 1;
const UNLOCK: u32 = 2;

fn lock(handle: u64, owner: u64, kind: u32, (start, end): (u64, u64), whole: bool) -> Out {
    let out = Out::default().u64(handle).u64(owner).u64(start).u64(end);
    out.u32(kind).u32(4711).u32(whole.into()).u32(0)
}

fn file(client: &mut Client) -> (u64, u64) {
    let (file, handle) = client.create(ROOT, "file", libc::O_RDWR, 0o644).expect("it is new");
    (file.node, handle)
}

#[test]
fn ranges_are_locked_by_owners() {
    let mut client = Client::new(Access::ReadWrite);
    let (node, handle) = file(&mut client);
    let mut set = |owner, kind, range| {
        client.ask(opcode::SETLK, node, lock(handle, owner, kind, range, false)).map(drop)
    };
    assert_eq!(set(1, WRITE, (0, 9)), Ok(()));
    assert_eq!(set(1, READ, (5, 9)), Ok(()), "an owner is not in its own way");
    assert_eq!(set(2, WRITE, (0, 0)), Err(Errno::AGAIN));
    assert_eq!(set(2, READ, (5, 9)), Ok(()), "readers share");
    assert_eq!(set(2, WRITE, (10, u64::MAX)), Ok(()));
    assert_eq!(set(3, 7, (0, 0)), Err(Errno::INVAL));
    assert_eq!(set(3, READ, (5, 4)), Err(Errno::INVAL));
    let body = lock(handle, 1, WRITE, (20, 20), false);
    let found = client.ask(opcode::GETLK, node, body).expect("it is open");
    let mut args = Args(&found);
    let lock = (args.u64(), args.u64(), args.u32());
    assert_eq!(lock, (Ok(10), Ok(i64::MAX as u64), Ok(WRITE)));
}

#[test]
fn closing_a_file_ends_the_owners_locks() {
    let mut client = Client::new(Access::ReadWrite);
    let (node, handle) = file(&mut client);
    let body = lock(handle, 1, WRITE, (0, 9), false);
    client.ask(opcode::SETLK, node, body).expect("nobody has it");
    let taken = client.ask(opcode::SETLK, node, lock(handle, 2, WRITE, (0, 9), false));
    assert_eq!(taken, Err(Errno::AGAIN));
    client.ask(opcode::FLUSH, node, Out::default().u64(handle).u64(0).u64(1)).expect("it is open");
    let taken = client.ask(opcode::SETLK, node, lock(handle, 2, WRITE, (0, 9), false));
    assert_eq!(taken, Ok(Vec::new()));
}

#[test]
fn the_host_and_the_guest_see_one_anothers_locks() {
    let mut client = Client::new(Access::ReadWrite);
    let (node, handle) = file(&mut client);
    let host = std::fs::File::options().read(true).write(true).open(client.path("file"));
    let host = host.expect("it is there");
    let range = ranges::Range { kind: WRITE, start: 3, end: 3 };
    ranges::set(&host, range).expect("nobody has it");
    let set = |kind, range| lock(handle, 1, kind, range, false);
    assert_eq!(client.ask(opcode::SETLK, node, set(READ, (0, 9))), Err(Errno::AGAIN));
    ranges::set(&host, ranges::Range { kind: UNLOCK, ..range }).expect("it is ours");
    assert_eq!(client.ask(opcode::SETLK, node, set(READ, (0, 9))), Ok(Vec::new()));
    assert_eq!(ranges::set(&host, range), Err(Errno::AGAIN));

    let whole = |kind| lock(handle, 1, kind, (0, 0), true);
    assert_eq!(client.ask(opcode::SETLK, node, whole(WRITE)), Ok(Vec::new()));
    assert_eq!(flock(&host, FlockOperation::NonBlockingLockShared), Err(Errno::AGAIN));
    client.release(node, handle);
    assert_eq!(flock(&host, FlockOperation::NonBlockingLockShared), Ok(()));
}

#[test]
fn who_waits_gets_the_lock_or_is_interrupted() {
    let mut client = Client::new(Access::ReadWrite);
    let (node, handle) = file(&mut client);
    let host = std::fs::File::open(client.path("file")).expect("it is there");
    flock(&host, FlockOperation::LockExclusive).expect("nobody has it");
    let wait = |client: &mut Client| {
        let body = lock(handle, 1, READ, (0, 0), true);
        let request = client.request(opcode::SETLKW, node, &body.0);
        match client.server.serve(&mut Buffers::new(request, 64)) {
            Served::Later(task) => task,
            other => panic!("it waits, not {other:?}"),
        }
    };
    let mut task = wait(&mut client);
    assert!(task().is_none() && task().is_none());
    let interrupted = client.unique;
    let request = client.request(opcode::INTERRUPT, 0, &interrupted.to_le_bytes());
    client.server.serve(&mut Buffers::new(request, 64));
    client.unique = interrupted;
    let answer = task().expect("it was interrupted");
    assert_eq!(client.open_answer(&answer), Err(Errno::INTR));

    let mut task = wait(&mut client);
    assert!(task().is_none());
    flock(&host, FlockOperation::Unlock).expect("it is ours");
    let answer = task().expect("it is free");
    assert_eq!(client.open_answer(&answer), Ok(Vec::new()));
    let taken = flock(&host, FlockOperation::NonBlockingLockExclusive);
    assert_eq!(taken, Err(Errno::AGAIN), "the guest has it");
}

#[test]
fn a_share_without_common_locks_leaves_them_to_the_guest() {
    let mut client = Client::with(Access::ReadWrite, |config| config.locks = false);
    let (node, handle) = file(&mut client);
    let set = client.ask(opcode::SETLK, node, lock(handle, 1, WRITE, (0, 9), false));
    assert_eq!(set, Err(Errno::NOSYS));
}
