//! What every guest gets, as tables.
//!
//! Every packed byte costs the guest boot time, so the base is what scripts take for granted and
//! the rest comes only with an interactive shell, or when the command names it.

/// Directories and their modes.
pub(super) const DIRECTORIES: &[(&str, u32)] = &[
    ("/dev", 0o755),
    ("/etc", 0o755),
    ("/oneroof", 0o700),
    ("/oneroof/modules", 0o700),
    ("/proc", 0o555),
    ("/root", 0o700),
    ("/run", 0o755),
    ("/sys", 0o555),
    ("/tmp", 0o1777),
    ("/usr", 0o755),
    ("/var", 0o755),
    ("/var/tmp", 0o1777),
];

/// Small files of our own.
pub(super) const FILES: &[(&str, &str)] = &[
    (
        "/etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    ),
    ("/etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
    ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"),
    ("/etc/shells", "/bin/sh\n/bin/bash\n"),
];

/// Files of the host that programs need as they are.
pub(super) const HOST_FILES: &[&str] = &["/etc/ld.so.cache", "/etc/ld-musl-x86_64.path"];

/// The guest's search path.
pub(super) const PATH: &[&str] =
    &["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Where terminal descriptions are, in the order ncurses looks.
pub(super) const TERMINFO: &[&str] = &["/etc/terminfo", "/lib/terminfo", "/usr/share/terminfo"];

/// Programs of every guest, as far as the host has them.
pub(super) const BASE: &[&str] = &[
    "basename", "cat", "chmod", "cp", "cut", "date", "dd", "df", "dirname", "dmesg", "echo", "env",
    "expr", "false", "grep", "head", "hostname", "id", "kill", "ln", "ls", "mkdir", "mknod",
    "mktemp", "mount", "mv", "nproc", "od", "printf", "pwd", "readlink", "rm", "rmdir", "sed",
    "seq", "sleep", "sort", "stat", "stty", "sync", "tail", "tee", "test", "timeout", "touch",
    "tr", "true", "tty", "umount", "uname", "uniq", "wc",
];

/// Programs that come with an interactive shell.
pub(super) const COMFORT: &[&str] = &[
    "[",
    "awk",
    "chown",
    "clear",
    "du",
    "find",
    "free",
    "ip",
    "less",
    "lsmod",
    "more",
    "nano",
    "ps",
    "realpath",
    "reset",
    "rmmod",
    "sha256sum",
    "top",
    "tput",
    "uptime",
    "vi",
    "watch",
    "which",
    "whoami",
    "xargs",
];

/// A program larger than this is no comfort: the guest copies every byte while the user waits.
pub(super) const COMFORT_LIMIT: u64 = 1 << 20;
