//! Suites: whole programs run as a user would run them, each case a name and a verdict.
//!
//! They stand beside `cargo test` because they take kernels, QEMU and minutes. The closing line
//! counts what ran; what cannot run on a machine is skipped with its reason.

mod balloon;
mod block_device;
pub(crate) mod boot;
mod conversation;
mod devices;
mod disk;
mod downloads;
mod drivers;
mod every_kernel;
mod faults;
pub(crate) mod initrd;
pub(crate) mod kernels;
pub(crate) mod nested;
mod net;
mod repeat;
pub(crate) mod setup;
mod share;
mod signals;
mod vsock;

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What became of a case.
pub(crate) enum Verdict {
    Passed,
    Failed(String),
    Skipped(String),
}

/// Counts and prints verdicts as they come.
pub(crate) struct Report {
    suite: &'static str,
    passed: u32,
    failed: Vec<String>,
    skipped: u32,
    only: Option<String>,
}

impl Report {
    /// An empty report; `only` keeps cases whose name contains it.
    pub(crate) fn new(suite: &'static str, only: Option<String>) -> Self {
        Self { suite, passed: 0, failed: Vec::new(), skipped: 0, only }
    }

    /// Runs one case and prints its line.
    pub(crate) fn case(&mut self, name: &str, body: impl FnOnce() -> Result<Verdict>) {
        if self.only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            return;
        }
        let started = Instant::now();
        let verdict = body().unwrap_or_else(|error| Verdict::Failed(format!("{error:#}")));
        let seconds = started.elapsed().as_secs_f32();
        match verdict {
            Verdict::Passed => {
                self.passed += 1;
                println!("test {}::{name} ... ok ({seconds:.1} s)", self.suite);
            }
            Verdict::Failed(why) => {
                println!("test {}::{name} ... FAILED ({seconds:.1} s)\n{why}\n", self.suite);
                self.failed.push(name.to_owned());
            }
            Verdict::Skipped(why) => {
                self.skipped += 1;
                println!("test {}::{name} ... skipped: {why}", self.suite);
            }
        }
    }

    /// The closing line; fails if a case did.
    pub(crate) fn close(self) -> Result<()> {
        println!("{} passed, {} failed, {} skipped", self.passed, self.failed.len(), self.skipped);
        if !self.failed.is_empty() {
            bail!("{}: {} failed", self.suite, self.failed.join(", "));
        }
        Ok(())
    }
}

/// What a program did.
pub(crate) struct Output {
    /// Exit status; `None` if it was killed.
    pub(crate) status: Option<i32>,
    /// It took too long and was killed for it.
    pub(crate) killed: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// The case's verdict: passed if `holds`, else everything that was seen.
    pub(crate) fn expect(&self, holds: bool, what: &str) -> Result<Verdict> {
        if holds {
            return Ok(Verdict::Passed);
        }
        Ok(Verdict::Failed(format!(
            "expected {what}\nstatus: {:?}\nstdout: {}\nstderr: {}",
            self.status,
            tail(&self.stdout),
            tail(&self.stderr)
        )))
    }
}

/// The last lines of a long text.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// Runs a command with this standard input, for at most this long.
pub(crate) fn run(command: &mut Command, input: &str, limit: Duration) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_owned();
    // The program may end without reading: a broken pipe is its right.
    let feeder = thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let stdout = collect(child.stdout.take().expect("piped"));
    let stderr = collect(child.stderr.take().expect("piped"));
    let started = Instant::now();
    let (status, killed) = loop {
        if let Some(status) = child.try_wait()? {
            break (status.code(), false);
        }
        if started.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            break (None, true);
        }
        thread::sleep(Duration::from_millis(10));
    };
    feeder.join().expect("the feeder does not panic");
    Ok(Output {
        status,
        killed,
        stdout: stdout.join().expect("readers do not panic"),
        stderr: stderr.join().expect("readers do not panic"),
    })
}

fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is what there is to see.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
