//! The command in the host's own user space: its environment, its directory, who it runs as.
//!
//! Root in the guest stands for the invoking user: files of the guest's root on a share are the user's on
//! the host, and programs that ask on whose behalf root acts (git, of a repository's owner) find
//! the user in `SUDO_UID`. Invariant: only variables that say how to work come along, none that
//! can hold a secret.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use protocol::{Job, Module, User};

use super::{Contents, InitramfsError, variable};

/// Variables that come along as they are.
const TAKEN: &[&str] = &[
    "COLORTERM",
    "EDITOR",
    "HOME",
    "LANG",
    "LANGUAGE",
    "LESS",
    "LS_COLORS",
    "MAKEFLAGS",
    "PAGER",
    "SHELL",
    "TERM",
    "TZ",
    "VISUAL",
];
/// And all that begin so.
const TAKEN_PREFIX: &[u8] = b"LC_";
/// Root's programs are found, too.
const FOR_ROOT: &[&str] = &["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// What init shall do in the host's user space.
pub(super) fn job(contents: &Contents, modules: Vec<Module>) -> Result<Job, InitramfsError> {
    let cwd = std::env::current_dir().map_err(InitramfsError::CurrentDirectory)?;
    let user = user(contents);
    let argv = match contents.command.is_empty() {
        true => vec![shell().ok_or(InitramfsError::NoShell)?.into_os_string()],
        false => contents.command.clone(),
    };
    Ok(Job {
        terminal: contents.terminal.is_some(),
        window: contents.terminal.as_ref().map(|terminal| terminal.size).unwrap_or_default(),
        hostname: contents.hostname.clone().into_bytes(),
        cwd: cwd.into_os_string().into_vec(),
        argv: argv.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
        env: environment(contents, user.is_some()),
        modules,
        root: contents.root.clone(),
        shares: contents.shares.clone(),
        user,
        network: contents.network.clone(),
    })
}

/// Who the command runs as, if not root.
pub(super) fn user(contents: &Contents) -> Option<User> {
    let uid = rustix::process::getuid();
    if !contents.as_user || uid.is_root() {
        return None;
    }
    let groups = rustix::process::getgroups().unwrap_or_default();
    Some(User {
        uid: uid.as_raw(),
        gid: rustix::process::getgid().as_raw(),
        groups: groups.into_iter().map(rustix::process::Gid::as_raw).collect(),
    })
}

fn shell() -> Option<PathBuf> {
    let own = std::env::var_os("SHELL").map(PathBuf::from);
    let usual = ["/bin/bash", "/usr/bin/bash", "/bin/sh"].map(PathBuf::from);
    own.into_iter().chain(usual).find(|path| path.is_absolute() && path.is_file())
}

fn environment(contents: &Contents, as_user: bool) -> Vec<Vec<u8>> {
    let taken = |name: &OsStr| {
        TAKEN.iter().any(|taken| name == *taken) || name.as_bytes().starts_with(TAKEN_PREFIX)
    };
    let mut variables: Vec<(OsString, OsString)> =
        std::env::vars_os().filter(|(name, _)| taken(name)).collect();
    variables.sort();
    let mut set = |name: &str, value: OsString| {
        variables.retain(|(known, _)| known != name);
        variables.push((name.into(), value));
    };
    set("PATH", search_path(as_user));
    if let Some(terminal) = &contents.terminal {
        set("TERM", OsString::from(&terminal.kind));
    }
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    let name = std::env::var_os("USER").or_else(|| std::env::var_os("LOGNAME"));
    let root = OsString::from("root");
    let acts_for_another = !as_user && !uid.is_root();
    if acts_for_another {
        set("SUDO_UID", uid.as_raw().to_string().into());
        set("SUDO_GID", gid.as_raw().to_string().into());
        if let Some(name) = &name {
            set("SUDO_USER", name.clone());
        }
    }
    let name = if as_user { name } else { Some(root) };
    if let Some(name) = name {
        set("USER", name.clone());
        set("LOGNAME", name);
    }
    if std::env::var_os("HOME").is_none() {
        set("HOME", "/root".into());
    }
    variables
        .into_iter()
        .filter_map(|(name, value)| Some(variable(name.to_str()?, value)))
        .collect()
}

/// The host's search path, with root's directories for root.
fn search_path(as_user: bool) -> OsString {
    let own = std::env::var_os("PATH").unwrap_or_else(|| super::join(&usual_path()));
    let mut parts: Vec<PathBuf> = std::env::split_paths(&own).collect();
    if !as_user {
        let missing = FOR_ROOT.iter().map(Path::new).filter(|path| path.is_dir());
        let missing: Vec<PathBuf> =
            missing.filter(|path| !parts.iter().any(|part| part == path)).map(Into::into).collect();
        parts.extend(missing);
    }
    super::join(&parts)
}

fn usual_path() -> Vec<PathBuf> {
    super::contents::PATH.iter().map(PathBuf::from).collect()
}
