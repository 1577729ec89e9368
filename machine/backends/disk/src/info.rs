//! What an image says of itself, without opening what is behind it or disturbing who uses it.

use std::path::{Path, PathBuf};

use crate::chain;
use crate::error::DiskError;
use crate::format::Format;
use crate::host::HostFile;
use crate::qcow2::{Compression, Header, snapshots};
use crate::raw::Raw;

/// An image as it presents itself.
#[derive(Clone, Debug)]
pub struct Info {
    /// The file.
    pub path: PathBuf,
    /// How it holds its disk.
    pub format: Format,
    /// Bytes of the disk.
    pub capacity: u64,
    /// Bytes that the host has allocated for it.
    pub allocated: u64,
    /// Bytes of a cluster (qcow2).
    pub cluster_size: Option<u64>,
    /// The format's version (qcow2).
    pub version: Option<u32>,
    /// How compressed clusters are compressed (qcow2): `zlib` or `zstd`.
    pub compression: Option<&'static str>,
    /// The backing file as the image names it.
    pub backing: Option<String>,
    /// The backing file's format as the image has it.
    pub backing_format: Option<String>,
    /// `encrypted`, `dirty`, `corrupt`, `external-data-file`, `extended-l2`, `bitmaps`.
    pub features: Vec<&'static str>,
    /// Internal snapshots.
    pub snapshots: Vec<SnapshotInfo>,
}

/// An internal snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotInfo {
    /// Its number, as text.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made, in seconds since 1970.
    pub seconds: u32,
}

/// Looks at an image.
///
/// # Errors
/// It cannot be read, or is of no known format, or its header contradicts itself.
pub fn info(path: &Path, format: Option<Format>) -> Result<Info, DiskError> {
    let file = HostFile::open(path, false)?;
    let (format, _) = chain::settle(&file, format)?;
    let allocated = file.allocated();
    let path = path.to_path_buf();
    if format == Format::Raw {
        let capacity = Raw::new(file, false)?.capacity();
        return Ok(Info {
            path,
            format,
            capacity,
            allocated,
            cluster_size: None,
            version: None,
            compression: None,
            backing: None,
            backing_format: None,
            features: Vec::new(),
            snapshots: Vec::new(),
        });
    }
    let header = Header::load(&file)?;
    let (all, _) = snapshots(&file, &header)?;
    let snapshots = all
        .into_iter()
        .map(|one| SnapshotInfo { id: one.id, name: one.name, seconds: one.seconds })
        .collect();
    Ok(Info {
        path,
        format,
        capacity: header.size.next_multiple_of(512),
        allocated,
        cluster_size: Some(header.cluster()),
        version: Some(header.version),
        compression: Some(match header.compression {
            Compression::Zlib => "zlib",
            Compression::Zstd => "zstd",
        }),
        features: header.features(),
        backing_format: header.backing.as_ref().and_then(|backing| backing.format.clone()),
        backing: header.backing.map(|backing| backing.file),
        snapshots,
    })
}
