//! apt with a configuration of its own: the system's sources and keys, nobody's state.
//!
//! apt verifies every package against the signed indices it has just read. Invariants: all state
//! is below the given directory; the system's hooks (APT::Update::Post-Invoke) do not run; only the
//! settings that say how to reach mirrors and which sources to trust are taken over.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use super::{Downloaded, FetchError, FetchProgress, last_words, means_no_network};

/// What the distributions call their smallest kernel, Debian's before Ubuntu's.
const DEFAULTS: &[&str] =
    &["linux-image-cloud-amd64", "linux-image-virtual", "linux-image-amd64", "linux-image-generic"];

/// Packages that hold parts of a kernel.
const PARTS: &[&str] = &["linux-image-", "linux-binary-", "linux-modules-"];
/// Names with these are no part of what boots.
const NOT_PARTS: &[&str] = &["-extra", "-dbg", "-unsigned"];

/// Settings of the system that are taken over, by prefix.
const TAKEN_OVER: &[&str] = &[
    "Acquire::http",
    "Acquire::https",
    "Acquire::ftp",
    "Acquire::Retries",
    "Acquire::Check-",
    "Acquire::ForceIPv",
    "APT::Architecture",
    "APT::Default-Release",
    "Dir::Bin::methods",
    "Dir::Etc::source",
    "Dir::Etc::netrc",
    "Dir::Etc::preferences",
    "Dir::Etc::trusted",
];

pub(super) fn is_here() -> bool {
    Command::new("apt-get").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Downloads the packages of a kernel.
pub(super) fn download(
    name: Option<&str>,
    work: &Path,
    progress: &mut dyn FnMut(FetchProgress),
) -> Result<Downloaded, FetchError> {
    let apt = Apt::new(work)?;
    progress(FetchProgress::Step("reading the package sources' indices".into()));
    let update = apt.output("apt-get", &["--quiet", "update"])?;
    let said = String::from_utf8_lossy(&update.stderr).into_owned();
    let asked: Vec<String> = match name {
        None => DEFAULTS.iter().map(|name| (*name).to_owned()).collect(),
        Some(name) => vec![name.to_owned(), format!("linux-image-{name}")],
    };
    let mut packages = Vec::new();
    for name in &asked {
        packages = apt.closure(name)?;
        if !packages.is_empty() {
            break;
        }
    }
    if packages.is_empty() {
        return Err(if means_no_network(&said) || !update.status.success() {
            FetchError::Unreachable { program: "apt-get", said: last_words(&said) }
        } else {
            FetchError::NoPackage(name.unwrap_or(DEFAULTS[0]).to_owned())
        });
    }
    let files = apt.fetch(&packages, progress)?;
    Ok(Downloaded { packages, files })
}

struct Apt {
    configuration: PathBuf,
    packages: PathBuf,
}

impl Apt {
    fn new(work: &Path) -> Result<Self, FetchError> {
        let trouble = |source| FetchError::Cache { path: work.to_path_buf(), source };
        let state = work.join("apt");
        let packages = work.join("packages");
        for directory in ["lists/partial", "cache/archives/partial", "empty"] {
            std::fs::create_dir_all(state.join(directory)).map_err(trouble)?;
        }
        std::fs::create_dir_all(&packages).map_err(trouble)?;
        std::fs::write(state.join("status"), b"").map_err(trouble)?;
        let configuration = state.join("apt.conf");
        std::fs::write(&configuration, configuration_text(&state, &system_settings()?))
            .map_err(trouble)?;
        Ok(Self { configuration, packages })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.configuration).env("LC_ALL", "C").stdin(Stdio::null());
        command.current_dir(&self.packages);
        command
    }

    fn output(&self, program: &'static str, arguments: &[&str]) -> Result<Output, FetchError> {
        let output = self.command(program).args(arguments).output();
        output.map_err(|source| FetchError::Start { program, source })
    }

    /// A package and what it depends on, as far as they are parts of a kernel; empty if there is
    /// no such package.
    fn closure(&self, name: &str) -> Result<Vec<String>, FetchError> {
        let mut found: Vec<String> = Vec::new();
        let mut wanted = vec![name.to_owned()];
        while let Some(name) = wanted.pop() {
            if name.starts_with('-') || found.contains(&name) {
                continue;
            }
            let output = self.output("apt-cache", &["depends", &name])?;
            if output.status.success() {
                wanted.extend(parts_in(&String::from_utf8_lossy(&output.stdout)));
                found.push(name);
            }
        }
        Ok(found)
    }

    fn size_of(&self, packages: &[String]) -> u64 {
        let mut arguments = vec!["show", "--no-all-versions"];
        arguments.extend(packages.iter().map(String::as_str));
        let Ok(output) = self.output("apt-cache", &arguments) else {
            return 0;
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines()
            .filter_map(|line| line.strip_prefix("Size: ")?.trim().parse::<u64>().ok())
            .sum()
    }

    fn fetch(
        &self,
        packages: &[String],
        progress: &mut dyn FnMut(FetchProgress),
    ) -> Result<Vec<PathBuf>, FetchError> {
        let total = self.size_of(packages);
        let name = packages.last().map(String::as_str).unwrap_or_default();
        progress(FetchProgress::Step(format!("downloading {name} ({} MiB)", total >> 20)));
        let said = self.packages.with_extension("err");
        let log = std::fs::File::create(&said)
            .map_err(|source| FetchError::Cache { path: said.clone(), source })?;
        let mut command = self.command("apt-get");
        command.args(["--quiet=2", "download"]).args(packages);
        let child = command.stdout(Stdio::null()).stderr(log).spawn();
        let child = child.map_err(|source| FetchError::Start { program: "apt-get", source })?;
        if !self.watch(child, total, progress)? {
            let said = std::fs::read_to_string(&said).unwrap_or_default();
            let words = last_words(&said);
            return Err(if means_no_network(&said) {
                FetchError::Unreachable { program: "apt-get", said: words }
            } else {
                FetchError::Failed { program: "apt-get", said: words }
            });
        }
        let mut files = files_in(&self.packages);
        files.sort();
        Ok(files)
    }

    /// Waits for the download; true if it succeeded.
    fn watch(
        &self,
        mut child: Child,
        total: u64,
        progress: &mut dyn FnMut(FetchProgress),
    ) -> Result<bool, FetchError> {
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return Ok(status.success()),
                Ok(None) => {}
                Err(source) => return Err(FetchError::Start { program: "apt-get", source }),
            }
            std::thread::sleep(Duration::from_millis(100));
            let size = |path: &PathBuf| std::fs::metadata(path).map_or(0, |status| status.len());
            let have: u64 = files_in(&self.packages).iter().map(size).sum();
            if total > 0 {
                progress(FetchProgress::Fraction((have as f32 / total as f32).min(1.0)));
            }
        }
    }
}

