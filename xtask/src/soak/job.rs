//! The commands of a soak: quick ones, each with the output it must have, which this host gives
//! by running the same command itself.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A command and what it must print.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) name: String,
    pub(super) command: Vec<String>,
    pub(super) expected: String,
}

/// Workloads with an amount that is little work.
const WORKLOADS: [(&str, u64); 15] = [
    ("sieve", 5),
    ("qsort", 1),
    ("fib", 22),
    ("mix", 60),
    ("indirect", 1),
    ("memcpy", 60),
    ("libm", 1),
    ("x87", 1),
    ("aes", 2),
    ("signal", 2),
    ("fork", 60),
    ("pipe", 1),
    ("switch", 1),
    ("pagefault", 3),
    ("jit", 1),
];

/// Shell lines that mix processes, pipes and files.
const SCRIPTS: [(&str, &str); 4] = [
    ("checksum", "seq 1 20000 | sha256sum"),
    ("parallel", "for i in 1 2 3 4; do (seq 1 3000 | md5sum) & done; wait"),
    ("sorting", "seq 1 5000 | sort -R --random-source=/bin/sh | sort -n | cksum"),
    ("loop", "i=0; while [ $i -lt 3000 ]; do i=$((i + 1)); done; echo $i"),
];

/// Picks commands at random, the same ones for the same seed.
pub(super) struct Jobs {
    workloads: PathBuf,
    state: u64,
    /// What the host has answered so far.
    known: BTreeMap<Vec<String>, String>,
}

impl Jobs {
    /// With the workloads binary and a seed.
    pub(super) fn new(workloads: PathBuf, seed: u64) -> Self {
        Self { workloads, state: seed, known: BTreeMap::new() }
    }

    /// The next command for a guest with so many CPUs.
    pub(super) fn next(&mut self, cpus: u32) -> Result<Job> {
        let choice = self.random() as usize % (1 + SCRIPTS.len() + WORKLOADS.len());
        if choice == 0 {
            let (name, command) = ("nproc".into(), vec!["nproc".into()]);
            return Ok(Job { name, command, expected: format!("{cpus}\n") });
        }
        let (name, command) = match SCRIPTS.get(choice - 1) {
            Some((name, script)) => (name, ["sh", "-c", script].map(str::to_owned).to_vec()),
            None => {
                let (name, amount) = &WORKLOADS[choice - 1 - SCRIPTS.len()];
                let binary = self.workloads.to_string_lossy().into_owned();
                (name, vec![binary, (*name).to_owned(), amount.to_string()])
            }
        };
        let expected = self.answer(&command)?;
        Ok(Job { name: (*name).to_owned(), command, expected })
    }

    /// What this host's own CPU makes of a command.
    fn answer(&mut self, command: &[String]) -> Result<String> {
        if let Some(answer) = self.known.get(command) {
            return Ok(answer.clone());
        }
        let output = Command::new(&command[0])
            .args(&command[1..])
            .output()
            .with_context(|| command.join(" "))?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            bail!("{} on the host: {}, {why}", command.join(" "), output.status);
        }
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        self.known.insert(command.to_vec(), answer.clone());
        Ok(answer)
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.state;
        value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ value >> 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_fixes_the_order() {
        let order = |seed| {
            let mut jobs = Jobs::new("/bin/true".into(), seed);
            (0..40).map(|_| jobs.next(2).unwrap().name).collect::<Vec<_>>()
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
    }
}
