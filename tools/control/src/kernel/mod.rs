//! A kernel to boot: where it may be, which one is taken, what it says of itself.
//!
//! The order is the one users expect: what they named, what they stand in, what they run, what
//! they fetched. Invariant: nothing here starts a process or touches the network; see
//! [`crate::fetch`] for that.

mod cache;
mod keep;
mod release;
mod search;

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::source::FileSource;

pub(crate) use cache::PACKAGES;
pub use cache::{Cache, Holding, Pruned};
pub(crate) use keep::{depends_in, keep_needed};
pub use release::release_of;
pub use search::{Search, Tried};

/// A kernel file, found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The file.
    pub path: PathBuf,
    /// Why it was taken.
    pub source: KernelSource,
    /// Its release, where known without reading the whole file.
    pub release: Option<String>,
    /// Its modules.
    pub modules: KernelModules,
}

/// Where a kernel was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelSource {
    /// Named by the user.
    Argument,
    /// In the kernel build tree one stands in.
    BuildTree,
    /// The kernel this host runs.
    Running,
    /// Another kernel in /boot.
    Boot,
    /// In the user's cache, fetched earlier.
    Cache,
    /// Fetched just now.
    Fetched,
}

impl KernelSource {
    /// In words, for a sentence.
    pub fn words(self) -> &'static str {
        match self {
            Self::Argument => "named",
            Self::BuildTree => "of this build tree",
            Self::Running => "this host's own",
            Self::Boot => "in /boot",
            Self::Cache => "in the cache",
            Self::Fetched => "fetched now",
        }
    }
}

/// Where a kernel's modules are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KernelModules {
    /// Nowhere.
    #[default]
    None,
    /// `…/lib/modules/RELEASE` or a build tree: a directory with `modules.order`.
    Directory(PathBuf),
}

/// Why there is no kernel.
#[derive(Debug, Error)]
pub enum KernelError {
    /// The named file does not exist, and no fetched kernel has that name.
    #[error("there is no kernel {}: no such file, and no kernel of that name in {}", .path.display(), .cache.display())]
    Missing {
        /// What was named.
        path: PathBuf,
        /// The cache that was searched.
        cache: PathBuf,
    },
    /// A directory was named.
    #[error("{} is a directory, not a kernel", .0.display())]
    Directory(PathBuf),
    /// Neither a file nor a directory.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// The file cannot be read.
    #[error("cannot read {}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Every place was empty.
    #[error("no kernel found; searched, in this order:\n{}", list(.0))]
    NotFound(Vec<Tried>),
}

impl Kernel {
    /// A kernel by its file, with what can be learned about it.
    pub(crate) fn at(path: &Path, source: KernelSource) -> Result<Self, KernelError> {
        let unreadable = |source| KernelError::Unreadable { path: path.to_path_buf(), source };
        let status = std::fs::metadata(path).map_err(unreadable)?;
        if status.is_dir() {
            return Err(KernelError::Directory(path.to_path_buf()));
        }
        if !status.is_file() {
            return Err(KernelError::NotAFile(path.to_path_buf()));
        }
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let release =
            release_of(file).map_err(unreadable)?.or_else(|| search::release_in_name(path));
        let modules = search::modules_beside(path, release.as_deref());
        Ok(Self { path: path.to_path_buf(), source, release, modules })
    }

    /// The file, to be read in pieces.
    pub(crate) fn open(&self) -> Result<FileSource, KernelError> {
        FileSource::open(&self.path)
            .map_err(|source| KernelError::Unreadable { path: self.path.clone(), source })
    }
}

fn list(tried: &[Tried]) -> String {
    let lines: Vec<String> =
        tried.iter().map(|tried| format!("  {}: {}", tried.place, tried.why)).collect();
    lines.join("\n")
}
