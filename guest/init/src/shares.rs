//! Directories of the host: its root as the guest's own, and shares where the user wants them.
//!
//! ```text
//! initramfs  /oneroof/lower  virtio-fs, read-only        after chroot: /dev /proc /sys /run /tmp
//!            /oneroof/rw     tmpfs: upper, work          afresh, then shares at their paths, through
//!            /oneroof/root   overlay of the two -> /     /run/oneroof/TAG where they are copy-on-write
//! ```
//!
//! Invariant: what cannot be mounted ends the guest before the command, but for a root that the
//! initramfs has a replacement for.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use protocol::{HostRoot, Share, ShareMode};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};

const LOWER: &str = "/oneroof/lower";
const CHANGES: &str = "/oneroof/rw";
const ROOT: &str = "/oneroof/root";
/// Where shares are that something lies above.
const BELOW: &str = "/run/oneroof";

/// Makes the host's root the guest's; gives what went wrong without being needed.
pub(crate) fn enter(root: &HostRoot) -> Result<Vec<String>, String> {
    match mount_root(root) {
        Ok(()) => {}
        Err(why) if root.optional => {
            return Ok(vec![format!("{why}; the guest has a small user space of its own instead")]);
        }
        Err(why) => return Err(why),
    }
    let failed = |error: Errno| format!("cannot change to the host's user space: {error}");
    rustix::process::chdir(ROOT).map_err(failed)?;
    mount_move(".", "/").map_err(failed)?;
    rustix::process::chroot(".").map_err(failed)?;
    rustix::process::chdir("/").map_err(failed)?;
    Ok(crate::mounts::mount_all())
}

fn mount_root(root: &HostRoot) -> Result<(), String> {
    mount_share(&root.tag, Path::new(LOWER), MountFlags::RDONLY)?;
    overlay(Path::new(LOWER), Path::new(CHANGES), Path::new(ROOT), MountFlags::empty())
}

/// Mounts a share where it belongs.
pub(crate) fn mount_at_path(share: &Share) -> Result<(), String> {
    let path = Path::new(OsStr::from_bytes(&share.path));
    match share.mode {
        ShareMode::ReadOnly => mount_share(&share.tag, path, MountFlags::RDONLY),
        ShareMode::ReadWrite => mount_share(&share.tag, path, MountFlags::empty()),
        ShareMode::CopyOnWrite => {
            let below = Path::new(BELOW).join(OsStr::from_bytes(&share.tag));
            let (lower, changes) = (below.join("lower"), below.join("rw"));
            mount_share(&share.tag, &lower, MountFlags::RDONLY)?;
            overlay(&lower, &changes, path, MountFlags::NODEV)
        }
    }
}

fn mount_share(tag: &[u8], target: &Path, flags: MountFlags) -> Result<(), String> {
    make_folder(target)?;
    let tag = OsStr::from_bytes(tag);
    // Whatever the host has there, devices are the guest's own, in /dev.
    mount(tag, target, "virtiofs", flags | MountFlags::NODEV, c"").map_err(|error| {
        let why = match error {
            Errno::NODEV => "this kernel has no virtio-fs (CONFIG_VIRTIO_FS)".into(),
            Errno::INVAL if !crate::modules::has_virtio() => {
                "this kernel finds no virtio device (CONFIG_VIRTIO_PCI)".into()
            }
            Errno::INVAL => "the machine has no such share".into(),
            other => other.to_string(),
        };
        format!("cannot mount the share {} on {}: {why}", tag.display(), target.display())
    })
}

/// An overlay whose changes are in memory.
fn overlay(lower: &Path, changes: &Path, target: &Path, flags: MountFlags) -> Result<(), String> {
    let failed = |what: &str, error: Errno| {
        let why = match error {
            Errno::NODEV => "this kernel has no overlayfs (CONFIG_OVERLAY_FS)".into(),
            other => other.to_string(),
        };
        format!("cannot mount {what} on {}: {why}", target.display())
    };
    make_folder(changes)?;
    mount("tmpfs", changes, "tmpfs", MountFlags::empty(), c"mode=755")
        .map_err(|error| failed("memory for changes", error))?;
    let (upper, work) = (changes.join("upper"), changes.join("work"));
    for folder in [&upper, &work] {
        make_folder(folder)?;
    }
    like(lower, &upper);
    make_folder(target)?;
    let layers = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        upper.display(),
        work.display()
    );
    // Directories of the host can be renamed where the kernel knows how to note it. (With xino=on all
    // would be on one device, at the price of inode numbers beyond 63 bits.)
    let mut last = Errno::INVAL;
    for more in [",redirect_dir=on,index=off", ""] {
        let options = CString::new(format!("{layers}{more}")).expect("our paths have no NUL");
        match mount("overlay", target, "overlay", flags, options.as_c_str()) {
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(failed("an overlay", last))
}

/// The top of an overlay has the mode and owner of its upper directory.
fn like(lower: &Path, upper: &Path) {
    let Ok(status) = rustix::fs::stat(lower) else { return };
    // What fails here leaves a directory of root's with mode 755.
    let (uid, gid) =
        (rustix::fs::Uid::from_raw(status.st_uid), rustix::fs::Gid::from_raw(status.st_gid));
    let _ = rustix::fs::chown(upper, Some(uid), Some(gid));
    let _ = rustix::fs::chmod(upper, rustix::fs::Mode::from_raw_mode(status.st_mode & 0o7777));
}

fn make_folder(path: &Path) -> Result<(), String> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path);
    made.map_err(|error| format!("cannot make the directory {}: {error}", path.display()))
}
