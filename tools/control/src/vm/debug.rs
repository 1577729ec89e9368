//! `--debug`: what is slowed down or told of, as words with commas between them.
//!
//! ```text
//! iodelay=TIME   every request to disks, network and shared folders takes at least so long
//! iofault=N      each N-th request to a disk fails with an I/O error, each N-th frame of a network card is lost
//! block net share   only these are so; -WORD: all but these
//! virtio         tell how drivers set their devices up, and which rule a broken ring breaks
//! unclaimed      tell of ports and memory that no device answers at, once each
//! all            every word that tells; -WORD takes one away again
//! ```
//!
//! Invariant: later words win; without words nothing is different.

use std::time::Duration;

use devices::fake::parse_time;
use virtio::Faults;

/// Words for devices that requests go to.
const KINDS: [&str; 3] = ["block", "net", "share"];

/// The words' meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Debug {
    /// The least time of a request.
    pub io_delay: Option<Duration>,
    /// Each so-many-th request fails; none if it is zero.
    pub io_fault: u32,
    /// Which devices these two concern, in the order of [`KINDS`]; none: all.
    pub kinds: [bool; 3],
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
                (Some(("iofault", count)), _) if on => debug.io_fault = parse_count(count)?,
                (None, "iofault") if !on => debug.io_fault = 0,
                (None, kind) if KINDS.contains(&kind) => debug.choose(kind, on),
                (None, "virtio") => debug.virtio = on,
                (None, "unclaimed") => debug.unclaimed = on,
                (None, "all") => (debug.virtio, debug.unclaimed) = (on, on),
                _ => {
                    return Err(format!(
                        "{word} is no word of --debug: iodelay=2ms, iofault=100, block, net, share, \
                         virtio, unclaimed, all; -WORD takes one away"
                    ));
                }
            }
        }
        Ok(debug)
    }

    /// The same as words; empty for nothing.
    pub(super) fn words(&self) -> String {
        let delay = self.io_delay.map(|time| format!("iodelay={}us", time.as_micros()));
        let fault = (self.io_fault > 0).then(|| format!("iofault={}", self.io_fault));
        let word = |(word, on): (&str, bool)| on.then(|| word.to_owned());
        let tells = [("virtio", self.virtio), ("unclaimed", self.unclaimed)];
        let flags = KINDS.into_iter().zip(self.kinds).chain(tells).filter_map(word);
        let words: Vec<String> = [delay, fault].into_iter().flatten().chain(flags).collect();
        words.join(",")
    }

    /// The same for devices.
    pub(super) fn faults(&self) -> Faults {
        let [block, net, share] = if self.kinds == [false; 3] { [true; 3] } else { self.kinds };
        let delay = self.io_delay.unwrap_or_default();
        Faults { delay, fail_every: self.io_fault, block, net, share }
    }

    /// Takes a kind of devices in, or out of those that are in.
    fn choose(&mut self, kind: &str, on: bool) {
        if !on && self.kinds == [false; 3] {
            self.kinds = [true; 3];
        }
        let chosen = KINDS.into_iter().zip(&mut self.kinds).filter(|(word, _)| *word == kind);
        chosen.for_each(|(_, chosen)| *chosen = on);
    }
}

fn parse_count(text: &str) -> Result<u32, String> {
    let count = text.parse().ok().filter(|count| *count > 0);
    count.ok_or_else(|| format!("iofault={text}: each how many-th request fails? 1 is every one"))
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
        assert_eq!(all_but, Debug { io_delay: delay, virtio: true, ..Debug::default() });
        assert_eq!(parse("all,-all,iodelay=1s,-iodelay"), Debug::default());
        assert_eq!(parse(&all_but.words()), all_but);
        let faults = parse("iofault=7,net,share,iodelay=1ms,unclaimed");
        assert_eq!(parse(&faults.words()), faults);
        assert_eq!(parse("iofault=7,-iofault"), Debug::default());
        assert_eq!(parse("").words(), "");
    }

    #[test]
    fn faults_are_of_the_devices_that_were_said() {
        let of = |text: &str| {
            let faults = Debug::parse(text).expect("words").faults();
            (faults.fail_every, [faults.block, faults.net, faults.share])
        };
        assert_eq!(of("iofault=3"), (3, [true; 3]));
        assert_eq!(of("iofault=3,block"), (3, [true, false, false]));
        assert_eq!(of("net,block"), (0, [true, true, false]));
        assert_eq!(of("-net"), (0, [true, false, true]));
        assert_eq!(of("block,-block"), (0, [true; 3]), "as if nothing was said");
        assert_eq!(of("all,iofault=1,-share"), (1, [true, true, false]));
    }

    #[test]
    fn what_is_no_word_is_told_with_those_that_are() {
        for bad in [
            "x",
            "iodelay",
            "iodelay=2",
            "-iodelay=2ms",
            "virtio=1",
            "all,none",
            "iofault",
            "iofault=0",
            "iofault=x",
            "block=1",
        ] {
            assert!(Debug::parse(bad).is_err(), "{bad}");
        }
        assert!(Debug::parse("x").is_err_and(|why| why.contains("unclaimed")));
    }
}
