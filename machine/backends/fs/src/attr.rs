//! What the host says of a file, and how the guest is told.

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, statx};
use rustix::io::Errno;
use std::ffi::CStr;
use std::os::fd::AsFd;

use crate::wire::Out;

/// Bytes of `struct fuse_attr`.
pub(crate) const ATTR_BYTES: usize = 88;

/// Which file it is, on this host, for as long as it lives: the time of birth tells a file from an
/// earlier one of the same inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) mount: u64,
    pub(crate) device: u64,
    inode: u64,
    born: (i64, u32),
}

/// When contents were last changed: equal stamps mean that a cache is still right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    size: u64,
    modified: (i64, u32),
    changed: (i64, u32),
}

/// A file's status.
#[derive(Clone, Copy)]
pub(crate) struct Status(pub(crate) Statx);

impl Status {
    /// Of a name in a directory, or with an empty name of the descriptor itself. No link is
    /// followed, nothing is mounted for it.
    pub(crate) fn of(directory: impl AsFd, name: &CStr) -> Result<Self, Errno> {
        let mut flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        if name.is_empty() {
            flags |= AtFlags::EMPTY_PATH;
        }
        let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
        statx(directory, name, flags, mask).map(Self)
    }

    pub(crate) fn key(&self) -> Key {
        let mask = self.0.stx_mask;
        let has = |flag: StatxFlags| mask & flag.bits() != 0;
        Key {
            mount: if has(StatxFlags::MNT_ID) { self.0.stx_mnt_id } else { 0 },
            device: self.device(),
            inode: self.0.stx_ino,
            born: match has(StatxFlags::BTIME) {
                true => (self.0.stx_btime.tv_sec, self.0.stx_btime.tv_nsec),
                false => (0, 0),
            },
        }
    }

    pub(crate) fn device(&self) -> u64 {
        u64::from(self.0.stx_dev_major) << 32 | u64::from(self.0.stx_dev_minor)
    }

    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.0.stx_mode.into())
    }

    pub(crate) fn stamp(&self) -> Stamp {
        let (modified, changed) = (self.0.stx_mtime, self.0.stx_ctime);
        Stamp {
            size: self.0.stx_size,
            modified: (modified.tv_sec, modified.tv_nsec),
            changed: (changed.tv_sec, changed.tv_nsec),
        }
    }

    /// `struct fuse_attr`, with the inode number that the guest sees.
    pub(crate) fn encode(&self, inode: u64, out: Out) -> Out {
        let s = &self.0;
        // dev_t as the kernel's new_encode_dev has it.
        let (major, minor) = (s.stx_rdev_major, s.stx_rdev_minor);
        let rdev = (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12);
        out.u64(inode)
            .u64(s.stx_size)
            .u64(s.stx_blocks)
            .u64(s.stx_atime.tv_sec as u64)
            .u64(s.stx_mtime.tv_sec as u64)
            .u64(s.stx_ctime.tv_sec as u64)
            .u32(s.stx_atime.tv_nsec)
            .u32(s.stx_mtime.tv_nsec)
            .u32(s.stx_ctime.tv_nsec)
            .u32(s.stx_mode.into())
            .u32(s.stx_nlink)
            .u32(s.stx_uid)
            .u32(s.stx_gid)
            .u32(rdev)
            .u32(s.stx_blksize)
            .u32(0)
    }

    /// `struct fuse_statx`.
    pub(crate) fn encode_statx(&self, inode: u64, out: Out) -> Out {
        let s = &self.0;
        let known = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let time = |out: Out, at: rustix::fs::StatxTimestamp| {
            out.u64(at.tv_sec as u64).u32(at.tv_nsec).u32(0)
        };
        let mut out = out
            .u32(s.stx_mask & known.bits())
            .u32(s.stx_blksize)
            .u64(0)
            .u32(s.stx_nlink)
            .u32(s.stx_uid)
            .u32(s.stx_gid)
            .u16(s.stx_mode)
            .u16(0)
            .u64(inode)
            .u64(s.stx_size)
            .u64(s.stx_blocks)
            .u64(0);
        for at in [s.stx_atime, s.stx_btime, s.stx_ctime, s.stx_mtime] {
            out = time(out, at);
        }
        out.u32(s.stx_rdev_major)
            .u32(s.stx_rdev_minor)
            .u32(s.stx_dev_major)
            .u32(s.stx_dev_minor)
            .zeroes(14 * 8)
    }
}

/// A kind as directory entries have it (dirent(3), `DT_*`).
pub(crate) fn entry_type(kind: FileType) -> u32 {
    match kind {
        FileType::RegularFile => 8,
        FileType::Directory => 4,
        FileType::Symlink => 10,
        FileType::Fifo => 1,
        FileType::Socket => 12,
        FileType::CharacterDevice => 2,
        FileType::BlockDevice => 6,
        FileType::Unknown => 0,
    }
}
