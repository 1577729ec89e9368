//! Who may use an image together: any readers, or one writer.
//!
//! The bytes and their meaning are QEMU's (block/file-posix.c, "image locking"): byte 100 + n is
//! locked by who has permission n, byte 200 + n by who does not let others have it; all are shared
//! locks, and one looks for those of others. So QEMU and roof respect each other.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use crate::sys::ofd;

const HAS: u64 = 100;
const FORBIDS: u64 = 200;
// Permissions: 0 consistent reads, 1 writes, 3 resizing.
const ALL_OTHERS_MUST_NOT: [u64; 2] = [1, 3];
const READER_HAS: &[u64] = &[0];
const WRITER_HAS: &[u64] = &[0, 1, 3];

/// How long one waits for a lock that no process has: the kernel ends what a killed process had
/// begun (io_uring(7)) a little after it, and gives its locks back then.
const GHOST: Duration = Duration::from_secs(5);

/// Locks a file for as long as it is open. `Err` names who has it; a file system without locks
/// gives `Ok`: then nobody can see anybody.
pub(crate) fn lock(file: &File, writer: bool) -> Result<(), String> {
    let started = Instant::now();
    while !try_lock(file, writer) {
        if let Some(holder) = find_holder(file) {
            return Err(holder);
        }
        if started.elapsed() > GHOST {
            return Err("another program".into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// False: another open file has it in a way that excludes this.
fn try_lock(file: &File, writer: bool) -> bool {
    let has = if writer { WRITER_HAS } else { READER_HAS };
    let taken = has
        .iter()
        .map(|permission| HAS + permission)
        .chain(ALL_OTHERS_MUST_NOT.map(|permission| FORBIDS + permission));
    let mut locked = Vec::new();
    for byte in taken {
        if ofd::share(file, byte).is_err() {
            break;
        }
        locked.push(byte);
    }
    let mut asked = has
        .iter()
        .map(|permission| FORBIDS + permission)
        .chain(ALL_OTHERS_MUST_NOT.map(|permission| HAS + permission));
    if asked.any(|byte| ofd::is_held_elsewhere(file, byte).unwrap_or(false)) {
        for byte in locked {
            // It is about to be asked for again, or closed, which releases it anyway.
            let _ = ofd::release(file, byte);
        }
        return false;
    }
    true
}

/// Gives all locks of a file back at once, for whoever shares its description.
pub(crate) fn unlock(file: &File) {
    for base in [HAS, FORBIDS] {
        for permission in WRITER_HAS {
            // One that cannot be given back ends with the description.
            let _ = ofd::release(file, base + permission);
        }
    }
}

/// The process that has the file open and locked, as far as /proc shows.
fn find_holder(file: &File) -> Option<String> {
    let wanted = file.metadata().ok()?;
    let own = std::process::id();
    let mut here = None;
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(id) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            let Ok(status) = std::fs::metadata(descriptor.path()) else { continue };
            let same = (status.dev(), status.ino()) == (wanted.dev(), wanted.ino());
            let notes = process.path().join("fdinfo").join(descriptor.file_name());
            if !same || !std::fs::read_to_string(notes).is_ok_and(|text| text.contains("lock:")) {
                continue;
            }
            if id == own {
                here = Some("this same roof".to_owned());
                continue;
            }
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (process {id})", name.trim_end()));
        }
    }
    here
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    use super::*;

    /// As a killed process may leave it: the kernel has the open file, and no process does. Here it
    /// is on its way through a socket.
    #[test]
    fn a_lock_that_no_process_has_is_waited_for() {
        let image = tempfile::NamedTempFile::new().expect("a temporary directory");
        let open =
            || File::options().read(true).write(true).open(image.path()).expect("it is there");
        let ghost = open();
        lock(&ghost, true).expect("nobody has it");
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let mut room = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut room);
        let files = [ghost.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
        let byte = [std::io::IoSlice::new(b"f")];
        sendmsg(&ours, &byte, &mut control, SendFlags::empty()).expect("a socket takes a byte");
        let second = open();
        let holder = lock(&second, true).expect_err("it is locked, and its holder is seen");
        assert_eq!(holder, "this same roof");
        drop(ghost);
        let later = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            drop((ours, theirs));
        });
        let started = Instant::now();
        lock(&second, true).expect("the lock goes with the sockets");
        assert!(started.elapsed() >= Duration::from_millis(150), "it was locked until then");
        later.join().expect("it only sleeps");
    }
}
