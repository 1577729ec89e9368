//! Two copies at once on two CPUs beside one alone, by the wall: what a second CPU costs.

use super::plan::{Class, Kind, Task};
use super::table::Table;
use super::{Series, Way};

/// Two copies may take at most this much longer than one.
const LIMIT: f64 = 1.15;

/// The CPU-bound workloads of our own, each alone and as a pair.
pub(super) fn plan(tasks: &[Task]) -> Vec<Task> {
    let bound = |task: &&Task| matches!(task.kind, Kind::Own(..)) && task.class != Class::System;
    let pair = |task: &Task| Task { name: pair_name(&task.name), copies: 2, ..task.clone() };
    tasks.iter().filter(bound).flat_map(|task| [task.clone(), pair(task)]).collect()
}

/// The pair's name in plan and results.
fn pair_name(name: &str) -> String {
    format!("{name}-twice")
}

/// Wall seconds of one and of two, and their ratio, each way.
pub(super) fn table(tasks: &[Task], series: &[Series]) -> Table {
    let mut head = vec!["workload".to_owned(), "way".to_owned()];
    head.extend(["one s", "two s", "two/one", ""].map(str::to_owned));
    let mut rows = vec![head];
    for task in tasks.iter().filter(|task| task.copies == 1) {
        for one in series {
            let wall = |name: &str| {
                let all = one.rounds.iter().filter_map(|round| round.results.get(name));
                all.map(|measured| measured.wall_s).min_by(f64::total_cmp)
            };
            let (Some(alone), Some(both)) = (wall(&task.name), wall(&pair_name(&task.name))) else {
                continue;
            };
            let ratio = both / alone.max(1e-6);
            let over = one.way == Way::Soft && ratio > LIMIT;
            let mark = if over { format!("over {LIMIT}") } else { String::new() };
            let mut row = vec![task.name.clone(), one.way.name().to_owned()];
            row.extend([format!("{alone:.3}"), format!("{both:.3}"), format!("{ratio:.2}"), mark]);
            rows.push(row);
        }
    }
    Table::new(rows, Vec::new())
}
