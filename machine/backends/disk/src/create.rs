//! New images.

use std::path::{Path, PathBuf};

use crate::chain;
use crate::disk::{Disk, OpenOptions};
use crate::error::DiskError;
use crate::format::Format;
use crate::host::HostFile;
use crate::qcow2::{self, Backing, Layout};

/// What a new image is to be.
#[derive(Clone, Debug)]
pub struct Create {
    /// How it holds its disk.
    pub format: Format,
    /// Bytes of the disk; the backing file's if left out.
    pub size: Option<u64>,
    /// A qcow2 image's cluster in bytes, a power of two from 512 to 2 MiB; 64 KiB if left out.
    pub cluster_size: Option<u64>,
    /// What shows through where nothing was written (qcow2).
    pub backing: Option<PathBuf>,
}

/// Makes an image; there must be no file of that name. Gives the disk's bytes.
///
/// # Errors
/// It exists, cannot be written, cannot have that size; the backing file cannot be opened.
pub fn create(path: &Path, wish: &Create) -> Result<u64, DiskError> {
    let unsupported = |feature: &str, fix: &str| DiskError::Unsupported {
        path: path.to_path_buf(),
        feature: feature.into(),
        fix: fix.into(),
    };
    if wish.format == Format::Raw && (wish.backing.is_some() || wish.cluster_size.is_some()) {
        let feature = "cannot have a backing file or clusters as a raw image";
        return Err(unsupported(feature, "choose qcow2 (--format qcow2)"));
    }
    let cluster = wish.cluster_size.unwrap_or(64 << 10);
    if !cluster.is_power_of_two() || !(512..=2 << 20).contains(&cluster) {
        let feature = format!("cannot have clusters of {cluster} bytes");
        return Err(unsupported(&feature, "choose a power of two from 512 to 2M"));
    }
    let backing = wish.backing.as_deref().map(|file| behind(path, file)).transpose()?;
    let size = match (wish.size, &backing) {
        (Some(size), _) => size,
        (None, Some((_, size))) => *size,
        (None, None) => {
            return Err(unsupported("needs a size", "name one: 10G, 512M"));
        }
    };
    let size = size.checked_next_multiple_of(512).filter(|size| *size < 1 << 62 && *size > 0);
    let Some(size) = size else {
        let (path, size) = (path.to_path_buf(), wish.size.unwrap_or(0));
        return Err(DiskError::BadSize { path, size, why: "that is no disk" });
    };
    let file = HostFile::create(path)?;
    let made = match wish.format {
        Format::Raw => file.set_len(size),
        Format::Qcow2 => {
            let backing = backing.map(|(backing, _)| backing);
            let cluster_bits = cluster.trailing_zeros();
            qcow2::write_empty(&file, &Layout { size, cluster_bits, backing })
        }
    };
    let made = made.and_then(|()| file.sync());
    if made.is_err() {
        // It was ours alone; the error is what matters.
        let _ = std::fs::remove_file(path);
    }
    made.map(|()| size)
}

/// The backing file as the image is to name it, and its size. The chain is opened once, so that
/// an image is never made that cannot be opened.
fn behind(path: &Path, file: &Path) -> Result<(Backing, u64), DiskError> {
    let backing = file.to_path_buf();
    let options = OpenOptions { read_only: true, backing: vec![backing], ..OpenOptions::default() };
    let disk = Disk::open(file, &options)?;
    let trouble = |path: &Path, source| DiskError::Open { path: path.to_path_buf(), source };
    let absolute = std::fs::canonicalize(file).map_err(|source| trouble(file, source))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let folder = std::fs::canonicalize(folder).map_err(|source| trouble(folder, source))?;
    // Beside the image or below: so both can move together.
    let name = absolute.strip_prefix(&folder).unwrap_or(&absolute);
    let name = name.to_str().filter(|name| name.len() <= 1023);
    let name = name.ok_or_else(|| DiskError::Unsupported {
        path: path.to_path_buf(),
        feature: "cannot name its backing file".into(),
        fix: "give that a name of UTF-8, of at most 1023 bytes".into(),
    })?;
    // A colon would make it a protocol for others who read the image.
    let name = if name.contains(':') && !name.starts_with('/') {
        format!("./{name}")
    } else {
        name.into()
    };
    let format = Some(disk.format().name().to_owned());
    Ok((Backing { file: name, format }, disk.capacity()))
}

/// Opens an image to change it, alone.
pub(crate) fn lock_for_writing(path: &Path) -> Result<HostFile, DiskError> {
    let file = HostFile::open(path, true)?;
    chain::lock(&file, true)?;
    Ok(file)
}
