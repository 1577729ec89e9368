//! What this host offers to VMs, and what to do about what is missing.

use std::path::Path;
use std::process::Command;

use crate::host;
use crate::kernel::Search;
use crate::vm::{KvmVerdict, kvm_verdict};

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Fine.
    Ok,
    /// VMs run, but less well.
    Warn,
    /// No VM runs.
    Fail,
}

/// One line of the doctor's report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it went.
    pub state: State,
    /// What was seen.
    pub text: String,
    /// What to do.
    pub fix: Option<String>,
}

/// Less free memory than this makes VMs crowd the host.
const COMFORTABLE_MIB: u64 = 1024;

/// Looks at everything.
pub fn check_host() -> Vec<Check> {
    vec![processor(), kvm(), kernels(), package_manager(), memory(), shell()]
}

fn processor() -> Check {
    let avx2 = std::arch::is_x86_feature_detected!("avx2");
    let text = format!(
        "{} usable; the soft engine gives guests {}",
        host::cpus(),
        if avx2 { "x86-64-v3 (AVX2)" } else { "what this processor has, less than x86-64-v3" }
    );
    Check { name: "processors", state: if avx2 { State::Ok } else { State::Warn }, text, fix: None }
}

fn kvm() -> Check {
    let (state, text, fix) = match kvm_verdict() {
        KvmVerdict::Hardware(text) => {
            (State::Ok, format!("hardware virtualization works ({text})"), None)
        }
        KvmVerdict::Emulated(why) => {
            (State::Warn, why, Some("nothing to fix: the soft engine is used instead".to_owned()))
        }
        KvmVerdict::Unavailable(why) => {
            (State::Warn, why, Some("until then the soft engine is used".to_owned()))
        }
    };
    Check { name: "kvm", state, text, fix }
}

fn kernels() -> Check {
    let all = Search::of_this_host(None).all();
    match all.first() {
        Some(first) => {
            let release = first.release.as_deref().unwrap_or("unknown release");
            let text = format!(
                "{} found; first {release}, {} ({})",
                all.len(),
                first.source.words(),
                first.path.display()
            );
            Check { name: "kernels", state: State::Ok, text, fix: None }
        }
        None => Check {
            name: "kernels",
            state: State::Warn,
            text: "none found".into(),
            fix: Some("roof kernel fetch (the first `roof run` does it too)".into()),
        },
    }
}

fn package_manager() -> Check {
    let there = |name: &str| Command::new(name).arg("--version").output().is_ok();
    let found = ["apt-get", "dnf"].into_iter().find(|name| there(name));
    match found {
        Some(name) => Check {
            name: "fetching",
            state: State::Ok,
            text: format!("kernels are fetched with {name}"),
            fix: None,
        },
        None => Check {
            name: "fetching",
            state: State::Warn,
            text: "neither apt-get nor dnf".into(),
            fix: Some("give `roof run` a kernel file".into()),
        },
    }
}

fn memory() -> Check {
    let Some(memory) = host::memory_mib() else {
        return Check {
            name: "memory",
            state: State::Warn,
            text: "/proc/meminfo cannot be read".into(),
            fix: None,
        };
    };
    let text = format!("{} MiB, {} MiB of it available", memory.total, memory.available);
    if memory.available < COMFORTABLE_MIB {
        let fix = Some("close something, or give VMs little: -m 256M".into());
        return Check { name: "memory", state: State::Warn, text, fix };
    }
    Check { name: "memory", state: State::Ok, text, fix: None }
}

fn shell() -> Check {
    let shells = ["/usr/bin/bash", "/bin/bash", "/usr/bin/sh", "/bin/sh"];
    match shells.into_iter().find(|path| Path::new(path).exists()) {
        Some(path) => Check {
            name: "guest",
            state: State::Ok,
            text: format!("its shell is this host's {path}"),
            fix: None,
        },
        None => Check {
            name: "guest",
            state: State::Warn,
            text: "this host has no shell to pack".into(),
            fix: Some("name a command: roof run -- /path/to/program".into()),
        },
    }
}
