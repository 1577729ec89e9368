//! What a front end is told: events while it runs, the report when it is over.
//!
//! Invariant: plain data; the exit code is a function of the outcome.

use std::time::Duration;

use machine::{EventDigest, VirtioTraffic};

use crate::fetch::FetchProgress;

use super::config::Effective;

/// Something the user may want to see.
#[derive(Clone, Debug)]
pub enum Event {
    /// A kernel is being fetched.
    Fetch(FetchProgress),
    /// What will run is decided.
    Ready(Box<Effective>),
    /// The guest's kernel console, as it came.
    Console(Vec<u8>),
    /// The command's standard output, or its terminal.
    Stdout(Vec<u8>),
    /// The command's standard error.
    Stderr(Vec<u8>),
    /// A sentence for the user.
    Notice(String),
    /// A sentence about something of the host's that failed under the guest, and what to do.
    Trouble(String),
    /// A sentence about how something is done, for those who look closely.
    Detail(String),
    /// The command has been started in the guest.
    Started,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command ended.
    Exited {
        /// Its status; 128 + signal for a signal.
        code: u8,
        /// The signal, 0 for none.
        signal: u8,
    },
    /// The guest powered off, as an initrd of the user's may.
    PoweredOff,
    /// A test guest ended the machine through the debug-exit port.
    DebugExit {
        /// The port's status.
        code: u8,
    },
    /// The time was up.
    TimedOut,
    /// The guest's kernel panicked.
    Panicked {
        /// Its own words.
        reason: String,
    },
    /// The guest ended before the command's status was known.
    Died {
        /// How.
        cause: String,
    },
    /// The user ended it.
    Quit {
        /// The signal that asked for it, 0 for the keyboard.
        signal: u8,
    },
    /// The engine or the host failed.
    Failed {
        /// Why.
        why: String,
    },
}

impl Outcome {
    /// The exit code of `roof`.
    pub fn code(&self) -> u8 {
        match self {
            Self::Exited { code, .. } | Self::DebugExit { code } => *code,
            Self::PoweredOff => 0,
            Self::TimedOut => 124,
            Self::Panicked { .. } | Self::Died { .. } => 120,
            Self::Quit { signal: 0 } => 130,
            Self::Quit { signal } => 128u8.saturating_add(*signal),
            Self::Failed { .. } => 125,
        }
    }

    /// One word for programs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Exited { .. } => "exited",
            Self::PoweredOff => "powered-off",
            Self::DebugExit { .. } => "debug-exit",
            Self::TimedOut => "timed-out",
            Self::Panicked { .. } => "panicked",
            Self::Died { .. } => "died",
            Self::Quit { .. } => "quit",
            Self::Failed { .. } => "failed",
        }
    }

    /// A sentence for people.
    pub fn sentence(&self) -> String {
        match self {
            Self::Exited { signal: 0, code: 0 } => "the command succeeded".into(),
            Self::Exited { signal: 0, code } => format!("the command exited with {code}"),
            Self::Exited { signal, .. } => format!("signal {signal} ended the command"),
            Self::PoweredOff => "the guest powered off".into(),
            Self::DebugExit { code } => format!("the guest ended itself with {code}"),
            Self::TimedOut => "the time was up".into(),
            Self::Panicked { reason } => format!("the guest's kernel panicked: {reason}"),
            Self::Died { cause } => format!("the guest died early: {cause}"),
            Self::Quit { signal: 0 } => "ended from the keyboard".into(),
            Self::Quit { signal } => format!("ended by signal {signal}"),
            Self::Failed { why } => format!("roof failed: {why}"),
        }
    }

    /// The kernel's console is worth showing.
    pub fn wants_console(&self) -> bool {
        matches!(
            self,
            Self::TimedOut | Self::Panicked { .. } | Self::Died { .. } | Self::Failed { .. }
        )
    }
}

/// The whole story.
#[derive(Clone, Debug)]
pub struct RunReport {
    /// What ran.
    pub effective: Effective,
    /// How it ended.
    pub outcome: Outcome,
    /// From the guest's first instruction to its end.
    pub duration: Duration,
    /// From the guest's first instruction to the command's start.
    pub boot: Option<Duration>,
    /// CPU time from the process' start to the guest's first instruction.
    pub start_cpu: Duration,
    /// What of it went into unpacking the kernel into guest memory.
    pub unpack_cpu: Duration,
    /// The initramfs, in bytes.
    pub initrd_bytes: u64,
    /// Instructions that each vCPU retired; `None` where the engine does not count.
    pub instructions: Vec<Option<u64>>,
    /// Memory that the guest did not need any more and that went back to the host, each time.
    pub returned_bytes: u64,
    /// Doorbells and messages of the guest's virtio devices.
    pub virtio: VirtioTraffic,
    /// Of a deterministic run: what happened, and after how many instructions.
    pub events: Option<EventDigest>,
    /// The last lines of the guest's kernel console.
    pub console_tail: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_what_the_documents_say() {
        assert_eq!(Outcome::Exited { code: 7, signal: 0 }.code(), 7);
        assert_eq!(Outcome::TimedOut.code(), 124);
        assert_eq!(Outcome::Panicked { reason: String::new() }.code(), 120);
        assert_eq!(Outcome::Died { cause: String::new() }.code(), 120);
        assert_eq!(Outcome::Failed { why: String::new() }.code(), 125);
        assert_eq!(Outcome::Quit { signal: 15 }.code(), 143);
        assert_eq!(Outcome::PoweredOff.code(), 0);
    }
}
