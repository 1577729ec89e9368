//! Descriptors of the host: how a node is opened, and what is never entered.
//!
//! Invariant: a name is opened in a directory's descriptor without following a link or leaving it;
//! an O_PATH descriptor is opened for reading or writing by its own entry in /proc/self/fd, which
//! no rename can redirect.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstatfs, openat, openat2};
use rustix::io::Errno;

/// File systems that a kernel makes up for itself: magic numbers of include/uapi/linux/magic.h.
const KERNELS_OWN: &[u32] = &[
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x1cd1,      // devpts
    0x27_e0eb,   // cgroup
    0x6367_7270, // cgroup2
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
    0x6165_676c, // pstore
    0xde5e_81e4, // efivarfs
    0x6265_6570, // configfs
    0x6573_5543, // fusectl
    0x4249_4e4d, // binfmt_misc
    0x1980_0202, // mqueue
    0x6e73_6673, // nsfs
    0xf97c_ff8c, // selinuxfs
    0x4341_5d53, // smackfs
    0x6759_6969, // rpc_pipefs
    0x0187,      // autofs
    0x0765_5821, // resctrl
];

/// Whether a descriptor is on a file system that a guest has of its own.
pub(crate) fn is_kernels_own(fd: impl AsFd) -> Result<bool, Errno> {
    Ok(KERNELS_OWN.contains(&(fstatfs(fd)?.f_type as u32)))
}

/// Opens a name in a directory as O_PATH, a link as itself.
pub(crate) fn open_path(directory: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    openat2(directory, name, flags, Mode::empty(), resolve)
}

/// Makes a file that was not there.
pub(crate) fn create(
    directory: impl AsFd,
    name: &CStr,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    openat2(directory, name, flags, mode, resolve)
}

/// /proc/self/fd, where O_PATH descriptors have names.
#[derive(Debug)]
pub(crate) struct Descriptors(OwnedFd);

impl Descriptors {
    pub(crate) fn open() -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(CWD, c"/proc/self/fd", flags, Mode::empty()).map(Self)
    }

    /// The directory, and the name in it that is this descriptor.
    pub(crate) fn name(&self, fd: impl AsFd) -> (&OwnedFd, CString) {
        let number = fd.as_fd().as_raw_fd().to_string();
        (&self.0, CString::new(number).expect("digits have no NUL"))
    }

    /// A whole path of a descriptor, for calls that have no directory.
    pub(crate) fn path(fd: impl AsFd) -> CString {
        let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
        CString::new(path).expect("digits have no NUL")
    }

    /// Opens what an O_PATH descriptor of a regular file or directory stands for.
    pub(crate) fn reopen(&self, fd: impl AsFd, flags: OFlags) -> Result<OwnedFd, Errno> {
        let (directory, name) = self.name(fd);
        let flags = flags.difference(OFlags::NOFOLLOW) | OFlags::CLOEXEC;
        openat(directory, name, flags, Mode::empty())
    }
}
