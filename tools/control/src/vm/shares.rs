//! Directories of the host for the guest: which, where, what becomes of changes.
//!
//! The host's root is shared read-only and the guest changes its own copy in memory. The current
//! directory is the exception that makes it useful: inside the user's home it is the real one. Invariant:
//! everything about a share that can be wrong is found here, before the guest starts.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fs::{Access, Exchange, Server, ShareConfig};
use protocol::ShareMode;
use virtio::fs::{FileSystem, Fs, Served};
use virtio::{Chain, Device};

use super::config::{Effective, RunConfig};
use super::error::RunError;
use crate::initramfs::{HostRoot, Support};

/// How long the guest may believe what it knows of names and attributes: of a tree that seldom
/// changes, and of one that both sides work in.
const FRESH_ROOT: Duration = Duration::from_secs(5);
const FRESH_SHARE: Duration = Duration::from_secs(1);
/// Threads of a share for what takes long.
const THREADS: usize = 4;
/// Open files that the rest of this process may need.
const OTHERS: usize = 512;
/// Shares of one VM; each is a PCI function.
const MOST: usize = 16;
/// The tag of the host's root.
const ROOT_TAG: &str = "root";
/// Directories that a guest has of its own, so that what the host has there is not seen.
const FRESH: &[&str] = &["/dev", "/proc", "/run", "/sys", "/tmp"];

/// What the guest's root directory is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Root {
    /// The host's where possible.
    #[default]
    Auto,
    /// The host's, or nothing.
    Host,
    /// A small one in memory, with what the command needs.
    None,
}

/// A directory the user wants shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareWish {
    /// On the host; relative to the current directory.
    pub path: PathBuf,
    /// In the guest; `None`: at its own path.
    pub at: Option<PathBuf>,
    /// What becomes of changes.
    pub mode: ShareMode,
}

/// A directory that is shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// On the host, absolute and without links.
    pub path: PathBuf,
    /// In the guest.
    pub at: PathBuf,
    /// What becomes of changes.
    pub mode: ShareMode,
    /// The current directory, which nobody asked for.
    pub unasked: bool,
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            ShareMode::ReadOnly => "ro",
            ShareMode::ReadWrite => "rw",
            ShareMode::CopyOnWrite => "cow",
        };
        write!(f, "{}:{}:{mode}", self.path.display(), self.at.display())
    }
}

/// What the guest's root is going to be.
pub(super) fn root(
    config: &RunConfig,
    support: &Support,
    kernel: &Path,
) -> Result<(Option<HostRoot>, Option<String>), RunError> {
    let host = |optional| Some(HostRoot { tag: ROOT_TAG.into(), optional });
    Ok(match (config.root, support) {
        (Root::None, _) => (None, None),
        // What the host has changes from run to run.
        (Root::Auto, _) if config.deterministic.is_some() => (None, None),
        (Root::Host, Support::Lacks(what)) => {
            return Err(RunError::RootUnsupported { kernel: kernel.into(), what });
        }
        (Root::Host, _) => (host(false), None),
        (Root::Auto, Support::Has) => (host(false), None),
        (Root::Auto, Support::Unknown) => (host(true), None),
        (Root::Auto, Support::Lacks(what)) => {
            let notice = format!(
                "this kernel has no {what}: the guest has a small user space of its own instead of \
                 the host's"
            );
            (None, Some(notice))
        }
    })
}

/// The user's shares, and the current directory if it is to be one.
pub(super) fn shares(config: &RunConfig, host_root: bool) -> Result<Vec<Share>, RunError> {
    let mut shares = config.shares.iter().map(resolve).collect::<Result<Vec<_>, _>>()?;
    if host_root
        && let Ok(current) = std::env::current_dir()
        && !shares.iter().any(|share| current.starts_with(&share.at))
    {
        shares.extend(current_directory(&current, home().as_deref()));
    }
    // What lies in another comes after it.
    shares.sort_by_key(|share| share.at.components().count());
    let twice = shares.windows(2).find(|pair| pair[0].at == pair[1].at);
    if let Some(pair) = twice {
        return Err(RunError::ShareTwice { at: pair[0].at.clone() });
    }
    if shares.len() > MOST {
        return Err(RunError::TooManyShares { shares: shares.len(), most: MOST });
    }
    Ok(shares)
}

fn home() -> Option<PathBuf> {
    std::fs::canonicalize(std::env::var_os("HOME")?).ok()
}

/// The share that the current directory is without being asked for. The home directory itself, with
/// what programs believe in it, is no project to work in.
fn current_directory(current: &Path, home: Option<&Path>) -> Option<Share> {
    let share =
        |mode| Some(Share { path: current.into(), at: current.into(), mode, unasked: true });
    match home {
        Some(home) if home != Path::new("/") && home != current && current.starts_with(home) => {
            share(ShareMode::ReadWrite)
        }
        _ if FRESH.iter().any(|fresh| current.starts_with(fresh)) => share(ShareMode::CopyOnWrite),
        _ => None, // the root has it
    }
}

