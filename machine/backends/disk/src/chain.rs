//! Opening an image with its backing files: which files, in which format, locked.
//!
//! Invariants: a file that an image names is opened only if the user named it, too, or if it lies
//! below the folder of that image, links resolved; it is opened for reading; no file is in a chain
//! twice, and chains end. Where an image does not say what its backing file is, a detected qcow2
//! may not name further files: it could be a raw image whose guest wrote that header.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::OpenOptions;
use crate::error::DiskError;
use crate::format::{Format, HEAD, Probed, probe};
use crate::host::HostFile;
use crate::layer::Layer;
use crate::locks;
use crate::qcow2::{self, Backing, Header, Qcow2};
use crate::raw::Raw;

/// Backing files behind each other.
const DEPTH: usize = 64;

/// Opens what `path` names.
pub(crate) fn open(path: &Path, options: &OpenOptions) -> Result<Layer, DiskError> {
    let writable = !options.read_only && !options.copy_on_write;
    let file = HostFile::open(path, writable)?;
    lock(&file, writable)?;
    let (format, probed) = settle(&file, options.format)?;
    if format == Format::Raw {
        return Ok(Layer::Raw(Raw::new(file, probed && writable)?));
    }
    let mut header = Header::load(&file)?;
    header.refuse(&file)?;
    let backing = behind(&file, &header, options)?;
    if writable {
        header = qcow2::make_writable(&file, header)?;
    }
    Ok(Layer::Qcow2(Box::new(Qcow2::open(file, header, backing, writable)?)))
}

/// The chain behind an image, the farthest opened first.
fn behind(
    file: &HostFile,
    header: &Header,
    options: &OpenOptions,
) -> Result<Option<Arc<Layer>>, DiskError> {
    let mut chain = Chain { seen: vec![(file.identity()?, file.path().to_path_buf())] };
    // From the nearest to the farthest.
    let mut links: Vec<Link> = Vec::new();
    let mut next = header.backing.clone();
    while let Some(named) = next {
        if links.len() == DEPTH {
            let path = file.path().to_path_buf();
            return Err(DiskError::BackingDepth { path, limit: DEPTH });
        }
        let link = chain.open(&named, options)?;
        next = link.header.as_ref().and_then(|header| header.backing.clone());
        links.push(link);
    }
    let mut layer: Option<Arc<Layer>> = None;
    while let Some(Link { file, header }) = links.pop() {
        layer = Some(Arc::new(match header {
            Some(header) => Layer::Qcow2(Box::new(Qcow2::open(file, header, layer, false)?)),
            None => Layer::Raw(Raw::new(file, false)?),
        }));
    }
    Ok(layer)
}

/// A file of a chain, with its header if it is qcow2.
struct Link {
    file: HostFile,
    header: Option<Header>,
}

/// The files of a chain so far: what each is, and its path; never empty.
struct Chain {
    seen: Vec<((u64, u64), PathBuf)>,
}

impl Chain {
    /// Opens the file that the last one names, where it may.
    fn open(&mut self, named: &Backing, options: &OpenOptions) -> Result<Link, DiskError> {
        let image = self.seen.last().expect("never empty").1.clone();
        let path = permitted(&image, &named.file, &options.backing)?;
        let in_image = |source: DiskError| DiskError::Backing {
            image: image.clone(),
            source: Box::new(source),
        };
        let file = HostFile::open(&path, false).map_err(in_image)?;
        let identity = file.identity()?;
        if let Some((_, earlier)) = self.seen.iter().find(|(other, _)| *other == identity) {
            return Err(DiskError::BackingLoop(earlier.clone(), image));
        }
        lock(&file, false).map_err(in_image)?;
        let stated = stated_format(&image, named)?;
        let (format, probed) = settle(&file, stated).map_err(in_image)?;
        let header = match format {
            Format::Raw => None,
            Format::Qcow2 => {
                let header = Header::load(&file).map_err(in_image)?;
                header.refuse(&file).map_err(in_image)?;
                Some(header)
            }
        };
        if probed && header.as_ref().is_some_and(|header| header.backing.is_some()) {
            let why = "whose format it does not say, and which names a further file";
            return Err(DiskError::BackingDenied { image, backing: path, why });
        }
        self.seen.push((identity, path));
        Ok(Link { file, header })
    }
}

