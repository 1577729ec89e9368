//! LOOKUP, FORGET, GETATTR, STATX, SETATTR, READLINK: nodes and what is known of them.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid,
};
use rustix::fs::{chmodat, chownat, ftruncate, readlinkat, utimensat};
use rustix::io::Errno;

use crate::attr::{ATTR_BYTES, Status};
use crate::host;
use crate::inodes::Node;
use crate::server::{Done, Reply, Server};
use crate::wire::{Args, Change, Out};

/// GETATTR and STATX say which open file they mean.
const BY_HANDLE: u32 = 1;
/// Set-user-ID and set-group-ID.
pub(crate) const SET_ID: u32 = 0o6000;

impl Server {
    pub(crate) fn lookup(&self, parent: u64, mut args: Args<'_>) -> Done {
        match self.entry(parent, args.name()?) {
            Ok(entry) => Ok(Reply::Bytes(entry.0)),
            // That there is nothing is worth knowing for a while, where only the host makes files.
            Err(Errno::NOENT) if !self.writable => {
                let (seconds, nanoseconds) = self.validity();
                let nothing = Out::default().u64(0).u64(0).u64(seconds).u64(0).u32(nanoseconds);
                Ok(Reply::Bytes(nothing.zeroes(4 + ATTR_BYTES).0))
            }
            Err(error) => Err(error),
        }
    }

    /// `struct fuse_entry_out` of a name.
    pub(crate) fn entry(&self, parent: u64, name: &CStr) -> Result<Out, Errno> {
        let directory = self.inodes.directory(parent)?;
        let status = Status::of(&*directory, name)?;
        let (mut fd, mut covered) = (None, false);
        let mut status = status;
        if !self.is_on_mount_of(parent, &status)? {
            let opened = host::open_path(&*directory, name)?;
            status = Status::of(&opened, c"")?;
            covered = host::is_kernels_own(&opened)?;
            fd = Some(opened);
        }
        self.entry_of(parent, name, &status, covered, fd)
    }

    /// Whether a file in a directory is on the same mount.
    pub(crate) fn is_on_mount_of(&self, parent: u64, status: &Status) -> Result<bool, Errno> {
        let (above, key) = (self.inodes.node(parent)?.key, status.key());
        Ok((above.mount, above.device) == (key.mount, key.device))
    }

    /// `struct fuse_entry_out` of a file that was looked at.
    pub(crate) fn entry_of(
        &self,
        parent: u64,
        name: &CStr,
        status: &Status,
        covered: bool,
        fd: Option<OwnedFd>,
    ) -> Result<Out, Errno> {
        let node = Node { key: status.key(), kind: status.kind(), covered };
        let id = self.inodes.found(parent, name, node, fd)?;
        let (seconds, nanoseconds) = self.validity();
        let out = Out::default().u64(id).u64(0).u64(seconds).u64(seconds);
        let out = out.u32(nanoseconds).u32(nanoseconds);
        Ok(status.encode(self.inodes.number(status), out))
    }

    fn validity(&self) -> (u64, u32) {
        (self.fresh_for.as_secs(), self.fresh_for.subsec_nanos())
    }

    pub(crate) fn forget(&self, node: u64, mut args: Args<'_>) -> Done {
        self.inodes.forget(node, args.u64()?);
        Ok(Reply::Nothing)
    }

    pub(crate) fn batch_forget(&self, mut args: Args<'_>) -> Done {
        let count = args.u32()?;
        args.take(4)?;
        for _ in 0..count {
            let (node, times) = (args.u64()?, args.u64()?);
            self.inodes.forget(node, times);
        }
        Ok(Reply::Nothing)
    }

    /// The status of an open file, or of a node.
    fn status(&self, node: u64, handle: Option<u64>) -> Result<Status, Errno> {
        match handle.and_then(|handle| self.handles.file(handle).ok()) {
            Some(file) if file.node == node => Status::of(&file.fd, c""),
            _ => self.inodes.status(node),
        }
    }

    pub(crate) fn get_attributes(&self, node: u64, mut args: Args<'_>) -> Done {
        let flags = args.u32()?;
        args.take(4)?;
        let handle = args.u64()?;
        let status = self.status(node, (flags & BY_HANDLE != 0).then_some(handle))?;
        Ok(Reply::Bytes(self.attributes(&status).0))
    }

    /// `struct fuse_attr_out`.
    pub(crate) fn attributes(&self, status: &Status) -> Out {
        let (seconds, nanoseconds) = self.validity();
        let out = Out::default().u64(seconds).u32(nanoseconds).u32(0);
        status.encode(self.inodes.number(status), out)
    }

    pub(crate) fn get_statx(&self, node: u64, mut args: Args<'_>) -> Done {
        let flags = args.u32()?;
        args.take(4)?;
        let handle = args.u64()?;
        let status = self.status(node, (flags & BY_HANDLE != 0).then_some(handle))?;
        let (seconds, nanoseconds) = self.validity();
        let out = Out::default().u64(seconds).u32(nanoseconds).u32(0).zeroes(16);
        Ok(Reply::Bytes(status.encode_statx(self.inodes.number(&status), out).0))
    }

    pub(crate) fn read_link(&self, node: u64) -> Done {
        if self.inodes.node(node)?.kind != FileType::Symlink {
            return Err(Errno::INVAL);
        }
        let target: CString = readlinkat(&*self.inodes.fd(node)?, c"", Vec::new())?;
        Ok(Reply::Bytes(target.into_bytes()))
    }

