//! Fetches a kernel through the host's own package manager, without root, into the user's cache.
//!
//! The package manager downloads and verifies against its signed indices; unpacking is ours.
//! Invariants: the system's package state is neither read-locked nor written; the cache gets a
//! kernel whole or not at all (unpacked beside it, then renamed).

mod apt;
mod deb;
mod dnf;
mod rpm;

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::kernel::{Cache, Kernel, KernelSource};

/// What the user is told while a fetch goes on.
#[derive(Clone, Debug, PartialEq)]
pub enum FetchProgress {
    /// A new step, in words.
    Step(String),
    /// How far the step is, of 1.
    Fraction(f32),
}

/// Why nothing was fetched.
#[derive(Debug, Error)]
pub enum FetchError {
    /// Neither apt nor dnf.
    #[error(
        "cannot fetch a kernel: this host has neither apt-get nor dnf; name a kernel file instead"
    )]
    NoPackageManager,
    /// The package manager could not be started.
    #[error("cannot run {program}")]
    Start {
        /// Its name.
        program: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The package manager could not reach its mirrors.
    #[error(
        "cannot fetch a kernel: no network, or no mirror answers ({program} says: {said})\n  with a network, try again; without one, name a kernel file: roof run /path/to/vmlinuz"
    )]
    Unreachable {
        /// Which one.
        program: &'static str,
        /// Its last words.
        said: String,
    },
    /// The package manager failed in another way.
    #[error("{program} failed: {said}")]
    Failed {
        /// Which one.
        program: &'static str,
        /// Its last words.
        said: String,
    },
    /// No such package.
    #[error("the host's package sources have no kernel package {0}")]
    NoPackage(String),
    /// The package holds no kernel.
    #[error("{0} holds no kernel image")]
    NoKernelInside(String),
    /// A file is no package, or damaged.
    #[error("cannot unpack {}", .path.display())]
    Unpack {
        /// The package file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The cache cannot be written.
    #[error("cannot write to the cache {}", .path.display())]
    Cache {
        /// Its directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Fetches a kernel: a package's name, a release, or `None` for the distribution's cloud kernel.
pub fn fetch(
    cache: &Cache,
    name: Option<&str>,
    progress: &mut dyn FnMut(FetchProgress),
) -> Result<Kernel, FetchError> {
    let trouble = |source| FetchError::Cache { path: cache.root().to_path_buf(), source };
    std::fs::create_dir_all(cache.kernels()).map_err(trouble)?;
    remove_abandoned(&cache.kernels());
    let work =
        tempfile::Builder::new().prefix(".fetch-").tempdir_in(cache.kernels()).map_err(trouble)?;
    let downloaded = if apt::is_here() {
        apt::download(name, work.path(), progress)?
    } else if dnf::is_here() {
        dnf::download(name, work.path(), progress)?
    } else {
        return Err(FetchError::NoPackageManager);
    };
    install(cache, &downloaded, work.path(), progress)
}

/// A fetch that was killed leaves its directory behind; another may be at work, so only old ones go.
fn remove_abandoned(kernels: &Path) {
    const OLD: std::time::Duration = std::time::Duration::from_secs(3600);
    for entry in std::fs::read_dir(kernels).into_iter().flatten().flatten() {
        let old = entry.metadata().and_then(|status| status.modified());
        let old = old.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > OLD));
        if old && entry.file_name().to_string_lossy().starts_with(".fetch-") {
            // If it cannot be removed now, the next fetch tries again.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// What a package manager brought.
struct Downloaded {
    /// Names, the one asked for first.
    packages: Vec<String>,
    files: Vec<PathBuf>,
}

fn install(
    cache: &Cache,
    downloaded: &Downloaded,
    work: &Path,
    progress: &mut dyn FnMut(FetchProgress),
) -> Result<Kernel, FetchError> {
    let trouble = |source| FetchError::Cache { path: cache.root().to_path_buf(), source };
    let tree = work.join("tree");
    std::fs::create_dir_all(&tree).map_err(trouble)?;
    for file in &downloaded.files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        progress(FetchProgress::Step(format!("unpacking {name}")));
        let is_rpm = file.extension().is_some_and(|extension| extension == "rpm");
        let unpacked = if is_rpm {
            rpm::unpack(file, &tree, progress)
        } else {
            deb::unpack(file, &tree, progress)
        };
        unpacked.map_err(|source| FetchError::Unpack { path: file.clone(), source })?;
    }
    let asked = downloaded.packages.first().cloned().unwrap_or_default();
    let release = release_in(&tree).ok_or(FetchError::NoKernelInside(asked))?;
    crate::kernel::keep_needed(&tree).map_err(trouble)?;
    let packages = downloaded.packages.join("\n") + "\n";
    std::fs::write(tree.join(crate::kernel::PACKAGES), packages).map_err(trouble)?;
    let place = cache.kernels().join(&release);
    if place.exists() {
        std::fs::rename(&place, work.join("replaced")).map_err(trouble)?;
    }
    std::fs::rename(&tree, &place).map_err(trouble)?;
    let mut kernel = cache.release(&release).ok_or(FetchError::NoKernelInside(release))?;
    kernel.source = KernelSource::Fetched;
    Ok(kernel)
}

/// The release of the kernel image in an unpacked tree.
fn release_in(tree: &Path) -> Option<String> {
    let names = |directory: PathBuf| {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok())
    };
    let in_boot =
        names(tree.join("boot")).find_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned));
    in_boot.or_else(|| {
        let modules = tree.join("lib/modules");
        names(modules.clone()).find(|release| modules.join(release).join("vmlinuz").is_file())
    })
}

