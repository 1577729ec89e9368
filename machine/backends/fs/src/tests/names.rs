//! Names: made, removed, moved, and what each refuses.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use rustix::io::Errno;

use super::client::{Client, Setting};
use crate::Access;
use crate::wire::{Out, ROOT, opcode};

#[test]
fn files_directories_pipes_and_links_are_made_as_asked() {
    let mut client = Client::new(Access::ReadWrite);
    let folder = client.mkdir(ROOT, "folder", 0o750).expect("it is new");
    assert_eq!(folder.attributes.mode, libc::S_IFDIR | 0o750);
    let pipe = client.mknod(folder.node, "pipe", libc::S_IFIFO | 0o622).expect("it is new");
    assert_eq!(pipe.attributes.mode, libc::S_IFIFO | 0o622, "whatever this process' umask is");
    let socket = client.mknod(folder.node, "socket", libc::S_IFSOCK | 0o666).expect("it is new");
    assert_eq!(socket.attributes.mode, libc::S_IFSOCK | 0o666);
    let file = client.mknod(folder.node, "file", libc::S_IFREG | 0o606).expect("it is new");
    assert_eq!(file.attributes.mode, libc::S_IFREG | 0o606);
    let link = client.symlink(folder.node, "link", "../no/where").expect("it is new");
    assert_eq!(client.ask(opcode::READLINK, link.node, Out::default()), Ok(b"../no/where".into()));
    assert_eq!(client.ask(opcode::READLINK, file.node, Out::default()), Err(Errno::INVAL));
    let seen = std::fs::metadata(client.path("folder/file")).expect("it is on the host");
    assert_eq!((seen.mode() & 0o7777, seen.uid()), (0o606, file.attributes.uid));
    for name in ["file", "pipe", "link"] {
        assert_eq!(client.mkdir(folder.node, name, 0o755), Err(Errno::EXIST));
        assert_eq!(client.symlink(folder.node, name, "x"), Err(Errno::EXIST));
        assert_eq!(client.mknod(folder.node, name, libc::S_IFREG), Err(Errno::EXIST));
    }
}

#[test]
fn what_is_not_there_and_what_is_no_directory_is_told_as_such() {
    let mut client = Client::new(Access::ReadWrite);
    let (file, _) = client.create(ROOT, "file", libc::O_RDWR, 0o644).expect("it is new");
    assert_eq!(client.lookup(ROOT, "none"), Err(Errno::NOENT));
    assert_eq!(client.lookup(file.node, "x"), Err(Errno::NOTDIR));
    assert_eq!(client.unlink(ROOT, "none"), Err(Errno::NOENT));
    assert_eq!(client.rmdir(ROOT, "file"), Err(Errno::NOTDIR));
    assert_eq!(client.rename((ROOT, "none"), (ROOT, "x"), 0), Err(Errno::NOENT));
    client.mkdir(ROOT, "full", 0o755).expect("it is new");
    client.write_host("full/x", b"");
    assert_eq!(client.unlink(ROOT, "full"), Err(Errno::ISDIR));
    assert_eq!(client.rmdir(ROOT, "full"), Err(Errno::NOTEMPTY));
    let long = "x".repeat(255);
    assert!(client.mkdir(ROOT, &long, 0o755).is_ok());
    assert_eq!(client.mkdir(ROOT, &format!("{long}x"), 0o755), Err(Errno::NAMETOOLONG));
    assert_eq!(client.lookup(999, "x"), Err(Errno::STALE));
}

#[test]
fn moved_files_and_directories_keep_their_nodes() {
    let mut client = Client::new(Access::ReadWrite);
    let one = client.mkdir(ROOT, "one", 0o755).expect("it is new");
    let two = client.mkdir(ROOT, "two", 0o755).expect("it is new");
    client.write_host("one/file", b"contents");
    let file = client.lookup(one.node, "file").expect("it is there");
    client.rename((one.node, "file"), (two.node, "moved"), 0).expect("nothing is in the way");
    assert_eq!(client.lookup(two.node, "moved").expect("it is there").node, file.node);
    assert_eq!(client.stat(file.node).expect("it is there").size, 8);
    client.rename((ROOT, "two"), (one.node, "inner"), 0).expect("nothing is in the way");
    let handle = client.open(file.node, libc::O_RDONLY).expect("it is found below its directory");
    assert_eq!(client.read(file.node, handle, 0, 100), Ok(b"contents".into()));
    let into_itself = client.rename((ROOT, "one"), (two.node, "x"), 0);
    assert_eq!(into_itself, Err(Errno::INVAL));
}

