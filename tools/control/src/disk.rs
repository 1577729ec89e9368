//! Disk images as commands: create, look at, resize, check, convert.
//!
//! Invariant: what fails half way leaves no half image behind.

use std::path::{Path, PathBuf};

pub use disk::{Check, Create, Disk, DiskError, Format, Info, OpenOptions, SnapshotInfo};

/// Told how much of how much is done.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// Makes an image; gives the disk's bytes.
///
/// # Errors
/// It exists, cannot be written, cannot have that size; the backing file cannot be opened.
pub fn create(path: &Path, wish: &Create) -> Result<u64, DiskError> {
    disk::create(path, wish)
}

/// Looks at an image, in use or not.
///
/// # Errors
/// It cannot be read, or contradicts itself.
pub fn info(path: &Path, format: Option<Format>) -> Result<Info, DiskError> {
    disk::info(path, format)
}

/// Checks an image's consistency, and repairs it if asked to.
///
/// # Errors
/// It is in use or cannot be read or, for a repair, written.
pub fn check(
    path: &Path,
    format: Option<Format>,
    repair: bool,
    progress: Progress<'_>,
) -> Result<Check, DiskError> {
    disk::check(path, format, repair, progress)
}

/// A change of size.
#[derive(Clone, Debug)]
pub struct Resize {
    /// The new size in bytes, or by how much it grows.
    pub size: Size,
    /// Whether the disk's end may be lost.
    pub shrink: bool,
    /// The image's format, if it is not to be detected.
    pub format: Option<Format>,
    /// Backing files that may be opened wherever they are.
    pub backing: Vec<PathBuf>,
}

/// A size, or a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// So many bytes.
    Bytes(u64),
    /// So many bytes more.
    More(u64),
}

/// Gives an image another size; gives the old and the new one in bytes.
///
/// # Errors
/// It is in use, would lose its end, or cannot have that size.
pub fn resize(path: &Path, wish: &Resize) -> Result<(u64, u64), DiskError> {
    let size = match wish.size {
        Size::Bytes(size) => size,
        Size::More(more) => info(path, wish.format)?.capacity.saturating_add(more),
    };
    let options = OpenOptions {
        format: wish.format,
        backing: wish.backing.clone(),
        ..OpenOptions::default()
    };
    disk::resize(path, &options, size, wish.shrink)
}

/// A conversion.
#[derive(Clone, Debug)]
pub struct Convert {
    /// The source's format, if it is not to be detected.
    pub from: Option<Format>,
    /// The new image's format.
    pub to: Format,
    /// Backing files of the source that may be opened wherever they are.
    pub backing: Vec<PathBuf>,
}

/// Copies an image with all that is behind it into a new one; gives the disk's bytes. Progress is
/// in bytes.
///
/// # Errors
/// The source cannot be read, the new image exists or cannot be written; then it is removed.
pub fn convert(
    from: &Path,
    to: &Path,
    wish: &Convert,
    progress: Progress<'_>,
) -> Result<u64, DiskError> {
    let options = OpenOptions {
        format: wish.from,
        read_only: true,
        backing: wish.backing.clone(),
        ..OpenOptions::default()
    };
    let source = Disk::open(from, &options)?;
    let size = Some(source.capacity());
    let new = Create { format: wish.to, size, cluster_size: None, backing: None };
    create(to, &new)?;
    let options = OpenOptions { format: Some(wish.to), ..OpenOptions::default() };
    let copied = Disk::open(to, &options).and_then(|target| disk::copy(&source, &target, progress));
    if copied.is_err() {
        // It was made just now; the error is what matters.
        let _ = std::fs::remove_file(to);
    }
    copied.map(|()| source.capacity())
}
