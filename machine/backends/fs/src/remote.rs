//! Which of what is shared lies on another machine, or in another process: access to it may hang.

use std::path::{Path, PathBuf};

/// File systems of other machines, as /proc/self/mountinfo names them.
const REMOTE: &[&str] =
    &["nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "afs", "ncpfs", "autofs", "virtiofs"];
/// What a guest has of its own, so that nobody looks there.
const OWN: &[&str] = &["/proc", "/sys", "/dev", "/run"];

/// Whether nothing at or below a directory is mounted from elsewhere.
pub(crate) fn is_local(path: &Path) -> bool {
    std::fs::read_to_string("/proc/self/mountinfo").is_ok_and(|text| all_local(&text, path))
}

/// The same, by the text of /proc/self/mountinfo (proc_pid_mountinfo(5)).
fn all_local(text: &str, path: &Path) -> bool {
    let mounts: Vec<(PathBuf, &str)> = text.lines().filter_map(mount).collect();
    let inside = |at: &Path| at.starts_with(path) && !OWN.iter().any(|own| at.starts_with(own));
    // The last mount at a place hides those before it.
    let over = mounts.iter().filter(|(at, _)| path.starts_with(at));
    let over = over.max_by_key(|(at, _)| at.components().count());
    let below = mounts.iter().filter(|(at, _)| inside(at));
    over.is_some() && over.into_iter().chain(below).all(|(_, kind)| !is_remote(kind))
}

/// Mount point and type of a line.
fn mount(line: &str) -> Option<(PathBuf, &str)> {
    let (before, after) = line.split_once(" - ")?;
    let at = before.split(' ').nth(4)?;
    Some((PathBuf::from(unescape(at)), after.split(' ').next()?))
}

/// Spaces and the like stand there as three octal digits.
fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .into_iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

fn is_remote(kind: &str) -> bool {
    kind.starts_with("fuse") || REMOTE.contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / /proc rw - proc proc rw
24 22 0:22 / /run rw shared:2 - tmpfs tmpfs rw
25 24 0:23 / /run/user/1000/doc rw - fuse.portal portal rw
26 22 0:24 / /home/ann/far\\040away rw - nfs4 host:/x rw
27 22 8:1 / /srv rw - xfs /dev/sda1 rw
28 27 0:30 / /srv/remote rw - fuse.sshfs host: rw
";

    #[test]
    fn mounts_at_and_below_a_directory_decide() {
        let local = |path: &str| all_local(MOUNTS, Path::new(path));
        assert!(local("/usr") && local("/home/bob") && local("/srv/data"));
        assert!(!local("/") && !local("/home") && !local("/home/ann") && !local("/srv"));
        assert!(!local("/home/ann/far away/deep") && !local("/srv/remote"));
        assert!(local("/home/ann/far"), "another name");
        let without: String = MOUNTS.lines().take(4).map(|line| format!("{line}\n")).collect();
        assert!(all_local(&without, Path::new("/")), "/run is the guest's own");
        assert!(!all_local("", Path::new("/")), "nothing is known");
    }
}
