//! OPEN, CREATE, READ, WRITE, RELEASE, FLUSH, FSYNC, FALLOCATE, LSEEK, COPY_FILE_RANGE: what is in
//! files.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FileType, Mode, OFlags, SeekFrom};
use rustix::fs::{copy_file_range, fallocate, fdatasync, fsync, syncfs};
use rustix::io::Errno;

use crate::attr::Status;
use crate::exchange::Exchange;
use crate::handles::OpenFile;
use crate::host;
use crate::limits::MOST_DATA;
use crate::server::{Done, Reply, Server, later, lock};
use crate::wire::{Args, Header, KEEP_CACHE, OUT_HEADER, Out, out_header};

/// Of open(2), on x86-64, as the guest's kernel sends them.
const ACCESS_MODE: u32 = 3;
/// Flags that mean to the host what they mean to the guest.
const PASSED_ON: OFlags =
    OFlags::APPEND.union(OFlags::TRUNC).union(OFlags::SYNC).union(OFlags::DSYNC);
/// Of OPEN and WRITE: the writer may not keep set-user-ID.
const OPEN_KILL_SUIDGID: u32 = 1;
const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// Of RELEASE: the file's flock(2) ends.
const DATA_ONLY: u32 = 1;

impl Server {
    /// The host's flags for a file that the guest opens.
    fn open_flags(&self, flags: u32) -> Result<OFlags, Errno> {
        let mode = OFlags::from_bits_truncate(flags & ACCESS_MODE);
        let flags = mode | OFlags::from_bits_truncate(flags).intersection(PASSED_ON);
        if !self.writable && (mode != OFlags::RDONLY || flags.contains(OFlags::TRUNC)) {
            return Err(Errno::ROFS);
        }
        Ok(flags)
    }

    pub(crate) fn open_file(&self, node: u64, mut args: Args<'_>) -> Done {
        let flags = self.open_flags(args.u32()?)?;
        let more = args.u32()?;
        if self.inodes.node(node)?.kind == FileType::Directory {
            return Err(Errno::ISDIR);
        }
        let fd = self.reopen(node, flags)?;
        if more & OPEN_KILL_SUIDGID != 0 {
            self.drop_set_id(&fd)?;
        }
        // What the guest has cached is right as long as nobody changed the file since.
        let unchanged = self.inodes.is_unchanged(node, Status::of(&fd, c"")?.stamp());
        let handle = self.handles.add_file(node, fd)?;
        let keep = if unchanged { KEEP_CACHE } else { 0 };
        Ok(Reply::Bytes(Out::default().u64(handle).u32(keep).u32(0).0))
    }

    pub(crate) fn create_file(&self, header: &Header, mut args: Args<'_>) -> Done {
        let asked = args.u32()?;
        let mode = args.u32()? & 0o1777;
        args.take(4)?;
        let more = args.u32()?;
        let name = args.name()?;
        let flags = self.open_flags(asked)?;
        let directory = self.inodes.directory(header.node)?;
        let made = host::create(&*directory, name, flags, Mode::from_raw_mode(mode));
        let (entry, fd) = match made {
            Ok(fd) => {
                let status = self.settle(header, &fd, Some(mode))?;
                (self.entry_of(header.node, name, &status, false, None)?, fd)
            }
            Err(Errno::EXIST) if asked & OFlags::EXCL.bits() == 0 => {
                let entry = self.entry(header.node, name)?;
                let node = u64::from_le_bytes(entry.0[..8].try_into().expect("eight bytes"));
                let opened = self.reopen(node, flags);
                if opened.is_err() {
                    self.inodes.forget(node, 1); // the guest never hears of it
                }
                let fd = opened?;
                if more & OPEN_KILL_SUIDGID != 0 {
                    self.drop_set_id(&fd)?;
                }
                (entry, fd)
            }
            Err(error) => return Err(error),
        };
        let node = u64::from_le_bytes(entry.0[..8].try_into().expect("eight bytes"));
        let handle = self.handles.add_file(node, fd);
        if handle.is_err() {
            self.inodes.forget(node, 1);
        }
        Ok(Reply::Bytes(entry.u64(handle?).u32(0).u32(0).0))
    }

    pub(crate) fn read(
        &self,
        header: &Header,
        mut args: Args<'_>,
        exchange: &mut dyn Exchange,
    ) -> Done {
        let (handle, at, count) = (args.u64()?, args.u64()?, args.u32()? as usize);
        let file = self.handles.file(handle)?;
        let Some(room) = exchange.writable().checked_sub(OUT_HEADER) else {
            return Ok(Reply::Nothing);
        };
        exchange.reserve(OUT_HEADER);
        let count = count.min(room).min(MOST_DATA);
        let done = exchange.read_file(file.fd.as_fd(), at, count);
        let head = match done {
            Ok(count) => out_header(header.unique, 0, count),
            Err(error) => out_header(header.unique, error.raw_os_error().unwrap_or(libc::EIO), 0),
        };
        exchange.write_start(&head);
        Ok(Reply::Sent)
    }

