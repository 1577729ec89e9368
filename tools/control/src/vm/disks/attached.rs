//! An image of the host's (`disk::Disk`) as what the block device asks (`virtio::block::Disk`).
//!
//! Invariant: of what goes wrong the guest learns that it did, and the user, once a disk, why and
//! what to do.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use memory::GuestMemory;
use virtio::{Alarm, block};

use crate::disk::{Disk, DiskError};

/// What the user may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Something failed, and what to do.
    Trouble(String),
    /// How something is done.
    Detail(String),
}

/// Is told.
pub(super) type Tell = Box<dyn Fn(Told) + Send + Sync>;

/// An image in use by a guest.
pub(super) struct Attached {
    disk: Arc<Disk>,
    trouble: Arc<Trouble>,
}

/// Tells the user of errors, once.
struct Trouble {
    /// The disk's name in the guest: vda.
    name: String,
    tell: Tell,
    told: AtomicBool,
}

impl Attached {
    pub(super) fn new(disk: Disk, name: String, tell: Tell) -> Self {
        let trouble = Arc::new(Trouble { name, tell, told: AtomicBool::new(false) });
        Self { disk: Arc::new(disk), trouble }
    }

    fn told(&self, done: Result<(), DiskError>) -> Result<(), block::DiskError> {
        self.trouble.told(done)
    }
}

impl Trouble {
    fn told(&self, done: Result<(), DiskError>) -> Result<(), block::DiskError> {
        done.map_err(|error| {
            if !self.told.swap(true, Ordering::Relaxed) {
                let name = &self.name;
                let text = sentence(&error);
                (self.tell)(Told::Trouble(format!(
                    "{text}: the guest gets I/O errors of its {name} (told once)"
                )));
            }
            block::DiskError(error.into())
        })
    }
}

/// Many requests at a time.
struct AttachedLane {
    lane: disk::Lane,
    trouble: Arc<Trouble>,
}

impl block::Lane for AttachedLane {
    fn read(&mut self, tag: u32, offset: u64, pieces: block::Pieces) {
        self.lane.read(tag, offset, pieces);
    }

    fn write(&mut self, tag: u32, offset: u64, pieces: block::Pieces) {
        self.lane.write(tag, offset, pieces);
    }

    fn flush(&mut self, tag: u32) {
        self.lane.flush(tag);
    }

    fn reap(&mut self, wait: bool, told: &mut dyn FnMut(u32, Result<(), block::DiskError>)) {
        let trouble = &self.trouble;
        self.lane.reap(wait, &mut |tag, done| told(tag, trouble.told(done)));
    }

    fn alarm(&self) -> Alarm {
        self.lane.alarm()
    }
}

/// An error with its causes.
fn sentence(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", sentence(source)),
        None => error.to_string(),
    }
}

impl block::Disk for Attached {
    fn capacity(&self) -> u64 {
        self.disk.capacity()
    }

    fn read_only(&self) -> bool {
        self.disk.read_only()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), block::DiskError> {
        self.told(self.disk.read_at(offset, into))
    }

    fn write_at(&self, offset: u64, from: &[u8]) -> Result<(), block::DiskError> {
        self.told(self.disk.write_at(offset, from))
    }

    fn flush(&self) -> Result<(), block::DiskError> {
        self.told(self.disk.flush())
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), block::DiskError> {
        self.told(self.disk.discard(offset, length))
    }

    fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        _may_unmap: bool,
    ) -> Result<(), block::DiskError> {
        self.told(self.disk.write_zeroes(offset, length))
    }

    fn lane(
        self: Arc<Self>,
        memory: &Arc<GuestMemory>,
        bell: Option<Arc<OwnedFd>>,
    ) -> Option<Box<dyn block::Lane>> {
        let (lane, why) = disk::Lane::open(self.disk.clone(), memory.clone(), bell);
        if let Some(why) = why {
            let name = &self.trouble.name;
            (self.trouble.tell)(Told::Detail(format!("{name}: {why}")));
        }
        Some(Box::new(AttachedLane { lane, trouble: self.trouble.clone() }))
    }
}

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attached").field("disk", &self.disk).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use virtio::block::Disk as _;

    use super::*;
    use crate::disk::OpenOptions;

    #[test]
    fn what_fails_is_told_once() {
        let file = tempfile::NamedTempFile::new().expect("a temporary directory");
        file.as_file().set_len(4096).expect("a temporary directory");
        let disk = Disk::open(file.path(), &OpenOptions::default()).expect("a raw image");
        let said = Arc::new(Mutex::new(Vec::new()));
        let listener = said.clone();
        let tell = Box::new(move |text| listener.lock().expect("not poisoned").push(text));
        let attached = Attached::new(disk, "vda".into(), tell);
        let mut sector = [0; 512];
        attached.read_at(0, &mut sector).expect("it is there");
        attached.write_at(0, &[7; 512]).expect("there is room");
        assert!(said.lock().expect("not poisoned").is_empty());
        file.as_file().set_len(0).expect("a temporary directory");
        for _ in 0..2 {
            attached.read_at(1024, &mut sector).expect_err("it is gone");
        }
        let said = said.lock().expect("not poisoned");
        let name = file.path().display().to_string();
        let [Told::Trouble(one)] = &said[..] else { panic!("one line, not {said:?}") };
        assert!(one.contains(&name) && one.contains("cut short") && one.contains("vda"), "{one}");
    }
}