/// The format that `image` says its backing file has.
fn stated_format(image: &Path, named: &Backing) -> Result<Option<Format>, DiskError> {
    let Some(name) = named.format.as_deref() else { return Ok(None) };
    let format = Format::by_name(name).ok_or_else(|| DiskError::Unsupported {
        path: image.to_path_buf(),
        feature: format!("has a backing file in the format {name:?}"),
        fix: "convert that to qcow2 and rebase the image (qemu-img rebase -u)".into(),
    })?;
    Ok(Some(format))
}

/// The file that `image` names as `name`, if it may be opened.
fn permitted(image: &Path, name: &str, allowed: &[PathBuf]) -> Result<PathBuf, DiskError> {
    let denied = |backing: &Path, why| DiskError::BackingDenied {
        image: image.to_path_buf(),
        backing: backing.to_path_buf(),
        why,
    };
    let plain = name.strip_prefix("file:").unwrap_or(name);
    let scheme = plain.split_once(':').map_or("", |(scheme, _)| scheme);
    if !scheme.is_empty() && !scheme.contains('/') {
        return Err(denied(Path::new(name), "which is no plain file name"));
    }
    let absolute = |source| DiskError::Open { path: image.to_path_buf(), source };
    let image_file = std::fs::canonicalize(image).map_err(absolute)?;
    let folder = image_file.parent().unwrap_or(Path::new("/"));
    let named = image.parent().unwrap_or(Path::new("")).join(plain);
    let backing = std::fs::canonicalize(&named).map_err(|source| DiskError::Backing {
        image: image.to_path_buf(),
        source: Box::new(DiskError::Open { path: named.clone(), source }),
    })?;
    let by_name =
        allowed.iter().filter_map(|one| std::fs::canonicalize(one).ok()).any(|one| one == backing);
    if by_name || backing.starts_with(folder) {
        Ok(backing)
    } else {
        Err(denied(&backing, "which lies outside of its folder"))
    }
}

/// The format of a file, and whether its content alone decided.
pub(crate) fn settle(file: &HostFile, stated: Option<Format>) -> Result<(Format, bool), DiskError> {
    if stated == Some(Format::Raw) {
        return Ok((Format::Raw, false));
    }
    let mut head = [0; HEAD];
    let count = file.read_some(0, &mut head)?;
    let path = || file.path().to_path_buf();
    match (probe(&head[..count]), stated) {
        (Probed::Ours(format), None) => Ok((format, true)),
        (Probed::Ours(format), Some(stated)) if format == stated => Ok((format, false)),
        (Probed::Nothing, None) => Ok((Format::Raw, true)),
        (Probed::Foreign(format), None) => Err(DiskError::ForeignFormat { path: path(), format }),
        (_, Some(wanted)) => Err(DiskError::WrongFormat { path: path(), wanted: wanted.name() }),
    }
}

pub(crate) fn lock(file: &HostFile, writer: bool) -> Result<(), DiskError> {
    locks::lock(file.file(), writer)
        .map_err(|by| DiskError::InUse { path: file.path().to_path_buf(), by })
}

/// A temporary qcow2 image over another image; it has no name, so it ends with its descriptor.
pub(crate) fn overlay(base: Layer) -> Result<Layer, DiskError> {
    let folder = std::env::var_os("TMPDIR").map_or_else(|| "/var/tmp".into(), PathBuf::from);
    let file = tempfile::tempfile_in(&folder)
        .map_err(|source| DiskError::Temporary { folder: folder.clone(), source })?;
    let file = HostFile::new(file, &folder.join("(temporary overlay)"))?;
    let layout = qcow2::Layout { size: base.capacity(), cluster_bits: 16, backing: None };
    qcow2::write_empty(&file, &layout)?;
    let header = Header::load(&file)?;
    let qcow2 = Qcow2::open(file, header, Some(Arc::new(base)), true)?;
    Ok(Layer::Qcow2(Box::new(qcow2.without_syncs())))
}
