//! The nodes that the guest knows: what each is on the host, and how it is found again.
//!
//! ```text
//! node id -> key (mount, device, inode, birth)    the file, whatever its name
//!         -> place (parent's node, name)          where it was seen last
//!         -> O_PATH descriptor                    while there is room for it
//! ```
//!
//! A tree may have more files than a process may open: a node needs no descriptor until it is used,
//! and the one that was not used for longest loses it. It is opened again by its place, from the
//! nearest directory above it that is open. Invariants: what is opened again has the key of the
//! node, or the answer is ESTALE; a node whose last name the guest removes keeps its descriptor;
//! tables and walks are bounded.

use std::collections::{HashMap, VecDeque};
use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::attr::{Key, Stamp, Status};
use crate::host;
use crate::limits::{DEEPEST, MOST_NODES};
use crate::wire::ROOT;

/// Devices that inode numbers are told apart by: bits 48 to 59, the ones above being an overlay's.
const MOST_DEVICES: usize = 1 << 12;

/// What a node is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    pub(crate) key: Key,
    pub(crate) kind: FileType,
    /// The root of a file system of the host's kernel: it has no contents here.
    pub(crate) covered: bool,
}

#[derive(Debug)]
struct Entry {
    node: Node,
    lookups: u64,
    place: Option<(u64, CString)>,
    fd: Option<Arc<OwnedFd>>,
    /// Never closed for room: its name is gone, or it is the root.
    pinned: bool,
    /// Used since it was last thought of for closing.
    recent: bool,
    /// Its contents when the guest last opened it.
    stamp: Option<Stamp>,
}

#[derive(Debug)]
struct Inner {
    entries: HashMap<u64, Entry>,
    by_key: HashMap<Key, u64>,
    next: u64,
    /// Nodes with a descriptor, in the order they got it.
    open: VecDeque<u64>,
    pinned: usize,
    /// Devices below the root, for inode numbers.
    devices: Vec<u64>,
}

/// All nodes of a share.
#[derive(Debug)]
pub(crate) struct Inodes {
    inner: Mutex<Inner>,
    most_open: usize,
}

