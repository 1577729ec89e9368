//! What of a kernel package's modules stays in the cache: those that a guest of ours can load.
//!
//! A distribution's kernel has some 4,000 modules, 400 MB; the initramfs can carry a few dozen, and
//! a guest that is itself a host wants KVM's. Dependencies are read from the modules (`depends=` in
//! .modinfo, Documentation/kbuild/modules.rst), for a package has no modules.dep before it is
//! installed. Invariant: a module stays with everything it depends on.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// For guests that run VMs themselves.
const FOR_HOSTS: &[&str] = &["kvm_amd", "kvm_intel"];

/// The file that says what modules a cached kernel was kept with.
const KEPT: &str = "modules";

fn roots() -> impl Iterator<Item = &'static str> {
    crate::initramfs::module_names().chain(FOR_HOSTS.iter().copied())
}

fn kept_now() -> String {
    roots().map(|name| format!("{name}\n")).collect()
}

/// Whether a tree has all modules that this version can load, as far as its package had them. Else it was
/// fetched by an older one.
pub(crate) fn is_current(tree: &Path) -> bool {
    fs::read_to_string(tree.join(KEPT)).is_ok_and(|kept| kept == kept_now())
}

/// Removes every module below `lib/modules` of an unpacked package that no guest can need; gives
/// how many stay.
pub(crate) fn keep_needed(tree: &Path) -> io::Result<usize> {
    fs::write(tree.join(KEPT), kept_now())?;
    let mut modules = HashMap::new();
    let root = tree.join("lib/modules");
    if root.is_dir() {
        find(&root, &mut modules)?;
    }
    let mut wanted: Vec<String> = roots().map(str::to_owned).collect();
    let mut needed = HashSet::new();
    while let Some(name) = wanted.pop() {
        let Some(path) = modules.get(&name) else { continue };
        if needed.insert(name) {
            wanted.extend(depends(path)?);
        }
    }
    for (name, path) in &modules {
        if !needed.contains(name) {
            fs::remove_file(path)?;
            for directory in path.ancestors().skip(1).take_while(|above| *above != root) {
                if fs::remove_dir(directory).is_err() {
                    break; // it has other modules
                }
            }
        }
    }
    Ok(needed.len())
}

/// How many modules are below a directory.
pub(crate) fn count(tree: &Path) -> usize {
    let mut modules = HashMap::new();
    match find(&tree.join("lib/modules"), &mut modules) {
        Ok(()) => modules.len(),
        Err(_) => 0,
    }
}

/// Modules by name, as the kernel spells it.
fn find(directory: &Path, into: &mut HashMap<String, PathBuf>) -> io::Result<()> {
    let mut directories = vec![directory.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some((stem, "ko" | "ko.xz" | "ko.zst" | "ko.gz")) = name.split_once('.') {
                into.insert(stem.replace('-', "_"), entry.path());
            }
        }
    }
    Ok(())
}

/// The names of the modules that a module depends on.
fn depends(path: &Path) -> io::Result<Vec<String>> {
    let mut bytes = Vec::new();
    crate::compressed::reader(fs::File::open(path)?)?.read_to_end(&mut bytes)?;
    Ok(depends_in(&bytes))
}

/// The names of the modules that a module, uncompressed, depends on, as the kernel spells them.
pub(crate) fn depends_in(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let list = module[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let list = String::from_utf8_lossy(list).replace('-', "_");
    list.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_stays_with_what_it_depends_on() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let place = root.path().join("lib/modules/6.1-x/kernel");
        let module = |path: &str, depends: &str| {
            let path = place.join(path);
            fs::create_dir_all(path.parent().expect("in a directory")).expect("temporary");
            fs::write(path, format!("ELF\0license=GPL\0depends={depends}\0")).expect("temporary");
        };
        module("drivers/char/hw_random/virtio-rng.ko", "");
        module("arch/x86/kvm/kvm-amd.ko", "kvm,ccp");
        module("arch/x86/kvm/kvm.ko", "irq-bypass");
        module("virt/lib/irq-bypass.ko", "");
        module("drivers/crypto/ccp/ccp.ko", "");
        module("drivers/gpu/drm/amd/amdgpu.ko", "drm");
        module("drivers/gpu/drm/drm.ko", "");
        fs::write(root.path().join("lib/modules/6.1-x/modules.order"), b"").expect("temporary");
        assert_eq!(count(root.path()), 7);
        assert!(!is_current(root.path()), "nobody has looked at it");
        assert_eq!(keep_needed(root.path()).expect("our own directory"), 5);
        assert_eq!(count(root.path()), 5);
        assert!(is_current(root.path()));
        assert!(place.join("virt/lib/irq-bypass.ko").exists());
        assert!(!place.join("drivers/gpu").exists());
        assert!(root.path().join("lib/modules/6.1-x/modules.order").exists());
        assert_eq!(keep_needed(root.path()).expect("nothing to do"), 5);
    }
}
