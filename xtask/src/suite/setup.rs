//! What the suites need of the machine, installed where that is possible.

use std::process::{Command, Stdio};

/// Whether a program is there.
pub(crate) fn has(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", "command -v \"$0\"", program])
        .stdout(Stdio::null())
        .status();
    found.is_ok_and(|status| status.success())
}

/// Installs Debian packages unless their programs are there. `Err`: why it is not possible.
pub(crate) fn need(programs: &[&str], packages: &[&str]) -> Result<(), String> {
    if programs.iter().all(|program| has(program)) {
        return Ok(());
    }
    if !has("apt-get") {
        return Err(format!("{} is not installed and there is no apt-get", programs.join(", ")));
    }
    let root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n");
    let mut prefix: Vec<&str> = if root { vec![] } else { vec!["sudo", "-n"] };
    prefix.push("apt-get");
    let apt = |arguments: &[&str]| {
        let words: Vec<&str> = prefix.iter().copied().chain(arguments.iter().copied()).collect();
        eprintln!("$ {}", words.join(" "));
        Command::new(words[0])
            .args(&words[1..])
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    // An update may fail on one stale source and the install still work: the install decides.
    apt(&["update", "-q"]);
    let mut install = vec!["install", "-y", "-q", "--no-install-recommends"];
    install.extend(packages);
    if apt(&install) && programs.iter().all(|program| has(program)) {
        return Ok(());
    }
    Err(format!("apt-get could not install {}", packages.join(" ")))
}
