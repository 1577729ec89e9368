//! Ways out of a share that do not lead out, and what a guest may not leave on the host.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::client::{Client, Setting, config, named, text};
use crate::wire::{Out, ROOT, opcode};
use crate::{Access, Server, ShareError};

/// A share with a directory beside it that holds a secret.
fn beside() -> (Client, tempfile::TempDir) {
    let secret = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(secret.path().join("secret"), b"not for guests").expect("it is new");
    (Client::new(Access::ReadWrite), secret)
}

#[test]
fn names_with_more_than_one_component_are_none() {
    let (mut client, secret) = beside();
    let out = format!("../{}/secret", secret.path().file_name().expect("a name").display());
    for name in ["..", ".", "", "/etc", "a/b", &out, &text(secret.path())] {
        assert_eq!(client.lookup(ROOT, name), Err(Errno::INVAL), "{name}");
        assert_eq!(client.mkdir(ROOT, name, 0o755), Err(Errno::INVAL));
        assert_eq!(client.unlink(ROOT, name), Err(Errno::INVAL));
        assert_eq!(client.rename((ROOT, name), (ROOT, "x"), 0), Err(Errno::INVAL));
        assert_eq!(client.rename((ROOT, "x"), (ROOT, name), 0), Err(Errno::INVAL));
        let created = client.create(ROOT, name, libc::O_RDWR, 0o644);
        assert_eq!(created, Err(Errno::INVAL));
    }
}

#[test]
fn links_are_the_guests_to_follow() {
    let (mut client, secret) = beside();
    symlink(secret.path(), client.path("absolute")).expect("it is new");
    symlink("../../../../../../etc", client.path("upwards")).expect("it is new");
    symlink(secret.path().join("secret"), client.path("file")).expect("it is new");
    for name in ["absolute", "upwards", "file"] {
        let link = client.lookup(ROOT, name).expect("the link itself is there");
        assert_eq!(link.attributes.mode & libc::S_IFMT, libc::S_IFLNK);
        assert_eq!(client.lookup(link.node, "secret"), Err(Errno::NOTDIR));
        assert_eq!(client.open(link.node, libc::O_RDONLY), Err(Errno::LOOP));
        assert_eq!(client.list(link.node, 4096, true), Err(Errno::NOTDIR));
        assert_eq!(client.mkdir(link.node, "x", 0o755), Err(Errno::NOTDIR));
        let created = client.create(ROOT, name, libc::O_RDWR | libc::O_TRUNC, 0o644);
        assert_eq!(created, Err(Errno::LOOP), "a file is not made through a link");
        let size = Setting { size: Some(0), ..Setting::default() };
        assert_eq!(client.set(link.node, &size), Err(Errno::INVAL));
    }
    let secret = std::fs::read(secret.path().join("secret")).expect("it is there");
    assert_eq!(secret, b"not for guests");
}

/// The host's own programs change names while the guest uses them: a directory becomes a link to
/// another and back, and is moved. Whatever is found is in the share.
#[test]
fn renames_in_flight_lead_nowhere_else() {
    let (mut client, secret) = beside();
    let share = client.folder.path().to_path_buf();
    std::fs::create_dir(share.join("real")).expect("it is new");
    std::fs::write(share.join("real/secret"), b"ours").expect("it is new");
    symlink(secret.path(), share.join("trap")).expect("it is new");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for (from, to) in
                    [("real", "aside"), ("trap", "real"), ("real", "trap"), ("aside", "real")]
                {
                    std::fs::rename(share.join(from), share.join(to)).expect("it is there");
                }
            }
        });
        let (mut tries, mut read) = (0, 0);
        let started = Instant::now();
        while (tries < 3000 || read < 20) && started.elapsed() < Duration::from_secs(60) {
            tries += 1;
            let Ok(folder) = client.lookup(ROOT, "real") else { continue };
            let Ok(file) = client.lookup(folder.node, "secret") else {
                client.forget(folder.node, 1);
                continue;
            };
            if let Ok(handle) = client.open(file.node, libc::O_RDONLY) {
                assert_eq!(client.read(file.node, handle, 0, 99), Ok(b"ours".into()));
                client.release(file.node, handle);
                read += 1;
            }
            client.forget(file.node, 1);
            client.forget(folder.node, 1);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(read >= 20, "the file was there some of the time");
    });
}

