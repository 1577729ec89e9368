//! Figures to text: one table of ratios, geomeans by class, and what is WRONG.

use super::machine::{Measured, Outcome};
use super::plan::{Class, Task};
use super::{Series, Way};

/// A table as rows of cells; the first row is the head.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
    /// Lines below the table.
    notes: Vec<String>,
}

/// CPU seconds of each way, in the order native, tcg, roof.
type Times = [Option<f64>; 3];

const ORDER: [Way; 3] = [Way::Native, Way::Tcg, Way::Soft];

/// The ratios shown: name, dividend, divisor as indices of [`ORDER`].
const RATIOS: [(&str, usize, usize); 3] =
    [("tcg/native", 1, 0), ("roof/native", 2, 0), ("tcg/roof", 1, 2)];

/// The table of a run.
pub(super) fn text(tasks: &[Task], series: &[Series]) -> Table {
    let head = ["workload", "class", "native s", "tcg s", "roof s", "tcg/native", "roof/native"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows[0].extend(["tcg/roof".to_owned(), String::new()]);
    let mut right: Vec<(Class, Times)> = Vec::new();
    for task in tasks {
        let times = times(series, |outcome| outcome.results.get(&task.name).map(|one| one.cpu_s));
        let wrong = fault(&task.name, series);
        if wrong.is_none() {
            right.push((task.class, times));
        }
        let mark = wrong.map(|_| "WRONG".to_owned()).unwrap_or_default();
        rows.push(row(&task.name, task.class.name(), times, mark));
    }
    let boot = times(series, |outcome| outcome.boot.map(|(cpu_s, _)| cpu_s));
    let wall = times(series, |outcome| outcome.boot.map(|(_, wall_s)| wall_s));
    rows.push(row("boot", "CPU", boot, String::new()));
    rows.push(row("boot", "wall", wall, String::new()));
    for class in Class::ALL {
        let of_class = right.iter().filter(|(other, _)| *other == class);
        means(&mut rows, class.name(), of_class.map(|(_, times)| *times).collect());
    }
    let programs = right.iter().filter(|(class, _)| *class != Class::System);
    means(&mut rows, "integer+float", programs.map(|(_, times)| *times).collect());
    means(&mut rows, "all", right.iter().map(|(_, times)| *times).collect());
    Table { rows, notes: feature_notes(series) }
}

/// The least CPU time over the rounds of each way.
fn times(series: &[Series], of: impl Fn(&Outcome) -> Option<f64>) -> Times {
    ORDER.map(|way| {
        let one = series.iter().find(|one| one.way == way)?;
        one.rounds.iter().filter_map(&of).min_by(f64::total_cmp)
    })
}

fn row(name: &str, class: &str, times: Times, mark: String) -> Vec<String> {
    let mut cells = vec![name.to_owned(), class.to_owned()];
    cells.extend(times.iter().map(|time| time.map_or("-".into(), |time| format!("{time:.3}"))));
    cells.extend(RATIOS.iter().map(|(_, over, under)| {
        ratio(&times, *over, *under).map_or("-".into(), |ratio| format!("{ratio:.2}"))
    }));
    cells.push(mark);
    cells
}

fn ratio(times: &Times, over: usize, under: usize) -> Option<f64> {
    let (over, under) = (times[over]?, times[under]?);
    (over > 0.0 && under > 0.0).then(|| over / under)
}

/// Adds the row of geometric means of a group, if it has members.
fn means(rows: &mut Vec<Vec<String>>, name: &str, group: Vec<Times>) {
    if group.is_empty() {
        return;
    }
    let mut cells = vec![format!("geomean {name}"), format!("{}", group.len())];
    cells.extend(["", "", ""].map(str::to_owned));
    cells.extend(RATIOS.iter().map(|(_, over, under)| {
        let ratios: Vec<f64> =
            group.iter().filter_map(|times| ratio(times, *over, *under)).collect();
        geomean(&ratios).map_or("-".into(), |mean| format!("{mean:.2}"))
    }));
    cells.push(String::new());
    rows.push(cells);
}

/// The geometric mean of positive numbers.
pub(super) fn geomean(values: &[f64]) -> Option<f64> {
    let sum: f64 = values.iter().map(|value| value.ln()).sum();
    (!values.is_empty()).then(|| (sum / values.len() as f64).exp())
}

/// What is wrong with a workload: failed somewhere, or results that differ between ways or rounds.
pub(super) fn fault(name: &str, series: &[Series]) -> Option<String> {
    let mut first: Option<(&Measured, Way)> = None;
    for one in series {
        for round in &one.rounds {
            let way = one.way.name();
            let Some(measured) = round.results.get(name) else {
                return Some(format!("{way} did not run it"));
            };
            if measured.status != 0 {
                let why = measured.note.as_deref().unwrap_or("no reason given");
                return Some(format!("{way} ended with status {}: {why}", measured.status));
            }
            let Some(sum) = &measured.sum else {
                return Some(format!("{way} has no checksum"));
            };
            if sum == "copies-differ" {
                return Some(format!("{way}: two copies gave different results"));
            }
            match first {
                Some((other, its)) if other.sum != measured.sum => {
                    let other = other.sum.as_deref().unwrap_or_default();
                    return Some(format!("checksum {other} in {}, {sum} in {way}", its.name()));
                }
                Some(_) => {}
                None => first = Some((measured, one.way)),
            }
        }
    }
    None
}

/// CPU features that not all ways have: programs choose their code by them.
fn feature_notes(series: &[Series]) -> Vec<String> {
    let flags = |one: &Series| one.rounds.first().map(|round| round.flags.clone());
    let all: Vec<(Way, String)> =
        series.iter().filter_map(|one| Some((one.way, flags(one)?))).collect();
    let mut names: Vec<&str> = all.iter().flat_map(|(_, text)| text.split(' ')).collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| !name.is_empty());
    let lacking = |text: &str| -> Vec<&str> {
        let has = |name: &str| text.split(' ').any(|flag| flag == name);
        names.iter().copied().filter(|name| !has(name)).collect()
    };
    all.iter()
        .map(|(way, text)| (way, lacking(text)))
        .filter(|(_, lacking)| !lacking.is_empty())
        .map(|(way, lacking)| {
            format!(
                "{} lacks CPU features that another way has: {}",
                way.name(),
                lacking.join(", ")
            )
        })
        .collect()
}

