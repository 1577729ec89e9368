//! The user's cache of fetched kernels.
//!
//! ```text
//!   $XDG_CACHE_HOME/oneroof/kernels/RELEASE/   (ONEROOF_CACHE replaces $XDG_CACHE_HOME/oneroof)
//!       packages            the packages it came from, a name per line, the one asked for first
//!       boot/vmlinuz-RELEASE    or lib/modules/RELEASE/vmlinuz
//!       lib/modules/RELEASE/…
//! ```
//! Invariant: a directory of that name is complete; it was renamed into place.

use std::path::{Path, PathBuf};

use super::search::release_key;
use super::{Kernel, KernelSource};

/// The cache, which need not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    root: PathBuf,
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
        let mut kernel = Kernel::at(&path, KernelSource::Cache).ok()?;
        kernel.release = Some(release.to_owned());
        Some(kernel)
    }
}
