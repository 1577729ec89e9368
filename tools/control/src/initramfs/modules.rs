//! Which kernel modules come along, and from where.
//!
//! Debian builds every virtio driver and several file systems as modules; the table is in loading
//! order. Invariant: a module that is built in, or that this kernel does not have, is not in the
//! list.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use protocol::ModuleTrigger;
use protocol::ModuleTrigger::{Always, VirtioDevice};

use crate::kernel::KernelModules;

/// A module to pack.
pub(super) struct Wanted {
    pub(super) name: &'static str,
    pub(super) trigger: ModuleTrigger,
    pub(super) path: PathBuf,
}

/// The table: what a guest of ours can have, prerequisites first.
pub(super) const TABLE: &[(&str, ModuleTrigger)] = &[
    ("virtio", VirtioDevice),
    ("virtio_ring", VirtioDevice),
    ("virtio_pci_modern_dev", VirtioDevice),
    ("virtio_pci_legacy_dev", VirtioDevice),
    ("virtio_pci", VirtioDevice),
    ("virtio_blk", VirtioDevice),
    ("failover", VirtioDevice),
    ("net_failover", VirtioDevice),
    ("virtio_net", VirtioDevice),
    ("virtio_console", VirtioDevice),
    ("vsock", VirtioDevice),
    ("vmw_vsock_virtio_transport_common", VirtioDevice),
    ("vmw_vsock_virtio_transport", VirtioDevice),
    ("evdev", Always),
    ("virtio_input", VirtioDevice),
    ("fuse", VirtioDevice),
    ("virtiofs", VirtioDevice),
    ("overlay", VirtioDevice),
    ("crc16", VirtioDevice),
    ("crc32c_generic", VirtioDevice),
    ("libcrc32c", VirtioDevice),
    ("mbcache", VirtioDevice),
    ("jbd2", VirtioDevice),
    ("ext4", VirtioDevice),
];

/// The table's modules as far as this kernel has them and this machine can use them.
pub(super) fn wanted(modules: &KernelModules, virtio: bool) -> Vec<Wanted> {
    let paths = match modules {
        KernelModules::None => return Vec::new(),
        KernelModules::Directory(directory) => listed(directory),
    };
    TABLE
        .iter()
        .filter(|(_, trigger)| *trigger == Always || virtio)
        .filter_map(|(name, trigger)| {
            Some(Wanted { name, trigger: *trigger, path: paths.get(*name)?.clone() })
        })
        .collect()
}

/// What `modules.order` lists, one path from the directory per line, by module name. Installed
/// modules and a kernel's build tree both have that file.
fn listed(directory: &Path) -> HashMap<String, PathBuf> {
    let order = std::fs::read_to_string(directory.join("modules.order")).unwrap_or_default();
    let mut found = HashMap::new();
    for line in order.lines() {
        let stem = line.rsplit('/').next().unwrap_or_default();
        let stem = stem.split('.').next().unwrap_or_default().replace('-', "_");
        if !TABLE.iter().any(|(name, _)| *name == stem) {
            continue;
        }
        let base = directory.join(line).with_extension("ko");
        let variants = ["ko", "ko.xz", "ko.zst", "ko.gz"];
        let path =
            variants.iter().map(|suffix| base.with_extension(suffix)).find(|path| path.exists());
        if let Some(path) = path {
            found.insert(stem, path);
        }
    }
    found
}

impl Wanted {
    /// The module's bytes, uncompressed.
    pub(super) fn read(&self) -> Result<Vec<u8>, String> {
        let file = std::fs::File::open(&self.path).map_err(|error| error.to_string())?;
        let mut bytes = Vec::new();
        crate::compressed::reader(file)
            .and_then(|mut reader| reader.read_to_end(&mut bytes))
            .map_err(|error| error.to_string())?;
        Ok(bytes)
    }
}