fn resolve(wish: &ShareWish) -> Result<Share, RunError> {
    let path = std::fs::canonicalize(&wish.path).map_err(|error| {
        let missing = matches!(
            error.kind(),
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
        );
        RunError::Share(match missing {
            true => fs::ShareError::Missing(wish.path.clone()),
            false => fs::ShareError::Host { path: wish.path.clone(), source: error },
        })
    })?;
    let at = wish.at.clone().unwrap_or_else(|| path.clone());
    let plain = at.is_absolute() && at.components().all(|part| part.as_os_str() != "..");
    if !plain || at == Path::new("/") {
        return Err(RunError::ShareAt { at });
    }
    Ok(Share { path, at, mode: wish.mode, unasked: false })
}

/// Shares that are open.
#[derive(Debug, Default)]
pub(super) struct Opened {
    root: Option<Arc<Server>>,
    shares: Vec<Arc<Server>>,
}

/// Opens what is shared.
pub(super) fn open(effective: &Effective) -> Result<Opened, RunError> {
    let count = usize::from(effective.host_root) + effective.shares.len();
    if count == 0 {
        return Ok(Opened::default());
    }
    let most_open = fs::raise_open_files().saturating_sub(OTHERS) / count;
    let locks = effective.deterministic.is_none();
    let open = |path: &Path, access, fresh_for| {
        let config = ShareConfig { path: path.into(), access, fresh_for, locks, most_open };
        Server::open(&config).map(Arc::new).map_err(RunError::Share)
    };
    let root = match effective.host_root {
        true => Some(open(Path::new("/"), Access::ReadOnly, FRESH_ROOT)?),
        false => None,
    };
    let shares = effective.shares.iter().map(|share| {
        let access = match share.mode {
            ShareMode::ReadWrite => Access::ReadWrite,
            ShareMode::ReadOnly | ShareMode::CopyOnWrite => Access::ReadOnly,
        };
        open(&share.path, access, FRESH_SHARE)
    });
    Ok(Opened { root, shares: shares.collect::<Result<_, _>>()? })
}

/// A share's tag.
fn tag(index: usize) -> String {
    format!("share{index}")
}

/// What init mounts. Where the root may be another than the host's, what nobody asked for may be missing.
pub(super) fn for_init(shares: &[Share], root: Option<&HostRoot>) -> Vec<protocol::Share> {
    let may_lack = root.is_some_and(|root| root.optional);
    let one = |(index, share): (usize, &Share)| protocol::Share {
        mode: share.mode,
        tag: tag(index).into_bytes(),
        path: share.at.as_os_str().as_bytes().to_vec(),
        optional: share.unasked && may_lack,
    };
    shares.iter().enumerate().map(one).collect()
}

/// The virtio devices of what is shared.
pub(super) fn devices(opened: Opened, in_place: bool) -> Vec<Box<dyn Device>> {
    let threads = if in_place { 0 } else { THREADS };
    let device = |server: Arc<Server>, tag: &str| -> Box<dyn Device> {
        Box::new(Fs::new(Arc::new(Files(server)), tag, threads))
    };
    let mut devices: Vec<Box<dyn Device>> = Vec::new();
    devices.extend(opened.root.map(|root| device(root, ROOT_TAG)));
    let shares = opened.shares.into_iter().enumerate();
    devices.extend(shares.map(|(index, share)| device(share, &tag(index))));
    devices
}

/// A server behind a virtio device.
#[derive(Debug)]
struct Files(Arc<Server>);

impl FileSystem for Files {
    fn serve(&self, request: &mut Chain) -> Served {
        match self.0.serve(&mut InChain(request)) {
            fs::Served::Answered | fs::Served::Silent => Served::Done,
            fs::Served::Later(task) => Served::Later(task),
        }
    }

    fn is_local(&self) -> bool {
        self.0.is_local()
    }
}

/// A request in a chain of the guest's buffers.
struct InChain<'a>(&'a mut Chain);

impl Exchange for InChain<'_> {
    fn readable(&self) -> usize {
        self.0.readable() as usize
    }

    fn writable(&self) -> usize {
        self.0.writable() as usize
    }

    fn read(&mut self, into: &mut [u8]) -> usize {
        self.0.read(into)
    }

    fn write(&mut self, from: &[u8]) -> usize {
        self.0.write(from)
    }

    fn reserve(&mut self, count: usize) {
        self.0.skip(count);
    }

    fn write_start(&mut self, from: &[u8]) {
        self.0.write_start(from);
    }

    fn read_file(
        &mut self,
        file: std::os::fd::BorrowedFd<'_>,
        at: u64,
        count: usize,
    ) -> std::io::Result<usize> {
        self.0.read_file(file, at, count)
    }

    fn write_file(
        &mut self,
        file: std::os::fd::BorrowedFd<'_>,
        at: u64,
        count: usize,
    ) -> std::io::Result<usize> {
        self.0.write_file(file, at, count)
    }
}

