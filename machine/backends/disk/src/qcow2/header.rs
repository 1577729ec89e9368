//! The header and its extensions (section "Header").
//!
//! Invariant: a header that was loaded has a geometry that arithmetic can rely on: cluster and
//! refcount sizes in their ranges, tables aligned, bounded and inside the file.

use crate::bytes::{be32, be64};
use crate::error::DiskError;
use crate::host::HostFile;

/// Bytes of an L1 table, and of a refcount table, at most: QEMU's limits.
const L1_BYTES: u64 = 32 << 20;
pub(crate) const REFTABLE_BYTES: u64 = 8 << 20;
/// Internal snapshots at most, QEMU's limit, too.
const SNAPSHOTS: u32 = 65536;
/// Where a table may lie: offsets in entries have 56 bits.
pub(crate) const OFFSET_LIMIT: u64 = 1 << 56;

const INCOMPATIBLE_DIRTY: u64 = 1;
const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
const INCOMPATIBLE_COMPRESSION: u64 = 1 << 3;
const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;
const INCOMPATIBLE_KNOWN: u64 = 0x1f;
const AUTOCLEAR_BITMAPS: u64 = 1;

const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;

// Fields that are written again.
const AT_SIZE: u64 = 24;
const AT_L1: u64 = 36; // l1_size, then l1_table_offset
const AT_REFTABLE: u64 = 48; // offset, then clusters
const AT_INCOMPATIBLE: u64 = 72;
const AT_AUTOCLEAR: u64 = 88;

/// How compressed clusters are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    Zlib,
    Zstd,
}

/// The backing file that an image names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backing {
    pub(crate) file: String,
    pub(crate) format: Option<String>,
}

/// A qcow2 image's header, decoded.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) cluster_bits: u32,
    /// Bytes of the disk, as the image says; not always a multiple of 512.
    pub(crate) size: u64,
    pub(crate) l1_entries: u32,
    pub(crate) l1_offset: u64,
    pub(crate) reftable_offset: u64,
    pub(crate) reftable_clusters: u32,
    pub(crate) refcount_order: u32,
    pub(crate) snapshots: u32,
    pub(crate) snapshots_offset: u64,
    pub(crate) compression: Compression,
    pub(crate) backing: Option<Backing>,
    crypt: u32,
    incompatible: u64,
    autoclear: u64,
}

impl Header {
    /// Reads and checks the header of `file`.
    pub(crate) fn load(file: &HostFile) -> Result<Self, DiskError> {
        let fixed = Fixed::read(file)?;
        let incompatible = fixed.incompatible(file)?;
        let compression = fixed.compression(file, incompatible)?;
        let Fixed { bytes, version, cluster_bits, header_bytes } = &fixed;
        let third = *version == 3;
        let mut header = Self {
            version: *version,
            cluster_bits: *cluster_bits,
            size: be64(bytes, 24),
            l1_entries: be32(bytes, 36),
            l1_offset: be64(bytes, 40),
            reftable_offset: be64(bytes, 48),
            reftable_clusters: be32(bytes, 56),
            refcount_order: if third { be32(bytes, 96) } else { 4 },
            snapshots: be32(bytes, 60),
            snapshots_offset: be64(bytes, 64),
            compression,
            backing: None,
            crypt: be32(bytes, 32),
            incompatible,
            autoclear: if third { be64(bytes, 88) } else { 0 },
        };
        header.check(file)?;
        header.backing = backing(file, bytes, *header_bytes, *cluster_bits)?;
        Ok(header)
    }