impl Inodes {
    /// The table with the root in it, holding at most so many descriptors.
    pub(crate) fn new(root: OwnedFd, status: &Status, most_open: usize) -> Self {
        let node = Node { key: status.key(), kind: status.kind(), covered: false };
        let inner = Inner {
            entries: HashMap::new(),
            by_key: HashMap::from([(node.key, ROOT)]),
            next: ROOT + 1,
            open: VecDeque::new(),
            pinned: 0,
            devices: vec![status.device()],
        };
        let inodes = Self { inner: Mutex::new(inner), most_open };
        let fd = Some(Arc::new(root));
        let entry =
            Entry { node, lookups: 1, place: None, fd, pinned: true, recent: true, stamp: None };
        inodes.lock().entries.insert(ROOT, entry);
        inodes
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a node is.
    pub(crate) fn node(&self, id: u64) -> Result<Node, Errno> {
        self.lock().entries.get(&id).map(|entry| entry.node).ok_or(Errno::STALE)
    }

    /// A directory that may be looked into.
    pub(crate) fn directory(&self, id: u64) -> Result<Arc<OwnedFd>, Errno> {
        let node = self.node(id)?;
        match node.kind {
            _ if node.covered => Err(Errno::NOENT),
            FileType::Directory => self.fd(id),
            _ => Err(Errno::NOTDIR),
        }
    }

    /// A node's descriptor, opened again if need be.
    pub(crate) fn fd(&self, id: u64) -> Result<Arc<OwnedFd>, Errno> {
        let mut inner = self.lock();
        let mut closed = Vec::new();
        let mut at = id;
        let mut fd = loop {
            let entry = inner.entries.get_mut(&at).ok_or(Errno::STALE)?;
            if let Some(fd) = &entry.fd {
                entry.recent = true;
                break fd.clone();
            }
            let (parent, name) = entry.place.clone().ok_or(Errno::STALE)?;
            if closed.len() == DEEPEST {
                return Err(Errno::STALE);
            }
            closed.push((at, name, entry.node.key));
            at = parent;
        };
        for (id, name, key) in closed.into_iter().rev() {
            let opened = host::open_path(&*fd, &name).map_err(gone)?;
            if Status::of(&opened, c"")?.key() != key {
                return Err(Errno::STALE);
            }
            fd = Arc::new(opened);
            inner.keep(id, fd.clone(), self.most_open);
        }
        Ok(fd)
    }

    /// A node's status, by its descriptor or by its name; it needs no descriptor of its own.
    pub(crate) fn status(&self, id: u64) -> Result<Status, Errno> {
        let (fd, place, key) = {
            let inner = self.lock();
            let entry = inner.entries.get(&id).ok_or(Errno::STALE)?;
            (entry.fd.clone(), entry.place.clone(), entry.node.key)
        };
        if let Some(fd) = fd {
            return Status::of(&*fd, c"");
        }
        let (parent, name) = place.ok_or(Errno::STALE)?;
        let status = Status::of(&*self.fd(parent)?, &name).map_err(gone)?;
        if status.key() == key { Ok(status) } else { Err(Errno::STALE) }
    }

    /// Gives a file found in a directory its node, and counts that the guest was told of it.
    pub(crate) fn found(
        &self,
        parent: u64,
        name: &CStr,
        node: Node,
        fd: Option<OwnedFd>,
    ) -> Result<u64, Errno> {
        let mut inner = self.lock();
        let place = Some((parent, name.to_owned()));
        let id = match inner.by_key.get(&node.key) {
            Some(&id) => {
                let entry = inner.entries.get_mut(&id).expect("a key's node is in the table");
                entry.lookups += 1;
                if id != ROOT {
                    entry.place = place;
                }
                id
            }
            None if inner.entries.len() >= MOST_NODES => return Err(Errno::NFILE),
            None => {
                let id = inner.next;
                inner.next += 1;
                let entry = Entry {
                    node,
                    lookups: 1,
                    place,
                    fd: None,
                    pinned: false,
                    recent: false,
                    stamp: None,
                };
                inner.entries.insert(id, entry);
                inner.by_key.insert(node.key, id);
                id
            }
        };
        if let Some(fd) = fd {
            inner.keep(id, Arc::new(fd), self.most_open);
        }
        Ok(id)
    }

    /// The guest forgets so many tellings of a node.
    pub(crate) fn forget(&self, id: u64, count: u64) {
        let mut inner = self.lock();
        let Some(entry) = inner.entries.get_mut(&id).filter(|_| id != ROOT) else { return };
        entry.lookups = entry.lookups.saturating_sub(count);
        if entry.lookups == 0 {
            let entry = inner.entries.remove(&id).expect("it was just there");
            inner.by_key.remove(&entry.node.key);
            inner.pinned -= usize::from(entry.pinned);
        }
    }

    /// A file was given another name.
    pub(crate) fn moved(&self, key: Key, parent: u64, name: &CStr) {
        let mut inner = self.lock();
        let id = inner.by_key.get(&key).copied().filter(|id| *id != ROOT);
        if let Some(entry) = id.and_then(|id| inner.entries.get_mut(&id)) {
            entry.place = Some((parent, name.to_owned()));
        }
    }

    /// A name is about to go away: if the guest knows the file, it stays reachable without.
    pub(crate) fn pin(&self, parent: u64, name: &CStr) {
        let Ok(directory) = self.directory(parent) else { return };
        let Ok(key) = Status::of(&*directory, name).map(|status| status.key()) else { return };
        let known = self.lock().by_key.get(&key).copied();
        let Some(id) = known.filter(|id| *id != ROOT) else { return };
        {
            // By this name; the one it was seen under may be another.
            let mut inner = self.lock();
            let Some(entry) = inner.entries.get_mut(&id) else { return };
            if entry.fd.is_none() {
                entry.place = Some((parent, name.to_owned()));
            }
        }
        if self.fd(id).is_err() {
            return; // it is gone already
        }
        let mut inner = self.lock();
        if inner.pinned >= self.most_open / 2 {
            return; // such a node is stale once its descriptor makes room for another
        }
        if let Some(entry) = inner.entries.get_mut(&id).filter(|entry| !entry.pinned) {
            entry.pinned = true;
            inner.pinned += 1;
        }
    }

    /// Forgets all but the root.
    pub(crate) fn clear(&self) {
        let mut inner = self.lock();
        inner.entries.retain(|id, _| *id == ROOT);
        inner.by_key.retain(|_, id| *id == ROOT);
        inner.open.clear();
        inner.pinned = 0;
    }

    /// Notes a file's contents at its opening; whether they are those of the last one.
    pub(crate) fn is_unchanged(&self, id: u64, stamp: Stamp) -> bool {
        let mut inner = self.lock();
        let Some(entry) = inner.entries.get_mut(&id) else { return false };
        entry.stamp.replace(stamp) == Some(stamp)
    }

    /// The inode number that the guest sees: the host's, told apart where the share has several
    /// devices.
    pub(crate) fn number(&self, status: &Status) -> u64 {
        let mut inner = self.lock();
        let device = status.device();
        let known = inner.devices.iter().position(|known| *known == device);
        let index = known.unwrap_or_else(|| {
            if inner.devices.len() < MOST_DEVICES {
                inner.devices.push(device);
            }
            inner.devices.len() - 1
        });
        status.0.stx_ino ^ (index as u64) << 48
    }

    /// Nodes, and descriptors they hold.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> (usize, usize) {
        let inner = self.lock();
        let open = inner.entries.values().filter(|entry| entry.fd.is_some()).count();
        (inner.entries.len(), open)
    }
}

impl Inner {
    /// Gives a node a descriptor; those that were not used for longest make room.
    fn keep(&mut self, id: u64, fd: Arc<OwnedFd>, most: usize) {
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.fd.is_none()) else {
            return;
        };
        entry.fd = Some(fd);
        entry.recent = true;
        self.open.push_back(id);
        // Twice round at most: the first time takes the marks away.
        for _ in 0..2 * self.open.len() {
            if self.open.len() <= most {
                return;
            }
            let Some(oldest) = self.open.pop_front() else { return };
            let Some(entry) = self.entries.get_mut(&oldest).filter(|entry| entry.fd.is_some())
            else {
                continue; // forgotten meanwhile
            };
            if entry.pinned || std::mem::take(&mut entry.recent) {
                self.open.push_back(oldest);
            } else {
                entry.fd = None;
            }
        }
    }
}

/// What was there under this name is not any more.
fn gone(error: Errno) -> Errno {
    match error {
        Errno::NOENT | Errno::NOTDIR => Errno::STALE,
        other => other,
    }
}
