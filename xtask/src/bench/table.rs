//! Figures of several runs, side by side.

/// Minimum and median of a series.
pub(crate) fn spread(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (sorted[0], sorted[sorted.len() / 2])
}

/// A Markdown row: name, ours, the peer's, ratio of medians.
pub(crate) fn row(name: &str, ours: &[f64], peer: &[f64], unit: &str) -> String {
    let ((own_min, own), (peer_min, other)) = (spread(ours), spread(peer));
    format!(
        "| {name} | {own:.2} {unit} (min {own_min:.2}) | {other:.2} {unit} (min {peer_min:.2}) | \
         {:.2} |",
        own / other
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(super::spread(&[3.0, 1.0, 2.0]), (1.0, 2.0));
    }
}
