//! The search, place by place.
//!
//! Invariant: every place that was looked at is in the error's list with its reason, in order.

use std::path::{Path, PathBuf};

use super::{Cache, Kernel, KernelError, KernelModules, KernelSource};

/// Where to look. [`Search::of_this_host`] has the usual values; tests have their own.
#[derive(Clone, Debug)]
pub struct Search {
    /// What the user named: a path, or a name in the cache.
    pub argument: Option<PathBuf>,
    /// Where one stands.
    pub directory: PathBuf,
    /// The host's root directory.
    pub root: PathBuf,
    /// The running kernel's release.
    pub running: String,
    /// Fetched kernels.
    pub cache: Cache,
}

/// A place without a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// The place.
    pub place: String,
    /// What was wrong with it.
    pub why: String,
}

/// A build tree's kernels, relative to its root.
const BUILD_TREE: &[&str] =
    &["arch/x86/boot/bzImage", "arch/x86_64/boot/bzImage", "bzImage", "vmlinux"];

impl Search {
    /// The host's usual places. `ONEROOF_ROOT` replaces `/` for /boot and /lib/modules.
    pub fn of_this_host(argument: Option<PathBuf>) -> Self {
        let root =
            std::env::var_os("ONEROOF_ROOT").map_or_else(|| PathBuf::from("/"), PathBuf::from);
        let running = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            argument,
            directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from(".")),
            root,
            running: running.trim().to_owned(),
            cache: Cache::of_this_user(),
        }
    }

    /// The first kernel of the order.
    pub fn find(&self) -> Result<Kernel, KernelError> {
        if let Some(argument) = &self.argument {
            return self.named(argument);
        }
        let mut tried = Vec::new();
        self.candidates(&mut tried).into_iter().next().ok_or(KernelError::NotFound(tried))
    }

    /// Every kernel the search knows, best first.
    pub fn all(&self) -> Vec<Kernel> {
        self.candidates(&mut Vec::new())
    }

    fn named(&self, argument: &Path) -> Result<Kernel, KernelError> {
        match std::fs::metadata(argument) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let name = argument.to_str().filter(|name| !name.contains('/'));
                name.and_then(|name| self.cache.find(name)).ok_or_else(|| KernelError::Missing {
                    path: argument.to_path_buf(),
                    cache: self.cache.kernels(),
                })
            }
            _ => Kernel::at(argument, KernelSource::Argument),
        }
    }

    fn candidates(&self, tried: &mut Vec<Tried>) -> Vec<Kernel> {
        let mut found: Vec<Kernel> = Vec::new();
        let mut place =
            |path: PathBuf, source, found: &mut Vec<Kernel>| match Kernel::at(&path, source) {
                Ok(kernel) => {
                    if !found.iter().any(|known| known.path == kernel.path) {
                        found.push(kernel);
                    }
                }
                Err(error) => {
                    let why = match error {
                        KernelError::Unreadable { source, .. }
                            if source.kind() == std::io::ErrorKind::NotFound =>
                        {
                            "not there".to_owned()
                        }
                        KernelError::Unreadable { source, .. } => source.to_string(),
                        other => other.to_string(),
                    };
                    tried.push(Tried { place: path.display().to_string(), why });
                }
            };
        for name in BUILD_TREE {
            place(self.directory.join(name), KernelSource::BuildTree, &mut found);
        }
        let modules = self.root.join("lib/modules").join(&self.running);
        place(modules.join("vmlinuz"), KernelSource::Running, &mut found);
        let boot = self.root.join("boot");
        place(boot.join(format!("vmlinuz-{}", self.running)), KernelSource::Running, &mut found);
        let others = vmlinuz_in(&boot);
        if others.is_empty() {
            let place = boot.join("vmlinuz-*").display().to_string();
            tried.push(Tried { place, why: "none".into() });
        }
        for path in others {
            if !path.to_string_lossy().ends_with(&self.running) {
                let mut one = Vec::new();
                match Kernel::at(&path, KernelSource::Boot) {
                    Ok(kernel) => one.push(kernel),
                    Err(error) => tried
                        .push(Tried { place: path.display().to_string(), why: error.to_string() }),
                }
                found.append(&mut one);
            }
        }
        let cached = self.cache.list();
        if cached.is_empty() {
            let place = self.cache.kernels().display().to_string();
            tried.push(Tried { place, why: "no fetched kernel".into() });
        }
        found.extend(cached);
        found
    }
}

/// Kernels of a /boot, newest release first.
fn vmlinuz_in(boot: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(boot).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("vmlinuz-"))
        .map(|entry| entry.path())
        .collect();
    paths.sort_by_cached_key(|path| std::cmp::Reverse(release_key(&path.to_string_lossy())));
    paths
}

/// Orders releases as people do: numbers by value, words by spelling.
pub(super) fn release_key(release: &str) -> Vec<(u64, String)> {
    release
        .split(['.', '-', '_', '+', '~'])
        .map(|part| (part.parse().unwrap_or(0), part.to_owned()))
        .collect()
}

