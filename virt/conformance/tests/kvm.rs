//! Every payload on the KVM engine, a test for each, where /dev/kvm is hardware.
//!
//! Stands alone: linked statically it runs in a bare guest (`cargo xtask test --suite nested`).

use std::arch::x86_64::__cpuid;
use std::sync::OnceLock;

use conformance::exceptions::{self, Host};
use conformance::{run, verify};
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
    let host = Host::new("kvm", __cpuid(0).ebx, __cpuid(0x4000_0000).ebx);
    let exception = exceptions::of(name, host);
    if let Some(exception) = exception {
        println!("{name} is judged {}: {}", exception.extent(), exception.reason);
        if exception.from.is_none() {
            return;
        }
    }
    let payload = payloads::by_name(name).expect("the catalogue names it");
    match run(&payload, &kvm_engine).unwrap_or_else(|error| panic!("{name}: {error}")) {
        Ok(outcome) => {
            let wrong = verify(&payload, &outcome, exception);
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
