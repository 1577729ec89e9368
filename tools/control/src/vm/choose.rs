//! Which engine, and why, in one line.
//!
//! Invariant: `auto` never takes a /dev/kvm that is not hardware virtualization that works, and
//! never fails; a named engine is taken or refused, not replaced.

pub use soft::Execution;

use super::error::RunError;

/// The user's wish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// The best that works here.
    #[default]
    Auto,
    /// The software CPU.
    Soft(Execution),
    /// Linux's KVM.
    Kvm,
}

/// An engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// The software CPU.
    Soft(Execution),
    /// Linux's KVM.
    Kvm,
}

impl EngineKind {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Soft(Execution::Translate) => "soft",
            Self::Soft(Execution::Interpret) => "soft,interpret",
            Self::Soft(Execution::Check) => "soft,check",
            Self::Kvm => "kvm",
        }
    }
}

/// The engine taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Which.
    pub kind: EngineKind,
    /// Why, in a line.
    pub reason: String,
}

/// What a look at /dev/kvm, and a small guest in it, said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvmVerdict {
    /// Hardware virtualization that works; what kind.
    Hardware(String),
    /// It is there, and emulates guest kernel code in software; how that was seen.
    Emulated(String),
    /// It cannot be used; why, and what to do.
    Unavailable(String),
}

/// Looks at this host's KVM; takes a few milliseconds.
pub fn kvm_verdict() -> KvmVerdict {
    super::assemble::kvm_verdict()
}

pub(super) fn choose(wish: EngineChoice, deterministic: bool) -> Result<Choice, RunError> {
    match wish {
        EngineChoice::Auto if deterministic => Ok(Choice {
            kind: EngineKind::Soft(Execution::default()),
            reason: "a deterministic run counts instructions".into(),
        }),
        EngineChoice::Kvm if deterministic => Err(RunError::DeterministicEngine),
        EngineChoice::Soft(execution) => {
            Ok(Choice { kind: EngineKind::Soft(execution), reason: "asked for".into() })
        }
        EngineChoice::Auto => Ok(best(kvm_verdict())),
        EngineChoice::Kvm => match kvm_verdict() {
            KvmVerdict::Hardware(text) => {
                Ok(Choice { kind: EngineKind::Kvm, reason: format!("asked for ({text})") })
            }
            KvmVerdict::Emulated(why) | KvmVerdict::Unavailable(why) => Err(RunError::Kvm(why)),
        },
    }
}

fn best(verdict: KvmVerdict) -> Choice {
    match verdict {
        KvmVerdict::Hardware(text) => Choice { kind: EngineKind::Kvm, reason: text },
        KvmVerdict::Emulated(why) | KvmVerdict::Unavailable(why) => {
            Choice { kind: EngineKind::Soft(Execution::default()), reason: why }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_count_instructions_is_refused_for_deterministic_runs() {
        let auto = choose(EngineChoice::Auto, true).expect("the software CPU is everywhere");
        assert_eq!(auto.kind, EngineKind::Soft(Execution::Translate));
        let refused = choose(EngineChoice::Kvm, true);
        assert!(matches!(refused, Err(RunError::DeterministicEngine)));
    }

    #[test]
    fn auto_takes_hardware_and_says_why_not() {
        assert_eq!(best(KvmVerdict::Hardware("AMD SVM".into())).kind, EngineKind::Kvm);
        for verdict in [KvmVerdict::Emulated("slow".into()), KvmVerdict::Unavailable("none".into())]
        {
            let choice = best(verdict);
            assert_eq!(choice.kind, EngineKind::Soft(Execution::Translate));
            assert!(!choice.reason.is_empty());
        }
    }
}
