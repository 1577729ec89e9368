//! Kernel modules, in the order the host resolved.
//!
//! A module goes in without its signature first. Who gave the guest its kernel gave it the modules, and
//! checking an RSA signature costs an emulated processor as much as ten times the loading; the kernel
//! notes an unsigned module and takes it, unless it is told to insist: then it gets the whole file.
//! Invariant: files are uncompressed (the host saw to it), and a module that is already there is
//! no trouble.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use protocol::{Module, ModuleTrigger};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

/// The PCI vendor of every virtio device (virtio 1.3, 4.1.2).
const VIRTIO_VENDOR: &str = "0x1af4";

/// Most commands are over by then.
const PATIENCE: Duration = Duration::from_secs(1);

/// The initramfs, where modules lie, also when `/` is another directory.
static INITRAMFS: OnceLock<OwnedFd> = OnceLock::new();

/// Loads what this machine needs; gives what went wrong. `/` is the initramfs still.
pub(crate) fn load(modules: &[Module]) -> Vec<String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if let Ok(initramfs) = rustix::fs::open("/", flags, Mode::empty()) {
        INITRAMFS.get_or_init(|| initramfs);
    }
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
    let failed = |error: &dyn std::fmt::Display| format!("cannot load {}: {error}", path.display());
    let bytes = read(path).map_err(|error| failed(&error))?;
    let image = without_signature(&bytes);
    let mut loaded = rustix::system::init_module(image, c"");
    if image.len() < bytes.len() && !matches!(loaded, Ok(()) | Err(Errno::EXIST)) {
        loaded = rustix::system::init_module(&bytes, c"");
    }
    match loaded {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(failed(&error)),
    }
}

/// A file of the initramfs.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let Some(initramfs) = INITRAMFS.get() else { return std::fs::read(path) };
    let path = path.strip_prefix("/").unwrap_or(path);
    let file = openat(initramfs, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::new();
    File::from(file).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The module in a file (include/linux/module_signature.h): what precedes the signature, twelve bytes
/// about it, of which the last four are its length, and the marker.
fn without_signature(bytes: &[u8]) -> &[u8] {
    const MARKER: &[u8] = b"~Module signature appended~\n";
    let cut = || {
        let about = bytes.strip_suffix(MARKER)?;
        let (signed, length) = about.split_last_chunk::<4>()?;
        let more = 8 + u32::from_be_bytes(*length) as usize;
        signed.get(..signed.len().checked_sub(more)?)
    };
    cut().unwrap_or(bytes)
}

/// Whether the kernel has found any virtio device, whatever it is.
pub(crate) fn has_virtio() -> bool {
    std::fs::read_dir("/sys/bus/virtio/devices").is_ok_and(|mut devices| devices.next().is_some())
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

#[cfg(test)]
mod tests {
    use super::without_signature;

    #[test]
    fn a_signature_is_cut_off_and_nothing_else() {
        let about = [&[0; 8][..], &5_u32.to_be_bytes()].concat();
        let signed = |signature: &[u8]| {
            [b"module", signature, &about, b"~Module signature appended~\n"].concat()
        };
        assert_eq!(without_signature(&signed(b"12345")), b"module");
        let short = [&about[..], b"~Module signature appended~\n"].concat();
        assert_eq!(without_signature(&short), short, "longer than the file: none");
        assert_eq!(without_signature(b"module"), b"module");
        assert_eq!(without_signature(b""), b"");
    }
}
