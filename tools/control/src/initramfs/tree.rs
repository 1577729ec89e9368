//! Copies parts of the host's file tree into the archive: symbolic links, libraries, interpreters.
//!
//! Invariants: every path is added once, its parents before it; a symbolic link is added as one and
//! what it points to as well, so `/bin -> usr/bin` and `/etc/alternatives` work in the guest as on
//! the host; the work list is a loop, not a recursion.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use firmware::source::Source;

use super::cpio::Archive;
use super::libraries::Libraries;
use super::{elf, words};
use crate::source::FileSource;

/// Symbolic links followed in one path, as in Linux (MAXSYMLINKS).
const MOST_LINKS: usize = 40;
/// The largest file that comes along; the archive is copied within guest memory.
const LARGEST_FILE: u64 = 256 << 20;
/// Scripts up to this size are searched for the commands they name.
const LARGEST_SCRIPT: u64 = 64 << 10;
/// The `#!` line of a larger one is in its first bytes.
const LONGEST_LINE: u64 = 512;

pub(super) struct Tree {
    archive: Archive,
    libraries: Libraries,
    /// What is in the archive; for a symbolic link, where it leads.
    added: HashMap<PathBuf, Option<PathBuf>>,
    /// Files of the host by device and inode: a second name becomes a symbolic link.
    inodes: HashMap<(u64, u64), PathBuf>,
    search: Vec<PathBuf>,
    missing: Vec<String>,
    missed_libraries: HashSet<Vec<u8>>,
}

impl Tree {
    pub(super) fn new() -> Self {
        let mut search: Vec<PathBuf> = std::env::var_os("PATH")
            .map(|path| std::env::split_paths(&path).filter(|part| part.is_absolute()).collect())
            .unwrap_or_default();
        for directory in super::contents::PATH {
            if !search.iter().any(|known| known == Path::new(directory)) {
                search.push(PathBuf::from(directory));
            }
        }
        Self {
            archive: Archive::new(),
            libraries: Libraries::of_this_host(),
            added: HashMap::new(),
            inodes: HashMap::new(),
            search,
            missing: Vec::new(),
            missed_libraries: HashSet::new(),
        }
    }

    /// The archive, and what is missing from it.
    pub(super) fn finish(self) -> (Archive, Vec<String>) {
        (self.archive.finish(), self.missing)
    }

    /// Notes that something the user should know of is not there.
    pub(super) fn miss(&mut self, what: String) {
        self.missing.push(what);
    }

    /// The host's program of this name.
    pub(super) fn look_up(&self, name: &OsStr) -> Option<PathBuf> {
        self.search.iter().map(|directory| directory.join(name)).find(|path| {
            std::fs::metadata(path)
                .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        })
    }

    /// A directory of our own.
    pub(super) fn directory(&mut self, path: &Path, mode: u32) {
        if self.added.insert(path.to_path_buf(), None).is_none() {
            self.archive.directory(path.as_os_str().as_bytes(), mode);
        }
    }

    /// A file of our own.
    pub(super) fn file(&mut self, path: &Path, mode: u32, data: &[u8]) {
        if let Some(parent) = path.parent().filter(|parent| parent.parent().is_some()) {
            self.directory(parent, 0o755);
        }
        if self.added.insert(path.to_path_buf(), None).is_none() {
            self.archive.file(path.as_os_str().as_bytes(), mode, data);
        }
    }

    /// The same, without a copy.
    pub(super) fn static_file(&mut self, path: &Path, mode: u32, data: &'static [u8]) {
        if self.added.insert(path.to_path_buf(), None).is_none() {
            self.archive.static_file(path.as_os_str().as_bytes(), mode, data);
        }
    }

    /// A device of the kernel's by its numbers (Documentation/admin-guide/devices.txt).
    pub(super) fn character_device(&mut self, path: &Path, mode: u32, numbers: (u32, u32)) {
        if self.added.insert(path.to_path_buf(), None).is_none() {
            self.archive.character_device(path.as_os_str().as_bytes(), mode, numbers);
        }
    }

    /// A directory that is one on the host or, on a merged-/usr host, a link to one.
    pub(super) fn mirror_directory(&mut self, path: &Path) {
        if path.is_dir() {
            self.host_directory(path);
        } else {
            self.directory(path, 0o755);
        }
    }

    /// A directory of the host, empty.
    pub(super) fn host_directory(&mut self, path: &Path) {
        if let Some(real) = self.resolve(path) {
            self.directory(&real, 0o755);
        }
    }

    /// A file of the host as it is.
    pub(super) fn host_file(&mut self, path: &Path) {
        self.copy(path);
    }

    /// A program of the host with everything it takes to execute it.
    pub(super) fn program(&mut self, path: &Path) {
        let mut wanted = VecDeque::from([path.to_path_buf()]);
        while let Some(path) = wanted.pop_front() {
            if let Some((real, file)) = self.copy(&path) {
                self.needs_of(&real, &file, &mut wanted);
            }
        }
    }

    /// Every program of the host that a text names as a word.
    pub(super) fn programs_named_in(&mut self, text: &[u8]) {
        let found: Vec<PathBuf> = words::words(text)
            .into_iter()
            .filter_map(|word| self.look_up(OsStr::from_bytes(word)))
            .collect();
        for path in found {
            self.program(&path);
        }
    }

