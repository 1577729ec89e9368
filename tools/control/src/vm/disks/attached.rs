//! An image of the host's (`disk::Disk`) as what the block device asks (`virtio::block::Disk`).
//!
//! Invariant: of what goes wrong the guest learns that it did, and the user, once a disk, why and
//! what to do.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use virtio::block;

use crate::disk::{Disk, DiskError};

/// Is told sentences for the user.
pub(super) type Tell = Box<dyn Fn(String) + Send + Sync>;

/// An image in use by a guest.
pub(super) struct Attached {
    disk: Disk,
    /// Its name in the guest: vda.
    name: String,
    tell: Tell,
    told: AtomicBool,
}

impl Attached {
    pub(super) fn new(disk: Disk, name: String, tell: Tell) -> Self {
        Self { disk, name, tell, told: AtomicBool::new(false) }
    }

    fn told(&self, done: Result<(), DiskError>) -> Result<(), block::DiskError> {
        done.map_err(|error| {
            if !self.told.swap(true, Ordering::Relaxed) {
                let name = &self.name;
                (self.tell)(format!(
                    "{}: the guest gets I/O errors of its {name} (told once)",
                    sentence(&error)
                ));
            }
            block::DiskError(error.into())
        })
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
        let [one] = &said[..] else { panic!("one line, not {said:?}") };
        assert!(one.contains(&name) && one.contains("cut short") && one.contains("vda"), "{one}");
    }
}
