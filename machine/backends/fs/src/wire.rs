//! The protocol's bytes (include/uapi/linux/fuse.h, versions 7.31 to 7.38), little-endian.
//!
//! Invariant: [`Args`] never reads past the request; what is missing is EINVAL.

use std::ffi::CStr;

use rustix::io::Errno;

/// The version this speaks.
pub(crate) const MAJOR: u32 = 7;
pub(crate) const MINOR: u32 = 38;
/// The oldest one it understands (Linux 5.4, the first with virtio-fs).
pub(crate) const OLDEST_MINOR: u32 = 31;

pub(crate) const IN_HEADER: usize = 40;
pub(crate) const OUT_HEADER: usize = 16;
/// The root directory's node.
pub(crate) const ROOT: u64 = 1;

/// What is asked.
#[rustfmt::skip]
#[allow(missing_docs)]
pub(crate) mod opcode {
    pub(crate) const LOOKUP: u32 = 1;        pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;       pub(crate) const SETATTR: u32 = 4;
    pub(crate) const READLINK: u32 = 5;      pub(crate) const SYMLINK: u32 = 6;
    pub(crate) const MKNOD: u32 = 8;         pub(crate) const MKDIR: u32 = 9;
    pub(crate) const UNLINK: u32 = 10;       pub(crate) const RMDIR: u32 = 11;
    pub(crate) const RENAME: u32 = 12;       pub(crate) const LINK: u32 = 13;
    pub(crate) const OPEN: u32 = 14;         pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;        pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;      pub(crate) const FSYNC: u32 = 20;
    pub(crate) const SETXATTR: u32 = 21;     pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;    pub(crate) const REMOVEXATTR: u32 = 24;
    pub(crate) const FLUSH: u32 = 25;        pub(crate) const INIT: u32 = 26;
    pub(crate) const OPENDIR: u32 = 27;      pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;   pub(crate) const FSYNCDIR: u32 = 30;
    pub(crate) const GETLK: u32 = 31;        pub(crate) const SETLK: u32 = 32;
    pub(crate) const SETLKW: u32 = 33;
    pub(crate) const CREATE: u32 = 35;       pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const DESTROY: u32 = 38;      pub(crate) const IOCTL: u32 = 39;
    pub(crate) const BATCH_FORGET: u32 = 42; pub(crate) const FALLOCATE: u32 = 43;
    pub(crate) const READDIRPLUS: u32 = 44;  pub(crate) const RENAME2: u32 = 45;
    pub(crate) const LSEEK: u32 = 46;        pub(crate) const COPY_FILE_RANGE: u32 = 47;
    pub(crate) const SYNCFS: u32 = 50;       pub(crate) const STATX: u32 = 52;
}

/// What both sides may agree on at INIT.
#[rustfmt::skip]
pub(crate) mod init {
    pub(crate) const ASYNC_READ: u64 = 1;            pub(crate) const POSIX_LOCKS: u64 = 1 << 1;
    pub(crate) const ATOMIC_O_TRUNC: u64 = 1 << 3;   pub(crate) const BIG_WRITES: u64 = 1 << 5;
    pub(crate) const FLOCK_LOCKS: u64 = 1 << 10;     pub(crate) const AUTO_INVAL_DATA: u64 = 1 << 12;
    pub(crate) const DO_READDIRPLUS: u64 = 1 << 13;  pub(crate) const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub(crate) const ASYNC_DIO: u64 = 1 << 15;       pub(crate) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(crate) const MAX_PAGES: u64 = 1 << 22;       pub(crate) const CACHE_SYMLINKS: u64 = 1 << 23;
    pub(crate) const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub(crate) const INIT_EXT: u64 = 1 << 30;
}

bitflags::bitflags! {
    /// What SETATTR changes (FATTR_*).
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Change: u32 {
        const MODE = 1;
        const UID = 1 << 1;
        const GID = 1 << 2;
        const SIZE = 1 << 3;
        const ATIME = 1 << 4;
        const MTIME = 1 << 5;
        const HANDLE = 1 << 6;
        const ATIME_NOW = 1 << 7;
        const MTIME_NOW = 1 << 8;
        const KILL_SUIDGID = 1 << 11;
    }
}

/// Answers to OPEN (FOPEN_*).
pub(crate) const KEEP_CACHE: u32 = 1 << 1;
pub(crate) const CACHE_DIR: u32 = 1 << 3;

/// One request's head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) length: u32,
    pub(crate) opcode: u32,
    pub(crate) unique: u64,
    pub(crate) node: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Header {
    pub(crate) fn decode(bytes: &[u8; IN_HEADER]) -> Self {
        let mut args = Args(bytes);
        let mut word = || args.u32().unwrap_or_default();
        let (length, opcode) = (word(), word());
        let mut long = || u64::from(word()) | u64::from(word()) << 32;
        let (unique, node) = (long(), long());
        Self { length, opcode, unique, node, uid: word(), gid: word() }
    }
}

/// The head of an answer with this many bytes behind it.
pub(crate) fn out_header(unique: u64, error: i32, bytes: usize) -> [u8; OUT_HEADER] {
    let mut header = [0; OUT_HEADER];
    header[..4].copy_from_slice(&((OUT_HEADER + bytes) as u32).to_le_bytes());
    header[4..8].copy_from_slice(&(-error).to_le_bytes());
    header[8..].copy_from_slice(&unique.to_le_bytes());
    header
}

/// What is left of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Args<'a>(pub(crate) &'a [u8]);

impl<'a> Args<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Errno> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Errno> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Errno> {
        Ok(u64::from(self.u32()?) | u64::from(self.u32()?) << 32)
    }

    /// Bytes up to a NUL, which is there.
    pub(crate) fn string(&mut self) -> Result<&'a CStr, Errno> {
        let text = CStr::from_bytes_until_nul(self.0).map_err(|_| Errno::INVAL)?;
        self.0 = &self.0[text.to_bytes_with_nul().len()..];
        Ok(text)
    }

    /// A name in a directory: one component, neither the directory itself nor its parent.
    pub(crate) fn name(&mut self) -> Result<&'a CStr, Errno> {
        let name = self.string()?;
        match name.to_bytes() {
            b"" | b"." | b".." => Err(Errno::INVAL),
            bytes if bytes.contains(&b'/') => Err(Errno::INVAL),
            bytes if bytes.len() > 255 => Err(Errno::NAMETOOLONG),
            _ => Ok(name),
        }
    }
}

/// An answer's bytes, put together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Out(pub(crate) Vec<u8>);

impl Out {
    pub(crate) fn u16(mut self, value: u16) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn zeroes(mut self, count: usize) -> Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_component() {
        let name = |bytes: &'static [u8]| Args(bytes).name().map(CStr::to_bytes);
        assert_eq!(name(b"a b\0"), Ok(b"a b".as_slice()));
        for wrong in [b"\0".as_slice(), b".\0", b"..\0", b"a/b\0", b"/\0", b"open end"] {
            assert_eq!(name(wrong), Err(Errno::INVAL), "{wrong:?}");
        }
        let long = [[b'x'; 256].as_slice(), b"\0"].concat();
        assert_eq!(Args(&long).name(), Err(Errno::NAMETOOLONG));
        assert!(Args(&long[1..]).name().is_ok());
    }

    #[test]
    fn what_is_missing_is_an_error() {
        let mut args = Args(&[1, 0, 0, 0, 2, 0]);
        assert_eq!(args.u32(), Ok(1));
        assert_eq!(args.u32(), Err(Errno::INVAL));
        assert_eq!(args.u64(), Err(Errno::INVAL));
    }
}
