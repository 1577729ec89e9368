//! All figures of a run for programs: every round of every way, nothing averaged.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::plan::Task;
use super::{Options, Series, table, write};

/// Writes the figures as one object.
pub(super) fn write(
    path: &Path,
    tasks: &[Task],
    series: &[Series],
    options: &Options,
) -> Result<()> {
    let workloads: Vec<Value> = tasks.iter().map(|task| workload(task, series)).collect();
    let boots: serde_json::Map<String, Value> = series
        .iter()
        .map(|one| {
            let rounds = one.rounds.iter().filter_map(|round| round.boot);
            let rounds = rounds.map(|(cpu, wall)| json!({ "cpu_s": cpu, "wall_s": wall }));
            (one.way.name().to_owned(), Value::Array(rounds.collect()))
        })
        .collect();
    let flags: serde_json::Map<String, Value> = series
        .iter()
        .filter_map(|one| Some((one.way.name().to_owned(), json!(one.rounds.first()?.flags))))
        .collect();
    let value = json!({
        "schema": 1,
        "machine": write::machine_line(),
        "engine": options.engine,
        "scale": options.scale,
        "cpus": if options.smp2 { 2 } else { 1 },
        "features": flags,
        "boot": boots,
        "workloads": workloads,
    });
    let text = serde_json::to_string_pretty(&value).expect("plain values become text");
    std::fs::write(path, text + "\n").with_context(|| path.display().to_string())
}

fn workload(task: &Task, series: &[Series]) -> Value {
    let ways: serde_json::Map<String, Value> = series
        .iter()
        .map(|one| {
            let rounds = one.rounds.iter().filter_map(|round| round.results.get(&task.name));
            let rounds = rounds.map(|measured| {
                json!({
                    "cpu_s": measured.cpu_s, "wall_s": measured.wall_s,
                    "status": measured.status, "sum": measured.sum, "note": measured.note,
                })
            });
            (one.way.name().to_owned(), Value::Array(rounds.collect()))
        })
        .collect();
    json!({
        "name": task.name, "class": task.class.name(), "copies": task.copies,
        "fault": table::fault(&task.name, series), "ways": ways,
    })
}
