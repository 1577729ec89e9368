//! Which kernel modules come along, and from where.
//!
//! Debian builds every virtio driver and several file systems as modules. The table says which a
//! guest can want and for what; what those depend on is read from the modules themselves (`depends=`
//! in .modinfo), because a kernel's build tree and an unpacked package have no modules.dep.
//! Invariants: a module comes after all it depends on; one that is built in, or that this kernel does
//! not have, is not in the list.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use protocol::ModuleTrigger;
use protocol::ModuleTrigger::{Always, Bulk, Later, VirtioDevice};

use crate::kernel::{KernelModules, depends_in};

/// What a machine can have that needs drivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hardware {
    /// Random bytes from the host.
    Entropy,
    /// Disks.
    Disk,
    /// A network card.
    Network,
    /// Further consoles.
    Console,
    /// Sockets between guest and host.
    Socket,
    /// The same, for the session alone.
    Stream,
    /// Shared folders.
    Share,
    /// Keyboard and tablet.
    Input,
    /// A balloon, by which unused memory goes back to the host.
    Balloon,
}

use Hardware::{Balloon, Console, Disk, Entropy, Input, Network, Share, Socket, Stream};

/// A module to pack.
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) trigger: ModuleTrigger,
    /// Its bytes, uncompressed, or why they cannot be had.
    pub(super) bytes: Result<Vec<u8>, String>,
}

/// What a guest of ours can want, and the hardware it is for; `None`: any guest.
pub(super) const TABLE: &[(&str, Option<Hardware>)] = &[
    ("evdev", None),
    ("virtio_rng", Some(Entropy)),
    ("virtio_blk", Some(Disk)),
    ("crc32c_generic", Some(Disk)), // ext4 asks for it by name, so it is in no `depends=`
    ("ext4", Some(Disk)),
    ("virtio_net", Some(Network)),
    ("virtio_console", Some(Console)),
    ("vmw_vsock_virtio_transport", Some(Socket)),
    ("vmw_vsock_virtio_transport", Some(Stream)), // unless it was there for sockets
    ("virtiofs", Some(Share)),
    ("overlay", Some(Share)),
    ("virtio_input", Some(Input)),
    ("virtio_balloon", Some(Balloon)),
];

/// When the modules for hardware are loaded.
fn trigger(hardware: Hardware) -> ModuleTrigger {
    match hardware {
        Balloon => Later,
        Stream => Bulk,
        _ => VirtioDevice,
    }
}

/// The transport of them all.
pub(super) const TRANSPORT: &str = "virtio_pci";

/// The modules for this hardware as far as this kernel has them, in loading order.
pub(super) fn wanted(modules: &KernelModules, hardware: &[Hardware]) -> Vec<Wanted> {
    let KernelModules::Directory(directory) = modules else { return Vec::new() };
    let mut order = Order { paths: listed(directory), seen: HashSet::new(), list: Vec::new() };
    if !hardware.is_empty() {
        order.add(TRANSPORT, VirtioDevice);
    }
    for (name, needed_for) in TABLE {
        match needed_for {
            None => order.add(name, Always),
            Some(one) if hardware.contains(one) => order.add(name, trigger(*one)),
            Some(_) => {}
        }
    }
    order.list
}

/// Modules in the order of their dependencies.
struct Order {
    paths: HashMap<String, PathBuf>,
    seen: HashSet<String>,
    list: Vec<Wanted>,
}

impl Order {
    /// Adds a module behind everything it depends on. A file that claims to depend on itself, in a
    /// circle, is added once.
    fn add(&mut self, name: &str, trigger: ModuleTrigger) {
        let Some(path) = self.paths.get(name).and_then(|base| find(base)) else { return };
        if !self.seen.insert(name.to_owned()) {
            return;
        }
        let bytes = read(&path);
        for dependency in bytes.iter().flat_map(|bytes| depends_in(bytes)) {
            self.add(&dependency, trigger);
        }
        self.list.push(Wanted { name: name.to_owned(), trigger, bytes });
    }
}

/// What `modules.order` lists, one path from the directory per line, by module name. Installed
/// modules and a kernel's build tree both have that file.
fn listed(directory: &Path) -> HashMap<String, PathBuf> {
    let order = std::fs::read_to_string(directory.join("modules.order")).unwrap_or_default();
    let name = |line: &str| {
        let stem = line.rsplit('/').next().unwrap_or_default();
        stem.split('.').next().unwrap_or_default().replace('-', "_")
    };
    order.lines().map(|line| (name(line), directory.join(line).with_extension("ko"))).collect()
}

/// The file of a module; `base` is its path without a compression's suffix.
fn find(base: &Path) -> Option<PathBuf> {
    let variants = ["ko", "ko.xz", "ko.zst", "ko.gz"];
    variants.iter().map(|suffix| base.with_extension(suffix)).find(|path| path.exists())
}

/// A module's bytes, uncompressed.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    crate::compressed::reader(file)
        .and_then(|mut reader| reader.read_to_end(&mut bytes))
        .map_err(|error| error.to_string())?;
    Ok(bytes)
}