fn files_in(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect()
}

/// Parts of a kernel among what `apt-cache depends` lists.
fn parts_in(listing: &str) -> Vec<String> {
    let depends = listing.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    depends
        .filter(|name| PARTS.iter().any(|part| name.starts_with(part)))
        .filter(|name| !NOT_PARTS.iter().any(|not| name.contains(not)))
        .map(str::to_owned)
        .collect()
}

/// The system's settings, in apt.conf(5)'s own syntax.
fn system_settings() -> Result<String, FetchError> {
    let output = Command::new("apt-config").arg("dump").stdin(Stdio::null()).output();
    let output = output.map_err(|source| FetchError::Start { program: "apt-config", source })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let taken =
        text.lines().filter(|line| TAKEN_OVER.iter().any(|prefix| line.starts_with(prefix)));
    Ok(taken.map(|line| format!("{line}\n")).collect())
}

fn configuration_text(state: &Path, system: &str) -> String {
    let state = state.display();
    format!(
        "Dir::Etc::main \"/dev/null\";\n\
         Dir::Etc::parts \"{state}/empty\";\n\
         {system}\
         Dir::State \"{state}\";\n\
         Dir::State::lists \"{state}/lists\";\n\
         Dir::State::status \"{state}/status\";\n\
         Dir::Cache \"{state}/cache\";\n\
         Dir::Cache::archives \"{state}/cache/archives\";\n\
         Dir::Log \"{state}\";\n\
         APT::Sandbox::User \"root\";\n\
         APT::Get::AllowUnauthenticated \"false\";\n\
         Acquire::AllowInsecureRepositories \"false\";\n\
         Acquire::GzipIndexes \"true\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::Retries \"2\";\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_kernel_are_told_from_its_tools() {
        let listing = "linux-image-7.2\n  Depends: linux-base\n  Depends: linux-binary-7.2\n \
            |Depends: initramfs-tools\n  Depends: linux-modules-7.2\n  Depends: linux-modules-extra-7.2\n  \
            Conflicts: linux-image-7.2-unsigned\n";
        assert_eq!(parts_in(listing), ["linux-binary-7.2", "linux-modules-7.2"]);
    }

    #[test]
    fn the_configuration_keeps_to_its_directory() {
        let text =
            configuration_text(Path::new("/cache/x"), "Acquire::http::Proxy \"http://p\";\n");
        assert!(text.contains("Dir::State \"/cache/x\";"));
        assert!(text.contains("Acquire::http::Proxy \"http://p\";"));
        assert!(!text.contains("/var/"));
    }
}
