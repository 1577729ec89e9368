//! `roof run`: the facade's events on this terminal.
//!
//! Invariants: standard output carries the guest's output and nothing else; the first and the last
//! line on standard error are the configuration and the outcome, unless -q.

use std::fs::File;
use std::io::{IsTerminal, Read, Write};

use anyhow::{Context, Result};
use control::initramfs::Terminal;
use control::vm::{Effective, Event, Outcome, RunReport, Vm};

use crate::args::Run;
use crate::progress::Progress;
use crate::signals::Signals;
use crate::{json, say, terminal};

/// What a shell reports for a process that SIGPIPE ended.
const BROKEN_PIPE: u8 = 128 + 13;

pub(crate) fn run(arguments: &Run) -> Result<u8> {
    let mut report = match &arguments.json {
        None => None,
        Some(path) => {
            let file = File::create(path);
            Some(file.with_context(|| format!("cannot write the report {}", path.display()))?)
        }
    };
    let done = run_vm(arguments);
    if let Some(file) = &mut report {
        match &done {
            Ok((report, _)) => json::write(file, report)?,
            Err(error) => json::write_error(file, error)?,
        }
    }
    done.map(|(_, code)| code)
}

fn run_vm(arguments: &Run) -> Result<(RunReport, u8)> {
    let signals = Signals::watch()?;
    let interactive = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let mut config = arguments.config();
    if interactive {
        config.terminal = Some(Terminal {
            kind: std::env::var("TERM").unwrap_or_else(|_| "dumb".into()),
            size: terminal::size().unwrap_or_default(),
        });
    }
    if config.deterministic.is_some() && !interactive {
        config.input = Some(all_input()?);
    }
    let live_input = config.input.is_none();
    let mut screen = Screen {
        quiet: arguments.quiet,
        verbose: arguments.verbose,
        session: config.initrd.is_none(),
        progress: None,
        broken_pipe: false,
    };
    let vm = Vm::prepare(&config, &mut |event| screen.show(event))?;
    screen.progress = None;
    screen.session = vm.has_session();
    let controls = vm.controls();
    signals.steer(controls.clone());
    if interactive {
        terminal::enter_raw().context("cannot set up the terminal")?;
    }
    if live_input {
        terminal::input::forward(controls.clone(), interactive)
            .context("cannot start to read standard input")?;
    }
    let report = vm.run(&mut |event| {
        screen.show(event);
        if screen.broken_pipe {
            controls.quit(0);
        }
    });
    terminal::restore();
    if interactive && !matches!(report.outcome, Outcome::Exited { .. }) {
        terminal::undo_modes();
    }
    if !arguments.quiet && !screen.broken_pipe {
        say::line(&last_line(&report));
    } else if screen.session && report.outcome.wants_console() {
        say::line(&format!("roof: {}", report.outcome.sentence()));
    }
    let code = if screen.broken_pipe { BROKEN_PIPE } else { report.outcome.code() };
    Ok((report, code))
}

/// Standard input to its end. A terminal has none: what is typed on it, and when, is no part of a
/// run that is to be repeated.
fn all_input() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if !std::io::stdin().is_terminal() {
        std::io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
    }
    Ok(bytes)
}

/// What is shown where.
struct Screen {
    quiet: bool,
    verbose: bool,
    /// The guest has a command of its own; otherwise its console is the output.
    session: bool,
    progress: Option<Progress>,
    broken_pipe: bool,
}

impl Screen {
    fn show(&mut self, event: Event) {
        match event {
            Event::Fetch(_) if self.quiet => {}
            Event::Fetch(step) => self.progress.get_or_insert_default().show(step),
            Event::Ready(effective) => {
                self.progress = None;
                if !self.quiet {
                    first_lines(&effective);
                }
            }
            Event::Notice(text) if !self.quiet => say::line(&format!("roof: {text}")),
            Event::Trouble(text) => say::line(&format!("roof: {text}")),
            Event::Detail(text) if self.verbose => say::line(&format!("roof: {text}")),
            Event::Notice(_) | Event::Detail(_) | Event::Started => {}
            Event::Console(bytes) if !self.session => self.output(&bytes),
            Event::Console(bytes) if self.verbose => error_output(&bytes),
            Event::Console(_) => {}
            Event::Stdout(bytes) => self.output(&bytes),
            Event::Stderr(bytes) => error_output(&bytes),
        }
    }

    fn output(&mut self, bytes: &[u8]) {
        let mut out = std::io::stdout().lock();
        let written = out.write_all(bytes).and_then(|()| out.flush());
        self.broken_pipe |= written.is_err();
    }
}

fn error_output(bytes: &[u8]) {
    // A closed standard error is no reason to end the guest.
    let _ = std::io::stderr().lock().write_all(bytes);
}

fn first_lines(effective: &Effective) {
    say::line(&effective.as_command());
    say::line(&format!(
        "roof: {} engine: {}",
        effective.engine.kind.name(),
        effective.engine.reason
    ));
}

fn last_line(report: &RunReport) -> String {
    let code = report.outcome.code();
    let seconds = report.duration.as_secs_f64();
    let mut text = String::new();
    if report.outcome.wants_console() && !report.effective.shows_console() {
        text = console_tail(report);
    }
    let hint = match report.outcome {
        Outcome::TimedOut | Outcome::Died { .. } if !report.effective.verbose => {
            " (-v shows the kernel's log)"
        }
        _ => "",
    };
    format!(
        "{text}roof: {} after {seconds:.2} s, exit code {code}{hint}",
        report.outcome.sentence()
    )
}

fn console_tail(report: &RunReport) -> String {
    if report.console_tail.is_empty() {
        return "roof: the guest's kernel printed nothing\n".into();
    }
    let lines: Vec<String> =
        report.console_tail.iter().map(|line| format!("  | {line}\n")).collect();
    format!("roof: the last the guest's kernel said:\n{}", lines.concat())
}
