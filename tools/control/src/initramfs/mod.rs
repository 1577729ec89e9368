//! The generated initramfs: our init, the host's shell and commands with their libraries, modules.
//!
//! A cpio archive in the "newc" format (kernel Documentation/driver-api/early-userspace),
//! uncompressed: the guest reads it as fast as it can copy. Here it is a list of what goes into it;
//! files of the host are read once, into guest memory. Invariants: a host file has
//! the same path in the guest; a file that is not on the host is told, not
//! fatal.

mod contents;
mod cpio;
mod elf;
mod host;
mod libraries;
mod modules;
mod tree;
mod words;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

pub use cpio::Archive;
pub use modules::Hardware;
pub(crate) use modules::{FOR_ROOT, FOR_SHARES, Support, support};
pub use protocol::{HostRoot, WindowSize};
use protocol::{Job, Module, Network};
use thiserror::Error;

use crate::kernel::KernelModules;
use tree::Tree;

/// The static init that [`pack`] puts at `/init`, built together with this crate.
static INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/oneroof-init"));

/// Where modules are in the guest.
const MODULES: &str = "/oneroof/modules";

/// What shall run in the guest, and how.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// The command and its arguments; empty for the shell.
    pub command: Vec<OsString>,
    /// A terminal of this kind and size; `None` for pipes.
    pub terminal: Option<Terminal>,
    /// Modules of the kernel that boots.
    pub modules: KernelModules,
    /// What the machine has: its drivers come along.
    pub hardware: Vec<Hardware>,
    /// How its network card is configured.
    pub network: Network,
    /// The guest's host name.
    pub hostname: String,
    /// The host's user space is the guest's; `None`: the guest gets a small one of its own.
    pub root: Option<HostRoot>,
    /// Directories that init mounts.
    pub shares: Vec<protocol::Share>,
    /// The command runs as the invoking user, not as root.
    pub as_user: bool,
}

/// The user's terminal.
#[derive(Clone, Debug, Default)]
pub struct Terminal {
    /// The host's `TERM`.
    pub kind: String,
    /// Its size.
    pub size: WindowSize,
}

/// A packed initramfs.
#[derive(Debug)]
pub struct Initramfs {
    /// The archive.
    pub archive: Archive,
    /// What could not be packed, a sentence each.
    pub missing: Vec<String>,
}

/// Why there is no initramfs.
#[derive(Debug, Error)]
pub enum InitramfsError {
    /// No shell on the host.
    #[error(
        "this host has neither bash nor sh on PATH, /usr/bin or /bin; name a command to run instead"
    )]
    NoShell,
    /// The current directory is gone.
    #[error("the current directory cannot be found")]
    CurrentDirectory(#[source] std::io::Error),
    /// A file was there when the initramfs was planned and not when it was written.
    #[error("{} disappeared, or became unreadable, while it was packed", .path.display())]
    Gone {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        #[source]
        source: std::io::Error,
    },
}

/// Packs everything the guest needs to run the command.
pub fn pack(contents: &Contents) -> Result<Initramfs, InitramfsError> {
    let mut tree = Tree::new();
    skeleton(&mut tree);
    let own = match &contents.root {
        Some(HostRoot { optional: false, .. }) => None,
        _ => Some(user_space(&mut tree, contents)?),
    };
    let modules = pack_modules(&mut tree, contents);
    let job = match (&contents.root, own) {
        (None, Some(plan)) => plan.job(contents, modules),
        _ => host::job(contents, modules)?,
    };
    tree.file(Path::new(protocol::JOB_PATH), 0o600, &job.encode());
    let (archive, missing) = tree.finish();
    Ok(Initramfs { archive, missing })
}

/// Modules that an initramfs can carry, as the kernel spells them.
pub(crate) fn module_names() -> impl Iterator<Item = &'static str> {
    modules::TABLE.iter().map(|(name, _)| *name).chain([modules::TRANSPORT])
}

