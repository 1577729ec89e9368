//! Kernel modules, in the order the host resolved: finit_module and nothing else.
//!
//! Invariant: files are uncompressed (the host saw to it), and a module that is already there is
//! no trouble.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use protocol::{Module, ModuleTrigger};
use rustix::io::Errno;

/// The PCI vendor of every virtio device (virtio 1.3, 4.1.2).
const VIRTIO_VENDOR: &str = "0x1af4";

/// Most commands are over by then.
const PATIENCE: Duration = Duration::from_secs(1);

/// Loads what this machine needs; gives what went wrong.
pub(crate) fn load(modules: &[Module]) -> Vec<String> {
    if modules.is_empty() {
        return Vec::new();
    }
    let virtio = has_pci_vendor(VIRTIO_VENDOR);
    let wanted = modules.iter().filter(|module| match module.trigger {
        ModuleTrigger::Always => true,
        ModuleTrigger::VirtioDevice => virtio,
        ModuleTrigger::Later | ModuleTrigger::Bulk => false,
    });
    wanted.filter_map(|module| load_one(module).err()).collect()
}

/// Loads what a fast way to the host takes. Without it there is the slow one.
pub(crate) fn load_bulk(modules: &[Module]) {
    for module in modules.iter().filter(|module| module.trigger == ModuleTrigger::Bulk) {
        if let Err(trouble) = load_one(module) {
            eprintln!("oneroof-init: {trouble}");
        }
    }
}

/// Loads in the background what can wait. Nobody waits for it either, so what goes wrong is told on
/// the kernel's console.
pub(crate) fn load_later(modules: &[Module]) {
    let later = |module: &&Module| module.trigger == ModuleTrigger::Later;
    let later: Vec<Module> = modules.iter().filter(later).cloned().collect();
    if later.is_empty() || !has_pci_vendor(VIRTIO_VENDOR) {
        return;
    }
    let body = move || {
        std::thread::sleep(PATIENCE);
        for trouble in later.iter().filter_map(|module| load_one(module).err()) {
            eprintln!("oneroof-init: {trouble}");
        }
    };
    if let Err(error) = std::thread::Builder::new().name("modules".into()).spawn(body) {
        eprintln!("oneroof-init: cannot load modules later: {error}");
    }
}

fn load_one(module: &Module) -> Result<(), String> {
    let path = Path::new(OsStr::from_bytes(&module.path));
    let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    match rustix::system::finit_module(&file, c"", 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(format!("cannot load {}: {error}", path.display())),
    }
}

fn has_pci_vendor(vendor: &str) -> bool {
    let Ok(devices) = std::fs::read_dir("/sys/bus/pci/devices") else {
        return false;
    };
    devices.flatten().any(|device| {
        std::fs::read_to_string(device.path().join("vendor"))
            .is_ok_and(|found| found.trim() == vendor)
    })
}
