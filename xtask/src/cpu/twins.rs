//! Two copies at once on two CPUs beside one alone, by the wall: what a second CPU costs.

use anyhow::{Result, bail};

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

/// Wall seconds of one and of a pair, the least over the rounds of a way.
fn walls(name: &str, one: &Series) -> Option<(f64, f64)> {
    let wall = |name: &str| {
        let all = one.rounds.iter().filter_map(|round| round.results.get(name));
        all.map(|measured| measured.wall_s).min_by(f64::total_cmp)
    };
    Some((wall(name)?, wall(&pair_name(name))?))
}

fn ratio((alone, both): (f64, f64)) -> f64 {
    both / alone.max(1e-6)
}

/// Whether two copies take longer than they may: the limit, and more only where the host's own
/// CPUs are busy or shared, so that it needs longer itself.
fn is_over(name: &str, one: &Series, series: &[Series]) -> bool {
    let native = series.iter().find(|one| one.way == Way::Native);
    let host = native.and_then(|one| walls(name, one)).map_or(1.0, ratio);
    let taken = walls(name, one).map_or(0.0, ratio);
    one.way == Way::Soft && taken > LIMIT * host.max(1.0)
}

/// Fails if any pair takes too long in roof.
pub(super) fn verdict(tasks: &[Task], series: &[Series]) -> Result<()> {
    let singles = tasks.iter().filter(|task| task.copies == 1);
    let over: Vec<&str> = singles
        .filter(|task| series.iter().any(|one| is_over(&task.name, one, series)))
        .map(|task| task.name.as_str())
        .collect();
    if !over.is_empty() {
        bail!("two copies take more than {LIMIT} of one and of the host: {}", over.join(", "));
    }
    Ok(())
}

/// Wall seconds of one and of two, and their ratio, each way.
pub(super) fn table(tasks: &[Task], series: &[Series]) -> Table {
    let mut head = vec!["workload".to_owned(), "way".to_owned()];
    head.extend(["one s", "two s", "two/one", ""].map(str::to_owned));
    let mut rows = vec![head];
    for task in tasks.iter().filter(|task| task.copies == 1) {
        for one in series {
            let Some(both) = walls(&task.name, one) else { continue };
            let mark = if is_over(&task.name, one, series) { "OVER" } else { "" };
            let figures = [format!("{:.3}", both.0), format!("{:.3}", both.1)];
            let mut row = vec![task.name.clone(), one.way.name().to_owned()];
            row.extend(figures);
            row.extend([format!("{:.2}", ratio(both)), mark.to_owned()]);
            rows.push(row);
        }
    }
    Table::new(rows, Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::machine::{Measured, Outcome};

    fn series(way: Way, alone: f64, both: f64) -> Series {
        let mut outcome = Outcome::default();
        for (name, wall_s) in [("sieve", alone), ("sieve-twice", both)] {
            outcome.results.insert(name.into(), Measured { wall_s, ..Measured::default() });
        }
        Series { way, rounds: vec![outcome] }
    }

    #[test]
    fn the_limit_is_the_host_s_where_the_host_is_slow() {
        let tasks = plan(&crate::cpu::plan::select(&["sieve".into()], 1.0).unwrap());
        assert_eq!(tasks.len(), 2);
        let good = |native: f64, roof: f64| {
            let both = [series(Way::Native, 1.0, native), series(Way::Soft, 1.0, roof)];
            verdict(&tasks, &both).is_ok()
        };
        assert!(good(1.0, 1.1) && !good(1.0, 1.3));
        assert!(good(1.3, 1.4) && !good(1.3, 1.6));
    }
}
