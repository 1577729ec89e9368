//! The lines by which the guest tells where it is (guest/workloads, runner).

/// A marker.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Marker {
    /// Process 1 runs.
    Ready,
    /// CPU features of this machine.
    Flags(String),
    /// A workload starts now.
    Begin(String),
    /// A workload ended now.
    End(Ended),
    /// The checksum of its result.
    Sum { name: String, sum: String },
    /// Something worth telling, in words.
    Note(String),
    /// The plan is through.
    Done,
}

/// A workload's end as its own system saw it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ended {
    pub(super) name: String,
    pub(super) status: u8,
    /// CPU seconds, user and system.
    pub(super) cpu_s: f64,
    pub(super) wall_s: f64,
}

impl Marker {
    /// Reads a console line; `None` for the kernel's own.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let (_, text) = line.trim_end().split_once("@oneroof ")?;
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        Some(match word {
            "ready" => Self::Ready,
            "done" => Self::Done,
            "flags" => Self::Flags(rest.to_owned()),
            "begin" => Self::Begin(rest.to_owned()),
            "note" => Self::Note(rest.to_owned()),
            "sum" => {
                let (name, sum) = rest.split_once(' ')?;
                Self::Sum { name: name.to_owned(), sum: sum.to_owned() }
            }
            "end" => Self::End(ended(rest)?),
            _ => return None,
        })
    }
}

fn ended(text: &str) -> Option<Ended> {
    let mut words = text.split(' ');
    let name = words.next()?.to_owned();
    let status = words.next()?.parse().ok()?;
    let mut seconds = || Some(words.next()?.parse::<u64>().ok()? as f64 / 1e6);
    let (user, system, wall_s) = (seconds()?, seconds()?, seconds()?);
    Some(Ended { name, status, cpu_s: user + system, wall_s })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_read() {
        assert_eq!(Marker::parse("[    1.0] Linux version 6.1"), None);
        assert_eq!(Marker::parse("@oneroof ready\r"), Some(Marker::Ready));
        assert_eq!(Marker::parse("@oneroof begin sieve"), Some(Marker::Begin("sieve".into())));
        let Some(Marker::End(end)) = Marker::parse("@oneroof end fork 0 250000 500000 800000")
        else {
            panic!("an end");
        };
        assert_eq!((end.cpu_s, end.wall_s, end.status), (0.75, 0.8, 0));
        assert_eq!(Marker::parse("@oneroof end fork"), None);
    }
}
