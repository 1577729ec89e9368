//! Deterministic runs of Debian: the same output, the same event at the same instruction, whoever
//! else wants the host's processors, translated or interpreted.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

use super::kernels::{self, KERNELS};
use super::{Report, Verdict, run};

/// A slow machine's patience for one run.
const LIMIT: Duration = Duration::from_secs(300);
/// What differs between ordinary runs: interrupt counts, the time to the nanosecond, random bytes;
/// with sleeps, a second process and input that is more than one window.
const SCRIPT: &str = "uname -a; cat /proc/interrupts; date +%s%N; head -c 8 /dev/urandom | od; \
                      sleep 2 & seq 1 3000 | sort -R --random-source=/dev/urandom | cksum; \
                      wait; cat | cksum; date +%s%N";

/// What there is to see of a run.
#[derive(PartialEq)]
struct Seen {
    stdout: String,
    events: String,
    report: Value,
}

/// The cases.
pub(crate) fn cases(report: &mut Report, roof: &Path, cloud: &Path) {
    for (name, package) in KERNELS {
        report.case(&format!("a_deterministic_run_of_{name}_repeats"), || {
            let kernel = kernels::fetch(roof, package)?;
            let first = deterministic(roof, &kernel, "soft", "7")?;
            let second = deterministic(roof, &kernel, "soft", "7")?;
            same(&first, &second)
        });
    }
    report.case("a_deterministic_run_repeats_on_a_busy_host", || {
        let first = deterministic(roof, cloud, "soft", "7")?;
        let _busy = Busy::new()?;
        same(&first, &deterministic(roof, cloud, "soft", "7")?)
    });
    report.case("a_deterministic_run_is_the_same_interpreted", || {
        let first = deterministic(roof, cloud, "soft", "7")?;
        same(&first, &deterministic(roof, cloud, "soft,interpret", "7")?)
    });
    report.case("another_seed_is_another_run", || {
        let first = deterministic(roof, cloud, "soft", "7")?;
        let other = deterministic(roof, cloud, "soft", "8")?;
        Ok(match first.stdout != other.stdout && first.report != other.report {
            true => Verdict::Passed,
            false => Verdict::Failed("seeds 7 and 8 gave the same run".into()),
        })
    });
    report.case("deterministic_runs_are_refused_where_they_cannot_be", || {
        let two = run(Command::new(roof).args(["run", "--deterministic", "-c", "2"]), "", LIMIT)?;
        let kvm = ["run", "--deterministic", "--engine", "kvm"];
        let kvm = run(Command::new(roof).args(kvm), "", LIMIT)?;
        let told = two.stderr.contains("-c 1") && kvm.stderr.contains("--engine soft");
        two.expect(two.status == Some(125) && kvm.status == Some(125) && told, "125 and why")
    });
}

fn deterministic(roof: &Path, kernel: &Path, engine: &str, seed: &str) -> Result<Seen> {
    let folder = tempfile::tempdir()?;
    let [events, json] = ["events", "json"].map(|name| folder.path().join(name));
    let mut line = Command::new(roof);
    line.args(["run", "-q", "--deterministic", "--engine", engine, "--seed", seed]);
    line.arg("--trace-events").arg(&events).arg("--json").arg(&json).arg(kernel);
    line.args(["--", "sh", "-c", SCRIPT]);
    let output = run(&mut line, &"some input\n".repeat(3000), LIMIT)?;
    if output.status != Some(0) {
        return Err(anyhow!("status {:?}: {}{}", output.status, output.stdout, output.stderr));
    }
    let report: Value = serde_json::from_str(&std::fs::read_to_string(json)?)?;
    let counts = ["instructions", "events", "event_hash", "seed"];
    let counts = counts.map(|name| (name.to_owned(), report[name].clone()));
    Ok(Seen {
        stdout: output.stdout,
        events: std::fs::read_to_string(events)?,
        report: Value::Object(counts.into_iter().collect()),
    })
}

fn same(one: &Seen, other: &Seen) -> Result<Verdict> {
    let interrupts = one.events.lines().filter(|line| line.contains(" interrupt ")).count();
    if interrupts < 50 || one.report["event_hash"].as_str().is_none() {
        return Ok(Verdict::Failed(format!("{interrupts} interrupts, {}", one.report)));
    }
    if one == other {
        println!("  {interrupts} interrupts, {}", one.report);
        return Ok(Verdict::Passed);
    }
    let lines = one.events.lines().zip(other.events.lines()).enumerate();
    let first = lines.into_iter().find(|(_, (a, b))| a != b);
    Ok(Verdict::Failed(format!(
        "the runs differ: {first:?}\n{}\n{}\n{}\n{}",
        one.report, other.report, one.stdout, other.stdout
    )))
}

/// More work than the host has processors.
struct Busy(Vec<Child>);

impl Busy {
    fn new() -> Result<Self> {
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let spin = || {
            let mut line = Command::new("sh");
            line.args(["-c", "while :; do :; done"]).stdin(Stdio::null());
            line.spawn().context("cannot run sh")
        };
        (0..=processors).map(|_| spin()).collect::<Result<Vec<_>>>().map(Self)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // One that is gone is not busy either.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
