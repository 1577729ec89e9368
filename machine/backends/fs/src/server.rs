//! The server: opened on a directory, then asked one request at a time by any threads.
//!
//! Invariant: [`Server::serve`] waits for nothing but the host's page cache and directories; what
//! may take long (a flush to the medium, a lock that another has) is a [`Task`] for another thread,
//! which touches no memory of the guest.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{Access as May, AtFlags, CWD, FileType, Mode, OFlags, accessat, openat};
use rustix::io::Errno;

use crate::attr::Status;
use crate::error::ShareError;
use crate::exchange::Exchange;
use crate::handles::Handles;
use crate::host::{self, Descriptors};
use crate::inodes::Inodes;
use crate::limits::{LEAST_OPEN, LONGEST_REQUEST, MOST_OPEN};
use crate::wire::{Args, Header, IN_HEADER, OUT_HEADER, opcode, out_header};

/// What the guest may do to a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Look.
    ReadOnly,
    /// Change what the invoking user may change.
    ReadWrite,
}

/// A directory to share, and how.
#[derive(Clone, Debug)]
pub struct ShareConfig {
    /// The directory.
    pub path: PathBuf,
    /// What the guest may do to it.
    pub access: Access,
    /// How long the guest may believe names and attributes without asking again.
    pub fresh_for: Duration,
    /// Locks that the guest takes are seen by the host's programs, and the other way round.
    pub locks: bool,
    /// Descriptors this share may hold.
    pub most_open: usize,
}

/// Work that may take long. Called until it gives the answer's bytes; `None`: not yet, ask again in
/// some milliseconds.
pub type Task = Box<dyn FnMut() -> Option<Vec<u8>> + Send>;

/// What became of a request.
pub enum Served {
    /// It was answered.
    Answered,
    /// It wants no answer, or has no room for one.
    Silent,
    /// The answer's bytes will come out of this.
    Later(Task),
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Answered => "Answered",
            Self::Silent => "Silent",
            Self::Later(_) => "Later",
        })
    }
}

/// What an operation comes to.
pub(crate) enum Reply {
    Bytes(Vec<u8>),
    /// The exchange has the answer already.
    Sent,
    /// None is wanted.
    Nothing,
    Later(Task),
}

pub(crate) type Done = Result<Reply, Errno>;

/// A FUSE server over one directory.
#[derive(Debug)]
pub struct Server {
    pub(crate) writable: bool,
    pub(crate) fresh_for: Duration,
    pub(crate) locks: bool,
    pub(crate) descriptors: Descriptors,
    pub(crate) inodes: Inodes,
    pub(crate) handles: Handles,
    /// Files opened for a lock owner's locks, by node and owner.
    pub(crate) owners: Mutex<HashMap<(u64, u64), Arc<OwnedFd>>>,
    /// Requests that wait for a lock, by `unique`: true once they were interrupted.
    pub(crate) waiting: Arc<Mutex<HashMap<u64, bool>>>,
    pub(crate) privileged: bool,
    pub(crate) umask: u32,
    pub(crate) running: AtomicBool,
    local: bool,
}

impl Server {
    /// Opens a directory to share.
    ///
    /// # Errors
    /// [`ShareError`]: it is not there, none, not allowed, or the kernel's own.
    pub fn open(config: &ShareConfig) -> Result<Self, ShareError> {
        let path = config.path.as_path();
        let writable = config.access == Access::ReadWrite;
        let root = open_root(path, writable)?;
        let failed = |error: Errno| ShareError::Host { path: path.into(), source: error.into() };
        if host::is_kernels_own(&root).map_err(failed)? {
            return Err(ShareError::Kernel(path.into()));
        }
        let status = Status::of(&root, c"").map_err(failed)?;
        let most_open = config.most_open.clamp(LEAST_OPEN, 2 * MOST_OPEN) / 2;
        Ok(Self {
            writable,
            fresh_for: config.fresh_for,
            locks: config.locks && writable,
            descriptors: Descriptors::open().map_err(failed)?,
            inodes: Inodes::new(root, &status, most_open),
            handles: Handles::new(most_open),
            owners: Mutex::default(),
            waiting: Arc::default(),
            privileged: rustix::process::geteuid().is_root(),
            umask: umask(),
            running: AtomicBool::new(false),
            local: path.canonicalize().is_ok_and(|path| crate::remote::is_local(&path)),
        })
    }

