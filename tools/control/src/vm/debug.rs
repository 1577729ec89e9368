//! `--debug`: what is slowed down or told of, as words with commas between them.
//!
//! ```text
//! iodelay=TIME   every request to disks, network and shared folders takes at least so long
//! virtio         tell how drivers set their devices up, and which rule a broken ring breaks
//! unclaimed      tell of ports and memory that no device answers at, once each
//! all            every word that tells; -WORD takes one away again
//! ```
//!
//! Invariant: later words win; without words nothing is different.

use std::time::Duration;

use devices::fake::parse_time;

/// The words' meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Debug {
    /// The least time of a request.
    pub io_delay: Option<Duration>,
    /// Tell of virtio's set-up.
    pub virtio: bool,
    /// Tell of accesses that nobody answers.
    pub unclaimed: bool,
}

impl Debug {
    /// Reads words.
    ///
    /// # Errors
    /// A word that is none, and which there are.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut debug = Self::default();
        for word in text.split(',').filter(|word| !word.is_empty()) {
            let (word, on) = word.strip_prefix('-').map_or((word, true), |word| (word, false));
            match (word.split_once('='), word) {
                (Some(("iodelay", time)), _) if on => debug.io_delay = Some(parse_time(time)?),
                (None, "iodelay") if !on => debug.io_delay = None,
                (None, "virtio") => debug.virtio = on,
                (None, "unclaimed") => debug.unclaimed = on,
                (None, "all") => (debug.virtio, debug.unclaimed) = (on, on),
                _ => {
                    return Err(format!(
                        "{word} is no word of --debug: iodelay=2ms, virtio, unclaimed, all; -WORD \
                         takes one away"
                    ));
                }
            }
        }
        Ok(debug)
    }

    /// The same as words; empty for nothing.
    pub(super) fn words(&self) -> String {
        let delay = self.io_delay.map(|time| format!("iodelay={}us", time.as_micros()));
        let virtio = self.virtio.then(|| "virtio".to_owned());
        let unclaimed = self.unclaimed.then(|| "unclaimed".to_owned());
        let words: Vec<String> = [delay, virtio, unclaimed].into_iter().flatten().collect();
        words.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_add_up_and_can_be_taken_away() {
        let parse = |text: &str| Debug::parse(text).expect("words");
        let delay = Some(Duration::from_millis(2));
        assert_eq!(parse(""), Debug::default());
        assert_eq!(parse("iodelay=2ms"), Debug { io_delay: delay, ..Debug::default() });
        let all_but = parse("all,iodelay=2ms,-unclaimed");
        assert_eq!(all_but, Debug { io_delay: delay, virtio: true, unclaimed: false });
        assert_eq!(parse("all,-all,iodelay=1s,-iodelay"), Debug::default());
        assert_eq!(parse(&all_but.words()), all_but);
        assert_eq!(parse("").words(), "");
    }

    #[test]
    fn what_is_no_word_is_told_with_those_that_are() {
        for bad in ["x", "iodelay", "iodelay=2", "-iodelay=2ms", "virtio=1", "all,none"] {
            assert!(Debug::parse(bad).is_err(), "{bad}");
        }
        assert!(Debug::parse("x").is_err_and(|why| why.contains("unclaimed")));
    }
}
