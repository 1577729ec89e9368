//! The report for programs; docs/json.md is its description.
//!
//! Invariant: [`SCHEMA`] changes when a field changes its meaning or goes; new ones may come.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use control::vm::{self, EventDigest, Outcome, RunReport};
use serde::Serialize;

const SCHEMA: u32 = 1;

#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    outcome: &'static str,
    reason: String,
    exit_code: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<u8>,
    #[serde(flatten)]
    guest: Option<Guest>,
}

#[derive(Debug, Serialize)]
struct Guest {
    engine: &'static str,
    engine_reason: String,
    kernel: String,
    kernel_release: Option<String>,
    kernel_source: &'static str,
    command_line: String,
    cpus: u32,
    memory_mib: u64,
    initrd: Option<String>,
    initrd_bytes: u64,
    disks: Vec<String>,
    root: &'static str,
    shares: Vec<String>,
    net: String,
    forwards: Vec<String>,
    command: Vec<String>,
    duration_ms: f64,
    boot_ms: Option<f64>,
    start_cpu_ms: f64,
    unpack_cpu_ms: f64,
    instructions: Vec<Option<u64>>,
    returned_bytes: u64,
    virtio: Virtio,
    #[serde(flatten)]
    deterministic: Option<Deterministic>,
    console_tail: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Virtio {
    doorbells_exits: u64,
    doorbells_kernel: u64,
    messages_called: u64,
    messages_routed: u64,
}

#[derive(Debug, Serialize)]
struct Deterministic {
    seed: u64,
    events: u64,
    event_hash: String,
}

/// Writes the report of a VM that ran.
pub(crate) fn write(file: &mut File, report: &RunReport) -> Result<()> {
    let effective = &report.effective;
    let signal = match report.outcome {
        Outcome::Exited { signal, .. } | Outcome::Quit { signal } if signal > 0 => Some(signal),
        _ => None,
    };
    let guest = Guest {
        engine: effective.engine.kind.name(),
        engine_reason: effective.engine.reason.clone(),
        kernel: effective.kernel.path.display().to_string(),
        kernel_release: effective.kernel.release.clone(),
        kernel_source: effective.kernel.source.words(),
        command_line: effective.command_line.clone(),
        cpus: effective.cpus,
        memory_mib: effective.memory_mib,
        initrd: effective.initrd.as_ref().map(|path| path.display().to_string()),
        initrd_bytes: report.initrd_bytes,
        disks: effective.disks.iter().map(ToString::to_string).collect(),
        root: if effective.host_root { "host" } else { "none" },
        shares: effective.shares.iter().map(ToString::to_string).collect(),
        net: effective.net.choice.to_string(),
        forwards: effective.net.forwards.iter().map(ToString::to_string).collect(),
        command: effective.command.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
        duration_ms: milliseconds(report.duration),
        boot_ms: report.boot.map(milliseconds),
        start_cpu_ms: milliseconds(report.start_cpu),
        unpack_cpu_ms: milliseconds(report.unpack_cpu),
        instructions: report.instructions.clone(),
        returned_bytes: report.returned_bytes,
        virtio: Virtio {
            doorbells_exits: report.virtio.doorbells_exits,
            doorbells_kernel: report.virtio.doorbells_kernel,
            messages_called: report.virtio.messages_called,
            messages_routed: report.virtio.messages_routed,
        },
        deterministic: effective.deterministic.as_ref().zip(report.events).map(deterministic),
        console_tail: report.console_tail.clone(),
    };
    put(
        file,
        &Report {
            schema: SCHEMA,
            outcome: report.outcome.word(),
            reason: report.outcome.sentence(),
            exit_code: report.outcome.code(),
            signal,
            guest: Some(guest),
        },
    )
}

fn deterministic((run, digest): (&vm::Deterministic, EventDigest)) -> Deterministic {
    let event_hash = format!("{:016x}", digest.hash);
    Deterministic { seed: run.seed, events: digest.events, event_hash }
}

/// Writes the report of a VM that never started.
pub(crate) fn write_error(file: &mut File, error: &anyhow::Error) -> Result<()> {
    put(
        file,
        &Report {
            schema: SCHEMA,
            outcome: "error",
            reason: crate::say::chain(error),
            exit_code: crate::OWN_FAILURE,
            signal: None,
            guest: None,
        },
    )
}

fn put(file: &mut File, report: &Report) -> Result<()> {
    let text = serde_json::to_string_pretty(report).context("cannot make the report")?;
    writeln!(file, "{text}").context("cannot write the report")
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_a_report_too() {
        let mut file = tempfile::tempfile().expect("a temporary file");
        write_error(&mut file, &anyhow::anyhow!("no \"kernel\"")).expect("it is writable");
        use std::io::{Read, Seek};
        file.rewind().expect("a file");
        let mut text = String::new();
        file.read_to_string(&mut text).expect("UTF-8");
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["outcome"], "error");
        assert_eq!(value["exit_code"], 125);
        assert_eq!(value["reason"], "no \"kernel\"");
    }
}
