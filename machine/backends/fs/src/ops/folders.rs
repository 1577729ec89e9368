//! OPENDIR, READDIR, READDIRPLUS: what is in directories.
//!
//! READDIRPLUS tells a node with each name, so that a walk of a tree costs one look at each file and
//! opens none.

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::attr::{ATTR_BYTES, Status, entry_type};
use crate::exchange::Exchange;
use crate::handles::{FolderEntry, OpenFolder};
use crate::server::{Done, Reply, Server};
use crate::wire::{Args, CACHE_DIR, KEEP_CACHE, OUT_HEADER, Out, ROOT};

/// Bytes of `struct fuse_entry_out` and of `struct fuse_dirent` without its name.
const ENTRY: usize = 40 + ATTR_BYTES;
const DIRENT: usize = 24;
/// Bytes of entries in one answer.
const MOST: usize = 128 << 10;

impl Server {
    pub(crate) fn open_folder(&self, node: u64) -> Done {
        let known = self.inodes.node(node)?;
        if known.kind != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        if known.covered {
            let handle = self.handles.add_folder(node, None)?;
            return Ok(Reply::Bytes(Out::default().u64(handle).u32(0).u32(0).0));
        }
        let fd = self.reopen(node, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let unchanged = self.inodes.is_unchanged(node, Status::of(&fd, c"")?.stamp());
        let keep = if unchanged { KEEP_CACHE } else { 0 };
        let handle = self.handles.add_folder(node, Some(fd))?;
        Ok(Reply::Bytes(Out::default().u64(handle).u32(CACHE_DIR | keep).u32(0).0))
    }

    pub(crate) fn read_folder(
        &self,
        mut args: Args<'_>,
        exchange: &mut dyn Exchange,
        plus: bool,
    ) -> Done {
        let folder = self.handles.folder(args.u64()?)?;
        let (from, size) = (args.u64()?, args.u32()? as usize);
        let room = size.min(exchange.writable().saturating_sub(OUT_HEADER)).min(MOST);
        let mut out = Out::default();
        let mut failed = None;
        folder.entries(from, |entry| {
            let name = entry.name.to_bytes();
            let head = if plus { ENTRY } else { 0 };
            if out.0.len() + head + (DIRENT + name.len()).next_multiple_of(8) > room {
                return false;
            }
            let mut inode = entry.inode;
            let mut all = std::mem::take(&mut out);
            if folder.node == ROOT && name == b".." {
                // What is above the share is none of the guest's business.
                inode = self.inodes.status(ROOT).map_or(0, |status| status.0.stx_ino);
            }
            if plus {
                match self.plus(&folder, entry) {
                    Ok(about) => all = all.bytes(&about.0),
                    Err(error) => {
                        failed = Some(error);
                        return false;
                    }
                }
            }
            let all = all.u64(inode).u64(entry.next).u32(name.len() as u32);
            let all = all.u32(entry_type(entry.kind)).bytes(name);
            let pad = all.0.len().next_multiple_of(8) - all.0.len();
            out = all.zeroes(pad);
            true
        })?;
        match failed {
            Some(error) if out.0.is_empty() => Err(error),
            _ => Ok(Reply::Bytes(out.0)),
        }
    }

    /// What READDIRPLUS says of an entry; nothing where the guest shall look it up itself.
    fn plus(&self, folder: &OpenFolder, entry: &FolderEntry) -> Result<Out, Errno> {
        let nothing = || Ok(Out::default().zeroes(ENTRY));
        let Some(fd) = folder.fd.as_ref().filter(|_| !is_dots(entry)) else { return nothing() };
        let Ok(status) = Status::of(fd, &entry.name) else { return nothing() };
        if !self.is_on_mount_of(folder.node, &status)? {
            return nothing();
        }
        self.entry_of(folder.node, &entry.name, &status, false, None)
    }
}

fn is_dots(entry: &FolderEntry) -> bool {
    matches!(entry.name.to_bytes(), b"." | b"..")
}
