//! Every payload on the KVM engine, a test for each, where /dev/kvm is hardware.
//!
//! Stands alone: linked statically it runs in a bare guest (`cargo xtask test nested-kvm`).

use std::sync::OnceLock;

use conformance::{exceptions, run, verify};
use engine::{Engine, EngineError, VmConfig};
use kvm::Verdict;

fn kvm_engine(config: VmConfig) -> Result<Box<dyn Engine>, EngineError> {
    Ok(Box::new(kvm::KvmEngine::new(config)?))
}

fn verdict() -> &'static Verdict {
    static VERDICT: OnceLock<Verdict> = OnceLock::new();
    VERDICT.get_or_init(kvm::probe)
}

fn judge(name: &str) {
    if !verdict().is_hardware() {
        return println!("skipped: {}", verdict());
    }
    if let Some(exception) = exceptions::of(name, "kvm") {
        return println!("skipped: {}", exception.reason);
    }
    let payload = payloads::by_name(name).expect("the catalogue names it");
    match run(&payload, &kvm_engine).unwrap_or_else(|error| panic!("{name}: {error}")) {
        Ok(outcome) => {
            let wrong = verify(&payload, &outcome);
            assert!(wrong.is_empty(), "{name} ({}):\n{}", payload.description, wrong.join("\n"));
        }
        Err(feature) => println!("skipped: this KVM lacks {}", feature.name),
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
