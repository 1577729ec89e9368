//! dnf, where apt is missing: `dnf download` verifies by the repositories' checksums and keys.
//!
//! Invariant: the cache directory is ours (`--setopt=cachedir`), the system's is not written.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Downloaded, FetchError, FetchProgress, last_words, means_no_network};

/// The parts of Fedora's kernel that boot.
const DEFAULTS: &[&str] = &["kernel-core", "kernel-modules-core"];

pub(super) fn is_here() -> bool {
    Command::new("dnf").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Downloads a kernel's packages.
pub(super) fn download(
    name: Option<&str>,
    work: &Path,
    progress: &mut dyn FnMut(FetchProgress),
) -> Result<Downloaded, FetchError> {
    let packages: Vec<String> = match name {
        None => DEFAULTS.iter().map(|name| (*name).to_owned()).collect(),
        Some(name) if name.starts_with("kernel") => vec![name.to_owned()],
        Some(release) => DEFAULTS.iter().map(|name| format!("{name}-{release}")).collect(),
    };
    let to = work.join("packages");
    std::fs::create_dir_all(&to)
        .map_err(|source| FetchError::Cache { path: to.clone(), source })?;
    progress(FetchProgress::Step(format!("downloading {}", packages.join(" and "))));
    let mut command = Command::new("dnf");
    command.args(["--assumeyes", "--quiet", "download", "--arch=x86_64"]);
    command.arg(format!("--setopt=cachedir={}", work.join("dnf").display()));
    command.arg(format!("--destdir={}", to.display()));
    command.args(&packages).env("LC_ALL", "C").stdin(Stdio::null());
    let output = command.output().map_err(|source| FetchError::Start { program: "dnf", source })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let words = last_words(&said);
        return Err(match () {
            () if said.contains("No package") || said.contains("No match") => {
                FetchError::NoPackage(packages.join(" "))
            }
            () if means_no_network(&said) => {
                FetchError::Unreachable { program: "dnf", said: words }
            }
            () => FetchError::Failed { program: "dnf", said: words },
        });
    }
    let entries = std::fs::read_dir(&to).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort();
    Ok(Downloaded { packages, files })
}