impl Table {
    /// A table of these rows, head first.
    pub(super) fn new(rows: Vec<Vec<String>>, notes: Vec<String>) -> Self {
        Self { rows, notes }
    }

    /// Adds a line below the table.
    pub(super) fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    fn columns(&self) -> usize {
        // The last column, the marks, is dropped if it is empty.
        let most = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let used = |column: usize| self.rows.iter().any(|row| !cell(row, column).is_empty());
        (0..most).rev().find(|column| used(*column)).map_or(0, |last| last + 1)
    }
}

fn cell(row: &[String], column: usize) -> &str {
    row.get(column).map_or("", String::as_str)
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.columns();
        let widths: Vec<usize> = (0..columns)
            .map(|column| self.rows.iter().map(|row| cell(row, column).len()).max().unwrap_or(0))
            .collect();
        for row in &self.rows {
            let cells: Vec<String> = (0..columns)
                .map(|column| {
                    let (text, width) = (cell(row, column), widths[column]);
                    if column < 2 { format!("{text:<width$}") } else { format!("{text:>width$}") }
                })
                .collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}

/// The table in Markdown.
pub(super) fn markdown(table: &Table) -> String {
    let columns = table.columns();
    let line = |row: &Vec<String>| {
        let cells: Vec<&str> = (0..columns).map(|column| cell(row, column)).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut text = line(&table.rows[0]);
    text.push_str(&format!("|---|---|{}\n", "---:|".repeat(columns.saturating_sub(2))));
    text.extend(table.rows[1..].iter().map(line));
    for note in &table.notes {
        text.push_str(&format!("\n{note}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(way: Way, sum: &str, cpu_s: f64) -> Series {
        let measured = Measured { cpu_s, sum: Some(sum.into()), ..Measured::default() };
        let mut outcome = Outcome { flags: "avx2".into(), ..Outcome::default() };
        outcome.results.insert("sieve".into(), measured);
        Series { way, rounds: vec![outcome] }
    }

    #[test]
    fn equal_checksums_are_right_and_others_wrong() {
        let native = series(Way::Native, "1", 0.5);
        assert_eq!(
            fault("sieve", &[series(Way::Native, "1", 0.5), series(Way::Tcg, "1", 2.0)]),
            None
        );
        assert!(fault("sieve", &[native, series(Way::Soft, "2", 1.0)]).unwrap().contains("roof"));
        assert!(fault("qsort", &[series(Way::Tcg, "1", 1.0)]).is_some());
    }

    #[test]
    fn the_geometric_mean() {
        assert_eq!(geomean(&[]), None);
        assert!((geomean(&[2.0, 8.0]).unwrap() - 4.0).abs() < 1e-12);
    }

    #[test]
    fn ratios_are_tcg_over_roof() {
        let tasks = super::super::plan::select(&["sieve".into()], 1.0).unwrap();
        let all = [
            series(Way::Native, "1", 0.5),
            series(Way::Tcg, "1", 4.0),
            series(Way::Soft, "1", 1.0),
        ];
        let text = text(&tasks, &all).to_string();
        let row = text.lines().find(|line| line.starts_with("sieve")).unwrap();
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(words[2..], ["0.500", "4.000", "1.000", "8.00", "2.00", "4.00"]);
    }
}
