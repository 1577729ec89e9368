//! Kernel modules, in the order the host resolved.
//!
//! A module goes in without its signature first. Who gave the guest its kernel gave it the modules, and
//! checking an RSA signature costs an emulated processor as much as ten times the loading; the kernel
//! notes an unsigned module and takes it, unless it is told to insist: then it gets the whole file.
//! Invariant: files are uncompressed (the host saw to it), and a module that is already there is
//! no trouble.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use protocol::{Module, ModuleTrigger};
use rustix::io::Errno;

/// The PCI vendor of every virtio device (virtio 1.3, 4.1.2).
const VIRTIO_VENDOR: &str = "0x1af4";

/// Loads what this machine needs; gives what went wrong.
pub(crate) fn load(modules: &[Module]) -> Vec<String> {
    if modules.is_empty() {
        return Vec::new();
    }
    let virtio = has_pci_vendor(VIRTIO_VENDOR);
    let wanted = modules.iter().filter(|module| match module.trigger {
        ModuleTrigger::Always => true,
        ModuleTrigger::VirtioDevice => virtio,
    });
    wanted.filter_map(|module| load_one(module).err()).collect()
}

fn load_one(module: &Module) -> Result<(), String> {
    let path = Path::new(OsStr::from_bytes(&module.path));
    let failed = |error: &dyn std::fmt::Display| format!("cannot load {}: {error}", path.display());
    let bytes = std::fs::read(path).map_err(|error| failed(&error))?;
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
