//! `cargo xtask kut DIR`: kvm-unit-tests on the software CPU beside QEMU TCG, one table.
//!
//! DIR is a built checkout of the public kvm-unit-tests (`./configure && make`); nothing of it
//! lives here. Every x86-64 entry of x86/unittests.cfg runs on both, in the same call.

mod config;
mod reasons;
mod table;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::suite;
use config::Entry;
pub(crate) use table::Row;

/// How one entry ended on one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    Fail,
    Skip,
    Timeout,
    /// The machine itself did not start: an option it lacks, an engine failure.
    NoStart,
}

impl Verdict {
    /// From the debug-exit status, odd, and what was printed: 1 is a pass (of a test that said
    /// something: QEMU's own errors are 1 too), 77 asks to be counted as skipped.
    fn from_status(status: Option<i32>, output: &str) -> Self {
        match status {
            Some(1) if output.trim().is_empty() => Self::NoStart,
            Some(1) => Self::Pass,
            Some(77) => Self::Skip,
            Some(125) | None => Self::NoStart,
            Some(124) => Self::Timeout,
            Some(_) => Self::Fail,
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "FAIL",
            Self::Skip => "skip",
            Self::Timeout => "TIMEOUT",
            Self::NoStart => "no start",
        }
    }
}

/// What to run.
pub(crate) struct Options {
    pub(crate) folder: PathBuf,
    pub(crate) only: Vec<String>,
    pub(crate) timeout: Duration,
    pub(crate) write: Option<PathBuf>,
    pub(crate) jobs: usize,
}

/// Runs the table; fails if something that TCG passes does not pass here and there is no reason.
pub(crate) fn run(roof: &Path, options: &Options) -> Result<()> {
    let text = std::fs::read_to_string(options.folder.join("x86/unittests.cfg"))
        .context("no x86/unittests.cfg in that folder: is it a checkout of kvm-unit-tests?")?;
    let entries: Vec<Entry> = config::parse(&text)
        .into_iter()
        .filter(|entry| options.only.is_empty() || options.only.contains(&entry.name))
        .collect();
    if let Some(name) = options.only.iter().find(|name| !entries.iter().any(|e| e.name == **name)) {
        bail!("x86/unittests.cfg has no entry {name}");
    }
    let rows = Mutex::new(Vec::new());
    let queue = Mutex::new(entries.iter().enumerate());
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let Some((index, entry)) = queue.lock().expect("no panics").next() else {
                        break;
                    };
                    let row = compare(roof, options, entry);
                    eprintln!("{}", row.line());
                    rows.lock().expect("no panics").push((index, row));
                }
            });
        }
    });
    let mut rows = rows.into_inner().expect("no panics");
    rows.sort_by_key(|(index, _)| *index);
    let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
    if let Some(path) = &options.write {
        std::fs::write(path, table::document(&rows)).with_context(|| path.display().to_string())?;
    }
    println!("{}", table::totals(&rows));
    let mut lost = Vec::new();
    for row in rows.iter().filter(|row| row.tcg == Verdict::Pass && row.soft != Verdict::Pass) {
        match reasons::of(&row.name) {
            Some(reason) => println!("{}: {reason}", row.name),
            None => lost.push(row.name.as_str()),
        }
    }
    if !lost.is_empty() {
        bail!("TCG passes, soft does not: {}", lost.join(", "));
    }
    Ok(())
}

fn compare(roof: &Path, options: &Options, entry: &Entry) -> Row {
    let flat = options.folder.join("x86").join(&entry.file);
    if entry.arch.as_deref().is_some_and(|arch| arch != "x86_64") || !flat.exists() {
        return Row::absent(entry, "not an x86-64 flat");
    }
    let (tcg, _) = timed(qemu(&flat, entry), options.timeout);
    let (soft, output) = match entry.asks_for_more() {
        true => (Verdict::Skip, format!("skipped: {}", entry.check.join(" "))),
        false => timed(ours(roof, &flat, entry), options.timeout),
    };
    Row { name: entry.name.clone(), tcg, soft, remark: remark(soft, &output) }
}

fn qemu(flat: &Path, entry: &Entry) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["--no-reboot", "-nodefaults", "-device", "pc-testdev", "-device"]);
    command.args(["isa-debug-exit,iobase=0xf4,iosize=0x4", "-display", "none", "-serial", "stdio"]);
    command.args(["-device", "pci-testdev", "-machine", "accel=tcg", "-kernel"]).arg(flat);
    command.arg("-smp").arg(entry.smp.to_string());
    if !entry.arguments.is_empty() {
        command.arg("-append").arg(entry.arguments_now());
    }
    command.args(&entry.qemu);
    command
}

fn ours(roof: &Path, flat: &Path, entry: &Entry) -> Command {
    let mut command = Command::new(roof);
    command.arg("run").arg(flat).args(["--engine", "soft", "--test-devices", "-q", "-c"]);
    command.arg(entry.smp.to_string()).args(["-m", entry.memory().as_str()]);
    // A multiboot command line begins with the file's name, as boot loaders and QEMU put it.
    let line = format!("{} {}", entry.file, entry.arguments_now());
    command.arg("-p").arg(line.trim_end());
    if let Some(vendor) = entry.vendor() {
        command.args(["--cpu-vendor", vendor]);
    }
    command
}

/// Runs to the end or the time-out; the verdict and everything that was printed.
fn timed(mut command: Command, timeout: Duration) -> (Verdict, String) {
    match suite::run(&mut command, "", timeout) {
        Err(_) => (Verdict::NoStart, String::new()),
        Ok(seen) if seen.killed => (Verdict::Timeout, seen.stdout),
        Ok(seen) => {
            let verdict = Verdict::from_status(seen.status, &seen.stdout);
            (verdict, seen.stdout + &seen.stderr)
        }
    }
}

/// What the output says of a result that is no pass.
fn remark(verdict: Verdict, output: &str) -> String {
    let failures: Vec<&str> =
        output.lines().filter(|line| line.starts_with("FAIL")).map(str::trim).collect();
    let skip = output.lines().rev().find(|line| line.contains("SKIP") || line.contains("skip"));
    let last = output.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let text = match verdict {
        Verdict::Pass => return String::new(),
        Verdict::Skip => skip.unwrap_or(last).to_owned(),
        _ if failures.is_empty() => last.to_owned(),
        _ => format!("{} checks, first: {}", failures.len(), failures[0]),
    };
    text.chars().filter(|c| *c != '|').take(120).collect()
}
