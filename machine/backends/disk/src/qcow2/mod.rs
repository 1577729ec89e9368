//! qcow2 images, versions 2 and 3 (QEMU, docs/interop/qcow2.txt): read and written, with backing
//! files, zero clusters, internal snapshots (kept, not made) and compressed clusters (read).
//!
//! ```text
//! L1 table --> L2 tables --> data clusters          what the disk holds
//! refcount table --> refcount blocks                which clusters of the file are used
//! ```
//!
//! Invariants: a cluster's refcount and data are on the medium before an L2 entry names it, an L2
//! table before its L1 entry does, and an entry is gone from the medium before what it named is
//! free for others: whenever the process or the host dies, the image has leaks at worst. All
//! metadata has one writer, [`meta::Meta`], behind one mutex.

mod check;
mod compressed;
mod create;
mod entry;
mod header;
mod image;
mod map;
mod meta;
mod rebuild;
mod refcounts;
mod resize;
mod snapshots;
mod tables;
mod write;

pub(crate) use check::check;
pub(crate) use create::{Layout, write_empty};
pub(crate) use header::{Backing, Compression, Header};
pub(crate) use image::{Qcow2, make_writable};
pub(crate) use snapshots::snapshots;
