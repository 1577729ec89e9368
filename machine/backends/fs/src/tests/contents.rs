//! What is in files, who sees it when, and extended attributes.

use std::os::unix::fs::FileExt;

use rustix::io::Errno;

use super::client::{Client, Setting, named};
use crate::Access;
use crate::wire::{Args, KEEP_CACHE, Out, ROOT, opcode};

#[test]
fn bytes_go_both_ways_anywhere_in_a_file() {
    let mut client = Client::new(Access::ReadWrite);
    let (file, handle) =
        client.create(ROOT, "file", libc::O_RDWR | libc::O_EXCL, 0o640).expect("it is new");
    assert_eq!(file.attributes.mode & 0o7777, 0o640);
    let large: Vec<u8> = (0..1 << 20).map(|n: u32| (n * 7 >> 3) as u8).collect();
    assert_eq!(client.write(file.node, handle, 5, &large), Ok(1 << 20));
    assert_eq!(client.read(file.node, handle, 5, 1 << 20), Ok(large.clone()));
    assert_eq!(client.read(file.node, handle, 0, 7), Ok([&[0; 5], &large[..2]].concat()));
    assert_eq!(client.read(file.node, handle, 1 << 40, 10), Ok(Vec::new()), "past the end");
    assert_eq!(client.write(file.node, handle, u64::MAX, b"x"), Err(Errno::INVAL));
    let on_host = std::fs::read(client.path("file")).expect("it is there");
    assert!(on_host[5..] == large);
    let again = client.create(ROOT, "file", libc::O_RDWR | libc::O_EXCL, 0o640);
    assert_eq!(again.map(|(entry, _)| entry), Err(Errno::EXIST));
    let (same, second) =
        client.create(ROOT, "file", libc::O_RDWR | libc::O_TRUNC, 0o600).expect("it may exist");
    assert_eq!((same.node, client.read(file.node, second, 0, 10)), (file.node, Ok(Vec::new())));
    client.release(file.node, handle);
    assert_eq!(client.read(file.node, handle, 0, 1), Err(Errno::BADF));
}

#[test]
fn a_handle_does_what_it_was_opened_for() {
    let mut client = Client::new(Access::ReadWrite);
    client.write_host("file", b"abc");
    let file = client.lookup(ROOT, "file").expect("it is there").node;
    let reader = client.open(file, libc::O_RDONLY).expect("it is there");
    assert_eq!(client.write(file, reader, 0, b"x"), Err(Errno::BADF));
    let writer = client.open(file, libc::O_WRONLY | libc::O_APPEND).expect("it is there");
    assert_eq!(client.read(file, writer, 0, 1), Err(Errno::BADF));
    client.write_host("file", b"host was here, ");
    assert_eq!(client.write(file, writer, 0, b"then the guest"), Ok(14));
    let text = std::fs::read(client.path("file")).expect("it is there");
    assert_eq!(text, b"host was here, then the guest", "appending is where the end is now");
}

#[test]
fn what_the_host_changes_is_seen_at_the_next_opening() {
    let mut client = Client::new(Access::ReadOnly);
    client.write_host("file", b"old");
    let file = client.lookup(ROOT, "file").expect("it is there").node;
    let flags = |client: &mut Client| {
        let bytes = client.ask(opcode::OPEN, file, Out::default().zeroes(8)).expect("it is there");
        let mut args = Args(&bytes);
        let handle = args.u64().expect("a handle");
        (handle, args.u32().expect("flags"))
    };
    assert_eq!(flags(&mut client).1, 0, "nothing was cached before the first");
    let (handle, second) = flags(&mut client);
    assert_eq!(second, KEEP_CACHE, "nobody touched it");
    client.write_host("file", b"newer");
    assert_eq!(flags(&mut client).1, 0, "what is cached is not right any more");
    assert_eq!(client.read(file, handle, 0, 9), Ok(b"newer".into()));
    assert_eq!(client.stat(file).expect("it is there").size, 5);
    std::fs::remove_file(client.path("file")).expect("it is there");
    client.write_host("file", b"another file");
    let other = client.lookup(ROOT, "file").expect("it is there");
    assert_eq!(other.attributes.size, 12);
}

#[test]
fn a_read_only_share_stays_as_it_is() {
    let mut client = Client::new(Access::ReadOnly);
    client.write_host("file", b"abc");
    let file = client.lookup(ROOT, "file").expect("it is there").node;
    let read_only = Err(Errno::ROFS);
    assert_eq!(client.open(file, libc::O_RDWR), read_only);
    assert_eq!(client.open(file, libc::O_RDONLY | libc::O_TRUNC), read_only);
    assert_eq!(client.create(ROOT, "x", libc::O_RDONLY, 0o644).map(drop), Err(Errno::ROFS));
    assert_eq!(client.mkdir(ROOT, "x", 0o755).map(drop), Err(Errno::ROFS));
    assert_eq!(client.unlink(ROOT, "file"), Err(Errno::ROFS));
    assert_eq!(client.rename((ROOT, "file"), (ROOT, "x"), 0), Err(Errno::ROFS));
    assert_eq!(client.link(file, ROOT, "x").map(drop), Err(Errno::ROFS));
    let setting = Setting { mode: Some(0o777), ..Setting::default() };
    assert_eq!(client.set(file, &setting).map(drop), Err(Errno::ROFS));
    let handle = client.open(file, libc::O_RDONLY).expect("it may be read");
    assert_eq!(client.write(file, handle, 0, b"x").map(u64::from), read_only);
    let nothing = client.ask(opcode::LOOKUP, ROOT, named(Out::default(), "none"));
    let nothing = nothing.expect("that there is nothing may be remembered");
    assert_eq!((nothing.len(), &nothing[..8]), (128, [0; 8].as_slice()));
    assert_eq!(client.folder.path().read_dir().expect("it is there").count(), 1);
}

