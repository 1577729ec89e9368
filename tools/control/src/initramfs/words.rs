//! Words in a script that could be commands.
//!
//! Invariant: bounded: at most [`MOST`] different words of a text are given.

use std::collections::HashSet;

/// A script that names more different words than this gets what its first ones name.
const MOST: usize = 400;
/// No command has a longer name.
const LONGEST: usize = 64;

/// The different words of a shell script, in order.
pub(super) fn words(text: &[u8]) -> Vec<&[u8]> {
    let mut seen = HashSet::new();
    text.split(|byte| !is_word(*byte))
        .filter(|word| (2..=LONGEST).contains(&word.len()) && !word.starts_with(b"-"))
        .filter(|word| word[0].is_ascii_alphabetic())
        .filter(|word| seen.insert(*word))
        .take(MOST)
        .collect()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'+')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_pipeline() {
        let found =
            words(b"set -e; ps aux|awk '{print $1}' >/dev/null && x86_64-linux-gnu-gcc; ps");
        let expected: Vec<&[u8]> =
            vec![b"set", b"ps", b"aux", b"awk", b"print", b"dev", b"null", b"x86_64-linux-gnu-gcc"];
        assert_eq!(found, expected);
    }
}
