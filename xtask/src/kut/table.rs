//! The table of results, in a terminal and as the page under docs/.

use super::config::Entry;
use super::{Verdict, reasons};

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
            "{} pass, {} fail, {} time out, {} skip, {} no start",
            count(rows, Verdict::Pass, pick),
            count(rows, Verdict::Fail, pick),
            count(rows, Verdict::Timeout, pick),
            count(rows, Verdict::Skip, pick),
            count(rows, Verdict::NoStart, pick),
        )
    };
    format!("{} entries; QEMU TCG: {}; soft: {}", rows.len(), of(|r| r.tcg), of(|r| r.soft))
}

/// The page for docs/.
pub(crate) fn document(rows: &[Row]) -> String {
    let mut page = String::from(
        "# kvm-unit-tests\n\nEvery entry of kvm-unit-tests' x86/unittests.cfg, on the software CPU \
         and on QEMU TCG in the same run. Made by `cargo xtask kut DIR --write \
         docs/kvm-unit-tests.md`, where DIR is a checkout of the public repository \
         kvm-unit-tests/kvm-unit-tests after `./configure && make`.\n\n\
         `skip` is the test's own word: what it would test is not announced; or that of its \
         `check`, which asks for a parameter of KVM's that has no counterpart here. `no start` means \
         that the machine did not begin (QEMU's `-cpu host` and `-enable-kvm` without KVM). The \
         last column gives the reason where soft does not pass, and else what the test printed.\n\n",
    );
    page.push_str(&totals(rows));
    page.push_str("\n\n| entry | QEMU TCG | soft | remarks |\n|---|---|---|---|\n");
    for row in rows {
        let remark = match reasons::of(&row.name) {
            Some(reason) if row.soft != Verdict::Pass => reason,
            _ => &row.remark,
        };
        page.push_str(&format!(
            "| {} | {} | {} | {remark} |\n",
            row.name,
            row.tcg.word(),
            row.soft.word(),
        ));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_gives_reasons_only_where_soft_does_not_pass() {
        let row = |name: &str, soft| Row {
            name: name.into(),
            tcg: Verdict::NoStart,
            soft,
            remark: "said".into(),
        };
        let page = document(&[row("vmx", Verdict::Skip), row("vmx", Verdict::Pass)]);
        let reason = reasons::of("vmx").unwrap();
        assert!(page.contains(&format!("| vmx | no start | skip | {reason} |")));
        assert!(page.contains("| vmx | no start | pass | said |"));
        assert!(page.contains("2 entries; QEMU TCG: 0 pass"));
    }
}