/// For [`crate::hostile`]: the bytes of all names that a program asks the loader for.
pub(crate) fn needed_names(file: &[u8]) -> Option<usize> {
    let needs = elf::needs(&file)?;
    let names = needs.libraries.iter().chain(&needs.run_path).chain(&needs.interpreter);
    Some(names.map(Vec::len).sum())
}

/// What is the same in every guest.
fn skeleton(tree: &mut Tree) {
    for (path, mode) in contents::DIRECTORIES {
        tree.directory(Path::new(path), *mode);
    }
    tree.character_device(Path::new("/dev/console"), 0o600, (5, 1));
    // Init's streams while the console's driver is a module that is not there yet.
    tree.character_device(Path::new("/dev/null"), 0o666, (1, 3));
    tree.static_file(Path::new("/init"), 0o755, INIT);
}

/// A user space for the command.
fn user_space(tree: &mut Tree, contents: &Contents) -> Result<Plan, InitramfsError> {
    etc(tree, contents);
    let plan = Plan::new(contents, tree)?;
    for program in contents::BASE {
        if let Some(path) = tree.look_up(OsStr::new(program)) {
            tree.program(&path);
        }
    }
    Ok(plan)
}

fn etc(tree: &mut Tree, contents: &Contents) {
    for (path, text) in contents::FILES {
        tree.file(Path::new(path), 0o644, text.as_bytes());
    }
    tree.file(Path::new("/etc/hostname"), 0o644, format!("{}\n", contents.hostname).as_bytes());
    let hosts = format!("127.0.0.1 localhost {}\n::1 localhost\n", contents.hostname);
    tree.file(Path::new("/etc/hosts"), 0o644, hosts.as_bytes());
    for path in ["/bin", "/sbin", "/lib", "/lib64", "/usr/bin", "/usr/lib"] {
        tree.mirror_directory(Path::new(path));
    }
    for path in contents::HOST_FILES {
        if Path::new(path).exists() {
            tree.host_file(Path::new(path));
        }
    }
}

/// The command, made ready to be packed and named in the job.
struct Plan {
    argv: Vec<OsString>,
    cwd: PathBuf,
    path: Vec<PathBuf>,
    shell: Option<PathBuf>,
}

impl Plan {
    fn new(contents: &Contents, tree: &mut Tree) -> Result<Self, InitramfsError> {
        let shell = tree.look_up(OsStr::new("bash")).or_else(|| tree.look_up(OsStr::new("sh")));
        let path: Vec<PathBuf> = contents::PATH.iter().map(PathBuf::from).collect();
        let mut plan =
            Self { argv: contents.command.clone(), cwd: PathBuf::from("/root"), path, shell };
        if let Some(shell) = &plan.shell {
            tree.program(shell);
        }
        if let Some(sh) = tree.look_up(OsStr::new("sh")) {
            tree.program(&sh); // scripts and system(3) call it by this name
        }
        match contents.command.first() {
            None => {
                let shell = plan.shell.clone().ok_or(InitramfsError::NoShell)?;
                plan.argv = vec![shell.into_os_string()];
                pack_comfort(tree, contents.terminal.as_ref());
            }
            Some(program) => {
                plan.cwd = std::env::current_dir().map_err(InitramfsError::CurrentDirectory)?;
                tree.host_directory(&plan.cwd);
                plan.pack_command(program, tree);
                plan.pack_arguments(&contents.command[1..], tree);
            }
        }
        if let Some(terminal) = &contents.terminal {
            pack_terminfo(tree, &terminal.kind);
        }
        Ok(plan)
    }

    fn pack_command(&mut self, program: &OsStr, tree: &mut Tree) {
        let found = if program.as_bytes().contains(&b'/') {
            Some(self.cwd.join(program)).filter(|path| path.exists())
        } else {
            tree.look_up(program)
        };
        let Some(path) = found else {
            let name = program.to_string_lossy();
            tree.miss(format!("{name} is not on this host, so it is not in the guest"));
            return;
        };
        tree.program(&path);
        if let Some(directory) = path.parent()
            && !program.as_bytes().contains(&b'/')
            && !self.path.iter().any(|known| known == directory)
        {
            self.path.push(directory.to_path_buf());
        }
    }