/// Where a file of a package goes below the cache's directory; `None` for what is not wanted.
fn place_of(path: &Path) -> Option<PathBuf> {
    use std::path::Component;
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => parts.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    if parts.first().is_some_and(|first| *first == "usr") {
        parts.remove(0);
    }
    let path: PathBuf = parts.iter().collect();
    let name = parts.last()?.to_str()?;
    let in_boot = path.starts_with("boot")
        && parts.len() == 2
        && ["vmlinuz-", "config-", "System.map-"].iter().any(|prefix| name.starts_with(prefix));
    (in_boot || (path.starts_with("lib/modules") && parts.len() > 3)).then_some(path)
}

/// Whether a package manager's words mean that nobody answered.
fn means_no_network(said: &str) -> bool {
    const SIGNS: &[&str] = &[
        "Could not resolve",
        "Could not connect",
        "Cannot initiate the connection",
        "Temporary failure",
        "Failed to fetch",
        "Unable to connect",
        "Connection refused",
        "connection timed out",
        "Network is unreachable",
        "Curl error",
        "Failed to download metadata",
    ];
    SIGNS.iter().any(|sign| said.contains(sign))
}

/// The last line that says something.
fn last_words(said: &str) -> String {
    let line = said.lines().map(str::trim).rfind(|line| !line.is_empty());
    let failed = said.lines().map(str::trim).find(|line| means_no_network(line));
    failed.or(line).unwrap_or("nothing").to_owned()
}

/// For [`crate::hostile`].
pub(crate) fn unpack_rpm(package: &Path, tree: &Path) -> std::io::Result<()> {
    rpm::unpack(package, tree, &mut |_| {})
}

/// For [`crate::hostile`].
pub(crate) fn unpack_deb(package: &Path, tree: &Path) -> std::io::Result<()> {
    deb::unpack(package, tree, &mut |_| {})
}

/// A reader that tells how much of a file it has given.
struct Counted<'a, R> {
    inner: R,
    read: u64,
    total: u64,
    told: u32,
    progress: &'a mut dyn FnMut(FetchProgress),
}

impl<R: std::io::Read> std::io::Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read += count as u64;
        let percent = (self.read * 100 / self.total.max(1)) as u32;
        if percent != self.told {
            self.told = percent;
            (self.progress)(FetchProgress::Fraction(percent as f32 / 100.0));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kernel_files_have_a_place() {
        let place = |path: &str| place_of(Path::new(path)).map(|path| path.display().to_string());
        assert_eq!(place("./boot/vmlinuz-6.1").as_deref(), Some("boot/vmlinuz-6.1"));
        assert_eq!(
            place("/usr/lib/modules/6.1/vmlinuz").as_deref(),
            Some("lib/modules/6.1/vmlinuz")
        );
        assert_eq!(
            place("./lib/modules/6.1/kernel/fs/a.ko").as_deref(),
            Some("lib/modules/6.1/kernel/fs/a.ko")
        );
        assert_eq!(place("./usr/share/doc/x"), None);
        assert_eq!(place("./lib/modules/6.1/../../../../etc/passwd"), None);
        assert_eq!(place("./boot/grub/vmlinuz-x"), None);
    }

    #[test]
    fn a_silent_mirror_is_told_from_other_failures() {
        let said = "W: something\nE: Failed to fetch http://x/  Could not connect to x:80\nE: Some index files failed\n";
        assert!(means_no_network(said));
        assert_eq!(last_words(said), "E: Failed to fetch http://x/  Could not connect to x:80");
        assert!(!means_no_network("E: No packages found"));
        assert_eq!(last_words("a\n\n"), "a");
    }

    #[test]
    fn only_what_a_fetch_left_long_ago_is_removed() {
        let root = tempfile::tempdir().expect("a temporary directory");
        for name in [".fetch-new", ".fetch-old", "6.1-x"] {
            std::fs::create_dir(root.path().join(name)).expect("a temporary directory");
        }
        let day = std::time::Duration::from_secs(24 * 3600);
        for name in [".fetch-old", "6.1-x"] {
            let directory = std::fs::File::open(root.path().join(name)).expect("just made");
            let before = std::time::SystemTime::now() - day;
            directory.set_modified(before).expect("our own directory");
        }
        remove_abandoned(root.path());
        assert!(root.path().join(".fetch-new").exists() && root.path().join("6.1-x").exists());
        assert!(!root.path().join(".fetch-old").exists());
    }

    #[test]
    fn an_old_kernel_is_replaced_whole() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let cache = Cache::at(root.path().to_path_buf());
        std::fs::create_dir_all(cache.kernels().join("6.1-x/boot")).expect("a temporary directory");
        std::fs::write(cache.kernels().join("6.1-x/boot/old"), b"").expect("a temporary directory");
        let file = root.path().join("linux.deb");
        deb::tests::write_deb(&file, &[("./boot/vmlinuz-6.1-x", b"kernel"), ("./etc/evil", b"x")]);
        remove_abandoned(&cache.kernels());
        let work = tempfile::tempdir_in(root.path()).expect("a temporary directory");
        let downloaded = Downloaded { packages: vec!["linux-image-x".into()], files: vec![file] };
        let kernel =
            install(&cache, &downloaded, work.path(), &mut |_| {}).expect("a good package");
        assert_eq!(kernel.source, KernelSource::Fetched);
        assert_eq!(kernel.release.as_deref(), Some("6.1-x"));
        assert_eq!(std::fs::read(&kernel.path).expect("readable"), b"kernel");
        assert!(!cache.kernels().join("6.1-x/boot/old").exists());
        assert!(!cache.kernels().join("6.1-x/etc").exists());
        assert_eq!(
            cache.find("linux-image-x").map(|kernel| kernel.release),
            Some(Some("6.1-x".into()))
        );
    }
}