    /// Whether all that was mounted there when it was opened lies on this host: no request hangs.
    pub fn is_local(&self) -> bool {
        self.local
    }

    /// Does what a request asks, and answers it.
    pub fn serve(&self, exchange: &mut dyn Exchange) -> Served {
        let mut bytes = [0; IN_HEADER];
        if exchange.read(&mut bytes) < IN_HEADER {
            return Served::Silent;
        }
        let header = Header::decode(&bytes);
        let done = self.dispatch(&header, exchange);
        if matches!(header.opcode, opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT) {
            return Served::Silent;
        }
        match done {
            Ok(Reply::Nothing) => Served::Silent,
            Ok(Reply::Sent) => Served::Answered,
            Ok(Reply::Later(task)) => Served::Later(task),
            Ok(Reply::Bytes(bytes)) => answer(exchange, header.unique, Ok(&bytes)),
            Err(error) => answer(exchange, header.unique, Err(error)),
        }
    }

    fn dispatch(&self, header: &Header, exchange: &mut dyn Exchange) -> Done {
        if header.length as usize != IN_HEADER + exchange.readable() {
            return Err(Errno::INVAL);
        }
        let mut body = Vec::new();
        if header.opcode != opcode::WRITE {
            // Whatever is longer than any request is no request.
            if exchange.readable() > LONGEST_REQUEST {
                return Err(Errno::INVAL);
            }
            body.resize(exchange.readable(), 0);
            exchange.read(&mut body);
        }
        let args = Args(&body);
        if header.opcode == opcode::INIT {
            return self.init(args);
        }
        if !self.running.load(Ordering::Acquire) {
            return Err(Errno::IO);
        }
        if !self.writable && changes(header.opcode) {
            return Err(Errno::ROFS);
        }
        match header.opcode {
            opcode::WRITE => self.write(exchange),
            opcode::READ => self.read(header, args, exchange),
            opcode::READDIR => self.read_folder(args, exchange, false),
            opcode::READDIRPLUS => self.read_folder(args, exchange, true),
            opcode::DESTROY => {
                self.forget_everything();
                Ok(Reply::Bytes(Vec::new()))
            }
            _ => self.dispatch_rest(header, args),
        }
    }

    fn dispatch_rest(&self, header: &Header, args: Args<'_>) -> Done {
        let node = header.node;
        match header.opcode {
            opcode::LOOKUP => self.lookup(node, args),
            opcode::FORGET => self.forget(node, args),
            opcode::BATCH_FORGET => self.batch_forget(args),
            opcode::GETATTR => self.get_attributes(node, args),
            opcode::STATX => self.get_statx(node, args),
            opcode::SETATTR => self.set_attributes(node, args),
            opcode::READLINK => self.read_link(node),
            opcode::SYMLINK => self.make_link(header, args),
            opcode::MKNOD => self.make_node(header, args),
            opcode::MKDIR => self.make_folder(header, args),
            opcode::UNLINK => self.remove(node, args, AtFlags::empty()),
            opcode::RMDIR => self.remove(node, args, AtFlags::REMOVEDIR),
            opcode::RENAME => self.rename(node, args, false),
            opcode::RENAME2 => self.rename(node, args, true),
            opcode::LINK => self.hard_link(node, args),
            opcode::OPEN => self.open_file(node, args),
            opcode::CREATE => self.create_file(header, args),
            opcode::RELEASE => self.release(args),
            opcode::FLUSH => self.flush(node, args),
            opcode::FSYNC | opcode::FSYNCDIR => self.sync(header, args),
            opcode::SYNCFS => self.sync_all(header),
            opcode::FALLOCATE => self.allocate(header, args),
            opcode::LSEEK => self.seek(args),
            opcode::COPY_FILE_RANGE => self.copy_range(header, args),
            opcode::OPENDIR => self.open_folder(node),
            opcode::RELEASEDIR => self.release(args),
            opcode::STATFS => self.file_system(node),
            opcode::GETXATTR => self.get_attribute(node, args),
            opcode::SETXATTR => self.set_attribute(node, args),
            opcode::LISTXATTR => self.list_attributes(node, args),
            opcode::REMOVEXATTR => self.remove_attribute(node, args),
            opcode::GETLK => self.get_lock(node, args),
            opcode::SETLK => self.set_lock(node, args),
            opcode::SETLKW => self.wait_for_lock(header, args),
            opcode::INTERRUPT => self.interrupt(args),
            opcode::IOCTL => Err(Errno::NOTTY),
            // access(2) among them: the guest's kernel looks at modes itself (default_permissions).
            _ => Err(Errno::NOSYS),
        }
    }