#[test]
fn renames_replace_exchange_or_refuse() {
    let mut client = Client::new(Access::ReadWrite);
    for (name, text) in [("a", "was a"), ("b", "was b")] {
        client.write_host(name, text.as_bytes());
    }
    let (a, b) = (client.lookup(ROOT, "a"), client.lookup(ROOT, "b"));
    let (a, b) = (a.expect("it is there").node, b.expect("it is there").node);
    assert_eq!(client.rename((ROOT, "a"), (ROOT, "b"), 1), Err(Errno::EXIST));
    assert_eq!(client.rename((ROOT, "a"), (ROOT, "b"), 4), Err(Errno::INVAL), "no white-outs");
    client.rename((ROOT, "a"), (ROOT, "b"), 2).expect("both are there");
    assert_eq!(client.lookup(ROOT, "a").expect("it is there").node, b);
    assert_eq!(std::fs::read(client.path("b")).expect("it is there"), b"was a");
    let handle = client.open(b, libc::O_RDONLY).expect("it is there");
    client.rename((ROOT, "b"), (ROOT, "a"), 0).expect("it is replaced");
    assert_eq!(client.read(b, handle, 0, 9), Ok(b"was b".into()), "open files outlive their names");
    assert_eq!(client.stat(b).expect("the node is still told of").links, 0);
    assert_eq!(client.lookup(ROOT, "a").expect("it is there").node, a);
}

#[test]
fn an_unlinked_file_lives_until_it_is_forgotten() {
    let mut client = Client::with(Access::ReadWrite, |config| config.most_open = 128);
    client.write_host("file", b"still here");
    let file = client.lookup(ROOT, "file").expect("it is there").node;
    client.unlink(ROOT, "file").expect("it is there");
    // Others want descriptors, too; this node's is the last way to the file.
    for number in 0..200 {
        client.write_host(&format!("n{number}"), b"");
        let node = client.lookup(ROOT, &format!("n{number}")).expect("it is there").node;
        let handle = client.open(node, libc::O_RDONLY).expect("it is there");
        client.release(node, handle);
    }
    let handle = client.open(file, libc::O_RDWR).expect("no name is needed");
    assert_eq!(client.read(file, handle, 0, 100), Ok(b"still here".into()));
    assert_eq!(client.stat(file).expect("it is there").links, 0);
    client.forget(file, 1);
    assert_eq!(client.stat(file), Err(Errno::STALE));
}

#[test]
fn hard_links_are_one_node() {
    let mut client = Client::new(Access::ReadWrite);
    client.write_host("a", b"x");
    let a = client.lookup(ROOT, "a").expect("it is there");
    let b = client.link(a.node, ROOT, "b").expect("it is new");
    assert_eq!((b.node, b.attributes.links), (a.node, 2));
    assert_eq!(client.link(a.node, ROOT, "b"), Err(Errno::EXIST));
    let folder = client.mkdir(ROOT, "folder", 0o755).expect("it is new");
    assert_eq!(client.link(folder.node, ROOT, "c"), Err(Errno::PERM));
    let link = client.symlink(ROOT, "link", "/etc/passwd").expect("it is new");
    let second = client.link(link.node, ROOT, "link2").expect("the link itself has two names");
    assert_eq!((second.node, second.attributes.links), (link.node, 2));
    client.unlink(ROOT, "a").expect("it is there");
    assert_eq!(client.stat(a.node).expect("it has a name").links, 1);
}

