//! An open image: what is shared between threads, and when.
//!
//! Invariant: whoever moves data holds `users`: shared while clusters stay what they are, alone
//! while clusters are allocated or freed. So no cluster changes its meaning under a read or write
//! that has looked it up, and `meta` is locked for look-ups only.

use std::sync::{Arc, Mutex, RwLock};

use crate::bytes::lock;
use crate::error::DiskError;
use crate::host::HostFile;
use crate::layer::Layer;

use super::check;
use super::header::{Compression, Header};
use super::meta::Meta;

/// A qcow2 image with what is behind it.
#[derive(Debug)]
pub(crate) struct Qcow2 {
    pub(super) file: Arc<HostFile>,
    pub(super) meta: Mutex<Meta>,
    pub(super) users: RwLock<()>,
    pub(super) backing: Option<Arc<Layer>>,
    /// The compressed cluster that was read last: its place, and what was in it.
    pub(super) inflated: Mutex<Option<(u64, Arc<Vec<u8>>)>>,
    pub(super) compression: Compression,
    pub(super) cluster: u64,
    pub(super) capacity: u64,
    writable: bool,
}

/// Brings an image into the state that a writer may start from.
pub(crate) fn make_writable(file: &HostFile, mut header: Header) -> Result<Header, DiskError> {
    if header.is_marked_corrupt() {
        return Err(DiskError::MarkedCorrupt(file.path().to_path_buf()));
    }
    header.clear_autoclear(file)?;
    if header.is_dirty() {
        let found = check::check(file, &header, true, &mut |_, _| {})?;
        if found.errors > 0 {
            let what = format!("{} errors, after it was not closed", found.errors);
            return Err(file.corrupt(what));
        }
        header = Header::load(file)?;
    }
    Ok(header)
}

impl Qcow2 {
    /// Opens what [`Header::load`] and [`Header::refuse`] accepted.
    pub(crate) fn open(
        file: HostFile,
        header: Header,
        backing: Option<Arc<Layer>>,
        writable: bool,
    ) -> Result<Self, DiskError> {
        let file = Arc::new(file);
        let (compression, cluster) = (header.compression, header.cluster());
        let capacity = header.size.next_multiple_of(512);
        let meta = Meta::load(Arc::clone(&file), header)?;
        Ok(Self {
            file,
            meta: Mutex::new(meta),
            users: RwLock::new(()),
            backing,
            inflated: Mutex::new(None),
            compression,
            cluster,
            capacity,
            writable,
        })
    }

    /// The same, without care for what a crash leaves: for what a crash removes.
    pub(crate) fn without_syncs(self) -> Self {
        lock(&self.meta).syncs = false;
        self
    }

    pub(crate) fn file(&self) -> &HostFile {
        &self.file
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    pub(crate) fn flush(&self) -> Result<(), DiskError> {
        lock(&self.meta).flush()
    }

    pub(super) fn has_backing(&self) -> bool {
        self.backing.is_some()
    }
}

impl Drop for Qcow2 {
    fn drop(&mut self) {
        if self.writable {
            // Whoever cares for an error has flushed before; a guest's cache was never more.
            let _ = self.flush();
        }
    }
}