#[test]
fn no_devices_are_made_and_none_is_opened() {
    let mut client = Client::new(Access::ReadWrite);
    for kind in [libc::S_IFCHR, libc::S_IFBLK] {
        assert_eq!(client.mknod(ROOT, "device", kind | 0o666), Err(Errno::PERM));
    }
    // A pipe without a reader would hold up whoever opens it.
    let pipe = client.mknod(ROOT, "pipe", libc::S_IFIFO | 0o666).expect("it is new");
    for flags in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR] {
        assert_eq!(client.open(pipe.node, flags), Err(Errno::NXIO));
        let created = client.create(ROOT, "pipe", flags, 0o666);
        assert_eq!(created, Err(Errno::NXIO));
    }
    let size = Setting { size: Some(0), ..Setting::default() };
    assert_eq!(client.set(pipe.node, &size), Err(Errno::INVAL));
    let server = Server::open(&config(Path::new("/dev"), Access::ReadOnly)).expect("it is there");
    client.server = server;
    client.ask(opcode::INIT, 0, super::client::init(7, 38)).expect("it speaks 7.38");
    let null = client.lookup(ROOT, "null").expect("every host has it");
    assert_eq!(client.open(null.node, libc::O_RDONLY), Err(Errno::NXIO));
}

#[test]
fn files_get_no_set_user_id() {
    let mut client = Client::new(Access::ReadWrite);
    let (file, _) = client.create(ROOT, "file", libc::O_RDWR, 0o6755).expect("it is new");
    assert_eq!(file.attributes.mode & 0o7777, 0o755);
    let setting = Setting { mode: Some(0o6755), ..Setting::default() };
    assert_eq!(client.set(file.node, &setting).expect("it is ours").mode & 0o7777, 0o755);
    let node = client.mknod(ROOT, "node", libc::S_IFREG | 0o4755).expect("it is new");
    assert_eq!(node.attributes.mode & 0o7777, 0o755);
    let seen = std::fs::metadata(client.path("file")).expect("it is there");
    assert_eq!(seen.permissions().mode() & 0o7777, 0o755);
    let folder = client.mkdir(ROOT, "folder", 0o755).expect("it is new");
    let setting = Setting { mode: Some(0o3755), ..Setting::default() };
    let mode = client.set(folder.node, &setting).expect("it is ours").mode;
    assert_eq!(mode & 0o7777, 0o3755, "a directory's says who owns new files, which is harmless");
}

#[test]
fn what_the_hosts_kernel_makes_up_is_empty() {
    let mut client = Client::new(Access::ReadOnly);
    client.server = Server::open(&config(Path::new("/"), Access::ReadOnly)).expect("it is there");
    client.ask(opcode::INIT, 0, super::client::init(7, 38)).expect("it speaks 7.38");
    let proc = client.lookup(ROOT, "proc").expect("the mount point is there");
    assert_eq!(client.lookup(proc.node, "self"), Err(Errno::NOENT));
    assert_eq!(client.lookup(proc.node, "1"), Err(Errno::NOENT));
    assert_eq!(client.list(proc.node, 4096, true), Ok(Vec::new()));
    let above = client.list(ROOT, 4096, true).expect("it is there");
    let told = above.iter().find(|(name, ..)| name == "proc").expect("it is listed");
    assert_eq!(told.2, 0, "the guest looks it up by itself, which covers it");
    for path in ["/proc", "/proc/self", "/sys"] {
        let error = Server::open(&config(Path::new(path), Access::ReadOnly)).expect_err("no");
        assert!(matches!(error, ShareError::Kernel(_)), "{error}");
    }
}

#[test]
fn what_is_above_the_root_is_not_told() {
    let mut client = Client::new(Access::ReadOnly);
    std::fs::create_dir(client.path("inner")).expect("it is new");
    let own = client.stat(ROOT).expect("it is there").inode;
    let opened = client.ask(opcode::OPENDIR, ROOT, Out::default().zeroes(8)).expect("it is there");
    let handle = u64::from_le_bytes(opened[..8].try_into().expect("a handle"));
    let body = Out::default().u64(handle).u64(0).u32(4096).zeroes(20);
    let listed = client.ask(opcode::READDIR, ROOT, body).expect("it is open");
    let inodes: Vec<u64> = listed
        .chunks(32)
        .map(|entry| u64::from_le_bytes(entry[..8].try_into().expect("an inode number")))
        .collect();
    assert_eq!(inodes.iter().filter(|inode| **inode == own).count(), 2, ". and .. are the same");
}

#[test]
fn a_directory_that_cannot_be_shared_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("file");
    std::fs::write(&file, b"").expect("it is new");
    let said = |path: &Path| {
        Server::open(&config(path, Access::ReadWrite)).expect_err("it is none").to_string()
    };
    assert!(said(&folder.path().join("none")).contains("there is no such directory"));
    assert!(said(&file).contains("not a directory"));
    assert!(said(&file.join("below")).contains("there is no such directory"));
    let link = named(Out::default(), "x");
    assert_eq!(link.0, b"x\0");
}
