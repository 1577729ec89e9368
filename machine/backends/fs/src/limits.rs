//! How much of the host one share may hold at a time.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Nodes that the guest may know at a time; each costs some 200 bytes.
pub(crate) const MOST_NODES: usize = 4 << 20;
/// Descriptors that a share holds however few the process may have.
pub(crate) const LEAST_OPEN: usize = 64;
/// More than that in one table saves nothing.
pub(crate) const MOST_OPEN: usize = 32 << 10;
/// Directories above a node that are walked to find it again.
pub(crate) const DEEPEST: usize = 1024;
/// Lock owners with a lock of their own, beside the opened files.
pub(crate) const MOST_LOCK_OWNERS: usize = 4096;
/// The longest value of an extended attribute (xattr(7)).
pub(crate) const LONGEST_VALUE: usize = 64 << 10;
/// Bytes of file contents in one request.
pub(crate) const MOST_DATA: usize = 1 << 20;
/// A request without file contents: two names, or an attribute's name and value.
pub(crate) const LONGEST_REQUEST: usize = LONGEST_VALUE + 4096 + 512;

/// Lets this process have as many open files as it may have; gives how many these are.
pub fn raise_open_files() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
        // What is refused leaves the old limit, which works for smaller trees as well.
        if setrlimit(Resource::Nofile, raised).is_ok() {
            limit = getrlimit(Resource::Nofile);
        }
    }
    limit.current.map_or(MOST_OPEN * 4, |most| most as usize)
}