    pub(crate) fn write(&self, exchange: &mut dyn Exchange) -> Done {
        let mut bytes = [0; 40];
        let count = exchange.read(&mut bytes);
        let mut args = Args(&bytes[..count]);
        let (handle, at, count) = (args.u64()?, args.u64()?, args.u32()? as usize);
        let flags = args.u32()?;
        args.take(16)?;
        let file = self.handles.file(handle)?;
        if count > exchange.readable() || count > MOST_DATA {
            return Err(Errno::INVAL);
        }
        let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        let written = exchange.write_file(file.fd.as_fd(), at, count).map_err(failed)?;
        if flags & WRITE_KILL_SUIDGID != 0 {
            self.drop_set_id(&file.fd)?;
        }
        Ok(Reply::Bytes(Out::default().u32(written as u32).u32(0).0))
    }

    /// RELEASE and RELEASEDIR. What was locked through the file ends with it.
    pub(crate) fn release(&self, mut args: Args<'_>) -> Done {
        self.handles.remove(args.u64()?);
        Ok(Reply::Bytes(Vec::new()))
    }

    /// close(2) of one of the file's descriptors: this owner's locks of ranges end (fcntl(2)).
    pub(crate) fn flush(&self, node: u64, mut args: Args<'_>) -> Done {
        if !self.locks {
            return Err(Errno::NOSYS); // the guest does not ask again
        }
        args.take(16)?;
        let owner = args.u64()?;
        drop(lock(&self.owners).remove(&(node, owner)));
        Ok(Reply::Bytes(Vec::new()))
    }

    /// FSYNC and FSYNCDIR.
    pub(crate) fn sync(&self, header: &Header, mut args: Args<'_>) -> Done {
        let handle = args.u64()?;
        let data_only = args.u32()? & DATA_ONLY != 0;
        if let Ok(folder) = self.handles.folder(handle) {
            return later(header, move || match &folder.fd {
                Some(fd) => fsync(fd).map(|()| Vec::new()),
                None => Ok(Vec::new()),
            });
        }
        let file = self.handles.file(handle)?;
        later(header, move || {
            if data_only { fdatasync(&file.fd) } else { fsync(&file.fd) }.map(|()| Vec::new())
        })
    }

    pub(crate) fn sync_all(&self, header: &Header) -> Done {
        if !self.writable {
            return Ok(Reply::Bytes(Vec::new()));
        }
        let folder = self.reopen(crate::wire::ROOT, OFlags::RDONLY)?;
        later(header, move || syncfs(&folder).map(|()| Vec::new()))
    }

    pub(crate) fn allocate(&self, header: &Header, mut args: Args<'_>) -> Done {
        let file = self.handles.file(args.u64()?)?;
        let (offset, length) = (args.u64()?, args.u64()?);
        let mode = FallocateFlags::from_bits(args.u32()?).ok_or(Errno::OPNOTSUPP)?;
        let end = offset.checked_add(length).and_then(|end| i64::try_from(end).ok());
        if end.is_none() || length == 0 {
            return Err(Errno::INVAL);
        }
        later(header, move || fallocate(&file.fd, mode, offset, length).map(|()| Vec::new()))
    }

    /// SEEK_DATA and SEEK_HOLE; the guest's kernel does the others itself.
    pub(crate) fn seek(&self, mut args: Args<'_>) -> Done {
        const DATA: u32 = 3;
        const HOLE: u32 = 4;
        let file = self.handles.file(args.u64()?)?;
        let offset = args.u64()?;
        if i64::try_from(offset).is_err() {
            return Err(Errno::NXIO);
        }
        let to = match args.u32()? {
            DATA => SeekFrom::Data(offset),
            HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        Ok(Reply::Bytes(Out::default().u64(rustix::fs::seek(&file.fd, to)?).0))
    }

    pub(crate) fn copy_range(&self, header: &Header, mut args: Args<'_>) -> Done {
        /// One call's share: a copy is no reason to hold up the thread for minutes.
        const MOST: u64 = 64 << 20;
        let from: Arc<OpenFile> = self.handles.file(args.u64()?)?;
        let from_at = args.u64()?;
        args.take(8)?;
        let to = self.handles.file(args.u64()?)?;
        let (to_at, length) = (args.u64()?, args.u64()?.min(MOST));
        if i64::try_from(from_at).is_err() || i64::try_from(to_at).is_err() {
            return Err(Errno::INVAL);
        }
        later(header, move || {
            let (mut from_at, mut to_at) = (from_at, to_at);
            let count = copy_file_range(
                &from.fd,
                Some(&mut from_at),
                &to.fd,
                Some(&mut to_at),
                length as usize,
            )?;
            Ok(Out::default().u32(count as u32).u32(0).0)
        })
    }
}
