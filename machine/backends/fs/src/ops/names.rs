//! MKNOD, MKDIR, SYMLINK, UNLINK, RMDIR, RENAME, LINK: names that come and go.

use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::fs::{chownat, linkat, mkdirat, mknodat, renameat_with, symlinkat, unlinkat};
use rustix::io::Errno;

use super::nodes::{SET_ID, group, owner};
use crate::attr::Status;
use crate::host;
use crate::server::{Done, Reply, Server};
use crate::wire::{Args, Header};

/// Flags of RENAME2 (renameat2(2)); white-outs are devices, which are not made.
const NO_REPLACE: u32 = 1;
const EXCHANGE: u32 = 2;

impl Server {
    /// Gives what was just made to who asked for it, with the mode that was asked for.
    ///
    /// Where this process is root, the guest's ids are the host's. Otherwise everything is the
    /// invoking user's, as it is made.
    pub(crate) fn settle(
        &self,
        header: &Header,
        fd: impl AsFd,
        mode: Option<u32>,
    ) -> Result<Status, Errno> {
        let status = Status::of(&fd, c"")?;
        let own = rustix::process::getegid().as_raw();
        if self.privileged && (header.uid, header.gid) != (status.0.stx_uid, status.0.stx_gid) {
            // A directory with set-group-ID gave its group already.
            let gid = (status.0.stx_gid == own).then(|| group(header.gid)).transpose()?;
            chownat(&fd, c"", Some(owner(header.uid)?), gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(mode) = mode
            && mode & self.umask & 0o777 != 0
        {
            let inherited = u32::from(status.0.stx_mode) & SET_ID;
            self.change_mode(&fd, status.kind(), mode & !SET_ID | inherited)?;
        }
        Status::of(fd, c"")
    }

    /// Settles what has a name, and tells the guest of it.
    fn settled_entry(
        &self,
        header: &Header,
        directory: impl AsFd,
        name: &CStr,
        mode: Option<u32>,
    ) -> Done {
        let fd = host::open_path(directory, name)?;
        let status = self.settle(header, &fd, mode)?;
        Ok(Reply::Bytes(self.entry_of(header.node, name, &status, false, Some(fd))?.0))
    }

    pub(crate) fn make_node(&self, header: &Header, mut args: Args<'_>) -> Done {
        let mode = args.u32()?;
        args.take(12)?;
        let name = args.name()?;
        let directory = self.inodes.directory(header.node)?;
        let bits = Mode::from_raw_mode(mode & 0o1777);
        match FileType::from_raw_mode(mode) {
            FileType::RegularFile | FileType::Unknown => {
                drop(host::create(&*directory, name, OFlags::WRONLY, bits)?);
            }
            kind @ (FileType::Fifo | FileType::Socket) => {
                mknodat(&*directory, name, kind, bits, 0)?;
            }
            // Devices would be the host's.
            _ => return Err(Errno::PERM),
        }
        self.settled_entry(header, &*directory, name, Some(mode & 0o1777))
    }

    pub(crate) fn make_folder(&self, header: &Header, mut args: Args<'_>) -> Done {
        let mode = args.u32()? & 0o1777;
        args.take(4)?;
        let name = args.name()?;
        let directory = self.inodes.directory(header.node)?;
        mkdirat(&*directory, name, Mode::from_raw_mode(mode))?;
        self.settled_entry(header, &*directory, name, Some(mode))
    }

    pub(crate) fn make_link(&self, header: &Header, mut args: Args<'_>) -> Done {
        let (name, target) = (args.name()?, args.string()?);
        let directory = self.inodes.directory(header.node)?;
        symlinkat(target, &*directory, name)?;
        self.settled_entry(header, &*directory, name, None)
    }

    pub(crate) fn remove(&self, parent: u64, mut args: Args<'_>, flags: AtFlags) -> Done {
        let name = args.name()?;
        let directory = self.inodes.directory(parent)?;
        self.inodes.pin(parent, name);
        unlinkat(&*directory, name, flags)?;
        Ok(Reply::Bytes(Vec::new()))
    }

    pub(crate) fn rename(&self, parent: u64, mut args: Args<'_>, with_flags: bool) -> Done {
        let new_parent = args.u64()?;
        let mut flags = 0;
        if with_flags {
            flags = args.u32()?;
            args.take(4)?;
        }
        let (old, new) = (args.name()?, args.name()?);
        let how = match flags {
            0 => RenameFlags::empty(),
            NO_REPLACE => RenameFlags::NOREPLACE,
            EXCHANGE => RenameFlags::EXCHANGE,
            _ => return Err(Errno::INVAL),
        };
        let from = self.inodes.directory(parent)?;
        let to = self.inodes.directory(new_parent)?;
        let moved = Status::of(&*from, old)?.key();
        let replaced = Status::of(&*to, new).map(|status| status.key());
        if flags == 0 && replaced.is_ok_and(|key| key != moved) {
            self.inodes.pin(new_parent, new);
        }
        renameat_with(&*from, old, &*to, new, how)?;
        self.inodes.moved(moved, new_parent, new);
        if let (EXCHANGE, Ok(replaced)) = (flags, replaced) {
            self.inodes.moved(replaced, parent, old);
        }
        Ok(Reply::Bytes(Vec::new()))
    }

    pub(crate) fn hard_link(&self, parent: u64, mut args: Args<'_>) -> Done {
        let node = args.u64()?;
        let name = args.name()?;
        if self.inodes.node(node)?.covered {
            return Err(Errno::XDEV);
        }
        let directory = self.inodes.directory(parent)?;
        let fd = self.inodes.fd(node)?;
        let (descriptors, number) = self.descriptors.name(&*fd);
        linkat(descriptors, number, &*directory, name, AtFlags::SYMLINK_FOLLOW)?;
        Ok(Reply::Bytes(self.entry(parent, name)?.0))
    }
}