    /// As before the first request.
    pub(crate) fn forget_everything(&self) {
        self.inodes.clear();
        self.handles.clear();
        lock(&self.owners).clear();
        lock(&self.waiting).values_mut().for_each(|interrupted| *interrupted = true);
    }

    /// A regular file's or directory's descriptor for more than its status.
    pub(crate) fn reopen(&self, node: u64, flags: OFlags) -> Result<OwnedFd, Errno> {
        let known = self.inodes.node(node)?;
        match known.kind {
            _ if known.covered => return Err(Errno::NOENT),
            FileType::RegularFile | FileType::Directory => {}
            FileType::Symlink => return Err(Errno::LOOP),
            // Pipes, sockets and devices of a name are the guest's own; it does not ask for them.
            _ => return Err(Errno::NXIO),
        }
        self.descriptors.reopen(&*self.inodes.fd(node)?, flags)
    }
}

/// Requests that a read-only share refuses.
fn changes(opcode: u32) -> bool {
    matches!(
        opcode,
        opcode::SETATTR
            | opcode::SYMLINK
            | opcode::MKNOD
            | opcode::MKDIR
            | opcode::UNLINK
            | opcode::RMDIR
            | opcode::RENAME
            | opcode::RENAME2
            | opcode::LINK
            | opcode::WRITE
            | opcode::CREATE
            | opcode::SETXATTR
            | opcode::REMOVEXATTR
            | opcode::FALLOCATE
            | opcode::COPY_FILE_RANGE
    )
}

/// Writes an answer, if there is room for one.
fn answer(exchange: &mut dyn Exchange, unique: u64, result: Result<&[u8], Errno>) -> Served {
    let room = exchange.writable();
    if room < OUT_HEADER {
        return Served::Silent;
    }
    match result {
        Ok(bytes) if bytes.len() <= room - OUT_HEADER => {
            exchange.write(&out_header(unique, 0, bytes.len()));
            exchange.write(bytes);
        }
        Ok(_) => drop(exchange.write(&out_header(unique, Errno::IO.raw_os_error(), 0))),
        Err(error) => drop(exchange.write(&out_header(unique, error.raw_os_error(), 0))),
    }
    Served::Answered
}

/// An answer's bytes, for tasks.
pub(crate) fn answer_bytes(unique: u64, result: Result<Vec<u8>, Errno>) -> Vec<u8> {
    match result {
        Ok(bytes) => [out_header(unique, 0, bytes.len()).as_slice(), &bytes].concat(),
        Err(error) => out_header(unique, error.raw_os_error(), 0).to_vec(),
    }
}

/// A task that is done at once, on another thread.
pub(crate) fn later(
    header: &Header,
    mut work: impl FnMut() -> Result<Vec<u8>, Errno> + Send + 'static,
) -> Done {
    let unique = header.unique;
    Ok(Reply::Later(Box::new(move || Some(answer_bytes(unique, work())))))
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open_root(path: &Path, writable: bool) -> Result<OwnedFd, ShareError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, path, flags, Mode::empty()).map_err(|error| match error {
        Errno::NOENT => ShareError::Missing(path.into()),
        Errno::NOTDIR if path.exists() => ShareError::NotADirectory(path.into()),
        Errno::NOTDIR => ShareError::Missing(path.into()),
        Errno::ACCESS => ShareError::NotPermitted { path: path.into(), what: "read" },
        other => ShareError::Host { path: path.into(), source: other.into() },
    })?;
    let may = |access| accessat(CWD, path, access, AtFlags::EACCESS).is_ok();
    let denied = |what| Err(ShareError::NotPermitted { path: path.into(), what });
    match () {
        () if !may(May::READ_OK | May::EXEC_OK) => denied("read"),
        () if writable && !may(May::WRITE_OK) => denied("write to"),
        () => Ok(root),
    }
}

/// This process' file mode creation mask (proc(5), since Linux 4.7).
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()).unwrap_or(0o777)
}