/// `DIR[:PATH][:ro|rw|cow]`.
impl ShareWish {
    /// A wish as a user writes it. A colon in a directory's name is no matter, as long as no `/` and
    /// no mode follows it.
    pub fn parse(text: &OsStr) -> Self {
        let bytes = text.as_bytes();
        let modes: [(&[u8], ShareMode); 3] = [
            (b":ro", ShareMode::ReadOnly),
            (b":rw", ShareMode::ReadWrite),
            (b":cow", ShareMode::CopyOnWrite),
        ];
        let found = modes.iter().find_map(|(end, mode)| Some((bytes.strip_suffix(*end)?, *mode)));
        let (rest, mode) = found.unwrap_or((bytes, ShareMode::ReadWrite));
        let colon = rest.windows(2).rposition(|pair| pair == b":/").filter(|at| *at > 0);
        let path = |bytes| PathBuf::from(OsStr::from_bytes(bytes));
        match colon {
            Some(at) => Self { path: path(&rest[..at]), at: Some(path(&rest[at + 1..])), mode },
            None => Self { path: path(rest), at: None, mode },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_directory_perhaps_a_place_and_a_mode() {
        let parsed = |text: &str| {
            let wish = ShareWish::parse(OsStr::new(text));
            (wish.path.display().to_string(), wish.at.map(|at| at.display().to_string()), wish.mode)
        };
        let (ro, rw, cow) = (ShareMode::ReadOnly, ShareMode::ReadWrite, ShareMode::CopyOnWrite);
        assert_eq!(parsed("."), (".".into(), None, rw));
        assert_eq!(parsed("src:ro"), ("src".into(), None, ro));
        assert_eq!(parsed("/a:/b"), ("/a".into(), Some("/b".into()), rw));
        assert_eq!(parsed("/a:/b:cow"), ("/a".into(), Some("/b".into()), cow));
        assert_eq!(parsed("a:b"), ("a:b".into(), None, rw));
        assert_eq!(parsed("a:b:/c:rw"), ("a:b".into(), Some("/c".into()), rw));
        assert_eq!(parsed(":/x"), (":/x".into(), None, rw));
    }

    #[test]
    fn the_current_directory_is_the_real_one_inside_the_home_directory_only() {
        let home = Some(Path::new("/home/me"));
        let mode = |current: &str, home: Option<&Path>| {
            current_directory(Path::new(current), home).map(|share| share.mode)
        };
        assert_eq!(mode("/home/me/src", home), Some(ShareMode::ReadWrite));
        assert_eq!(mode("/home/me", home), None);
        assert_eq!(mode("/home/meander", home), None);
        assert_eq!(mode("/usr/src", home), None);
        assert_eq!(mode("/usr/src", Some(Path::new("/"))), None);
        assert_eq!(mode("/tmp/x", home), Some(ShareMode::CopyOnWrite));
        assert_eq!(mode("/tmp/x", None), Some(ShareMode::CopyOnWrite));
    }

    #[test]
    fn what_cannot_be_shared_is_told() {
        let wish = |path: &str, at: Option<&str>| {
            let at = at.map(PathBuf::from);
            let wish = ShareWish { path: path.into(), at, mode: ShareMode::ReadOnly };
            shares(&RunConfig { shares: vec![wish], ..RunConfig::default() }, false)
        };
        assert!(matches!(wish("/none/at/all", None), Err(RunError::Share(_))));
        for at in ["relative", "/a/../b", "/"] {
            assert!(matches!(wish("/usr", Some(at)), Err(RunError::ShareAt { .. })), "{at}");
        }
        assert!(wish("/usr", Some("/mnt")).is_ok());
        let twice = vec![ShareWish::parse(OsStr::new("/usr:/mnt")); 2];
        let twice = RunConfig { shares: twice, ..RunConfig::default() };
        assert!(matches!(shares(&twice, false), Err(RunError::ShareTwice { .. })));
    }

    #[test]
    fn a_kernel_without_the_drivers_gets_another_root_or_is_refused() {
        let choose = |root_wish, support| {
            let config = RunConfig { root: root_wish, ..RunConfig::default() };
            root(&config, &support, Path::new("k"))
        };
        let lacks = || Support::Lacks("virtio-fs");
        assert!(matches!(choose(Root::Host, lacks()), Err(RunError::RootUnsupported { .. })));
        assert!(matches!(choose(Root::Auto, lacks()), Ok((None, Some(_)))));
        assert!(matches!(choose(Root::None, Support::Has), Ok((None, None))));
        let optional = |choice: Result<(Option<HostRoot>, Option<String>), RunError>| {
            choice.expect("it can be had").0.map(|root| root.optional)
        };
        assert_eq!(optional(choose(Root::Auto, Support::Has)), Some(false));
        assert_eq!(optional(choose(Root::Auto, Support::Unknown)), Some(true));
        assert_eq!(optional(choose(Root::Host, Support::Unknown)), Some(false));
    }
}
