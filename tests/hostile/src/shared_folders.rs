//! A shared folder under a hostile guest: requests of any kind about files, names and handles that
//! are there or not (machine/backends/fs).

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use ::fs::{Access, Buffers, Exchange, Served, Server, ShareConfig};

use crate::cursor::Cursor;

const STEPS: usize = 64;
const HEAD: usize = 40;
const INIT: u32 = 26;

/// Of the protocol (include/uapi/linux/fuse.h).
mod opcode {
    pub(super) const SETATTR: u32 = 4;
    pub(super) const FSYNC: u32 = 20;
    pub(super) const FSYNCDIR: u32 = 30;
    pub(super) const FALLOCATE: u32 = 43;
    pub(super) const COPY_FILE_RANGE: u32 = 47;
    pub(super) const SYNCFS: u32 = 50;
}

/// Names that a guest may try.
const NAMES: &[&str] = &[
    "a",
    "b",
    "folder",
    "file",
    "link",
    "pipe",
    "..",
    ".",
    "",
    "/",
    "../outside",
    "a/b",
    "x\u{7f}",
];

/// Bytes as what a guest asks of a share.
///
/// # Panics
/// The server panicked, an answer does not fit its room or its head, or something beside the share
/// has changed.
pub fn shared_folders(data: &[u8]) {
    let around = tempfile::tempdir().expect("a temporary directory");
    let share = around.path().join("share");
    prepare(around.path(), &share);
    let mut cursor = Cursor::new(data);
    let setting = cursor.u8();
    let config = ShareConfig {
        path: share.clone(),
        access: if setting & 1 == 0 { Access::ReadWrite } else { Access::ReadOnly },
        fresh_for: Duration::from_secs(1),
        locks: setting & 2 == 0,
        most_open: 0,
    };
    let server = Server::open(&config).expect("it can be shared");
    if setting & 4 == 0 {
        ask(&server, INIT, 0, &init(), 80);
    }
    for _ in 0..STEPS {
        if cursor.is_empty() {
            break;
        }
        step(&server, &mut cursor);
    }
    // Whatever happened, a new session finds the root, and what is beside the share is untouched.
    ask(&server, INIT, 0, &init(), 80);
    let answer = ask(&server, 3, 1, &[0; 16], 200).expect("there is room");
    assert_eq!((answer.len(), &answer[4..8]), (120, [0; 4].as_slice()), "the root's attributes");
    assert_eq!(fs::read(around.path().join("outside")).expect("it is there"), b"untouched");
    let beside = fs::read_dir(around.path()).expect("it is there").count();
    assert_eq!(beside, 2, "nothing is made beside the share");
    no_devices(&share);
}

fn prepare(around: &Path, share: &Path) {
    let made = fs::create_dir(share)
        .and_then(|()| fs::write(around.join("outside"), b"untouched"))
        .and_then(|()| fs::create_dir(share.join("folder")))
        .and_then(|()| fs::write(share.join("file"), b"contents"))
        .and_then(|()| std::os::unix::fs::symlink("../outside", share.join("link")));
    made.expect("a temporary directory takes files");
}

fn no_devices(folder: &Path) {
    // What the guest made unreadable is not looked at; it is no device for that.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        assert!(!kind.is_char_device() && !kind.is_block_device(), "{:?}", entry.path());
        if kind.is_dir() {
            no_devices(&entry.path());
        }
    }
}

fn init() -> Vec<u8> {
    let mut body = Vec::new();
    for word in [7, 38, 4096, u32::MAX, u32::MAX] {
        body.extend(word.to_le_bytes());
    }
    body
}

fn step(server: &Server, cursor: &mut Cursor<'_>) {
    let opcode = u32::from(cursor.u8()) % 54;
    let node = match cursor.u8() {
        small @ 0..=200 => u64::from(small) % 9,
        _ => cursor.u64(),
    };
    let mut body = Vec::new();
    for _ in 0..cursor.u8() % 12 {
        match cursor.u8() {
            0..=99 => body.extend(u32::from(cursor.u8() % 12).to_le_bytes()),
            100..=139 => body.extend(u64::from(cursor.u8()).to_le_bytes()),
            140..=169 => body.extend(cursor.u64().to_le_bytes()),
            170..=229 => {
                body.extend(cursor.pick(NAMES).as_bytes());
                body.push(0);
            }
            _ => body.extend(cursor.take(24)),
        }
    }
    limit(opcode, &mut body);
    let room = [0, 10, 16, 64, 200, 8192][usize::from(cursor.u8() % 6)];
    ask(server, opcode, node, &body, room);
}

/// What would only fill the disk of whoever runs this.
fn limit(opcode: u32, body: &mut [u8]) {
    let places: &[usize] = match opcode {
        opcode::SETATTR => &[16],
        opcode::FALLOCATE => &[8, 16],
        opcode::COPY_FILE_RANGE => &[8, 32, 40],
        _ => &[],
    };
    for place in places {
        let end = body.len().min(place + 8);
        if let Some(high) = body.get_mut((place + 2).min(end)..end) {
            high.fill(0);
        }
    }
}

/// Asks; gives the answer if there was room for one.
fn ask(server: &Server, opcode: u32, node: u64, body: &[u8], room: usize) -> Option<Vec<u8>> {
    const UNIQUE: u64 = 0x1234_5678_9abc;
    let mut request = ((HEAD + body.len()) as u32).to_le_bytes().to_vec();
    request.extend(opcode.to_le_bytes());
    request.extend(UNIQUE.to_le_bytes());
    request.extend(node.to_le_bytes());
    request.extend([0; 16]);
    request.extend(body);
    let mut exchange = Buffers::new(request, room);
    let answer = match server.serve(&mut exchange) {
        Served::Silent => return None,
        Served::Answered => exchange.answer,
        // The medium is not this target's matter.
        Served::Later(_) if matches!(opcode, opcode::FSYNC | opcode::FSYNCDIR | opcode::SYNCFS) => {
            return None;
        }
        Served::Later(mut task) => {
            assert_eq!(exchange.writable(), room, "what comes later is not begun");
            task()?
        }
    };
    let word = |at: usize| u32::from_le_bytes(answer[at..at + 4].try_into().expect("four"));
    assert_eq!(word(0) as usize, answer.len(), "the head tells the length");
    assert!(word(4) == 0 || answer.len() == 16, "an error has nothing else to say");
    assert_eq!(answer[8..16], UNIQUE.to_le_bytes());
    Some(answer)
}
