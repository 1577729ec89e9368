//! Directories read whole, in pieces, while they change, and trees larger than the table of
//! descriptors.

use std::collections::BTreeSet;

use rustix::io::Errno;

use super::client::Client;
use crate::Access;
use crate::wire::{Args, Out, ROOT, opcode};

#[test]
fn a_directory_is_the_same_in_pieces_of_any_size() {
    let mut client = Client::new(Access::ReadOnly);
    let mut wanted = BTreeSet::from([".".to_owned(), "..".to_owned()]);
    for number in 0..700 {
        let name = format!("{}{number}", "long".repeat(number % 50));
        client.write_host(&name, b"");
        wanted.insert(name);
    }
    for (size, plus) in
        [(4096, false), (1 << 17, false), (4096, true), (512, true), (1 << 17, true)]
    {
        let listed = client.list(ROOT, size, plus).expect("it is there");
        let names: BTreeSet<String> = listed.iter().map(|(name, ..)| name.clone()).collect();
        assert_eq!((listed.len(), &names), (702, &wanted), "pieces of {size} bytes");
        for (name, kind, node) in listed {
            let dots = name == "." || name == "..";
            assert_eq!(kind, if dots { 4 } else { 8 });
            assert_eq!(node == 0, dots || !plus, "{name} is told as node {node}");
        }
    }
}

#[test]
fn reading_goes_on_from_anywhere() {
    let mut client = Client::new(Access::ReadOnly);
    for number in 0..100 {
        client.write_host(&format!("file{number}"), b"");
    }
    let opened = client.ask(opcode::OPENDIR, ROOT, Out::default().zeroes(8)).expect("it is there");
    let handle = Args(&opened).u64().expect("a handle");
    let read = |from: u64| Out::default().u64(handle).u64(from).u32(300).zeroes(20);
    let first = client.ask(opcode::READDIR, ROOT, read(0)).expect("it is open");
    let place = Args(&first[8..]).u64().expect("the place behind the first entry");
    let second = client.ask(opcode::READDIR, ROOT, read(place)).expect("it is open");
    assert_ne!(first, second);
    assert_eq!(client.ask(opcode::READDIR, ROOT, read(0)), Ok(first));
    assert_eq!(client.ask(opcode::READDIR, ROOT, read(place)), Ok(second));
    let wrong = Out::default().u64(handle + 1).u64(0).u32(300).zeroes(20);
    assert_eq!(client.ask(opcode::READDIR, ROOT, wrong), Err(Errno::BADF));
}

/// What a walk of a tree tells is forgotten as the guest's kernel does it, and costs no descriptor.
#[test]
fn a_walk_opens_no_file_and_leaves_nothing() {
    let mut client = Client::with(Access::ReadOnly, |config| config.most_open = 128);
    for folder in 0..40 {
        let folder = client.path(&format!("folder{folder}"));
        std::fs::create_dir(&folder).expect("it is new");
        for file in 0..50 {
            std::fs::write(folder.join(format!("file{file}")), b"").expect("it is new");
        }
    }
    let folders = client.list(ROOT, 4096, true).expect("it is there");
    let mut nodes = Vec::new();
    for (_, _, folder) in folders.iter().filter(|(.., node)| *node != 0) {
        let files = client.list(*folder, 4096, true).expect("it is there");
        assert_eq!(files.len(), 52);
        nodes.extend(files.iter().map(|(.., node)| *node).filter(|node| *node != 0));
    }
    assert_eq!(nodes.len(), 2000);
    let (count, open) = client.server.inodes.counts();
    assert_eq!(count, 1 + 40 + 2000);
    assert!(open <= 41, "{open} descriptors for 41 directories");
    // Every file can be had all the same, in any order, with 64 descriptors.
    for node in nodes.iter().rev().step_by(7) {
        let handle = client.open(*node, libc::O_RDONLY).expect("its place is known");
        client.release(*node, handle);
    }
    let (_, open) = client.server.inodes.counts();
    assert!(open <= 65, "{open} descriptors, the root's among them");
    for node in nodes.iter().chain(folders.iter().map(|(.., node)| node)) {
        client.forget(*node, 1);
    }
    assert_eq!(client.server.inodes.counts().0, 1, "nothing but the root is left");
    assert_eq!(client.server.handles.count(), 0);
}

/// Descriptors come back for nodes that lost theirs, however deep, and never for another file.
#[test]
fn nodes_are_found_again_by_their_places_or_are_stale() {
    let mut client = Client::with(Access::ReadWrite, |config| config.most_open = 128);
    let mut deep = client.folder.path().to_path_buf();
    for level in 0..100 {
        deep.push(format!("level{level}"));
    }
    std::fs::create_dir_all(&deep).expect("it is new");
    std::fs::write(deep.join("file"), b"deep down").expect("it is new");
    let path = deep.strip_prefix(client.folder.path()).expect("below it").join("file");
    let file = client.walk(&path.to_string_lossy()).expect("it is there").node;
    for number in 0..200 {
        client.write_host(&format!("n{number}"), b"");
        let node = client.lookup(ROOT, &format!("n{number}")).expect("it is there").node;
        let handle = client.open(node, libc::O_RDONLY).expect("it is there");
        client.release(node, handle);
    }
    let handle = client.open(file, libc::O_RDONLY).expect("a hundred directories are opened again");
    assert_eq!(client.read(file, handle, 0, 99), Ok(b"deep down".into()));

    client.write_host("swapped", b"one");
    let node = client.lookup(ROOT, "swapped").expect("it is there").node;
    std::fs::rename(client.path("swapped"), client.path("elsewhere")).expect("it is there");
    assert_eq!(client.open(node, libc::O_RDONLY), Err(Errno::STALE));
    client.write_host("swapped", b"two");
    assert_eq!(client.open(node, libc::O_RDONLY), Err(Errno::STALE), "it is another file now");
    let found = client.lookup(ROOT, "elsewhere").expect("it is there").node;
    assert_eq!(found, node, "by its new name it is what it was");
    assert!(client.open(node, libc::O_RDONLY).is_ok());
}
