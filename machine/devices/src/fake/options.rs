//! `name=value` words behind a device's name.
//!
//! Invariant: whatever a device does not ask for is left over, so that it can be refused.

use std::time::Duration;

/// The words that nobody has taken yet.
#[derive(Clone, Debug, Default)]
pub struct Options(Vec<(String, String)>);

impl Options {
    /// Words with commas between them.
    ///
    /// # Errors
    /// A word without `=`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let words = text.split(',').filter(|word| !word.is_empty());
        let pairs = words.map(|word| {
            let pair = word.split_once('=').ok_or(format!("{word} is no option: NAME=VALUE"))?;
            Ok((pair.0.to_owned(), pair.1.to_owned()))
        });
        pairs.collect::<Result<_, String>>().map(Self)
    }

    /// The value of an option, which is taken.
    pub fn text(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|pair| pair.0 == name)?;
        Some(self.0.remove(at).1)
    }

    /// A number, decimal or after 0x.
    ///
    /// # Errors
    /// It is none.
    pub fn number(&mut self, name: &str, default: u64) -> Result<u64, String> {
        let Some(text) = self.text(name) else { return Ok(default) };
        let number = match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => text.parse(),
        };
        number.map_err(|_| format!("{name}={text} is no number"))
    }

    /// A time: 2ms, 10us, 1s; none if it is left out.
    ///
    /// # Errors
    /// It is none, or more than ten seconds.
    pub fn time(&mut self, name: &str) -> Result<Option<Duration>, String> {
        self.text(name).map(|text| parse_time(&text)).transpose()
    }

    /// Refuses what is left.
    ///
    /// # Errors
    /// There is something.
    pub fn finish(self) -> Result<(), String> {
        self.0.first().map_or(Ok(()), |(name, _)| Err(format!("there is no option {name}")))
    }
}

/// A time: 2ms, 10us, 1s.
///
/// # Errors
/// It is none, or more than ten seconds.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(10);
    let wrong = || format!("{text} is no time: 10us, 2ms, 1s; at most 10s");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let time = match &text[digits.len()..] {
        "us" => Duration::from_micros(number),
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        _ => return Err(wrong()),
    };
    if time > LONGEST { Err(wrong()) } else { Ok(time) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_once_and_the_rest_is_refused() {
        let mut options = Options::parse("a=1,b=0x20,t=2ms,z=9").expect("words");
        assert_eq!((options.number("a", 7), options.number("a", 7)), (Ok(1), Ok(7)));
        assert_eq!(options.number("b", 0), Ok(32));
        assert_eq!(options.time("t"), Ok(Some(Duration::from_millis(2))));
        assert_eq!(options.finish(), Err("there is no option z".into()));
        assert!(Options::parse("a").is_err());
    }

    #[test]
    fn times_have_units_and_an_end() {
        assert_eq!(parse_time("10us"), Ok(Duration::from_micros(10)));
        assert_eq!(parse_time("10s"), Ok(Duration::from_secs(10)));
        for bad in ["", "2", "ms", "11s", "1h", "-1ms", "99999999999999999999s"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }
}
