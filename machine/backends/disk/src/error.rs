//! What can go wrong with an image: which file, what, why, and what to do.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why an image cannot be opened, or an operation on it failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DiskError {
    /// The file cannot be opened.
    #[error("cannot open {}", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not there.
    #[error("there is no disk image {path}: `roof disk create {path} 10G` makes one", path = .0.display())]
    Missing(PathBuf),
    /// The file may be read only.
    #[error("the disk image {} cannot be written: attach it with `ro`, or with `cow` to have writes that vanish", .path.display())]
    NotWritable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Neither a regular file nor a block device.
    #[error("{} is {what}, not a file or block device: name the image itself", .path.display())]
    NotAnImage {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The host failed to read or write.
    #[error("cannot {what} {} at byte {offset}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `read`, `write`, …
        what: &'static str,
        /// Where in the file.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The host has no room for what was written.
    #[error("no room to write {} at byte {offset}: make space where it is stored and try again", .path.display())]
    HostFull {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        offset: u64,
        /// The host's words.
        #[source]
        source: io::Error,
    },
    /// A write to what was opened for reading.
    #[error("{} is open read-only: open it without `ro`, or with `cow` to write beside it", .0.display())]
    ReadOnly(PathBuf),
    /// A request reaches past the disk's end.
    #[error("{length} bytes at byte {offset} are not all inside {} ({capacity} bytes)", .path.display())]
    OutOfRange {
        /// The image.
        path: PathBuf,
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        length: u64,
        /// Bytes of the disk.
        capacity: u64,
    },
    /// Another program's format.
    #[error("{} is a {format} image, which is not supported: convert it (qemu-img convert -O qcow2), or say format=raw if its bytes are the disk", .path.display())]
    ForeignFormat {
        /// The file.
        path: PathBuf,
        /// Whose.
        format: &'static str,
    },
    /// It was said to be of a format that it is not of.
    #[error("{} is no {wanted} image: leave the format out to have it detected", .path.display())]
    WrongFormat {
        /// The file.
        path: PathBuf,
        /// The format asked for.
        wanted: &'static str,
    },
    /// The guest would make a raw image look like another format.
    #[error("the guest would turn {} into what looks like a {format} image, and the next start would believe it: say format=raw if that is meant", .path.display())]
    ForeignHeader {
        /// The raw image.
        path: PathBuf,
        /// What its first sector would say.
        format: &'static str,
    },
    /// Somebody else has it open.
    #[error("{} is in use by {by}: end that first, or open it with `ro` (if that only reads, too) or `cow` on a copy", .path.display())]
    InUse {
        /// The file.
        path: PathBuf,
        /// Who, as far as one can see.
        by: String,
    },
    /// The host itself uses a block device.
    #[error("the host uses {}: it is mounted, swap space or a part of another device; end that first (findmnt, swapon --show and lsblk tell), or attach it with `cow`", .0.display())]
    DeviceInUse(PathBuf),
    /// A feature of the format that is not there.
    #[error("{} {feature}: {fix}", .path.display())]
    Unsupported {
        /// The image.
        path: PathBuf,
        /// `is encrypted`, …
        feature: String,
        /// What to do.
        fix: String,
    },
    /// The image contradicts itself.
    #[error("{} is damaged: {what}; `roof disk check` says more", .path.display())]
    Corrupt {
        /// The image.
        path: PathBuf,
        /// What is wrong, with its place.
        what: String,
    },
    /// The file ends before what it refers to.
    #[error("{} is cut short: {what} should be at byte {offset}, past the end of the file; get the whole file", .path.display())]
    Truncated {
        /// The image.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
        /// Where it should be.
        offset: u64,
    },
    /// Another program saw damage and said so in the image.
    #[error("{} is marked as damaged: run `roof disk check --repair` on it, or open it read-only", .0.display())]
    MarkedCorrupt(PathBuf),
    /// The backing file that an image names may not be opened.
    #[error("{} wants {} as backing file, {why}: allow it by name (backing=FILE, --backing FILE) if you trust the image", .image.display(), .backing.display())]
    BackingDenied {
        /// The image.
        image: PathBuf,
        /// The file it names.
        backing: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// The chain of backing files comes back to itself.
    #[error("{} is its own backing file, through {}: one of them names the wrong file", .0.display(), .1.display())]
    BackingLoop(PathBuf, PathBuf),
    /// The chain is too long.
    #[error("{} has more than {limit} backing files behind each other: convert it to a single image (roof disk convert)", .path.display())]
    BackingDepth {
        /// The image.
        path: PathBuf,
        /// How many there may be.
        limit: usize,
    },
    /// The backing file failed.
    #[error("the backing file of {} fails", .image.display())]
    Backing {
        /// The image.
        image: PathBuf,
        /// How.
        #[source]
        source: Box<DiskError>,
    },
    /// A size that an image cannot have.
    #[error("{} cannot have {size} bytes: {why}", .path.display())]
    BadSize {
        /// The image.
        path: PathBuf,
        /// The size.
        size: u64,
        /// Why not.
        why: &'static str,
    },
    /// The temporary file of a copy-on-write disk cannot be made.
    #[error("cannot make a temporary file in {}: set TMPDIR to a directory with room", .folder.display())]
    Temporary {
        /// Where.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file to create is there already.
    #[error("{} exists already: remove it or choose another name", .0.display())]
    Exists(PathBuf),
}

impl DiskError {
    /// A file that cannot be opened.
    pub(crate) fn open(path: &Path, writable: bool, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::NotFound => Self::Missing(path),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem if writable => {
                Self::NotWritable { path, source }
            }
            _ => Self::Open { path, source },
        }
    }

    /// An operation of the host's on a file that failed.
    pub(crate) fn io(path: &Path, what: &'static str, offset: u64, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Self::HostFull { path, offset, source },
            _ => Self::Io { path, what, offset, source },
        }
    }

    pub(crate) fn corrupt(path: &Path, what: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_path_buf(), what: what.into() }
    }

    /// Whether the host had no room: what a guest may be told as such.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::HostFull { .. } => true,
            Self::Backing { source, .. } => source.is_no_space(),
            _ => false,
        }
    }
}
