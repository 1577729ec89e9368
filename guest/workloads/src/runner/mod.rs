//! Runs a plan: each task between a begin and an end marker on the console, then the checksum of
//! what it made.
//!
//! Markers are lines that start with `@oneroof `; whoever reads them may sample clocks at `begin`
//! and `end`, so nothing is computed between a task and its markers.

pub(crate) mod init;
mod plan;
mod task;

use std::io::Write;

use plan::{Plan, Step};

/// Runs the plan in this file in the current directory; markers go to `console`.
pub(crate) fn run_file(path: &str, console: &mut impl Write) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let plan = Plan::parse(&text)?;
    run(&plan, console).map_err(|error| format!("the console: {error}"))
}

fn run(plan: &Plan, console: &mut impl Write) -> Result<(), std::io::Error> {
    marker(console, &format!("flags {}", flags()))?;
    for step in &plan.steps {
        match step {
            Step::Sparse { file, bytes } => {
                let made = std::fs::File::create(file).and_then(|file| file.set_len(*bytes));
                if let Err(error) = made {
                    marker(console, &format!("note {file}: {error}"))?;
                }
            }
            Step::Task(task) => task::run(task, console)?,
        }
    }
    marker(console, "done")
}

fn marker(console: &mut impl Write, text: &str) -> Result<(), std::io::Error> {
    console.write_all(format!("@oneroof {text}\n").as_bytes())?;
    console.flush()?;
    drain();
    Ok(())
}

/// Waits until a terminal has sent everything; pipes and files have nothing to wait for.
fn drain() {
    let stdout = rustix::stdio::stdout();
    if rustix::termios::isatty(stdout) {
        // A console that cannot drain has at least been written to.
        let _ = rustix::termios::tcdrain(stdout);
    }
}

/// The CPU features that programs choose their code by, as the system shows them.
fn flags() -> String {
    const TOLD: [&str; 16] = [
        "sse4_2",
        "avx",
        "avx2",
        "fma",
        "bmi1",
        "bmi2",
        "adx",
        "aes",
        "pclmulqdq",
        "sha_ni",
        "vaes",
        "vpclmulqdq",
        "gfni",
        "erms",
        "fsrm",
        "avx512f",
    ];
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let have: Vec<&str> = line.split_whitespace().filter(|word| TOLD.contains(word)).collect();
    have.join(" ")
}
