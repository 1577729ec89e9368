//! The table of results, in a terminal and as the page under docs/.

use super::Verdict;
use super::config::Entry;

/// One entry's results.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) tcg: Verdict,
    pub(crate) soft: Verdict,
    pub(crate) remark: String,
}

impl Row {
    /// An entry that neither machine ran.
    pub(crate) fn absent(entry: &Entry, why: &str) -> Self {
        Self {
            name: entry.name.clone(),
            tcg: Verdict::Skip,
            soft: Verdict::Skip,
            remark: why.into(),
        }
    }

    /// One line for a terminal.
    pub(crate) fn line(&self) -> String {
        format!(
            "{:28} tcg {:8} soft {:8} {}",
            self.name,
            self.tcg.word(),
            self.soft.word(),
            self.remark
        )
    }
}

fn count(rows: &[Row], verdict: Verdict, of: impl Fn(&Row) -> Verdict) -> usize {
    rows.iter().filter(|row| of(row) == verdict).count()
}

/// Totals in one sentence.
pub(crate) fn totals(rows: &[Row]) -> String {
    let of = |pick: fn(&Row) -> Verdict| {
        format!(
            "{} pass, {} fail, {} time out, {} skip",
            count(rows, Verdict::Pass, pick),
            count(rows, Verdict::Fail, pick) + count(rows, Verdict::Broken, pick),
            count(rows, Verdict::Timeout, pick),
            count(rows, Verdict::Skip, pick),
        )
    };
    format!("{} entries; QEMU TCG: {}; soft: {}", rows.len(), of(|r| r.tcg), of(|r| r.soft))
}

/// The page for docs/.
pub(crate) fn document(rows: &[Row]) -> String {
    let mut page = String::from(
        "# kvm-unit-tests\n\nEvery x86-64 entry of kvm-unit-tests' x86/unittests.cfg, on the \
         software CPU and on QEMU TCG in the same run. Made by `cargo xtask kut DIR --write \
         docs/kvm-unit-tests.md`; the column of reasons is what the test itself printed.\n\n",
    );
    page.push_str(&totals(rows));
    page.push_str("\n\n| entry | QEMU TCG | soft | what it said |\n|---|---|---|---|\n");
    for row in rows {
        page.push_str(&format!(
            "| {} | {} | {} | {} |\n",
            row.name,
            row.tcg.word(),
            row.soft.word(),
            row.remark
        ));
    }
    page
}