    fn check(&self, file: &HostFile) -> Result<(), DiskError> {
        let cluster = self.cluster();
        if self.refcount_order > 6 {
            return Err(file.corrupt(format!("refcounts of 2^{} bits", self.refcount_order)));
        }
        if self.size >= 1 << 62 {
            let path = file.path().to_path_buf();
            let why = "that is past any disk";
            return Err(DiskError::BadSize { path, size: self.size, why });
        }
        let l1_bytes = u64::from(self.l1_entries) * 8;
        let need = self.size.div_ceil(self.l2_reach());
        if l1_bytes > L1_BYTES || need > u64::from(self.l1_entries) {
            let entries = self.l1_entries;
            return Err(file.corrupt(format!("an L1 table of {entries} entries, needed: {need}")));
        }
        let reftable_bytes = u64::from(self.reftable_clusters) * cluster;
        if reftable_bytes > REFTABLE_BYTES || self.reftable_clusters == 0 {
            return Err(file.corrupt(format!("a refcount table of {reftable_bytes} bytes")));
        }
        if self.snapshots > SNAPSHOTS {
            return Err(file.corrupt(format!("{} snapshots", self.snapshots)));
        }
        let length = file.size()?;
        for (what, offset, bytes) in [
            ("the L1 table", self.l1_offset, l1_bytes),
            ("the refcount table", self.reftable_offset, reftable_bytes),
            ("the snapshot table", self.snapshots_offset, u64::from(self.snapshots) * 40),
        ] {
            if bytes == 0 {
                continue;
            }
            if offset % cluster != 0 || offset == 0 || offset >= OFFSET_LIMIT {
                return Err(file.corrupt(format!("{what} at byte {offset}")));
            }
            if offset + bytes > length {
                return Err(file.truncated(what, offset));
            }
        }
        Ok(())
    }

    /// What the image needs that is not there.
    pub(crate) fn refuse(&self, file: &HostFile) -> Result<(), DiskError> {
        let (feature, fix) = if self.is_encrypted() {
            (
                "is encrypted",
                "decrypt it (qemu-img convert with its key) or use LUKS inside the guest",
            )
        } else if self.incompatible & INCOMPATIBLE_DATA_FILE != 0 {
            ("keeps its data in another file", "convert it (qemu-img convert -O qcow2)")
        } else if self.incompatible & INCOMPATIBLE_EXTENDED_L2 != 0 {
            ("has subclusters (extended L2 entries)", "convert it (qemu-img convert -O qcow2)")
        } else {
            return Ok(());
        };
        Err(unsupported(file, feature.into(), fix))
    }

    /// Bytes of a cluster.
    pub(crate) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// log2 of the entries of an L2 table.
    pub(crate) fn l2_bits(&self) -> u32 {
        self.cluster_bits - 3
    }

    /// Bytes of the disk that one L2 table maps.
    pub(crate) fn l2_reach(&self) -> u64 {
        1 << (self.cluster_bits + self.l2_bits())
    }

    /// log2 of the refcounts in a block.
    pub(crate) fn refblock_bits(&self) -> u32 {
        self.cluster_bits + 3 - self.refcount_order
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        self.crypt != 0
    }

    /// Its refcounts may be out of date (lazy refcounts, and nobody closed it).
    pub(crate) fn is_dirty(&self) -> bool {
        self.incompatible & INCOMPATIBLE_DIRTY != 0
    }

    pub(crate) fn is_marked_corrupt(&self) -> bool {
        self.incompatible & INCOMPATIBLE_CORRUPT != 0
    }

    /// Whether the image has dirty bitmaps that are up to date.
    pub(crate) fn has_bitmaps(&self) -> bool {
        self.autoclear & AUTOCLEAR_BITMAPS != 0
    }