#[test]
fn syncs_ranges_and_holes() {
    let mut client = Client::new(Access::ReadWrite);
    let (file, handle) = client.create(ROOT, "file", libc::O_RDWR, 0o644).expect("it is new");
    client.write(file.node, handle, 0, b"head").expect("there is room");
    let sync = Out::default().u64(handle).u32(1).u32(0);
    assert_eq!(client.ask(opcode::FSYNC, file.node, sync), Ok(Vec::new()));
    let allocate = |mode: u32, at: u64, length: u64| {
        Out::default().u64(handle).u64(at).u64(length).u32(mode).u32(0)
    };
    let body = allocate(0, 1 << 20, 4096);
    assert_eq!(client.ask(opcode::FALLOCATE, file.node, body), Ok(Vec::new()));
    assert_eq!(client.stat(file.node).expect("it is there").size, (1 << 20) + 4096);
    let body = allocate(0, u64::MAX, 4096);
    assert_eq!(client.ask(opcode::FALLOCATE, file.node, body), Err(Errno::INVAL));
    let seek = |whence: u32| Out::default().u64(handle).u64(0).u32(whence).u32(0);
    let hole = client.ask(opcode::LSEEK, file.node, seek(4)).expect("files end in a hole");
    assert!(Args(&hole).u64().expect("a place") >= 4);
    assert_eq!(client.ask(opcode::LSEEK, file.node, seek(0)), Err(Errno::INVAL));
    let (copy, second) = client.create(ROOT, "copy", libc::O_RDWR, 0o644).expect("it is new");
    let body = Out::default().u64(handle).u64(1).u64(copy.node).u64(second).u64(2).u64(3).u64(0);
    let copied = client.ask(opcode::COPY_FILE_RANGE, file.node, body).expect("both are open");
    assert_eq!(Args(&copied).u32(), Ok(3));
    assert_eq!(std::fs::read(client.path("copy")).expect("it is there"), b"\0\0ead");
    let about = client.ask(opcode::STATFS, ROOT, Out::default()).expect("it is on some disk");
    assert_eq!(about.len(), 80);
    assert_eq!(client.ask(opcode::IOCTL, file.node, Out::default()), Err(Errno::NOTTY));
}

#[test]
fn attributes_of_users_come_and_go_and_others_are_out_of_reach() {
    let mut client = Client::new(Access::ReadWrite);
    client.write_host("file", b"");
    let file = client.lookup(ROOT, "file").expect("it is there").node;
    let set = |name: &str, value: &[u8]| {
        named(Out::default().u32(value.len() as u32).u32(0), name).bytes(value)
    };
    let get = |name: &str, room: u32| named(Out::default().u32(room).u32(0), name);
    match client.ask(opcode::SETXATTR, file, set("user.one", b"value")) {
        Err(Errno::OPNOTSUPP) => {
            println!("skipped: the temporary directory's file system has no attributes of users");
            return;
        }
        done => assert_eq!(done, Ok(Vec::new())),
    }
    assert_eq!(client.ask(opcode::GETXATTR, file, get("user.one", 99)), Ok(b"value".into()));
    assert_eq!(client.ask(opcode::GETXATTR, file, get("user.one", 3)), Err(Errno::RANGE));
    let size = client.ask(opcode::GETXATTR, file, get("user.one", 0)).expect("it is there");
    assert_eq!(size, [5, 0, 0, 0, 0, 0, 0, 0]);
    let list = client.ask(opcode::LISTXATTR, file, Out::default().u32(99).u32(0));
    assert_eq!(list, Ok(b"user.one\0".into()));
    for name in ["security.capability", "trusted.overlay.opaque", "system.posix_acl_access"] {
        assert_eq!(client.ask(opcode::SETXATTR, file, set(name, b"x")), Err(Errno::OPNOTSUPP));
        assert_eq!(client.ask(opcode::GETXATTR, file, get(name, 99)), Err(Errno::NODATA));
    }
    let remove = named(Out::default(), "user.one");
    assert_eq!(client.ask(opcode::REMOVEXATTR, file, remove.clone()), Ok(Vec::new()));
    assert_eq!(client.ask(opcode::REMOVEXATTR, file, remove), Err(Errno::NODATA));
}

#[test]
fn a_file_written_on_both_sides_is_one_file() {
    let mut client = Client::new(Access::ReadWrite);
    let (file, handle) = client.create(ROOT, "file", libc::O_RDWR, 0o644).expect("it is new");
    let host = std::fs::File::options().read(true).write(true).open(client.path("file"));
    let host = host.expect("it is there");
    client.write(file.node, handle, 0, b"guest ").expect("there is room");
    host.write_all_at(b"host", 6).expect("there is room");
    assert_eq!(client.read(file.node, handle, 0, 99), Ok(b"guest host".into()));
}
