//! Shared folders: a FUSE server (protocol 7.31 and later, the kernel's include/uapi/linux/fuse.h)
//! in this process, over a directory of the host.
//!
//! ```text
//! transport: Exchange (one request, room for its answer) -> Server::serve
//!   wire (bytes <-> values) -> ops (what is asked) -> inodes, handles -> the host, by descriptor
//! ```
//!
//! Invariants: the guest is hostile: every request is parsed within its bounds, every table is
//! bounded. Nothing outside of the shared directory is reached: a node is an O_PATH descriptor or a
//! name in one, names have one component, symbolic links are never followed, no file system of the
//! kernel's own making (proc, sys) is entered, and only regular files and directories are opened.
//! What the invoking user may not do, the guest may not. No device node is made, no file gets
//! set-user-ID or set-group-ID.
#![deny(unsafe_code)]

mod attr;
mod error;
mod exchange;
mod handles;
mod host;
mod inodes;
mod limits;
mod ops;
mod remote;
mod server;
mod sys;
mod wire;

pub use error::ShareError;
pub use exchange::{Buffers, Exchange};
pub use limits::raise_open_files;
pub use server::{Access, Served, Server, ShareConfig, Task};

#[cfg(test)]
mod tests;
