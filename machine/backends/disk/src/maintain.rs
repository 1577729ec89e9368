//! Resizing and checking images that nobody uses.

use std::path::{Path, PathBuf};

use crate::chain;
use crate::create::lock_for_writing;
use crate::disk::OpenOptions;
use crate::error::DiskError;
use crate::format::Format;
use crate::host::HostFile;
use crate::layer::Layer;
use crate::qcow2::{self, Header};

/// What a check found, after repairs if they were asked for.
#[derive(Clone, Debug)]
pub struct Check {
    /// The image's format; a raw image has nothing that could be wrong.
    pub format: Format,
    /// Clusters that are used by nothing, or counted too often: lost space.
    pub leaks: u64,
    /// Contradictions: data is in danger.
    pub errors: u64,
    /// How many of both were repaired; they do not count above.
    pub repaired: u64,
    /// Clusters of the disk that have a place in the file.
    pub allocated_clusters: u64,
    /// Whether the image said of itself that it was not closed, or is damaged.
    pub marked: bool,
    /// The first problems in words.
    pub problems: Vec<String>,
}

impl Check {
    /// Whether nothing is wrong (any more).
    pub fn is_sound(&self) -> bool {
        self.leaks == 0 && self.errors == 0 && !self.marked
    }
}

/// Checks an image; `progress` gets tables done, of how many.
///
/// # Errors
/// It cannot be opened or locked; its tables cannot be read or, for a repair, written.
pub fn check(
    path: &Path,
    format: Option<Format>,
    repair: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Check, DiskError> {
    let file = if repair {
        lock_for_writing(path)?
    } else {
        let file = HostFile::open(path, false)?;
        chain::lock(&file, false)?;
        file
    };
    let (format, _) = chain::settle(&file, format)?;
    if format == Format::Raw {
        let problems = Vec::new();
        return Ok(Check {
            format,
            leaks: 0,
            errors: 0,
            repaired: 0,
            allocated_clusters: 0,
            marked: false,
            problems,
        });
    }
    let header = Header::load(&file)?;
    header.refuse(&file)?;
    let found = qcow2::check(&file, &header, repair, progress)?;
    let header = if repair { Header::load(&file)? } else { header };
    Ok(Check {
        format,
        leaks: found.leaks,
        errors: found.errors,
        repaired: found.repaired,
        allocated_clusters: found.allocated,
        marked: header.is_dirty() || header.is_marked_corrupt(),
        problems: found.problems,
    })
}

/// Gives a disk another size in bytes, rounded up to 512; gives the old and the new one. A smaller
/// one loses its end, so that must be `shrink`.
///
/// # Errors
/// The image is in use, would lose its end, cannot have that size, or cannot be written.
pub fn resize(
    path: &Path,
    options: &OpenOptions,
    size: u64,
    shrink: bool,
) -> Result<(u64, u64), DiskError> {
    let bad = |why| DiskError::BadSize { path: PathBuf::from(path), size, why };
    let new = size.checked_next_multiple_of(512).filter(|size| *size > 0 && *size < 1 << 62);
    let new = new.ok_or_else(|| bad("that is no disk"))?;
    let layer = chain::open(path, options)?;
    let old = layer.capacity();
    if new < old && !shrink {
        return Err(bad("what lies past that would be lost (--shrink if it may)"));
    }
    match layer {
        Layer::Raw(raw) if raw.file().is_device() => return Err(bad("a device has its own size")),
        Layer::Raw(raw) => {
            raw.file().set_len(new)?;
            raw.file().sync()?;
        }
        Layer::Qcow2(qcow2) => drop(qcow2.resize(new)?),
    }
    Ok((old, new))
}
