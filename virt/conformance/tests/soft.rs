//! Every payload on the software engine, a test for each.

use conformance::{run, verify};
use engine::{Engine, EngineError, VmConfig};

fn soft(config: VmConfig) -> Result<Box<dyn Engine>, EngineError> {
    Ok(Box::new(soft::SoftEngine::new(config)?))
}

fn judge(name: &str) {
    let payload = payloads::by_name(name).expect("the catalogue names it");
    match run(&payload, &soft).expect("the software engine runs payloads") {
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
            $(#[test]
            fn $name() {
                super::judge(concat!(stringify!($group), "::", stringify!($name)));
            })*
        })*
    };
}

payloads::for_each_payload!(tests);
