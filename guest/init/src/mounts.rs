//! The file systems every Linux program expects.
//!
//! Invariant: a mount that the kernel lacks is skipped if nothing depends on it, and told if
//! something does.

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

struct Mount {
    kind: &'static str,
    target: &'static str,
    flags: MountFlags,
    options: &'static str,
    /// Absent from kernels that are otherwise fine.
    optional: bool,
}

const NO_EXEC: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
const NO_DEVICES: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

const MOUNTS: &[Mount] = &[
    Mount {
        kind: "devtmpfs",
        target: "/dev",
        flags: MountFlags::NOSUID,
        options: "mode=755",
        optional: false,
    },
    Mount { kind: "proc", target: "/proc", flags: NO_EXEC, options: "", optional: false },
    Mount { kind: "sysfs", target: "/sys", flags: NO_EXEC, options: "", optional: false },
    Mount {
        kind: "devpts",
        target: "/dev/pts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        options: "gid=5,mode=620,ptmxmode=666",
        optional: false,
    },
    Mount {
        kind: "tmpfs",
        target: "/dev/shm",
        flags: NO_DEVICES,
        options: "mode=1777",
        optional: true,
    },
    Mount {
        kind: "tmpfs",
        target: "/tmp",
        flags: NO_DEVICES,
        options: "mode=1777",
        optional: true,
    },
    Mount { kind: "tmpfs", target: "/run", flags: NO_DEVICES, options: "mode=755", optional: true },
    Mount {
        kind: "cgroup2",
        target: "/sys/fs/cgroup",
        flags: NO_EXEC,
        options: "",
        optional: true,
    },
];

/// Symbolic links that udev would make in /dev.
const DEV_LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Mounts everything; gives what went wrong.
pub(crate) fn mount_all() -> Vec<String> {
    let mut troubles = Vec::new();
    for entry in MOUNTS {
        // On sysfs and cgroup mount points this fails, and mount says why if it matters.
        let _ = std::fs::create_dir_all(entry.target);
        let options = std::ffi::CString::new(entry.options).expect("the table has no NUL");
        match mount(entry.kind, entry.target, entry.kind, entry.flags, options.as_c_str()) {
            Ok(()) | Err(Errno::BUSY) => {} // BUSY: CONFIG_DEVTMPFS_MOUNT was before us
            Err(Errno::NODEV | Errno::NOENT) if entry.optional => {}
            Err(error) => {
                troubles.push(format!("cannot mount {} on {}: {error}", entry.kind, entry.target));
            }
        }
    }
    for (target, link) in DEV_LINKS {
        if let Err(error) = std::os::unix::fs::symlink(target, link)
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            troubles.push(format!("cannot link {link}: {error}"));
        }
    }
    troubles
}