#[test]
fn modes_sizes_times_and_owners_change() {
    let mut client = Client::new(Access::ReadWrite);
    client.write_host("file", b"12345");
    let file = client.lookup(ROOT, "file").expect("it is there").node;
    let mut set = |change| client.set(file, &change);
    let base = Setting::default();
    let mode = set(Setting { mode: Some(0o400), ..base }).expect("it is ours").mode;
    assert_eq!(mode & 0o7777, 0o400);
    assert!(set(Setting { mode: Some(0o644), ..base }).is_ok());
    assert_eq!(set(Setting { size: Some(2), ..base }).expect("it is ours").size, 2);
    assert_eq!(set(Setting { size: Some(u64::MAX), ..base }), Err(Errno::FBIG));
    let times = Setting { times: Some((1_000_000_000, 1_500_000_000)), ..base };
    assert_eq!(set(times).expect("it is ours").modified, 1_500_000_000);
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let owned = set(Setting { uid: Some(uid), gid: Some(gid), ..base }).expect("it is ours");
    assert_eq!((owned.uid, owned.gid), (uid, gid));
    assert_eq!(std::fs::read(client.path("file")).expect("it is there"), b"12");
    let folder = client.mkdir(ROOT, "folder", 0o755).expect("it is new").node;
    assert_eq!(client.set(folder, &Setting { size: Some(0), ..base }), Err(Errno::INVAL));
    let link = client.symlink(ROOT, "link", "file").expect("it is new").node;
    assert_eq!(client.set(link, &Setting { mode: Some(0), ..base }), Err(Errno::OPNOTSUPP));
    let times = client.set(link, &Setting { times: Some((1, 2)), ..base }).expect("it is ours");
    assert_eq!(times.modified, 2, "the link's own time");
    let seen = std::fs::metadata(client.path("file")).expect("it is there");
    assert_eq!(seen.mtime(), 1_500_000_000, "not that of what it points to");
}

#[test]
fn where_this_process_is_root_the_guests_users_own_what_they_make() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: this test gives files away, which takes root");
        return;
    }
    let mut client = Client::new(Access::ReadWrite);
    client.ids = (1234, 2345);
    let file = client.create(ROOT, "file", libc::O_WRONLY, 0o600).expect("it is new").0;
    assert_eq!((file.attributes.uid, file.attributes.gid), (1234, 2345));
    let folder = client.mkdir(ROOT, "folder", 0o2755).expect("it is new");
    assert_eq!((folder.attributes.uid, folder.attributes.gid), (1234, 2345));
    std::fs::set_permissions(client.path("folder"), PermissionsExt::from_mode(0o2755))
        .expect("it is on the host");
    client.ids = (77, 78);
    let inner = client.mknod(folder.node, "inner", libc::S_IFREG | 0o644).expect("it is new");
    assert_eq!((inner.attributes.uid, inner.attributes.gid), (77, 2345), "the directory's group");
    let deeper = client.mkdir(folder.node, "deeper", 0o777).expect("it is new");
    assert_eq!(deeper.attributes.mode & 0o7777, 0o2777, "set-group-ID is inherited");
    let link = client.symlink(ROOT, "link", "x").expect("it is new");
    assert_eq!((link.attributes.uid, link.attributes.gid), (77, 78));
}

/// Found by libFuzzer: an id of all ones is none, and was an assertion of the library that makes ids.
#[test]
fn an_id_of_all_ones_is_refused() {
    let mut client = Client::new(Access::ReadWrite);
    let folder = client.mkdir(ROOT, "folder", 0o755).expect("it is new").node;
    for (uid, gid) in [(Some(u32::MAX), None), (None, Some(u32::MAX))] {
        let setting = Setting { uid, gid, ..Setting::default() };
        assert_eq!(client.set(folder, &setting), Err(Errno::INVAL));
    }
    client.ids = (u32::MAX, u32::MAX);
    let made = client.mkdir(ROOT, "another", 0o755).map(drop);
    let root = rustix::process::geteuid().is_root();
    assert_eq!(made, if root { Err(Errno::INVAL) } else { Ok(()) });
}
