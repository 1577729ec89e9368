//! One round of one way: a process whose markers are read as they come, and whose CPU time is
//! sampled at each (proc(5), /proc/PID/stat: user and system ticks of all threads).

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::marker::Marker;
use crate::pair::Pair;

/// Clock ticks per second of /proc: 100 on x86 since 2.6 (`getconf CLK_TCK`).
const TICKS: f64 = 100.0;

/// What all ways run.
pub(super) struct Guest {
    pub(super) roof: PathBuf,
    pub(super) engine: String,
    pub(super) kernel: PathBuf,
    pub(super) initrd: PathBuf,
    pub(super) work: PathBuf,
    pub(super) binary: PathBuf,
    pub(super) cpus: u32,
    pub(super) memory_mib: u32,
    pub(super) patience: Duration,
}

/// What a round gave.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    /// Process start to process 1: CPU and wall seconds; none natively.
    pub(super) boot: Option<(f64, f64)>,
    /// CPU features as the system there shows them.
    pub(super) flags: String,
    pub(super) results: BTreeMap<String, Measured>,
}

/// One workload's figures.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    /// CPU seconds: of the emulator between markers; natively of the program.
    pub(super) cpu_s: f64,
    /// Wall seconds by the host's clock between markers.
    pub(super) wall_s: f64,
    pub(super) status: u8,
    pub(super) sum: Option<String>,
    pub(super) note: Option<String>,
}

impl Guest {
    /// The same binaries and files on the host.
    pub(super) fn native(&self) -> Result<Outcome> {
        let mut command = Command::new(&self.binary);
        command.args(["run", "plan"]).current_dir(&self.work);
        self.watch("native", command, true)
    }

    fn pair(&self) -> Pair<'_> {
        let Self { kernel, initrd, cpus, memory_mib, .. } = self;
        Pair { kernel, initrd, cpus: *cpus, memory_mib: *memory_mib }
    }

    /// QEMU's translator, whatever the host could do.
    pub(super) fn tcg(&self) -> Result<Outcome> {
        self.watch("tcg", self.pair().tcg(), false)
    }

    /// Our own.
    pub(super) fn roof(&self) -> Result<Outcome> {
        self.watch("roof", self.pair().roof(&self.roof, &self.engine), false)
    }

    /// Runs to the end of the plan; kills what stays silent for longer than the patience.
    fn watch(&self, way: &str, mut command: Command, native: bool) -> Result<Outcome> {
        let started = Instant::now();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        let mut child = Killed(child);
        let pid = child.0.id();
        let (send, lines) = mpsc::channel();
        let stdout = child.0.stdout.take().expect("piped");
        let reader = thread::spawn(move || read(stdout, pid, |line| send.send(line).is_ok()));
        let mut book = Book { native, ..Book::default_for(way, started) };
        let mut last = Vec::new();
        while !book.done {
            match lines.recv_timeout(self.patience) {
                Ok(line) => match Marker::parse(&line.text) {
                    Some(marker) => book.note(marker, &line),
                    None => last.push(line.text),
                },
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    bail!("nothing from the guest in {} s{}", self.patience.as_secs(), tail(&last))
                }
            }
        }
        if !book.done {
            bail!("it ended before its plan did{}", tail(&last));
        }
        // The guest powers off now; one that does not is killed by the guard.
        let limit = Instant::now() + Duration::from_secs(60);
        while child.0.try_wait()?.is_none() && Instant::now() < limit {
            thread::sleep(Duration::from_millis(20));
        }
        drop(child);
        reader.join().expect("the reader does not panic");
        Ok(book.outcome)
    }
}

/// A child that does not outlive us.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A console line and the clocks when it came.
struct Line {
    text: String,
    at: Instant,
    cpu_s: f64,
}

/// Reads lines until the end or until nobody listens.
fn read(from: impl Read, pid: u32, mut send: impl FnMut(Line) -> bool) {
    let mut from = BufReader::new(from);
    let mut bytes = Vec::new();
    while from.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
        let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        if !send(Line { text, at: Instant::now(), cpu_s: cpu_seconds(pid) }) {
            return;
        }
        bytes.clear();
    }
}

/// User and system seconds of a process, 0 once it is gone.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    ticks(&stat).unwrap_or(0) as f64 / TICKS
}

/// Fields 14 and 15; the second field, in parentheses, may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Keeps the accounts of a round.
struct Book<'a> {
    way: &'a str,
    native: bool,
    started: Instant,
    begun: Option<(Instant, f64)>,
    done: bool,
    outcome: Outcome,
}

impl<'a> Book<'a> {
    fn default_for(way: &'a str, started: Instant) -> Self {
        let outcome = Outcome::default();
        Self { way, native: false, started, begun: None, done: false, outcome }
    }

    fn note(&mut self, marker: Marker, line: &Line) {
        match marker {
            Marker::Ready => {
                let wall = (line.at - self.started).as_secs_f64();
                eprintln!("  {}: boot {:.2} s CPU, {wall:.2} s wall", self.way, line.cpu_s);
                self.outcome.boot = Some((line.cpu_s, wall));
            }
            Marker::Flags(flags) => self.outcome.flags = flags,
            Marker::Begin(_) => self.begun = Some((line.at, line.cpu_s)),
            Marker::End(end) => {
                let (at, cpu_s) = self.begun.take().unwrap_or((line.at, line.cpu_s));
                let cpu_s = if self.native { end.cpu_s } else { line.cpu_s - cpu_s };
                let wall_s = if self.native { end.wall_s } else { (line.at - at).as_secs_f64() };
                eprintln!("  {}: {} {cpu_s:.2} s", self.way, end.name);
                let entry = self.outcome.results.entry(end.name).or_default();
                (entry.cpu_s, entry.wall_s, entry.status) = (cpu_s, wall_s, end.status);
            }
            Marker::Sum { name, sum } => {
                self.outcome.results.entry(name).or_default().sum = Some(sum);
            }
            Marker::Note(text) => {
                eprintln!("  {}: {text}", self.way);
                if let Some((name, why)) = text.split_once(": ") {
                    let entry = self.outcome.results.entry(name.to_owned()).or_default();
                    entry.note.get_or_insert_with(|| why.to_owned());
                }
            }
            Marker::Done => self.done = true,
        }
    }
}

/// The last lines of a console, for an error.
fn tail(lines: &[String]) -> String {
    let last = &lines[lines.len().saturating_sub(20)..];
    if last.is_empty() { String::new() } else { format!("; its last words:\n{}", last.join("\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "12 (a ) b) S 1 12 12 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 1 0 9 0 0";
        assert_eq!(ticks(stat), Some(300));
        assert_eq!(ticks(""), None);
    }

    #[test]
    fn the_emulator_s_time_is_the_difference_of_samples() {
        let started = Instant::now();
        let mut book = Book::default_for("tcg", started);
        let line = |cpu_s| Line { text: String::new(), at: started, cpu_s };
        book.note(Marker::Begin("a".into()), &line(2.0));
        book.note(Marker::parse("@oneroof end a 0 1 1 1").unwrap(), &line(5.5));
        book.note(Marker::Sum { name: "a".into(), sum: "1".into() }, &line(9.0));
        let measured = &book.outcome.results["a"];
        assert_eq!((measured.cpu_s, measured.sum.as_deref()), (3.5, Some("1")));
    }
}