    pub(crate) fn set_attributes(&self, node: u64, mut args: Args<'_>) -> Done {
        let change = Change::from_bits_truncate(args.u32()?);
        args.take(4)?;
        let (handle, size) = (args.u64()?, args.u64()?);
        args.take(8)?;
        let (atime, mtime, _ctime) = (args.u64()?, args.u64()?, args.u64()?);
        let (atime_ns, mtime_ns, _ctime_ns) = (args.u32()?, args.u32()?, args.u32()?);
        let mode = args.u32()?;
        args.take(4)?;
        let (uid, gid) = (args.u32()?, args.u32()?);
        let kind = self.inodes.node(node)?.kind;
        let fd = self.inodes.fd(node)?;
        if change.contains(Change::MODE) {
            self.change_mode(&*fd, kind, mode)?;
        }
        if change.intersects(Change::UID | Change::GID) {
            let uid = change.contains(Change::UID).then_some(uid);
            let gid = change.contains(Change::GID).then_some(gid);
            self.change_owner(&*fd, uid, gid)?;
        }
        if change.contains(Change::SIZE) {
            let handle = change.contains(Change::HANDLE).then_some(handle);
            self.change_size(node, handle, size)?;
        }
        let time = |set, now, seconds: u64, nanoseconds: u32| Timespec {
            tv_sec: seconds as i64,
            tv_nsec: match () {
                () if change.contains(now) => UTIME_NOW,
                () if change.contains(set) => (nanoseconds % 1_000_000_000).into(),
                () => UTIME_OMIT,
            },
        };
        if change.intersects(Change::ATIME | Change::MTIME) {
            let times = Timestamps {
                last_access: time(Change::ATIME, Change::ATIME_NOW, atime, atime_ns),
                last_modification: time(Change::MTIME, Change::MTIME_NOW, mtime, mtime_ns),
            };
            utimensat(&*fd, c"", &times, AtFlags::EMPTY_PATH)?;
        }
        if change.contains(Change::KILL_SUIDGID) {
            self.drop_set_id(&*fd)?;
        }
        Ok(Reply::Bytes(self.attributes(&Status::of(&*fd, c"")?).0))
    }

    /// Files get no set-user-ID and no set-group-ID: a guest makes no programs that run as
    /// somebody else on the host.
    pub(crate) fn change_mode(
        &self,
        fd: impl AsFd,
        kind: FileType,
        mode: u32,
    ) -> Result<(), Errno> {
        let mode = match kind {
            FileType::Directory => mode & 0o7777,
            FileType::Symlink => return Err(Errno::OPNOTSUPP),
            _ => mode & 0o7777 & !SET_ID,
        };
        let (directory, name) = self.descriptors.name(fd);
        chmodat(directory, name, Mode::from_raw_mode(mode), AtFlags::empty())
    }

    /// The guest's root stands for the invoking user: what it gives to itself is the user's.
    fn change_owner(&self, fd: impl AsFd, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
        let change = |uid: Option<u32>, gid: Option<u32>| {
            let (uid, gid) = (uid.map(owner).transpose()?, gid.map(group).transpose()?);
            chownat(&fd, c"", uid, gid, AtFlags::EMPTY_PATH)
        };
        match change(uid, gid) {
            Err(Errno::PERM) if !self.privileged => {
                let user = rustix::process::geteuid().as_raw();
                let users_group = rustix::process::getegid().as_raw();
                let uid = uid.map(|uid| if uid == 0 { user } else { uid });
                let gid = gid.map(|gid| if gid == 0 { users_group } else { gid });
                change(uid, gid)
            }
            done => done,
        }
    }

    fn change_size(&self, node: u64, handle: Option<u64>, size: u64) -> Result<(), Errno> {
        if i64::try_from(size).is_err() {
            return Err(Errno::FBIG);
        }
        if let Some(file) = handle.and_then(|handle| self.handles.file(handle).ok())
            && file.node == node
        {
            return ftruncate(&file.fd, size);
        }
        if self.inodes.node(node)?.kind != FileType::RegularFile {
            return Err(Errno::INVAL);
        }
        ftruncate(self.reopen(node, OFlags::WRONLY)?, size)
    }

    /// What the host's kernel does for everybody but root: who writes to a file takes these bits.
    pub(crate) fn drop_set_id(&self, fd: impl AsFd) -> Result<(), Errno> {
        if !self.privileged {
            return Ok(());
        }
        let status = Status::of(&fd, c"")?;
        let mode = u32::from(status.0.stx_mode);
        match status.kind() {
            FileType::RegularFile if mode & SET_ID != 0 => {
                self.change_mode(fd, FileType::RegularFile, mode)
            }
            _ => Ok(()),
        }
    }
}

/// A user's id; there is none of all ones, which to the host means "leave it".
pub(crate) fn owner(id: u32) -> Result<Uid, Errno> {
    if id == u32::MAX { Err(Errno::INVAL) } else { Ok(Uid::from_raw(id)) }
}

/// A group's id.
pub(crate) fn group(id: u32) -> Result<Gid, Errno> {
    if id == u32::MAX { Err(Errno::INVAL) } else { Ok(Gid::from_raw(id)) }
}