    /// Features by name, for whoever looks at the image.
    pub(crate) fn features(&self) -> Vec<&'static str> {
        [
            (self.is_encrypted(), "encrypted"),
            (self.is_dirty(), "dirty"),
            (self.is_marked_corrupt(), "corrupt"),
            (self.incompatible & INCOMPATIBLE_DATA_FILE != 0, "external-data-file"),
            (self.incompatible & INCOMPATIBLE_EXTENDED_L2 != 0, "extended-l2"),
            (self.has_bitmaps(), "bitmaps"),
        ]
        .into_iter()
        .filter_map(|(is, name)| is.then_some(name))
        .collect()
    }

    /// Says that refcounts are right and nothing is damaged.
    pub(crate) fn mark_sound(&mut self, file: &HostFile) -> Result<(), DiskError> {
        self.set_incompatible(
            file,
            self.incompatible & !(INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT),
        )
    }

    fn set_incompatible(&mut self, file: &HostFile, bits: u64) -> Result<(), DiskError> {
        if bits != self.incompatible {
            file.write_all(AT_INCOMPATIBLE, &bits.to_be_bytes())?;
            file.sync()?;
            self.incompatible = bits;
        }
        Ok(())
    }

    /// Says that what depends on a writer that knows it (bitmaps) is out of date.
    pub(crate) fn clear_autoclear(&mut self, file: &HostFile) -> Result<(), DiskError> {
        if self.autoclear != 0 {
            file.write_all(AT_AUTOCLEAR, &0_u64.to_be_bytes())?;
            file.sync()?;
            self.autoclear = 0;
        }
        Ok(())
    }

    pub(crate) fn set_size(&mut self, file: &HostFile, size: u64) -> Result<(), DiskError> {
        file.write_all(AT_SIZE, &size.to_be_bytes())?;
        file.sync()?;
        self.size = size;
        Ok(())
    }

    pub(crate) fn set_l1(
        &mut self,
        file: &HostFile,
        offset: u64,
        entries: u32,
    ) -> Result<(), DiskError> {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&entries.to_be_bytes());
        bytes[4..].copy_from_slice(&offset.to_be_bytes());
        file.write_all(AT_L1, &bytes)?;
        file.sync()?;
        (self.l1_offset, self.l1_entries) = (offset, entries);
        Ok(())
    }

    pub(crate) fn set_reftable(
        &mut self,
        file: &HostFile,
        offset: u64,
        clusters: u32,
    ) -> Result<(), DiskError> {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&offset.to_be_bytes());
        bytes[8..].copy_from_slice(&clusters.to_be_bytes());
        file.write_all(AT_REFTABLE, &bytes)?;
        file.sync()?;
        (self.reftable_offset, self.reftable_clusters) = (offset, clusters);
        Ok(())
    }
}

/// The header's fields at fixed places, of which version and sizes were checked.
struct Fixed {
    bytes: [u8; 112],
    version: u32,
    cluster_bits: u32,
    header_bytes: u32,
}

impl Fixed {
    fn read(file: &HostFile) -> Result<Self, DiskError> {
        let mut bytes = [0; 112];
        let count = file.read_some(0, &mut bytes)?;
        if count < 72 {
            return Err(file.truncated("the header", count as u64));
        }
        let version = be32(&bytes, 4);
        if !(2..=3).contains(&version) {
            let fix = "convert it with a newer qemu-img (-O qcow2 -o compat=1.1)";
            return Err(unsupported(file, format!("is a qcow2 image of version {version}"), fix));
        }
        let cluster_bits = be32(&bytes, 20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(file.corrupt(format!("clusters of 2^{cluster_bits} bytes")));
        }
        let least = if version == 3 { 104 } else { 72 };
        if count < least {
            return Err(file.truncated("the header", count as u64));
        }
        let header_bytes = if version == 3 { be32(&bytes, 100) } else { 72 };
        if header_bytes < least as u32 || header_bytes > 1 << cluster_bits {
            return Err(file.corrupt(format!("a header of {header_bytes} bytes")));
        }
        Ok(Self { bytes, version, cluster_bits, header_bytes })
    }

    /// Features that whoever opens the image must know.
    fn incompatible(&self, file: &HostFile) -> Result<u64, DiskError> {
        let incompatible =
            if self.version == 3 { be64(&self.bytes, AT_INCOMPATIBLE as usize) } else { 0 };
        let unknown = incompatible & !INCOMPATIBLE_KNOWN;
        if unknown != 0 {
            let feature = format!("needs features that are not known here (bits {unknown:#x})");
            return Err(unsupported(file, feature, "convert it with the program that made it"));
        }
        Ok(incompatible)
    }

