//! The guest's files: host programs at their own paths with the shared libraries they need.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A folder that becomes an initramfs.
pub(super) struct Tree {
    root: PathBuf,
    seen: BTreeSet<PathBuf>,
}

impl Tree {
    /// An empty tree in this folder.
    pub(super) fn new(root: PathBuf) -> Result<Self> {
        for folder in ["dev", "proc", "sys", "tmp", "bench"] {
            fs::create_dir_all(root.join(folder))?;
        }
        Ok(Self { root, seen: BTreeSet::new() })
    }

    /// The guest's /work.
    pub(super) fn work(&self) -> PathBuf {
        self.root.join("bench")
    }

    /// Copies a host file to the same path, links followed, its time kept: Python trusts compiled
    /// code by its source's time.
    pub(super) fn add(&mut self, path: &Path) -> Result<()> {
        if self.seen.insert(path.to_owned()) {
            self.add_as(path, path)?;
        }
        Ok(())
    }

    /// Copies a host file to a path of the guest.
    pub(super) fn add_as(&self, path: &Path, target: &Path) -> Result<()> {
        let target = self.root.join(target.strip_prefix("/").unwrap_or(target));
        fs::create_dir_all(target.parent().expect("a file lies in a folder"))?;
        fs::copy(path, &target).with_context(|| path.display().to_string())?;
        let modified = fs::metadata(path)?.modified()?;
        // A file without write permission is its owner's to open all the same, if that is root.
        if let Ok(file) = File::options().append(true).open(&target) {
            file.set_modified(modified)?;
        }
        Ok(())
    }

    /// Copies a program or library and all shared libraries that it loads at its start.
    pub(super) fn add_program(&mut self, path: &Path) -> Result<()> {
        self.add(path)?;
        for library in libraries(path)? {
            self.add(&library)?;
        }
        Ok(())
    }

    /// The tree as an uncompressed newc archive.
    pub(super) fn archive(&self, target: &Path) -> Result<()> {
        let status = Command::new("sh")
            .args(["-c", "find . | cpio --quiet -o -H newc > \"$0\""])
            .arg(target)
            .current_dir(&self.root)
            .status()
            .context("sh")?;
        if !status.success() {
            bail!("cpio ended with {status}");
        }
        Ok(())
    }
}

/// What the dynamic linker would load for a program; nothing for a static one.
fn libraries(path: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(path).output().context("ldd")?;
    Ok(linked(&String::from_utf8_lossy(&output.stdout)))
}

/// The absolute paths in ldd's answer.
fn linked(text: &str) -> Vec<PathBuf> {
    let words =
        |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    text.lines().filter(|line| !line.contains("not a dynamic")).filter_map(words).collect()
}

/// A program's file: on the system's own path, or where the compiler keeps it.
pub(crate) fn find(program: &str) -> Result<PathBuf> {
    let mut places: Vec<PathBuf> =
        ["/usr/bin", "/bin", "/usr/local/bin"].map(|folder| Path::new(folder).join(program)).into();
    if program == "cc1" {
        let asked = Command::new("gcc").arg("-print-prog-name=cc1").output().context("gcc")?;
        places.push(String::from_utf8_lossy(&asked.stdout).trim().into());
    }
    // Debian's 7zr is a script around this one.
    if program == "7zr" {
        places.insert(0, "/usr/lib/p7zip/7zr".into());
    }
    let there = places.iter().find(|place| place.is_absolute() && place.is_file());
    there.cloned().with_context(|| format!("{program} is not in /usr/bin"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn linked_libraries_are_read() {
        let text = "\tlinux-vdso.so.1 (0x7fff)\n\tlibz.so.1 => /lib/libz.so.1 (0x7f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        let found = super::linked(text);
        assert_eq!(
            found,
            ["/lib/libz.so.1", "/lib64/ld-linux-x86-64.so.2"].map(Into::into)
                as [std::path::PathBuf; 2]
        );
        assert!(super::linked("\tnot a dynamic executable\n").is_empty());
    }
}
