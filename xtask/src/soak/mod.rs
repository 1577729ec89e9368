//! `cargo xtask soak`: each kernel, with each number of CPUs, booted many times; every boot runs a
//! small command picked at random and checks what it says. One failure fails the soak.

mod job;
pub(crate) mod kill;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::suite::{self, Output, kernels};
use crate::{cargo, cpu};
use job::{Job, Jobs};

/// What to boot and how often.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Boots of each kernel with each number of CPUs
    #[arg(long, default_value_t = 50)]
    boots: u32,
    /// Kernels: cloud, generic, rt
    #[arg(long, value_delimiter = ',', default_values = ["cloud", "generic", "rt"])]
    kernels: Vec<String>,
    /// Numbers of CPUs
    #[arg(long, value_delimiter = ',', default_values = ["1", "2"])]
    cpus: Vec<u32>,
    /// roof's engine
    #[arg(long, default_value = "soft")]
    engine: String,
    /// Seconds that one boot may take
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    /// The commands' order depends on this
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the consoles of failed boots are kept (default: soak in the target folder)
    #[arg(long)]
    logs: Option<PathBuf>,
    /// This roof instead of building one
    #[arg(long)]
    roof: Option<PathBuf>,
}

/// One boot: which kernel, how many CPUs, which time.
struct Boot<'a> {
    name: &'a str,
    kernel: &'a Path,
    cpus: u32,
    number: u32,
}

/// Runs the soak.
pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let roof = match &options.roof {
        Some(roof) => roof.clone(),
        None => cargo::build_roof(root)?,
    };
    // The guest has a /tmp of its own, and the target folder may lie in the host's.
    let folder = tempfile::tempdir_in("/var/tmp").context("a folder in /var/tmp")?;
    let workloads = folder.path().join("workloads");
    fs::copy(cpu::build_workloads(root)?, &workloads).context("the workloads")?;
    let mut jobs = Jobs::new(workloads, options.seed);
    let logs = options.logs.clone().unwrap_or_else(|| cargo::target(root).join("soak"));
    let mut images = Vec::new();
    for name in &options.kernels {
        let known = kernels::KERNELS.iter().find(|(known, _)| known == name);
        let (name, package) = known.with_context(|| format!("there is no kernel {name}"))?;
        images.push((*name, kernels::fetch(&roof, package)?));
    }
    let started = Instant::now();
    let all = images.len() * options.cpus.len() * options.boots as usize;
    let (mut done, mut failed) = (0, Vec::new());
    for (name, kernel) in &images {
        for cpus in &options.cpus {
            let group = Instant::now();
            let before = failed.len();
            for number in 1..=options.boots {
                let boot = Boot { name, kernel, cpus: *cpus, number };
                let job = jobs.next(*cpus)?;
                done += 1;
                match boot.check(&roof, options, &job, &logs)? {
                    None => eprintln!("{done}/{all} {boot} {} ok", job.name),
                    Some(log) => {
                        println!("FAILED {boot} {}: {}", job.name, log.display());
                        failed.push(boot.to_string());
                    }
                }
            }
            let (bad, seconds) = (failed.len() - before, group.elapsed().as_secs_f64());
            println!(
                "{name} with {cpus} CPUs: {} boots, {bad} failed, {seconds:.0} s",
                options.boots
            );
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{done} boots, {} failed, {seconds:.0} s, seed {}", failed.len(), options.seed);
    if !failed.is_empty() {
        bail!("{} of {done} boots failed: {}", failed.len(), failed.join(", "));
    }
    Ok(())
}

impl std::fmt::Display for Boot<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}cpu-{:03}", self.name, self.cpus, self.number)
    }
}

impl Boot<'_> {
    /// Boots and compares; the log of a boot that was not as expected.
    fn check(
        &self,
        roof: &Path,
        options: &Options,
        job: &Job,
        logs: &Path,
    ) -> Result<Option<PathBuf>> {
        let mut command = Command::new(roof);
        command.args(["run", "-v", "--engine", &options.engine, "-c"]).arg(self.cpus.to_string());
        command.arg("--timeout").arg(options.timeout.to_string());
        command.arg(self.kernel).arg("--").args(&job.command);
        let started = Instant::now();
        // roof ends by its own time-out, with the console's last words; ours is for a roof that hangs.
        let limit = Duration::from_secs(options.timeout + 60);
        let seen = suite::run(&mut command, "", limit)?;
        if seen.status == Some(0) && seen.stdout == job.expected {
            return Ok(None);
        }
        fs::create_dir_all(logs)?;
        let log = logs.join(format!("{self}.log"));
        let seconds = started.elapsed().as_secs_f64();
        fs::write(&log, account(&command, &seen, &job.expected, seconds))?;
        Ok(Some(log))
    }
}

/// Everything about a failed boot.
fn account(command: &Command, seen: &Output, expected: &str, seconds: f64) -> String {
    let end = match (seen.killed, seen.status) {
        (true, _) => "roof hung and was killed".to_owned(),
        (false, Some(status)) => format!("exit status {status}"),
        (false, None) => "a signal ended roof".to_owned(),
    };
    format!(
        "{command:?}\n{end} after {seconds:.1} s\n\n--- expected\n{expected}\n--- standard output\n{}\n\
         --- standard error and console\n{}\n",
        seen.stdout, seen.stderr
    )
}