    fn needs_of(&mut self, path: &Path, file: &FileSource, wanted: &mut VecDeque<PathBuf>) {
        let mut bytes = vec![0; Source::size(file).min(LONGEST_LINE) as usize];
        if file.read_at(0, &mut bytes).is_err() {
            return; // the archive tells it
        }
        if bytes.starts_with(b"#!") {
            let script = Source::size(file) <= LARGEST_SCRIPT;
            if script {
                bytes.resize(Source::size(file) as usize, 0);
                if file.read_at(0, &mut bytes).is_err() {
                    return;
                }
            }
            let rest = &bytes[2..];
            let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let parts =
                line.split(|byte| byte.is_ascii_whitespace()).filter(|part| !part.is_empty());
            let parts: Vec<OsString> =
                parts.map(|part| OsStr::from_bytes(part).to_owned()).collect();
            let text = script.then_some(&bytes);
            self.interpreter(path, &parts, wanted);
            for word in text.iter().flat_map(|text| words::words(text)) {
                wanted
                    .extend(self.look_up(OsStr::from_bytes(word)).filter(|found| !self.has(found)));
            }
            return;
        }
        let Some(needs) = elf::needs(file) else {
            return;
        };
        wanted.extend(
            needs.interpreter.as_deref().map(|path| PathBuf::from(OsStr::from_bytes(path))),
        );
        for name in &needs.libraries {
            match self.libraries.find(name, path, &needs.run_path) {
                Some(library) => wanted.push_back(library),
                None if self.missed_libraries.insert(name.clone()) => {
                    let name = String::from_utf8_lossy(name);
                    self.missing.push(format!(
                        "{} needs {name}, which is not on this host",
                        path.display()
                    ));
                }
                None => {}
            }
        }
    }

    /// `#!/usr/bin/env python3` wants both.
    fn interpreter(&mut self, script: &Path, line: &[OsString], wanted: &mut VecDeque<PathBuf>) {
        let Some((interpreter, arguments)) = line.split_first() else {
            return;
        };
        let interpreter = PathBuf::from(interpreter);
        if !interpreter.exists() {
            let name = interpreter.display();
            self.missing
                .push(format!("{} needs {name}, which is not on this host", script.display()));
            return;
        }
        if interpreter.file_name() == Some(OsStr::new("env")) {
            let program = arguments.iter().find(|argument| !argument.as_bytes().starts_with(b"-"));
            wanted.extend(program.and_then(|program| self.look_up(program)));
        }
        wanted.push_back(interpreter);
    }

    fn has(&self, path: &Path) -> bool {
        self.added.contains_key(path)
    }

    /// Adds one file of the host; gives its real path and the file. `None` if it was there already,
    /// or is told as missing.
    fn copy(&mut self, path: &Path) -> Option<(PathBuf, FileSource)> {
        if self.added.get(path).is_some_and(Option::is_none) {
            return None;
        }
        let real = self.resolve(path)?;
        if self.has(&real) {
            return None;
        }
        match self.copy_real(&real) {
            Ok(file) => file.map(|file| (real, file)),
            Err(why) => {
                self.missing.push(format!("{}: {why}", path.display()));
                None
            }
        }
    }

    fn copy_real(&mut self, real: &Path) -> Result<Option<FileSource>, String> {
        let file = File::open(real).map_err(|error| error.to_string())?;
        let status = file.metadata().map_err(|error| error.to_string())?;
        if status.is_dir() {
            self.directory(real, 0o755);
            return Ok(None);
        }
        if !status.is_file() {
            return Err("not a regular file".into());
        }
        if status.len() > LARGEST_FILE {
            return Err(format!("larger than {} MiB", LARGEST_FILE >> 20));
        }
        self.added.insert(real.to_path_buf(), None);
        let inode = (status.dev(), status.ino());
        if let Some(first) = self.inodes.get(&inode).filter(|_| status.nlink() > 1) {
            self.archive.symlink(real.as_os_str().as_bytes(), first.as_os_str().as_bytes());
            return Ok(None);
        }
        self.inodes.insert(inode, real.to_path_buf());
        let mode = status.permissions().mode() & 0o7777;
        let name = real.as_os_str().as_bytes();
        self.archive.host_file(name, mode, status.len() as u32, real);
        FileSource::new(file).map(Some).map_err(|error| error.to_string())
    }

    /// Follows a host path component by component, adding its directories and links; gives the
    /// path without links. `None` if it leads nowhere, which is told.
    fn resolve(&mut self, path: &Path) -> Option<PathBuf> {
        let mut real = PathBuf::from("/");
        let mut rest: VecDeque<OsString> = components(path);
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                real.pop();
                continue;
            }
            let next = real.join(&name);
            let target = match self.added.get(&next) {
                Some(known) => known.clone(),
                None => match std::fs::symlink_metadata(&next) {
                    Ok(status) if status.is_symlink() => {
                        let target = std::fs::read_link(&next).ok()?;
                        self.archive
                            .symlink(next.as_os_str().as_bytes(), target.as_os_str().as_bytes());
                        self.added.insert(next.clone(), Some(target.clone()));
                        Some(target)
                    }
                    Ok(status) => {
                        if status.is_dir() {
                            self.directory(&next, status.permissions().mode() & 0o7777);
                        }
                        None
                    }
                    Err(error) => {
                        self.missing.push(format!("{}: {error}", path.display()));
                        return None;
                    }
                },
            };
            let Some(target) = target else {
                real = next;
                continue;
            };
            links += 1;
            if links > MOST_LINKS {
                self.missing.push(format!("{}: too many symbolic links", path.display()));
                return None;
            }
            if target.is_absolute() {
                real = PathBuf::from("/");
            }
            for name in components(&target).into_iter().rev() {
                rest.push_front(name);
            }
        }
        Some(real)
    }
}

fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}