    fn compression(&self, file: &HostFile, incompatible: u64) -> Result<Compression, DiskError> {
        let kind = if self.header_bytes > 104 { self.bytes[104] } else { 0 };
        match (incompatible & INCOMPATIBLE_COMPRESSION != 0, kind) {
            (false, _) | (true, 0) => Ok(Compression::Zlib),
            (true, 1) => Ok(Compression::Zstd),
            (true, other) => {
                let feature = format!("is compressed in a way that is not known here ({other})");
                Err(unsupported(file, feature, "convert it with the program that made it"))
            }
        }
    }
}

fn unsupported(file: &HostFile, feature: String, fix: &str) -> DiskError {
    DiskError::Unsupported { path: file.path().to_path_buf(), feature, fix: fix.into() }
}

/// The backing file's name, and its format from the extensions, all in the first cluster.
fn backing(
    file: &HostFile,
    fixed: &[u8],
    header_bytes: u32,
    cluster_bits: u32,
) -> Result<Option<Backing>, DiskError> {
    let (offset, length) = (be64(fixed, 8), be32(fixed, 16) as usize);
    if offset == 0 || length == 0 {
        return Ok(None);
    }
    let cluster = 1_u64 << cluster_bits;
    if length > 1023 || offset >= cluster || offset + length as u64 > cluster {
        return Err(file.corrupt(format!("a backing file name at byte {offset}, {length} long")));
    }
    let mut name = vec![0; length];
    file.read_all(offset, &mut name, "the backing file's name")?;
    let name = String::from_utf8(name)
        .map_err(|_| file.corrupt("a backing file name that is not UTF-8"))?;
    if name.contains('\0') {
        return Err(file.corrupt("a backing file name with a zero byte"));
    }
    let mut format = None;
    let mut at = u64::from(header_bytes);
    while at + 8 <= offset {
        let mut head = [0; 8];
        file.read_all(at, &mut head, "a header extension")?;
        let (kind, length) = (be32(&head, 0), u64::from(be32(&head, 4)));
        at += 8;
        if kind == 0 {
            break;
        }
        if at + length > offset {
            return Err(file.corrupt(format!("a header extension of {length} bytes")));
        }
        if kind == EXTENSION_BACKING_FORMAT && length <= 64 {
            let mut text = vec![0; length as usize];
            file.read_all(at, &mut text, "a header extension")?;
            format = Some(String::from_utf8_lossy(&text).into_owned());
        }
        at += length.next_multiple_of(8);
    }
    Ok(Some(Backing { file: name, format }))
}

/// The bytes of a fresh header of version 3, without tables' places.
pub(crate) fn fresh(
    cluster_bits: u32,
    size: u64,
    l1: (u64, u32),
    reftable: (u64, u32),
    backing: Option<&Backing>,
) -> Vec<u8> {
    let mut bytes = vec![0; 112];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, b"QFI\xfb");
    put(4, &3_u32.to_be_bytes());
    put(20, &cluster_bits.to_be_bytes());
    put(24, &size.to_be_bytes());
    put(36, &l1.1.to_be_bytes());
    put(40, &l1.0.to_be_bytes());
    put(48, &reftable.0.to_be_bytes());
    put(56, &reftable.1.to_be_bytes());
    put(96, &4_u32.to_be_bytes());
    put(100, &112_u32.to_be_bytes());
    if let Some(format) = backing.and_then(|backing| backing.format.as_deref()) {
        bytes.extend(EXTENSION_BACKING_FORMAT.to_be_bytes());
        bytes.extend((format.len() as u32).to_be_bytes());
        bytes.extend(format.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    bytes.extend([0; 8]);
    if let Some(backing) = backing {
        let at = bytes.len() as u64;
        bytes[8..16].copy_from_slice(&at.to_be_bytes());
        bytes[16..20].copy_from_slice(&(backing.file.len() as u32).to_be_bytes());
        bytes.extend(backing.file.as_bytes());
    }
    bytes
}
