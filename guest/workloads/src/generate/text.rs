//! Text that packs about as well as prose and logs do: words of uneven frequency, repeated
//! phrases, numbers.

use std::io::{Error, Write};

use crate::random::Random;

/// Writes at least `kib` KiB.
pub(super) fn write(kib: u64, to: &mut impl Write) -> Result<(), Error> {
    let mut random = Random::new(2026);
    let words: Vec<String> = (0..4000).map(|_| word(&mut random)).collect();
    let mut phrases: Vec<String> = Vec::new();
    let mut written = 0;
    while written < kib * 1024 {
        let line = match random.below(4) {
            0 if phrases.len() > 50 => phrases[random.below(phrases.len() as u64) as usize].clone(),
            1 => format!(
                "{:02}:{:02}:{:02} {}[{}]: {}",
                random.below(24),
                random.below(60),
                random.below(60),
                pick(&words, &mut random),
                random.below(30_000),
                sentence(&words, &mut random)
            ),
            _ => sentence(&words, &mut random),
        };
        writeln!(to, "{line}")?;
        written += line.len() as u64 + 1;
        if phrases.len() < 500 {
            phrases.push(line);
        }
    }
    Ok(())
}

fn word(random: &mut Random) -> String {
    const SYLLABLES: [&str; 24] = [
        "an", "be", "ca", "de", "er", "fi", "gro", "he", "in", "jo", "ka", "li", "mo", "ne", "or",
        "pa", "qui", "re", "sta", "ti", "un", "ver", "wo", "ze",
    ];
    (0..random.below(4) + 1).map(|_| SYLLABLES[random.below(24) as usize]).collect()
}

/// Words at the front of the list come far more often.
fn pick<'a>(words: &'a [String], random: &mut Random) -> &'a str {
    let limit = random.below(words.len() as u64) + 1;
    let limit = random.below(limit) + 1;
    &words[random.below(limit) as usize]
}

fn sentence(words: &[String], random: &mut Random) -> String {
    let count = random.below(14) + 3;
    (0..count).map(|_| pick(words, random)).collect::<Vec<_>>().join(" ")
}
