//! Every payload on the software engine, a test for each: as users run it, and in lockstep.

use conformance::{run, verify};
use engine::{Engine, EngineError, VmConfig};
use soft::{Execution, SoftEngine, SoftOptions};

fn soft(config: VmConfig) -> Result<Box<dyn Engine>, EngineError> {
    Ok(Box::new(SoftEngine::new(config)?))
}

/// Translator and interpreter block by block, from the first time a block runs.
fn lockstep(config: VmConfig) -> Result<Box<dyn Engine>, EngineError> {
    let options = SoftOptions { execution: Execution::Check, ..SoftOptions::default() };
    Ok(Box::new(SoftEngine::with_options(config, options)?))
}

type Factory = fn(VmConfig) -> Result<Box<dyn Engine>, EngineError>;

fn judge(name: &str, factory: Factory, most_cpus: u32) {
    let payload = payloads::by_name(name).expect("the catalogue names it");
    if payload.cpus > most_cpus {
        println!("skipped: lockstep is for one processor");
        return;
    }
    match run(&payload, &factory).expect("the software engine runs payloads") {
        Ok(outcome) => {
            let wrong = verify(&payload, &outcome, None);
            assert!(wrong.is_empty(), "{name} ({}):\n{}", payload.description, wrong.join("\n"));
        }
        // Only what the host's own vector unit lacks may be missing.
        Err(feature) => {
            assert!(feature.name.starts_with("AVX"), "the software engine lacks {}", feature.name);
            println!("skipped: the host lacks {}", feature.name);
        }
    }
}

macro_rules! tests {
    ($($group:ident { $($name:ident)* })*) => {
        $(mod $group {
            $(mod $name {
                #[test]
                fn as_users_run_it() {
                    crate::judge(concat!(stringify!($group), "::", stringify!($name)), crate::soft, 2);
                }

                #[test]
                fn in_lockstep() {
                    let name = concat!(stringify!($group), "::", stringify!($name));
                    crate::judge(name, crate::lockstep, 1);
                }
            })*
        })*
    };
}

payloads::for_each_payload!(tests);
