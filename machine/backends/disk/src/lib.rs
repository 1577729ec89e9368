//! Disk images on the host: raw files, block devices and qcow2 with backing files, as one
//! thread-safe [`Disk`], with a [`Lane`] for many requests at a time; and what one does with images: create, look at, resize,
//! check, convert.
//!
//! Invariants: an image is a stranger's file: every walk and allocation is bounded by what the file
//! really holds, and no other file is opened before the chain that names it was examined. A
//! format is settled when an image is opened and never again. Whatever fails is a [`DiskError`]
//! that names the file and the way out.
#![deny(unsafe_code)]

mod bytes;
mod chain;
mod copy;
mod create;
mod disk;
mod error;
mod format;
mod host;
mod info;
mod lane;
mod layer;
mod locks;
mod maintain;
mod qcow2;
mod raw;
mod sys;

pub use copy::{Progress, copy};
pub use create::{Create, create};
pub use disk::{Disk, OpenOptions};
pub use error::DiskError;
pub use format::Format;
pub use info::{Info, SnapshotInfo, info};
pub use lane::{Alarm, Lane, Pieces};
pub use maintain::{Check, check, resize};
