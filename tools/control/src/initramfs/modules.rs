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

/// Whether a kernel has what something takes, in itself or as modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Support {
    /// It has.
    Has,
    /// It lacks this.
    Lacks(&'static str),
    /// It does not say.
    Unknown,
}

/// A driver's module, and its name for people.
pub(crate) type Driver = (&'static str, &'static str);

/// What shares take.
pub(crate) const FOR_SHARES: [Driver; 2] = [(TRANSPORT, "virtio-pci"), ("virtiofs", "virtio-fs")];
/// What the host's root takes.
pub(crate) const FOR_ROOT: [Driver; 3] = [FOR_SHARES[0], FOR_SHARES[1], ("overlay", "overlayfs")];

/// Whether a kernel has these drivers.
pub(crate) fn support(modules: &KernelModules, drivers: &[Driver]) -> Support {
    let KernelModules::Directory(directory) = modules else { return Support::Unknown };
    let paths = listed(directory);
    let built_in = std::fs::read_to_string(directory.join("modules.builtin")).ok();
    let built_in = built_in.as_deref().map(|text| text.lines().map(name_in).collect());
    let built_in: Option<HashSet<String>> = built_in;
    for (module, name) in drivers {
        if paths.get(*module).is_some_and(|base| find(base).is_some()) {
            continue;
        }
        match &built_in {
            Some(list) if list.contains(*module) => {}
            Some(_) => return Support::Lacks(name),
            None => return Support::Unknown,
        }
    }
    Support::Has
}

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
    order.lines().map(|line| (name_in(line), directory.join(line).with_extension("ko"))).collect()
}

/// A module's name, as the kernel spells it, from its path.
fn name_in(line: &str) -> String {
    let stem = line.rsplit('/').next().unwrap_or_default();
    stem.split('.').next().unwrap_or_default().replace('-', "_")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_modules_or_built_in_or_lacking() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("below it")).expect("it can be made");
            std::fs::write(path, text).expect("it can be written");
        };
        let modules = KernelModules::Directory(folder.path().into());
        assert_eq!(support(&KernelModules::None, &FOR_ROOT), Support::Unknown);
        assert_eq!(support(&modules, &FOR_ROOT), Support::Unknown, "it lists nothing");
        write("modules.order", "kernel/fs/fuse/virtiofs.ko\nkernel/fs/overlayfs/overlay.ko\n");
        write("modules.builtin", "kernel/drivers/virtio/virtio_pci.ko\n");
        assert_eq!(support(&modules, &FOR_ROOT), Support::Lacks("virtio-fs"), "no such files");
        write("kernel/fs/fuse/virtiofs.ko.xz", "");
        assert_eq!(support(&modules, &FOR_SHARES), Support::Has);
        assert_eq!(support(&modules, &FOR_ROOT), Support::Lacks("overlayfs"));
        write("modules.builtin", "kernel/drivers/virtio/virtio_pci.ko\nkernel/fs/overlay.ko\n");
        assert_eq!(support(&modules, &FOR_ROOT), Support::Has);
    }
}
