//! A program that is talked to line by line while it is looked at from outside.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A running program; killed when dropped.
pub(crate) struct Conversation {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    heard: Vec<String>,
    until: Instant,
}

impl Conversation {
    /// Starts a program, which may take this long in all.
    pub(crate) fn start(command: &mut Command, limit: Duration) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            // A line that is no text, or nobody to hear it, ends what there is to hear.
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let stdin = child.stdin.take();
        Ok(Self { child, stdin, lines, heard: Vec::new(), until: Instant::now() + limit })
    }

    /// The program's process number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line that begins with `start`; gives it.
    pub(crate) fn hear(&mut self, start: &str) -> Result<String> {
        loop {
            let left = self.until.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                bail!("nothing began with {start}; heard: {:?}", self.heard);
            };
            if line.starts_with(start) {
                return Ok(line);
            }
            self.heard.push(line);
        }
    }

    /// Sends a line.
    pub(crate) fn say(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().expect("open until the end");
        writeln!(stdin, "{line}").context("the program does not listen")
    }

    /// Ends its input and waits for it to go; its exit status.
    pub(crate) fn finish(mut self) -> Result<Option<i32>> {
        self.stdin = None;
        while Instant::now() < self.until {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("the program does not end");
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        // One that has ended needs no end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
