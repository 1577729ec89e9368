//! `cargo xtask bench`: figures as ratios against a peer in one run, because machines are noisy.

mod boot;
pub(crate) mod disk;
pub(crate) mod files;
pub(crate) mod memory;
pub(crate) mod nested;
pub(crate) mod net;
mod table;

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

pub(crate) use boot::run;

/// What one run of a program cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// User and system CPU seconds of the whole process.
    pub(crate) cpu_s: f64,
    /// Wall-clock seconds.
    pub(crate) wall_s: f64,
}

/// Runs a command line under a shell that reports its children's CPU time.
///
/// The shell's `times` gives minutes and seconds to a hundredth or better, of all waited-for
/// children, which is what a user pays.
pub(crate) fn cost(command: &Command) -> Result<Cost> {
    let started = Instant::now();
    let output = Command::new("bash")
        .args(["-c", "\"$@\" </dev/null >/dev/null 2>&1; status=$?; times; exit $status", "bench"])
        .arg(command.get_program())
        .args(command.get_args())
        .stderr(Stdio::inherit())
        .output()
        .context("bash")?;
    let wall_s = started.elapsed().as_secs_f64();
    if !output.status.success() {
        bail!("{command:?} ended with {}", output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let children = text.lines().nth(1).context("times prints two lines")?;
    let cpu_s = children.split_whitespace().map(seconds).sum::<Option<f64>>();
    Ok(Cost { cpu_s: cpu_s.context("times prints minutes and seconds")?, wall_s })
}

/// "0m1.234s" as seconds.
fn seconds(text: &str) -> Option<f64> {
    let (minutes, rest) = text.split_once('m')?;
    let seconds: f64 = rest.strip_suffix('s')?.parse().ok()?;
    Some(minutes.parse::<f64>().ok()? * 60.0 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(seconds("1m2.500s"), Some(62.5));
        assert_eq!(seconds("2.5s"), None);
    }

    #[test]
    fn a_busy_child_costs_cpu_time() {
        let mut command = Command::new("bash");
        command.args(["-c", "for ((i = 0; i < 200000; i++)); do :; done"]);
        let cost = cost(&command).unwrap();
        assert!(cost.cpu_s > 0.01 && cost.wall_s >= cost.cpu_s * 0.5, "{cost:?}");
    }
}
