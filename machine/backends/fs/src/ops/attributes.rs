//! Extended attributes. Those of users only, and on shares that can be written to: others mean
//! something to the host alone, and a guest that hears ENOSYS once does not ask for every file.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FileType, XattrFlags};
use rustix::fs::{getxattr, listxattr, removexattr, setxattr};
use rustix::io::Errno;

use crate::host::Descriptors;
use crate::limits::LONGEST_VALUE;
use crate::server::{Done, Reply, Server};
use crate::wire::{Args, Out};

const USERS: &[u8] = b"user.";

impl Server {
    /// A node's path for these calls. Only files and directories have attributes of users.
    /// The descriptor is to live as long as the path is used.
    fn with_attributes(&self, node: u64) -> Result<Option<(CString, Arc<OwnedFd>)>, Errno> {
        let known = self.inodes.node(node)?;
        match known.kind {
            FileType::RegularFile | FileType::Directory if !known.covered => {
                let fd = self.inodes.fd(node)?;
                Ok(Some((Descriptors::path(&*fd), fd)))
            }
            _ => Ok(None),
        }
    }

    pub(crate) fn get_attribute(&self, node: u64, mut args: Args<'_>) -> Done {
        if !self.writable {
            return Err(Errno::NOSYS);
        }
        let size = args.u32()? as usize;
        args.take(4)?;
        let name = args.string()?;
        let Some((path, _fd)) = self.with_attributes(node)? else { return Err(Errno::NODATA) };
        if !is_users(name) {
            return Err(Errno::NODATA);
        }
        let mut value = vec![0; LONGEST_VALUE];
        let length = getxattr(path, name, value.as_mut_slice())?;
        sized(&value[..length], size)
    }

    pub(crate) fn set_attribute(&self, node: u64, mut args: Args<'_>) -> Done {
        let (size, flags) = (args.u32()? as usize, args.u32()?);
        let name = args.string()?;
        let value = args.take(size)?;
        if !is_users(name) {
            return Err(Errno::OPNOTSUPP);
        }
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        let Some((path, _fd)) = self.with_attributes(node)? else { return Err(Errno::PERM) };
        setxattr(path, name, value, flags)?;
        Ok(Reply::Bytes(Vec::new()))
    }

    pub(crate) fn list_attributes(&self, node: u64, mut args: Args<'_>) -> Done {
        if !self.writable {
            return Err(Errno::NOSYS);
        }
        let size = args.u32()? as usize;
        let Some((path, _fd)) = self.with_attributes(node)? else { return sized(&[], size) };
        let mut names = vec![0; LONGEST_VALUE];
        let length = listxattr(path, names.as_mut_slice())?;
        let names = names[..length].split_inclusive(|byte| *byte == 0);
        let theirs: Vec<u8> =
            names.filter(|name| name.starts_with(USERS)).flatten().copied().collect();
        sized(&theirs, size)
    }

    pub(crate) fn remove_attribute(&self, node: u64, mut args: Args<'_>) -> Done {
        let name = args.string()?;
        if !is_users(name) {
            return Err(Errno::NODATA);
        }
        let Some((path, _fd)) = self.with_attributes(node)? else { return Err(Errno::NODATA) };
        removexattr(path, name)?;
        Ok(Reply::Bytes(Vec::new()))
    }
}

fn is_users(name: &CStr) -> bool {
    name.to_bytes().starts_with(USERS) && name.to_bytes().len() > USERS.len()
}

/// The bytes, or with no room asked for how many there are.
fn sized(bytes: &[u8], room: usize) -> Done {
    match room {
        0 => Ok(Reply::Bytes(Out::default().u32(bytes.len() as u32).u32(0).0)),
        room if bytes.len() > room => Err(Errno::RANGE),
        _ => Ok(Reply::Bytes(bytes.to_vec())),
    }
}