/// `vmlinuz-RELEASE`, or `RELEASE/vmlinuz`.
pub(super) fn release_in_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    if let Some(release) = name.strip_prefix("vmlinuz-").or_else(|| name.strip_prefix("vmlinux-")) {
        return Some(release.to_owned());
    }
    let parent = path.parent()?;
    let is_modules = parent.parent()?.file_name()? == "modules";
    (name == "vmlinuz" && is_modules).then(|| parent.file_name()?.to_str().map(str::to_owned))?
}

/// The modules that belong to a kernel file: its own directory, the tree it was installed into,
/// the tree it was built in, or the host's.
pub(super) fn modules_beside(path: &Path, release: Option<&str>) -> KernelModules {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let parents: Vec<&Path> = path.ancestors().skip(1).collect();
    let mut candidates: Vec<PathBuf> =
        parents.first().map(|own| own.to_path_buf()).into_iter().collect();
    if let Some(release) = release {
        for root in parents.iter().take(6) {
            candidates.push(root.join("lib/modules").join(release));
            candidates.push(root.join("usr/lib/modules").join(release));
        }
    }
    if path.ends_with("boot/bzImage") {
        candidates.extend(parents.get(3).map(|tree| tree.to_path_buf())); // TREE/arch/x86/boot
    }
    let found = candidates.into_iter().find(|directory| directory.join("modules.order").is_file());
    found.map_or(KernelModules::None, KernelModules::Directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bzimage(release: &str) -> Vec<u8> {
        let mut head = vec![0; 0x3000];
        head[0x202..0x206].copy_from_slice(b"HdrS");
        head[0x20e..0x210].copy_from_slice(&0x2000u16.to_le_bytes());
        head[0x2200..0x2200 + release.len()].copy_from_slice(release.as_bytes());
        head
    }

    fn write(path: &Path, bytes: &[u8]) {
        std::fs::create_dir_all(path.parent().expect("tests write into directories"))
            .expect("a temporary directory");
        std::fs::write(path, bytes).expect("a temporary directory");
    }

    /// A kernel in the cache, and its path.
    fn write_cached(root: &Path) -> PathBuf {
        let tree = root.join("cache/kernels/6.1.0-c");
        let path = tree.join("boot/vmlinuz-6.1.0-c");
        write(&path, &bzimage("6.1.0-c "));
        crate::kernel::keep_needed(&tree).expect("a temporary directory");
        path
    }

    fn search(root: &Path) -> Search {
        Search {
            argument: None,
            directory: root.join("here"),
            root: root.to_path_buf(),
            running: "6.5.0-run".into(),
            cache: Cache::at(root.join("cache")),
        }
    }

    #[test]
    fn the_order_is_build_tree_running_boot_cache() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let search = search(root.path());
        let cached = write_cached(root.path());
        let places = [
            ("cache", cached),
            ("boot", root.path().join("boot/vmlinuz-6.9.0-b")),
            ("running", root.path().join("lib/modules/6.5.0-run/vmlinuz")),
            ("tree", root.path().join("here/arch/x86/boot/bzImage")),
        ];
        for (name, path) in &places {
            write(path, &bzimage("6.1.0-x "));
            assert_eq!(
                &search.find().expect(name).path,
                path,
                "{name} comes before the earlier ones"
            );
        }
        assert_eq!(search.all().len(), 4);
    }

    #[test]
    fn nothing_found_says_where_it_looked() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let error =
            search(root.path()).find().expect_err("an empty root has no kernel").to_string();
        for place in
            ["arch/x86/boot/bzImage", "vmlinuz-6.5.0-run", "boot/vmlinuz-*", "cache/kernels"]
        {
            assert!(error.contains(place), "{place} is missing in: {error}");
        }
    }

    #[test]
    fn what_is_named_is_taken_or_refused() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let mut search = search(root.path());
        write_cached(root.path());
        search.argument = Some("6.1.0-c".into());
        assert_eq!(search.find().expect("a name in the cache").source, KernelSource::Cache);
        search.argument = Some(root.path().join("nothing"));
        assert!(matches!(search.find(), Err(KernelError::Missing { .. })));
        search.argument = Some(root.path().to_path_buf());
        assert!(matches!(search.find(), Err(KernelError::Directory(_))));
        search.argument = Some("/dev/null".into());
        assert!(matches!(search.find(), Err(KernelError::NotAFile(_))));
    }

    #[test]
    fn modules_are_found_beside_the_kernel() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let root = std::fs::canonicalize(root.path()).expect("it exists");
        let kernel = root.join("boot/vmlinuz-6.1.0-x");
        write(&kernel, &bzimage("6.1.0-x "));
        let modules = root.join("usr/lib/modules/6.1.0-x");
        write(&modules.join("modules.order"), b"");
        assert_eq!(
            Kernel::at(&kernel, KernelSource::Argument).expect("readable").modules,
            KernelModules::Directory(modules)
        );
        let built = root.join("linux/arch/x86/boot/bzImage");
        write(&built, &bzimage("7.0.0 "));
        write(&root.join("linux/modules.order"), b"");
        assert_eq!(
            Kernel::at(&built, KernelSource::Argument).expect("readable").modules,
            KernelModules::Directory(root.join("linux"))
        );
    }

    #[test]
    fn releases_are_ordered_by_number() {
        assert!(release_key("6.10.0-1") > release_key("6.9.0-12"));
        assert!(release_key("6.1.0-12") > release_key("6.1.0-9"));
    }
}