    /// Files named as arguments, and commands named in scripts, come along.
    fn pack_arguments(&self, arguments: &[OsString], tree: &mut Tree) {
        for argument in arguments {
            let path = self.cwd.join(argument);
            if path.is_file() && !argument.is_empty() {
                tree.program(&path);
            } else {
                tree.programs_named_in(argument.as_bytes());
            }
        }
    }

    fn job(&self, contents: &Contents, modules: Vec<Module>) -> Job {
        let mut env = vec![
            variable("PATH", join(&self.path)),
            variable("HOME", OsString::from("/root")),
            variable("USER", OsString::from("root")),
            variable("LOGNAME", OsString::from("root")),
            variable("LANG", OsString::from("C.UTF-8")),
        ];
        if let Some(shell) = &self.shell {
            env.push(variable("SHELL", shell.clone().into_os_string()));
        }
        if let Some(terminal) = &contents.terminal {
            env.push(variable("TERM", OsString::from(&terminal.kind)));
            env.push(variable("PS1", OsString::from("\\u@\\h:\\w\\$ ")));
        }
        Job {
            terminal: contents.terminal.is_some(),
            window: contents.terminal.as_ref().map(|terminal| terminal.size).unwrap_or_default(),
            hostname: contents.hostname.clone().into_bytes(),
            cwd: self.cwd.clone().into_os_string().into_vec(),
            argv: self.argv.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
            env,
            modules,
            root: None,
            shares: contents.shares.clone(),
            user: host::user(contents),
            network: contents.network.clone(),
        }
    }
}

fn variable(name: &str, value: OsString) -> Vec<u8> {
    let mut out = format!("{name}=").into_bytes();
    out.extend_from_slice(value.as_bytes());
    out
}

fn join(path: &[PathBuf]) -> OsString {
    let parts: Vec<&[u8]> = path.iter().map(|part| part.as_os_str().as_bytes()).collect();
    OsString::from_vec(parts.join(&b':'))
}

/// What makes an interactive shell pleasant.
fn pack_comfort(tree: &mut Tree, terminal: Option<&Terminal>) {
    if terminal.is_some() {
        for program in contents::COMFORT {
            let found = tree.look_up(OsStr::new(program));
            let small = |path: &PathBuf| {
                std::fs::metadata(path).is_ok_and(|status| status.len() <= contents::COMFORT_LIMIT)
            };
            if let Some(path) = found.filter(small) {
                tree.program(&path);
            }
        }
    }
}

/// The terminal's description, where ncurses looks for it (terminfo(5)).
fn pack_terminfo(tree: &mut Tree, kind: &str) {
    let Some(first) = kind.chars().next().filter(|_| !kind.contains('/')) else {
        return;
    };
    for root in contents::TERMINFO {
        let path = Path::new(root).join(first.to_string()).join(kind);
        if path.is_file() {
            tree.host_file(&path);
            return;
        }
    }
    tree.miss(format!("there is no terminfo entry for TERM={kind} on this host"));
}

fn pack_modules(tree: &mut Tree, contents: &Contents) -> Vec<Module> {
    let mut packed = Vec::new();
    for module in modules::wanted(&contents.modules, &contents.hardware) {
        match module.bytes {
            Ok(bytes) => {
                let path = Path::new(MODULES).join(format!("{}.ko", module.name));
                tree.file(&path, 0o644, &bytes);
                let path = path.into_os_string().into_vec();
                packed.push(Module { trigger: module.trigger, path });
            }
            Err(why) => tree.miss(format!("kernel module {}: {why}", module.name)),
        }
    }
    packed
}

#[cfg(test)]
mod tests;
