//! Files: each opens with what it is, and none becomes a giant.

use super::Source;

/// Lines a file may have, its tests apart.
const LINES: usize = 800;

/// Files that may be longer, each with its reason: tables and exhaustive dispatch.
const LONGER: &[(&str, &str)] = &[];

/// A sentence for each file without a head, and for each giant.
pub(crate) fn check(sources: &[Source]) -> Vec<String> {
    let mut breaches = Vec::new();
    for source in sources {
        if !has_head(&source.text) {
            breaches.push(format!(
                "{} does not open with //!: say what it is, its source, its invariant",
                source.path
            ));
        }
        let lines = lines_without_tests(&source.text);
        let excused = LONGER.iter().any(|(path, _)| *path == source.path);
        let is_test = source.path.contains("/tests/") || source.path.ends_with("tests.rs");
        if lines > LINES && !excused && !is_test {
            breaches.push(format!(
                "{} has {lines} lines without tests; split it by idea (limit {LINES})",
                source.path
            ));
        }
    }
    breaches
}

/// The first line is `//!`, after at most attributes of the crate.
fn has_head(text: &str) -> bool {
    text.lines()
        .find(|line| !line.is_empty() && !line.starts_with("#!["))
        .is_some_and(|line| line.starts_with("//! "))
}

fn lines_without_tests(text: &str) -> usize {
    text.lines().take_while(|line| *line != "#[cfg(test)]").count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaches(text: String) -> usize {
        check(&[Source { path: "a/src/b.rs".into(), text }]).len()
    }

    #[test]
    fn heads_are_asked_for() {
        assert_eq!(breaches("use std::fs;\n//! late".into()), 1);
        assert_eq!(breaches("//! What it is.\nuse std::fs;".into()), 0);
        assert_eq!(breaches("#![no_std]\n//! What it is.".into()), 0);
    }

    #[test]
    fn giants_are_seen_and_tests_do_not_count() {
        let long = format!("//! x\n{}", "fn f() {}\n".repeat(LINES));
        assert_eq!(breaches(long), 1);
        let tests = format!("//! x\n#[cfg(test)]\n{}", "fn f() {}\n".repeat(LINES));
        assert_eq!(breaches(tests), 0);
    }
}
