//! What the outer machine noted of a run: `@at WHO SECONDS EXITS begin|end CASE RESULT`.

use anyhow::{Context, Result, bail};

/// One case in one round.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Took {
    pub(super) who: String,
    pub(super) case: usize,
    pub(super) seconds: f64,
    /// Times that the guest was left.
    pub(super) exits: u64,
    pub(super) result: String,
}

/// All that is noted in a text.
pub(super) fn read(text: &str) -> Result<Vec<Took>> {
    let mut all = Vec::new();
    let mut begun: Option<(&str, f64, u64, &str)> = None;
    for line in text.lines().filter_map(|line| line.trim().strip_prefix("@at ")) {
        let mut words = line.splitn(6, ' ');
        let mut word = || words.next().unwrap_or_default();
        let (who, seconds, exits, what, case) = (word(), word(), word(), word(), word());
        let seconds: f64 = seconds.parse().with_context(|| format!("no time: {line}"))?;
        let exits: u64 = exits.parse().with_context(|| format!("no count: {line}"))?;
        match (what, begun.take()) {
            ("begin", _) => begun = Some((who, seconds, exits, case)),
            ("end", Some((same, since, before, number))) if (same, number) == (who, case) => {
                let result = word().trim().to_owned();
                let case = case.parse().with_context(|| format!("no case: {line}"))?;
                let (seconds, exits) = (seconds - since, exits.saturating_sub(before));
                all.push(Took { who: who.into(), case, seconds, exits, result });
            }
            _ => bail!("an end without its beginning: {line}"),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_lies_between_its_marks() {
        let text = "x\n@at roof 1.50 100 begin 3\r\n@at roof 3.75 160 end 3 500 turns\r\n";
        let took = read(text).unwrap();
        let result = "500 turns".to_owned();
        assert_eq!(took, [Took { who: "roof".into(), case: 3, seconds: 2.25, exits: 60, result }]);
        assert!(read("@at roof 1.50 100 end 3 x").is_err());
        assert!(read("@at roof 1.50 100 begin 3\n@at qemu 2 100 end 3 x").is_err());
        assert!(read("@at roof soon 100 begin 3").is_err());
    }
}
