//! What the guest has open: files, and directories with how far they were read.
//!
//! Invariant: there are never more handles than the share may hold; a directory buffers one
//! getdents64(2) of entries.

use std::collections::{HashMap, VecDeque};
use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FileType, RawDir, SeekFrom, seek};
use rustix::io::Errno;

/// Bytes of entries that are asked for at a time.
const ENTRIES: usize = 32 << 10;

/// An open file.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) fd: OwnedFd,
    pub(crate) node: u64,
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct OpenFolder {
    pub(crate) fd: Option<OwnedFd>,
    pub(crate) node: u64,
    reading: Mutex<Reading>,
}

/// One entry of a directory.
#[derive(Clone, Debug)]
pub(crate) struct FolderEntry {
    pub(crate) name: CString,
    pub(crate) kind: FileType,
    pub(crate) inode: u64,
    /// Where the next one is.
    pub(crate) next: u64,
}

/// How far a directory was read.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// Where the first buffered entry is.
    at: u64,
    buffered: VecDeque<FolderEntry>,
}

#[derive(Clone, Debug)]
enum Handle {
    File(Arc<OpenFile>),
    Folder(Arc<OpenFolder>),
}

/// All handles of a share.
#[derive(Debug)]
pub(crate) struct Handles {
    inner: Mutex<(HashMap<u64, Handle>, u64)>,
    most: usize,
}

impl Handles {
    pub(crate) fn new(most: usize) -> Self {
        Self { inner: Mutex::new((HashMap::new(), 1)), most }
    }

    fn lock(&self) -> MutexGuard<'_, (HashMap<u64, Handle>, u64)> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, handle: Handle) -> Result<u64, Errno> {
        let mut inner = self.lock();
        if inner.0.len() >= self.most {
            return Err(Errno::NFILE);
        }
        let id = inner.1;
        inner.1 += 1;
        inner.0.insert(id, handle);
        Ok(id)
    }

    pub(crate) fn add_file(&self, node: u64, fd: OwnedFd) -> Result<u64, Errno> {
        self.add(Handle::File(Arc::new(OpenFile { fd, node })))
    }

    /// A directory; without a descriptor it is empty.
    pub(crate) fn add_folder(&self, node: u64, fd: Option<OwnedFd>) -> Result<u64, Errno> {
        let reading = Mutex::default();
        self.add(Handle::Folder(Arc::new(OpenFolder { fd, node, reading })))
    }

    pub(crate) fn file(&self, id: u64) -> Result<Arc<OpenFile>, Errno> {
        match self.lock().0.get(&id) {
            Some(Handle::File(file)) => Ok(file.clone()),
            _ => Err(Errno::BADF),
        }
    }

    pub(crate) fn folder(&self, id: u64) -> Result<Arc<OpenFolder>, Errno> {
        match self.lock().0.get(&id) {
            Some(Handle::Folder(folder)) => Ok(folder.clone()),
            _ => Err(Errno::BADF),
        }
    }

    pub(crate) fn remove(&self, id: u64) {
        let removed = self.lock().0.remove(&id);
        drop(removed); // closes it, with the table unlocked
    }

    pub(crate) fn clear(&self) {
        let handles = std::mem::take(&mut self.lock().0);
        drop(handles); // closes them, with the table unlocked
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.lock().0.len()
    }
}

impl OpenFolder {
    /// Gives entries from a place on to `take`, until it says that one has no room.
    pub(crate) fn entries(
        &self,
        from: u64,
        mut take: impl FnMut(&FolderEntry) -> bool,
    ) -> Result<(), Errno> {
        let Some(fd) = &self.fd else { return Ok(()) };
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if reading.at != from || reading.buffered.is_empty() {
            seek(fd, SeekFrom::Start(from))?;
            reading.at = from;
            reading.buffered.clear();
        }
        loop {
            while let Some(entry) = reading.buffered.front() {
                if !take(entry) {
                    return Ok(());
                }
                reading.at = entry.next;
                reading.buffered.pop_front();
            }
            reading.fill(fd)?;
            if reading.buffered.is_empty() {
                return Ok(());
            }
        }
    }
}

impl Reading {
    fn fill(&mut self, fd: &OwnedFd) -> Result<(), Errno> {
        let mut bytes = vec![MaybeUninit::uninit(); ENTRIES];
        let mut entries = RawDir::new(fd, &mut bytes);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            self.buffered.push_back(FolderEntry {
                name: entry.file_name().to_owned(),
                kind: entry.file_type(),
                inode: entry.ino(),
                next: entry.next_entry_cookie(),
            });
            if entries.is_buffer_empty() {
                break; // one call's worth
            }
        }
        Ok(())
    }
}
