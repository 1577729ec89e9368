//! The user's cache of fetched kernels.
//!
//! ```text
//!   $XDG_CACHE_HOME/oneroof/kernels/RELEASE/   (ONEROOF_CACHE replaces $XDG_CACHE_HOME/oneroof)
//!       packages            the packages it came from, a name per line, the one asked for first
//!       modules             the modules that were looked for in them, a name per line
//!       boot/vmlinuz-RELEASE    or lib/modules/RELEASE/vmlinuz
//!       lib/modules/RELEASE/…   the modules that a guest can need
//! ```
//! Invariant: a directory of that name is complete; it was renamed into place. One whose modules were chosen
//! for an older version is as good as none: what is fetched replaces it.

use std::path::{Path, PathBuf};

use super::keep;
use super::search::release_key;
use super::{Kernel, KernelSource};

/// The cache, which need not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    root: PathBuf,
}

/// What the cache has of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Bytes of all its files.
    pub bytes: u64,
    /// Its modules.
    pub modules: usize,
}

/// What [`Cache::prune`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Releases that are gone: newer ones came from the same package.
    pub releases: Vec<String>,
    /// Bytes that are free again.
    pub freed: u64,
}

/// The file that names the packages.
pub(crate) const PACKAGES: &str = "packages";

impl Cache {
    /// The cache in this directory.
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// The invoking user's cache (XDG Base Directory Specification).
    pub fn of_this_user() -> Self {
        let path =
            |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let root = path("ONEROOF_CACHE")
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("oneroof")))
            .or_else(|| path("HOME").map(|home| home.join(".cache/oneroof")))
            .unwrap_or_else(|| std::env::temp_dir().join("oneroof"));
        Self { root }
    }

    /// The cache's own directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where kernels are.
    pub fn kernels(&self) -> PathBuf {
        self.root.join("kernels")
    }

    /// Every fetched kernel: cloud kernels first, then by release, newest first.
    pub fn list(&self) -> Vec<Kernel> {
        let entries = std::fs::read_dir(self.kernels()).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut releases: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
        releases.sort_by_cached_key(|release| {
            std::cmp::Reverse((release.contains("cloud"), release_key(release)))
        });
        releases.iter().filter_map(|release| self.release(release)).collect()
    }

    /// The kernel of this release, or the one that came from this package.
    pub fn find(&self, name: &str) -> Option<Kernel> {
        self.list().into_iter().find(|kernel| {
            let Some(release) = &kernel.release else {
                return false;
            };
            let packages = std::fs::read_to_string(self.kernels().join(release).join(PACKAGES));
            release == name
                || packages.is_ok_and(|packages| packages.lines().any(|line| line == name))
        })
    }

    /// The kernel of this release.
    pub fn release(&self, release: &str) -> Option<Kernel> {
        let directory = self.kernels().join(release);
        let places = [
            directory.join("boot").join(format!("vmlinuz-{release}")),
            directory.join("lib/modules").join(release).join("vmlinuz"),
        ];
        let path = places.into_iter().find(|path| path.is_file())?;
        if !keep::is_current(&directory) {
            return None;
        }
        let mut kernel = Kernel::at(&path, KernelSource::Cache).ok()?;
        kernel.release = Some(release.to_owned());
        Some(kernel)
    }

    /// What there is of a release.
    pub fn holding(&self, release: &str) -> Holding {
        let directory = self.kernels().join(release);
        Holding { bytes: bytes_below(&directory), modules: keep::count(&directory) }
    }

    /// Removes kernels that a newer one of the same package replaced, and modules that no guest
    /// can need.
    ///
    /// # Errors
    /// What cannot be removed ends it.
    pub fn prune(&self) -> std::io::Result<Pruned> {
        let before = bytes_below(&self.kernels());
        let mut pruned = Pruned::default();
        let mut seen = std::collections::HashSet::new();
        for release in self.list().into_iter().filter_map(|kernel| kernel.release) {
            let directory = self.kernels().join(&release);
            let packages = std::fs::read_to_string(directory.join(PACKAGES)).unwrap_or_default();
            let asked = packages.lines().next().unwrap_or(&release).to_owned();
            if seen.insert(asked) {
                keep::keep_needed(&directory)?;
            } else {
                // Renamed first: what is seen under its own name is complete.
                let gone = self.kernels().join(format!(".gone-{release}"));
                std::fs::rename(&directory, &gone)?;
                std::fs::remove_dir_all(gone)?;
                pruned.releases.push(release);
            }
        }
        pruned.freed = before.saturating_sub(bytes_below(&self.kernels()));
        Ok(pruned)
    }
}

fn bytes_below(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(status) if status.is_dir() => bytes_below(&entry.path()),
            Ok(status) => status.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_kernel_of_the_same_package_replaces_the_older() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let cache = Cache::at(root.path().to_path_buf());
        for (release, package) in [("6.1-9-x", "a"), ("6.1-10-x", "a"), ("6.1-9-rt", "b")] {
            let boot = cache.kernels().join(release).join("boot");
            std::fs::create_dir_all(&boot).expect("a temporary directory");
            std::fs::write(boot.join(format!("vmlinuz-{release}")), [7; 100]).expect("temporary");
            let packages = cache.kernels().join(release).join(PACKAGES);
            std::fs::write(packages, format!("{package}\n")).expect("a temporary directory");
            assert_eq!(cache.release(release), None, "an older version's");
            keep::keep_needed(&cache.kernels().join(release)).expect("a temporary directory");
        }
        let holding = cache.holding("6.1-9-x");
        assert!(holding.modules == 0 && holding.bytes > 102);
        let pruned = cache.prune().expect("our own directory");
        assert_eq!(pruned, Pruned { releases: vec!["6.1-9-x".into()], freed: holding.bytes });
        assert_eq!(cache.list().len(), 2);
        assert_eq!(cache.prune().expect("nothing to do"), Pruned::default());
    }
}
